// SPDX-License-Identifier: Apache-2.0
//! The thread that reads a topic.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dovetail_log::CommittedBatch;
use dovetail_model::{
    Clock, Hole, KafkaSource, Offset, PartitionId, Position, Share, StreamDef, StreamId,
    StreamSchema,
};
use parking_lot::{Condvar, Mutex};
use rdkafka_sys::rd_kafka_resp_err_t as Code;
use tracing::{debug, error, info, warn};

use crate::connect::Topic;
use crate::gather::{Gatherer, Held, Skipped};
use crate::native::{Ask, Fault};
use crate::probe::{native, partition_id, place};
use crate::registry::Registry;
use crate::{KafkaError, PartitionLag, Phase, State};

/// Where what is read goes.
pub trait Sink: Send {
    /// Waits until the next batch may come, for so long at most: whether it may. It may when the stream is closing, too.
    fn has_room(&mut self, patience: Duration) -> bool;

    /// Takes the next batch. False when the stream is closing: then nothing more is read.
    fn take(&mut self, batch: Arc<CommittedBatch>) -> bool;

    /// The topic holds records that were not read yet; the oldest was made about then, milliseconds since the Unix
    /// epoch. None when all that is known of is read.
    fn unread_since(&mut self, since_ms: Option<i64>);
}

/// Records of one batch at most.
const MOST_RECORDS: usize = 16_384;
/// How long one call waits for a record when there is none.
const WAIT: Duration = Duration::from_millis(100);
/// How long a broker has to answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Between two looks at the topic: whether it is the same, has more partitions, and where they end.
const LOOK: Duration = Duration::from_secs(3);
/// Between two attempts to connect.
const PAUSE: Duration = Duration::from_secs(1);
/// Between two questions to a registry that does not answer, at most, or that does not have a schema.
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

/// Reads the topic of one stream, from where the stream stands, until it is closed.
#[derive(Clone)]
pub struct KafkaLog(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the thread and its handle both see.
struct Shared {
    stream: StreamId,
    name: String,
    source: KafkaSource,
    share: Share,
    clock: Arc<dyn Clock>,
    gatherer: Mutex<Arc<Gatherer>>,
    registry: Option<Arc<Registry>>,
    state: Mutex<State>,
    orders: Mutex<Orders>,
    ordered: Condvar,
    /// The connection that reads, for questions from other threads.
    topic: Mutex<Option<Arc<Topic>>>,
}

/// What the thread is told.
struct Orders {
    /// To end.
    close: bool,
    /// To read nothing before it: the start, what was archived, and the holes that were skipped.
    floor: Position,
}

impl fmt::Debug for KafkaLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaLog")
            .field("stream", &self.0.shared.name)
            .finish_non_exhaustive()
    }
}

impl KafkaLog {
    /// Starts to read the partitions in `share` of `source`, the topic of `def`, at `from`, the stream's archived position, or at its start where
    /// that is further on; behind those of its `holes` that it stands before. What it reads goes to `sink`; what stands in the way is in [`KafkaLog::state`].
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn open(
        def: &StreamDef,
        source: &KafkaSource,
        share: Share,
        from: &Position,
        holes: &[Hole],
        clock: Arc<dyn Clock>,
        sink: Box<dyn Sink>,
    ) -> std::io::Result<Self> {
        let settings = &source.settings;
        let registry = settings.schema_registry.as_ref();
        let registry = registry.map(|registry| Arc::new(Registry::new(registry)));
        let gatherer = Gatherer::new(&def.id, &def.schema, source, registry.clone());
        let shared = Arc::new(Shared {
            stream: def.id.clone(),
            name: def.name.clone(),
            gatherer: Mutex::new(Arc::new(gatherer)),
            registry,
            source: source.clone(),
            share,
            state: Mutex::new(State {
                looked_ms: Some(clock.now().timestamp_millis()),
                ..State::default()
            }),
            clock,
            orders: Mutex::new(Orders {
                close: false,
                floor: Hole::resume(&source.start, from, holes),
            }),
            ordered: Condvar::new(),
            topic: Mutex::new(None),
        });
        let mut reader = Reader {
            shared: Arc::clone(&shared),
            at: from.clone(),
            sink,
        };
        let thread = std::thread::Builder::new()
            .name(format!("kafka-{}", def.name))
            .spawn(move || reader.run())?;
        Ok(Self(Arc::new(Inner {
            shared,
            thread: Mutex::new(Some(thread)),
        })))
    }

    /// From now on values are decoded into `schema`, the stream's schema, grown.
    pub fn evolve(&self, schema: &StreamSchema) {
        let shared = &self.0.shared;
        let registry = shared.registry.clone();
        let gatherer = Gatherer::new(&shared.stream, schema, &shared.source, registry);
        *shared.gatherer.lock() = Arc::new(gatherer);
    }

