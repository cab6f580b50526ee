// SPDX-License-Identifier: Apache-2.0
//! From a stream's options to librdkafka's properties.

use std::ffi::CString;
use std::time::{Duration, Instant};

use dovetail_model::{KafkaSettings, KafkaSource, StreamId};

use crate::KafkaError;
use crate::native::{Ask, Consumer, Fault, c_string};
use crate::secret::secret;

/// Between two questions to a partition that has no leader.
const ELECTION_PAUSE: Duration = Duration::from_millis(50);

/// A topic and a connection to its cluster.
#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) consumer: Consumer,
    pub(crate) name: String,
    native_name: CString,
    brokers: String,
    group: String,
}

/// Which records are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Isolation {
    /// Those of committed transactions, up to the first that is not decided.
    Committed,
    /// All of them.
    Uncommitted,
}

impl Topic {
    /// Makes the client. It connects in the background; nothing is asked of a broker yet.
    ///
    /// # Errors
    /// When a secret cannot be read, or librdkafka does not take the options.
    pub(crate) fn connect(settings: &KafkaSettings, stream: &StreamId) -> Result<Self, KafkaError> {
        Self::other(settings, stream, &settings.topic, Isolation::Committed)
    }

    /// The same for another topic of the cluster.
    pub(crate) fn other(
        settings: &KafkaSettings,
        stream: &StreamId,
        name: &str,
        isolation: Isolation,
    ) -> Result<Self, KafkaError> {
        let group = format!("dovetail-{stream}");
        let mut properties = connection(settings)?;
        properties.extend(reading(&group, isolation));
        let options = |fault: Fault| KafkaError::Options(fault.text);
        Ok(Self {
            consumer: Consumer::new(&properties).map_err(options)?,
            name: name.to_owned(),
            native_name: c_string(name).map_err(options)?,
            brokers: settings.brokers.clone(),
            group,
        })
    }

    /// The topic's id and its partitions.
    pub(crate) fn describe(&self, timeout: Duration) -> Result<(String, Vec<i32>), KafkaError> {
        let described = self.consumer.describe(&self.native_name, timeout);
        described.map_err(|fault| self.failed(fault))
    }

    /// Its partitions, if it is the topic that `source` was declared on.
    ///
    /// # Errors
    /// [`KafkaError::OtherTopic`] if it is another one of that name, and what stands in the way of asking.
    pub(crate) fn partitions_of(
        &self,
        source: &KafkaSource,
        timeout: Duration,
    ) -> Result<Vec<i32>, KafkaError> {
        let (found, partitions) = self.describe(timeout)?;
        if found == source.topic_id {
            return Ok(partitions);
        }
        Err(KafkaError::OtherTopic {
            topic: self.name.clone(),
            declared: source.topic_id.clone(),
            found,
        })
    }

    /// An offset of each partition. Waits where a partition has no leader, as those of a new topic have none for a moment.
    pub(crate) fn offsets(
        &self,
        partitions: &[i32],
        ask: Ask,
        timeout: Duration,
    ) -> Result<Vec<(i32, i64)>, KafkaError> {
        let begin = Instant::now();
        loop {
            let left = timeout.saturating_sub(begin.elapsed());
            let found = self
                .consumer
                .offsets(&self.native_name, partitions, ask, left);
            match found {
                Err(fault) if fault.is_election() && left > ELECTION_PAUSE => {
                    std::thread::sleep(ELECTION_PAUSE);
                }
                found => return found.map_err(|fault| self.failed(fault)),
            }
        }
    }

    /// Tells the group how far its partitions are read: for other people's tools, which show a group's lag.
    pub(crate) fn write_group(
        &self,
        read: &[(i32, i64)],
        timeout: Duration,
    ) -> Result<(), KafkaError> {
        let group = c_string(&self.group).map_err(|fault| self.failed(fault))?;
        let written = self
            .consumer
            .write_group(&group, &self.native_name, read, timeout);
        written.map_err(|fault| self.failed(fault))
    }

    /// Reads these partitions from these offsets on.
    pub(crate) fn assign(&self, from: &[(i32, i64)]) -> Result<(), KafkaError> {
        let assigned = self.consumer.assign(&self.native_name, from);
        assigned.map_err(|fault| self.failed(fault))
    }

    /// What a fault of a call means here. That no answer came has a reason that was heard of elsewhere.
    pub(crate) fn failed(&self, fault: Fault) -> KafkaError {
        let fault = match self.consumer.heard() {
            Some(heard) if fault.is_transient() => heard,
            _ => fault,
        };
        KafkaError::of(fault, &self.brokers, &self.name, &self.group)
    }
}

