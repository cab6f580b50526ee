// SPDX-License-Identifier: Apache-2.0
//! What a topic says when a stream is declared on it.

use std::time::Duration;

use dovetail_model::{
    KafkaSettings, KafkaSource, Offset, PartitionId, Position, StartAt, StreamId,
};

use crate::KafkaError;
use crate::connect::Topic;
use crate::native::Ask;
use crate::registry::Registry;

/// Asks the topic for its id and for where the stream is to begin, and whether the registry keeps schemas of its
/// format. Blocks up to `timeout` for each of four requests.
///
/// # Errors
/// When no broker or the registry does not answer, the credentials are refused, the topic is not there or may not be
/// read, or it does not hold the offsets of `start`.
pub fn declare(
    settings: &KafkaSettings,
    stream: &StreamId,
    timeout: Duration,
) -> Result<KafkaSource, KafkaError> {
    if let Some(registry) = &settings.schema_registry {
        Registry::new(registry).check(settings.format, timeout)?;
    }
    let topic = Topic::connect(settings, stream)?;
    let (topic_id, partitions) = topic.describe(timeout)?;
    let ask = |ask| {
        let found = topic.offsets(&partitions, ask, timeout)?;
        Ok::<Position, KafkaError>(found.into_iter().map(place).collect())
    };
    let start = match &settings.start {
        StartAt::Earliest => ask(Ask::Earliest)?,
        StartAt::Latest => ask(Ask::Stable)?,
        StartAt::Time(time) => ask(Ask::At(time.timestamp_millis()))?,
        StartAt::Offsets(wanted) => {
            let (first, end) = (ask(Ask::Earliest)?, ask(Ask::Stable)?);
            given(wanted, &first, &end, &partitions, &settings.topic)?
        }
    };
    Ok(KafkaSource {
        settings: settings.clone(),
        topic_id,
        start,
    })
}

/// Where the committed records of a stream's topic end now. Blocks up to `timeout` for each of two requests.
///
/// # Errors
/// When no broker answers, or the topic is not the one that the stream was declared on.
pub fn stable_end(
    source: &KafkaSource,
    stream: &StreamId,
    timeout: Duration,
) -> Result<Position, KafkaError> {
    let topic = Topic::connect(&source.settings, stream)?;
    let partitions = topic.partitions_of(source, timeout)?;
    let ends = topic.offsets(&partitions, Ask::Stable, timeout)?;
    Ok(ends.into_iter().map(place).collect())
}

/// The offsets that were asked for, where the topic holds them; the first ones of the other partitions.
fn given(
    wanted: &Position,
    first: &Position,
    end: &Position,
    partitions: &[i32],
    topic: &str,
) -> Result<Position, KafkaError> {
    let mut start = first.clone();
    for (partition, offset) in wanted.iter() {
        if !partitions.iter().any(|p| partition_id(*p) == partition) {
            return Err(KafkaError::Start(format!(
                "`start` names partition {partition}, but topic `{topic}` has {} partitions",
                partitions.len()
            )));
        }
        let (first, end) = (first.get(partition), end.get(partition));
        if offset < first || end < offset {
            return Err(KafkaError::Start(format!(
                "`start` names offset {offset} of partition {partition}, but topic `{topic}` holds {first} to {end}"
            )));
        }
        start = start.with(partition, offset);
    }
    Ok(start)
}

/// A partition and an offset of librdkafka in our words. Both are never negative where an offset was found.
pub(crate) fn place((partition, offset): (i32, i64)) -> (PartitionId, Offset) {
    (
        partition_id(partition),
        Offset(u64::try_from(offset).unwrap_or(0)),
    )
}

/// The same in librdkafka's words.
pub(crate) fn native((partition, offset): (PartitionId, Offset)) -> (i32, i64) {
    (
        i32::try_from(partition.0).unwrap_or(i32::MAX),
        i64::try_from(offset.0).unwrap_or(i64::MAX),
    )
}

pub(crate) fn partition_id(partition: i32) -> PartitionId {
    PartitionId(u32::try_from(partition).unwrap_or(0))
}
