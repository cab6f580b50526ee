// SPDX-License-Identifier: Apache-2.0
//! The compacted topic of a stream's idempotency keys: made on first use, read by whoever takes a lane over.

use std::time::{Duration, Instant};

use dovetail_model::StreamId;
use futures::executor::block_on;
use rdkafka::admin::{AdminOptions, NewTopic, TopicReplication};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::types::RDKafkaErrorCode;
use tracing::warn;

use super::keys::KeyIndex;
use super::reports::{Reports, fault};
use super::session::{TIMEOUT, admin, client, refusal};
use super::{LANES, ProduceError, Shared};
use crate::KafkaError;
use crate::connect::{Isolation, Topic};
use crate::native::{Ask, Item, Record};

/// How long reading a partition of it may take.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the brokers may take to decide about a transaction that taking the lane over has ended.
const DECIDED_WITHIN: Duration = Duration::from_secs(2);
/// How long writing keys again may take: more than librdkafka gives each of them.
const FLUSHED_WITHIN: Duration = Duration::from_secs(8);
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

/// What a lane's partition holds.
pub(super) enum Found {
    /// The keys that live.
    Keys(KeyIndex),
    /// Something before this offset is not decided. Taking the lane over once more ends it, if anybody is at it.
    Undecided(i64),
}

/// The keys of a lane, which is owned. All that lay before `ended` was written before the lane was taken over last.
///
/// # Errors
/// When the topic is not there and cannot be made, or cannot be read to its end.
pub(super) fn read(shared: &Shared, lane: u32, ended: Option<i64>) -> Result<Found, ProduceError> {
    let topic = open(shared)?;
    let begin = Instant::now();
    loop {
        match read_to_end(shared, &topic, lane, ended) {
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

/// Whatever is in a lane's partition now: the keys that are committed, and those whose transaction nobody will decide.
///
/// Taking the lane over ended what its former owners had open. Yet brokers that have no leader of a partition when they
/// end a transaction complete it without telling that partition: what was committed there stays undecided, and whoever
/// reads what is committed stops before it. Such keys count. Their owners had asked for the commit, or were about to;
/// so nothing that was acknowledged is lost, and no retry counts twice.
fn read_to_end(
    shared: &Shared,
    topic: &Topic,
    lane: u32,
    ended: Option<i64>,
) -> Result<Found, ProduceError> {
    let partition = i32::try_from(lane).unwrap_or(0);
    let end = offset(topic, partition, Ask::End)?;
    let decided = wait_until_decided(topic, partition, end)?;
    if decided < end && ended != Some(end) {
        return Ok(Found::Undecided(end));
    }
    let mut keys = KeyIndex::default();
    let mut take = |record: Record<'_>| {
        let taken = keys.take(record.key(), record.value(), shared.now_us());
        taken.map_err(|reason| ProduceError::KeyUnreadable {
            topic: topic.name.clone(),
            partition: lane,
            offset: record.offset(),
            reason,
        })
    };
    let first = offset(topic, partition, Ask::Earliest)?;
    read_span(topic, partition, first, decided, &mut take)?;
    if decided < end {
        let settings = &shared.source.settings;
        let all = Topic::other(
            settings,
            &shared.stream,
            &topic.name,
            Isolation::Uncommitted,
        )?;
        let mut undecided = Vec::new();
        read_span(&all, partition, decided, end, |record| {
            take(record)?;
            let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
            undecided.extend(owned(record.key()).zip(owned(record.value())));
            Ok(())
        })?;
        warn!(stream = %shared.name, lane, keys = undecided.len(), "the brokers never ended a transaction; its keys count");
        keep(shared, partition, &undecided)?;
    }
    Ok(Found::Keys(keys))
}

/// An offset of a partition.
fn offset(topic: &Topic, partition: i32, ask: Ask) -> Result<i64, ProduceError> {
    let found = topic.offsets(&[partition], ask, TIMEOUT)?;
    let found = found.first().map(|(_, offset)| *offset);
    found.filter(|offset| *offset >= 0).ok_or_else(|| {
        let topic = &topic.name;
        ProduceError::NotKept {
            reason: format!(
                "the brokers do not say where partition {partition} of topic `{topic}` ends"
            ),
        }
    })
}

/// Waits until everything before `end` is decided, for a while: up to where it is.
fn wait_until_decided(topic: &Topic, partition: i32, end: i64) -> Result<i64, ProduceError> {
    let begin = Instant::now();
    loop {
        let decided = offset(topic, partition, Ask::Stable)?.min(end);
        if decided == end || begin.elapsed() > DECIDED_WITHIN {
            return Ok(decided);
        }
        std::thread::sleep(PAUSE);
    }
}

/// Hands over the records of `[next, end)` of a partition that the topic's connection is to see.
fn read_span(
    topic: &Topic,
    partition: i32,
    mut next: i64,
    end: i64,
    mut take: impl FnMut(Record<'_>) -> Result<(), ProduceError>,
) -> Result<(), ProduceError> {
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
                    take(record)?;
                }
                Item::End { next: at, .. } => next = next.max(at),
                Item::Fault { fault, .. } if fault.is_transient() => {}
                Item::Fault { fault, .. } => return Err(topic.failed(fault).into()),
            }
        }
    }
    Ok(())
}

/// Writes undecided keys once more, in no transaction: the next transaction of the lane decides about the old records,
/// and if it is aborted, so are they.
fn keep(shared: &Shared, partition: i32, keys: &[(Vec<u8>, Vec<u8>)]) -> Result<(), ProduceError> {
    let name = name(&shared.stream);
    let mut config = client(&shared.source.settings)?;
    config
        .set("enable.idempotence", "true")
        .set("message.timeout.ms", TIMEOUT.as_millis().to_string());
    let producer = config.create_with_context(Reports::default());
    let producer: BaseProducer<Reports> =
        producer.map_err(|error| KafkaError::Options(error.to_string()))?;
    let sent = keys.iter().try_for_each(|(key, value)| {
        let record = BaseRecord::with_opaque_to(&name, 0).partition(partition);
        let sent = producer.send(record.key(&key[..]).payload(&value[..]));
        sent.map_err(|(error, _)| fault(&error))
    });
    let flushed = sent.and_then(|()| {
        producer
            .flush(FLUSHED_WITHIN)
            .map_err(|error| fault(&error))
    });
    match flushed.err().or(producer.context().failed()) {
        None => Ok(()),
        Some(fault) => Err(refusal(shared, fault)),
    }
}

/// The topic, made if it is not there.
fn open(shared: &Shared) -> Result<Topic, ProduceError> {
    let settings = &shared.source.settings;
    let name = name(&shared.stream);
    let topic = Topic::other(settings, &shared.stream, &name, Isolation::Committed)?;
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