/// How to reach the cluster, as the stream's options say.
///
/// # Errors
/// When a secret cannot be read, or an option is not known.
pub(crate) fn connection(
    settings: &KafkaSettings,
) -> Result<Vec<(&'static str, String)>, KafkaError> {
    let mut properties: Vec<_> = [
        ("bootstrap.servers", &*settings.brokers),
        ("client.id", "dovetail"),
        ("allow.auto.create.topics", "false"),
        ("reconnect.backoff.max.ms", "2000"),
        ("topic.metadata.refresh.interval.ms", "5000"),
        ("socket.keepalive.enable", "true"),
        ("log.connection.close", "false"),
    ]
    .map(|(name, value)| (name, value.to_owned()))
    .into();
    for (option, value) in &settings.security {
        properties.push(security(option, value)?);
    }
    Ok(properties)
}

/// What is the same for every topic that is read.
fn reading(group: &str, isolation: Isolation) -> impl Iterator<Item = (&'static str, String)> {
    let isolation = match isolation {
        Isolation::Committed => "read_committed",
        Isolation::Uncommitted => "read_uncommitted",
    };
    [
        // We assign partitions ourselves; librdkafka asks for a group all the same.
        ("group.id", group),
        ("enable.auto.commit", "false"),
        ("enable.auto.offset.store", "false"),
        ("isolation.level", isolation),
        // An offset that is not there is a hole, not a reason to jump.
        ("auto.offset.reset", "error"),
        // How we learn of offsets that no consumer sees.
        ("enable.partition.eof", "true"),
        ("check.crcs", "true"),
        // The queue refills as it is emptied: the default pause of a second starves the reader.
        ("fetch.queue.backoff.ms", "1"),
        ("queued.max.messages.kbytes", "32768"),
        ("queued.min.messages", "100000"),
        ("fetch.error.backoff.ms", "100"),
    ]
    .map(|(name, value)| (name, value.to_owned()))
    .into_iter()
}

/// The property of an option, its secret read from where the option says.
fn security(option: &str, value: &str) -> Result<(&'static str, String), KafkaError> {
    let known = [
        ("security_protocol", "security.protocol"),
        ("sasl_mechanism", "sasl.mechanism"),
        ("sasl_username", "sasl.username"),
        ("sasl_password", "sasl.password"),
        ("ssl_ca_location", "ssl.ca.location"),
        ("ssl_certificate_location", "ssl.certificate.location"),
        ("ssl_key_location", "ssl.key.location"),
        ("ssl_key_password", "ssl.key.password"),
    ];
    let found = known.iter().find(|(name, _)| *name == option);
    let Some((_, property)) = found else {
        let reason = format!("`{option}` is of a newer version of Dovetail");
        return Err(KafkaError::Options(reason));
    };
    if option.ends_with("_location") && value != "probe" {
        // librdkafka would say what OpenSSL makes of it.
        std::fs::File::open(value).map_err(|error| KafkaError::File {
            option: option.to_owned(),
            path: value.to_owned(),
            reason: error.to_string(),
        })?;
    }
    let value = if option.ends_with("_password") {
        secret(option, value)?
    } else {
        value.to_owned()
    };
    Ok((property, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_comes_from_where_its_option_says() {
        let dir = std::env::temp_dir().join(format!("dovetail-secret-{}", std::process::id()));
        std::fs::write(&dir, "hunter2\n").expect("a file");
        let file = format!("file:{}", dir.display());
        let found = security("sasl_password", &file).expect("it is there");
        assert_eq!(found, ("sasl.password", "hunter2".to_owned()));
        std::fs::remove_file(&dir).expect("it is ours");
        let gone = security("sasl_password", &file).expect_err("it is gone");
        assert!(
            gone.to_string()
                .contains("`sasl_password` refers to `file:"),
            "{gone}"
        );
        let file = security("ssl_ca_location", "/no/such.pem").expect_err("it is not there");
        assert!(
            file.to_string()
                .starts_with("`ssl_ca_location` names `/no/such.pem`, which cannot be read"),
            "{file}"
        );
        let unset = security("ssl_key_password", "env:DOVETAIL_NOT_SET").expect_err("not set");
        assert!(unset.to_string().contains("DOVETAIL_NOT_SET"), "{unset}");
    }
}
