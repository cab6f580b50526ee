// SPDX-License-Identifier: Apache-2.0
//! The compacted topic of a stream's idempotency keys: made on first use, read by whoever takes a lane over.

use std::time::{Duration, Instant};

use dovetail_model::StreamId;
use futures::executor::block_on;
use rdkafka::admin::{AdminOptions, NewTopic, TopicReplication};
use rdkafka::types::RDKafkaErrorCode;

use super::keys::KeyIndex;
use super::session::{TIMEOUT, admin};
use super::{LANES, ProduceError, Shared};
use crate::KafkaError;
use crate::connect::Topic;
use crate::native::{Ask, Item};

/// How long reading a partition of it may take.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a topic that was made may take to be there.
const MADE_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two looks for it.
const PAUSE: Duration = Duration::from_millis(50);
/// How long one call waits for a record.
const WAIT: Duration = Duration::from_millis(100);
/// Records of one call at most.
const MOST_RECORDS: usize = 4096;

/// What makes the topic forget: the last record of each key stays, for a day and the rest of its segment.
const CONFIG: [(&str, &str); 3] = [
    ("cleanup.policy", "compact,delete"),
    ("retention.ms", "86400000"),
    ("segment.ms", "3600000"),
];

/// The topic of a stream's keys.
pub(super) fn name(stream: &StreamId) -> String {
    format!("dovetail.keys.{stream}")
}

/// The keys of a lane that live. To be called when the lane is owned: then nothing is added to them meanwhile.
///
/// # Errors
/// When the topic is not there and cannot be made, or cannot be read to its end.
pub(super) fn read(shared: &Shared, lane: u32) -> Result<KeyIndex, ProduceError> {
    let topic = open(shared)?;
    let begin = Instant::now();
    loop {
        match read_to_end(shared, &topic, lane) {
            // A topic that was made just now has no leader for a moment.
            Err(ProduceError::Topic(KafkaError::Unreachable { .. }))
                if begin.elapsed() < MADE_TIMEOUT =>
            {
                std::thread::sleep(PAUSE);
            }
            read => return read,
        }
    }
}

fn read_to_end(shared: &Shared, topic: &Topic, lane: u32) -> Result<KeyIndex, ProduceError> {
    let partition = i32::try_from(lane).unwrap_or(0);
    let bound = |ask| {
        let found = topic.offsets(&[partition], ask, TIMEOUT)?;
        Ok::<i64, KafkaError>(found.first().map_or(0, |(_, offset)| *offset))
    };
    let (mut next, end) = (bound(Ask::Earliest)?, bound(Ask::Stable)?);
    let mut keys = KeyIndex::default();
    if next < end {
        topic.assign(&[(partition, next)])?;
    }
    let begin = Instant::now();
    while next < end {
        if begin.elapsed() > READ_TIMEOUT {
            let reason = format!("topic `{}` cannot be read to its end in time", topic.name);
            return Err(ProduceError::NotKept { reason });
        }
        for item in topic.consumer.consume(MOST_RECORDS, WAIT).iter() {
            match item {
                Item::Record(record) => {
                    next = record.offset() + 1;
                    let taken = keys.take(record.key(), record.value(), shared.now_us());
                    taken.map_err(|reason| ProduceError::KeyUnreadable {
                        topic: topic.name.clone(),
                        partition: lane,
                        offset: record.offset(),
                        reason,
                    })?;
                }
                Item::End { next: at, .. } => next = next.max(at),
                Item::Fault { fault, .. } if fault.is_transient() => {}
                Item::Fault { fault, .. } => return Err(topic.failed(fault).into()),
            }
        }
    }
    Ok(keys)
}

/// The topic, made if it is not there.
fn open(shared: &Shared) -> Result<Topic, ProduceError> {
    let settings = &shared.source.settings;
    let topic = Topic::other(settings, &shared.stream, &name(&shared.stream))?;
    let begin = Instant::now();
    let mut made = false;
    loop {
        let partitions = match topic.describe(TIMEOUT) {
            Ok((_, partitions)) => partitions.len(),
            Err(KafkaError::NoTopic(_)) if !made => {
                make(shared)?;
                made = true;
                continue;
            }
            Err(KafkaError::NoTopic(_)) if begin.elapsed() < MADE_TIMEOUT => {
                std::thread::sleep(PAUSE);
                continue;
            }
            Err(KafkaError::Forbidden { reason, .. }) => {
                let reason = format!("it may not be read or described ({reason})");
                return Err(refused(shared, reason));
            }
            Err(error) => return Err(error.into()),
        };
        if partitions < LANES as usize {
            let reason = format!("it has {partitions} partitions and needs {LANES}");
            return Err(refused(shared, reason));
        }
        return Ok(topic);
    }
}

fn make(shared: &Shared) -> Result<(), ProduceError> {
    let name = name(&shared.stream);
    let partitions = i32::try_from(LANES).unwrap_or(1);
    // As many replicas as the brokers give a topic by themselves.
    let mut new = NewTopic::new(&name, partitions, TopicReplication::Fixed(-1));
    for (option, value) in CONFIG {
        new = new.set(option, value);
    }
    let options = AdminOptions::new()
        .request_timeout(Some(TIMEOUT))
        .operation_timeout(Some(TIMEOUT));
    let admin = admin(&shared.source.settings)?;
    let made = block_on(admin.create_topics([&new], &options));
    let code = match made.map(|topics| topics.into_iter().next()) {
        Ok(None | Some(Ok(_))) => return Ok(()),
        Ok(Some(Err((_, code)))) => code,
        Err(error) => {
            let reason = format!("it could not be made ({error})");
            return Err(ProduceError::NotKept { reason });
        }
    };
    if code == RDKafkaErrorCode::TopicAlreadyExists {
        return Ok(());
    }
    Err(refused(shared, format!("it could not be made ({code})")))
}

fn refused(shared: &Shared, reason: String) -> ProduceError {
    let topic = name(&shared.stream);
    let config: String = CONFIG
        .iter()
        .map(|(option, value)| format!(" --config {option}={value}"))
        .collect();
    ProduceError::KeysTopic {
        command: format!(
            "kafka-topics.sh --bootstrap-server {} --create --topic {topic} --partitions {LANES}{config}, and grant READ, WRITE and DESCRIBE on it",
            shared.source.settings.brokers
        ),
        topic,
        reason,
    }
}