    /// How it stands to its topic.
    pub fn state(&self) -> State {
        self.0.shared.state.lock().clone()
    }

    /// Where the committed records of the topic end now. Blocks for up to 5 s.
    ///
    /// # Errors
    /// Why the stream is not reading, or no broker answers.
    pub fn stable_end(&self) -> Result<Position, KafkaError> {
        let shared = &self.0.shared;
        let topic = shared.topic.lock().clone();
        let Some(topic) = topic else {
            return Err(match shared.state.lock().phase.clone() {
                Phase::Retrying(error) | Phase::Stopped(error) => error,
                Phase::Connecting | Phase::Reading => KafkaError::Unreachable {
                    brokers: shared.source.settings.brokers.clone(),
                    reason: "it is connecting".to_owned(),
                },
            });
        };
        let (_, partitions) = topic.describe(TIMEOUT)?;
        let partitions = shared.of_share(partitions);
        let ends = topic.offsets(&partitions, Ask::Stable, TIMEOUT)?;
        Ok(ends.into_iter().map(place).collect())
    }

    /// Goes on at `to` in `partition`, if it is stopped before a [`KafkaError::hole`] that ends there. What lies in the hole never comes,
    /// so what is before it must be archived, and the hole be written down.
    pub fn skip(&self, partition: PartitionId, to: Offset) {
        let shared = &self.0.shared;
        // First, as the thread goes on as soon as it sees the floor, and may be stopped anew.
        shared.state.lock().phase = Phase::Connecting;
        let mut orders = shared.orders.lock();
        let floor = std::mem::take(&mut orders.floor);
        let next = floor.get(partition).max(to);
        orders.floor = floor.with(partition, next);
        shared.ordered.notify_all();
    }

    /// Stops reading and waits for the thread to end. What was handed to the sink stays.
    pub fn close(&self) {
        self.0.shared.orders.lock().close = true;
        self.0.shared.ordered.notify_all();
        let thread = self.0.thread.lock().take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            error!(stream = %self.0.shared.name, "the thread that reads the topic panicked");
        }
    }
}

struct Reader {
    shared: Arc<Shared>,
    /// Everything before it went to the sink.
    at: Position,
    sink: Box<dyn Sink>,
}

/// Why a session ended in order.
struct Closed;

impl Reader {
    fn run(&mut self) {
        loop {
            let ended = self.session();
            let topic = self.shared.topic.lock().take();
            let Err(error) = ended else { return };
            self.sink.unread_since(self.shared.unknown_since());
            let name = &self.shared.name;
            if error.is_final() {
                error!(stream = %name, %error, "the stream reads no more");
                self.shared.state.lock().phase = Phase::Stopped(error.clone());
                if !self.wait_for_way_out(&error, topic.as_deref()) {
                    return;
                }
                continue;
            }
            self.shared.retrying(error);
            if self.shared.wait(PAUSE) {
                return;
            }
        }
    }

    /// One connection, until it is of no more use.
    fn session(&mut self) -> Result<Closed, KafkaError> {
        let settings = &self.shared.source.settings;
        let topic = Arc::new(Topic::connect(settings, &self.shared.stream)?);
        let mut partitions = self.look(&topic)?;
        topic.assign(&self.places(&partitions))?;
        *self.shared.topic.lock() = Some(Arc::clone(&topic));
        self.shared.reading();
        self.sink.unread_since(self.shared.unread_since());
        let mut looked = Instant::now();
        let mut shown = Position::zero();
        while !self.shared.orders.lock().close {
            let batch = topic.consumer.consume(MOST_RECORDS, WAIT);
            let (faults, held) = if batch.is_empty() {
                (Vec::new(), None)
            } else {
                let gatherer = Arc::clone(&self.shared.gatherer.lock());
                let arrived_at_us = self.shared.clock.now().timestamp_micros();
                let mut gathered = gatherer.gather(&batch, arrived_at_us, TIMEOUT);
                drop(batch);
                let batch = gatherer.commit(&mut gathered, &self.at, arrived_at_us);
                while batch.is_some() && !self.sink.has_room(LOOK) {
                    self.look_on(&topic);
                    self.sink.unread_since(self.shared.unread_since());
                }
                self.shared
                    .note(&gathered.next, &gathered.timestamps_ms, gathered.skipped);
                if let Some(batch) = batch {
                    let to = batch.span.to().clone();
                    if !self.sink.take(Arc::new(batch)) {
                        return Ok(Closed);
                    }
                    self.at = to;
                    self.sink.unread_since(self.shared.unread_since());
                    self.shared.reading();
                }
                (gathered.faults, gathered.held)
            };
            for (partition, fault) in faults {
                self.judge(&topic, partition, fault)?;
            }
            if let Some(held) = held {
                self.wait_for_registry(&topic, held)?;
                // What was held back is read again.
                topic.assign(&self.places(&partitions))?;
            }
            if let Some(heard) = topic.consumer.heard() {
                self.shared.retrying(topic.failed(heard));
                self.sink.unread_since(self.shared.unknown_since());
                // Whether it still stands in the way is for the next look to say.
            }
            if looked.elapsed() >= LOOK {
                looked = Instant::now();
                self.show_group(&topic, &mut shown);
                let found = self.look(&topic)?;
                self.sink.unread_since(self.shared.unread_since());
                self.shared.reading();
                if found != partitions {
                    info!(stream = %self.shared.name, partitions = found.len(), "the topic has more partitions");
                    topic.assign(&self.places(&found))?;
                    partitions = found;
                }
            }
        }
        Ok(Closed)
    }

    /// Writes down for the group what has been read since it was `shown` last.
    fn show_group(&self, topic: &Topic, shown: &mut Position) {
        if *shown == self.at {
            return;
        }
        let read: Vec<_> = self.at.iter().map(native).collect();
        match topic.write_group(&read, TIMEOUT) {
            Ok(()) => *shown = self.at.clone(),
            Err(error) => {
                debug!(stream = %self.shared.name, %error, "the group cannot be told how far it has read");
            }
        }
    }

    /// Waits until the registry says whether it has a schema. It is read no further, so nothing is lost meanwhile.
    ///
    /// # Errors
    /// That it does not have it.
    fn wait_for_registry(&mut self, topic: &Topic, held: Held) -> Result<(), KafkaError> {
        let Some(registry) = &self.shared.registry else {
            return Err(held.error);
        };
        let (mut error, mut pause) = (held.error, PAUSE);
        loop {
            if error.is_final() {
                return Err(error);
            }
            self.shared.retrying(error);
            self.look_on(topic);
            self.sink.unread_since(self.shared.unknown_since());
            if self.shared.wait(pause) {
                return Ok(());
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
            match registry.schema(held.schema, TIMEOUT) {
                // Without it the records say so when they are read again.
                Ok(_) => return Ok(()),
                Err(again) => error = again,
            }
        }
    }

    /// Waits until a stream that was stopped can go on: the hole before it is skipped, or the registry has the schema.
    /// False when there is no way but to start again, or the stream is closing.
    fn wait_for_way_out(&self, stopped: &KafkaError, topic: Option<&Topic>) -> bool {
        let Some((partition, _, to)) = stopped.hole() else {
            return false;
        };
        let shared = &self.shared;
        if let Some(topic) = topic
            && let Err(error) = topic.assign(&[])
        {
            debug!(stream = %shared.name, %error, "what comes is fetched though it is not read");
        }
        loop {
            if let Some(topic) = topic {
                self.look_on(topic);
            }
            let mut orders = shared.orders.lock();
            if orders.close {
                return false;
            }
            if orders.floor.get(partition) >= to {
                info!(stream = %shared.name, %partition, %to, "the hole is skipped");
                return true;
            }
            shared.ordered.wait_for(&mut orders, LONGEST_PAUSE);
            drop(orders);
            if let (KafkaError::UnknownSchema { id, .. }, Some(registry)) =
                (stopped, &shared.registry)
                && let Ok(Some(_)) = registry.schema(*id, TIMEOUT)
            {
                info!(stream = %shared.name, schema = id, "the registry has the schema now");
                shared.state.lock().phase = Phase::Connecting;
                return true;
            }
        }
    }

    /// Looks where the topic ends while nothing is read, so that the lag shows what waits. What stands in the way of that shows
    /// once reading goes on.
    fn look_on(&self, topic: &Topic) {
        if let Err(error) = self.look(topic) {
            debug!(stream = %self.shared.name, %error, "cannot see where the topic ends");
        }
    }

    /// Whether the topic is the one that the stream was declared on; its partitions, and where they end.
    fn look(&self, topic: &Topic) -> Result<Vec<i32>, KafkaError> {
        let partitions = topic.partitions_of(&self.shared.source, TIMEOUT)?;
        let partitions = self.shared.of_share(partitions);
        let ends = topic.offsets(&partitions, Ask::Stable, TIMEOUT)?;
        let now_ms = self.shared.clock.now().timestamp_millis();
        let mut state = self.shared.state.lock();
        state.looked_ms = Some(now_ms);
        let known = std::mem::take(&mut state.partitions);
        state.partitions = ends
            .into_iter()
            .map(place)
            .map(|(partition, end)| PartitionLag {
                partition,
                position: self.next(partition),
                end,
                last_timestamp_ms: known
                    .iter()
                    .find(|lag| lag.partition == partition)
                    .and_then(|lag| lag.last_timestamp_ms)
                    .or(Some(now_ms)),
            })
            .collect();
        Ok(partitions)
    }

    /// The next offset of a partition.
    fn next(&self, partition: PartitionId) -> Offset {
        self.at
            .get(partition)
            .max(self.shared.orders.lock().floor.get(partition))
    }

    fn places(&self, partitions: &[i32]) -> Vec<(i32, i64)> {
        let ids = partitions.iter().map(|partition| partition_id(*partition));
        ids.map(|id| native((id, self.next(id)))).collect()
    }

    /// What a fault of a partition means.
    fn judge(&self, topic: &Topic, partition: i32, fault: Fault) -> Result<(), KafkaError> {
        match fault.code {
            Code::RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET
            | Code::RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE
            | Code::RD_KAFKA_RESP_ERR__LOG_TRUNCATION => {
                Err(self.out_of_range(topic, partition, &fault)?)
            }
            _ if fault.is_transient() => {
                self.shared.retrying(topic.failed(fault));
                Ok(())
            }
            // A topic that is gone, or is another one now, is told apart by the next session's first look.
            _ => Err(topic.failed(fault)),
        }
    }

    /// The next offset of a partition is not there: on which side of what is?
    fn out_of_range(
        &self,
        topic: &Topic,
        partition: i32,
        fault: &Fault,
    ) -> Result<KafkaError, KafkaError> {
        // Another topic of that name explains it better.
        self.look(topic)?;
        let bound = |ask| {
            let found = topic.offsets(&[partition], ask, TIMEOUT)?;
            Ok::<Offset, KafkaError>(found.first().map_or(Offset(0), |at| place(*at).1))
        };
        let (kept, end) = (bound(Ask::Earliest)?, bound(Ask::Stable)?);
        let partition = partition_id(partition);
        let at = self.next(partition);
        let name = topic.name.clone();
        Ok(if at < kept {
            KafkaError::Hole {
                topic: name,
                partition,
                from: at,
                kept,
            }
        } else if end < at {
            KafkaError::Backwards {
                topic: name,
                partition,
                read: at,
                end,
            }
        } else {
            // It is there by now: read on.
            KafkaError::Other {
                topic: name,
                reason: fault.text.clone(),
            }
        })
    }
}

impl Shared {
    fn of_share(&self, mut partitions: Vec<i32>) -> Vec<i32> {
        partitions.retain(|partition| self.share.has(partition_id(*partition)));
        partitions
    }

    /// Waits, and says whether the stream is closing.
    fn wait(&self, pause: Duration) -> bool {
        let mut orders = self.orders.lock();
        if !orders.close {
            self.ordered.wait_for(&mut orders, pause);
        }
        orders.close
    }

    fn reading(&self) {
        let mut state = self.state.lock();
        if state.phase != Phase::Reading {
            info!(stream = %self.name, topic = %self.source.settings.topic, "reading");
            state.phase = Phase::Reading;
        }
    }

    fn retrying(&self, error: KafkaError) {
        let mut state = self.state.lock();
        let phase = Phase::Retrying(error);
        if state.phase != phase {
            if let Phase::Retrying(error) = &phase {
                warn!(stream = %self.name, %error, "cannot read for now; it goes on trying");
            }
            state.phase = phase;
        }
    }

    /// From when on there may be records that nobody told us of, as the topic cannot be read.
    fn unknown_since(&self) -> Option<i64> {
        let looked_ms = self.state.lock().looked_ms;
        self.unread_since().into_iter().chain(looked_ms).min()
    }

    /// When the oldest record that was not read was made, about: not before the last one that was.
    fn unread_since(&self) -> Option<i64> {
        let state = self.state.lock();
        let behind = state.partitions.iter().filter(|lag| lag.offsets() > 0);
        behind.filter_map(|lag| lag.last_timestamp_ms).min()
    }

    fn note(
        &self,
        next: &BTreeMap<PartitionId, Offset>,
        timestamps_ms: &BTreeMap<PartitionId, i64>,
        skipped: Skipped,
    ) {
        let mut state = self.state.lock();
        state.skipped_tombstones += skipped.tombstones;
        state.skipped_replays += skipped.replays;
        for lag in &mut state.partitions {
            if let Some(next) = next.get(&lag.partition) {
                lag.position = *next;
                lag.end = lag.end.max(*next);
            }
            let millis = timestamps_ms.get(&lag.partition);
            lag.last_timestamp_ms = millis.copied().or(lag.last_timestamp_ms);
        }
    }
}
