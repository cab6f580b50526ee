// SPDX-License-Identifier: Apache-2.0
//! The ownership of a lane: a transactional producer, and what its keys were answered.
//!
//! Every step is bounded. What goes wrong is told apart by what is known of the transaction: it is aborted, or never
//! came to a commit; or the commit was asked for, and nobody said what became of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dovetail_log::crash_point;
use dovetail_model::KafkaSettings;
use futures::executor::block_on;
use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError as Error;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka_sys::rd_kafka_resp_err_t as Code;
use tracing::debug;

use super::keys::{Answer, KeyHash, KeyIndex};
use super::keys_topic::Found;
use super::lane::{Admitted, Request, admit, appended};
use super::reports::{Reports, code_of, fault};
use super::{Append, Appended, Message, ProduceError, Shared, keys_topic};
use crate::KafkaError;
use crate::connect::{Topic, connection};
use crate::native::Fault;

/// How long a broker has to answer.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);
/// How long taking a lane over may take: a transaction of the former owner is ended first.
const TAKE_OVER: Duration = Duration::from_secs(10);
/// How often a lane is taken over to read its keys, at most: twice when brokers lost the end of a transaction, and once
/// more for each other writer that comes between.
const MOST_TAKE_OVERS: usize = 4;
/// How long a transaction may take, and a second more for so many bytes.
const PATIENCE: Duration = Duration::from_secs(8);
const BYTES_PER_SECOND: usize = 4 << 20;
/// Past it the brokers abort a transaction whose owner has died and not come back: until then, readers wait before it.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two looks at the topic: whether it is the same, and how many partitions it has.
const LOOK: Duration = Duration::from_secs(10);
/// What Kafka takes where nothing else is said.
const RECORD_LIMIT: usize = 1_000_000;
/// What a record takes beside its key, value and headers, at most.
const RECORD_OVERHEAD: usize = 100;
/// Records that are sent between two looks at what was delivered.
const SENT_AT_ONCE: usize = 4096;
/// Between two looks at whether all was delivered.
const MIN_PAUSE: Duration = Duration::from_micros(20);
const MAX_PAUSE: Duration = Duration::from_millis(1);
/// What a commit gets, however late it is: without an answer nobody knows what became of it.
const COMMIT: Duration = Duration::from_secs(4);
/// How long giving a transaction up may take.
const ABORT: Duration = Duration::from_secs(3);

/// A lane that is ours, until somebody takes it over.
pub(super) struct Session {
    shared: Arc<Shared>,
    lane: u32,
    producer: BaseProducer<Reports>,
    partitions: u32,
    looked: Instant,
    /// The most bytes that a record of the topic may have.
    limit: usize,
    /// Once they are read.
    keys: Option<KeyIndex>,
    /// Those of the transaction.
    pending: Vec<(KeyHash, Answer)>,
    usable: bool,
}

/// Why a transaction is not known to be committed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The topic does not take a record of it. Nothing is committed.
    Refused(ProduceError),
    /// The lane is somebody else's by now. Nothing is committed.
    Lost(ProduceError),
    /// Nothing is committed.
    Failed(ProduceError),
    /// The commit was asked for, and not answered.
    Unknown(String),
}

impl Session {
    /// Takes a lane over.
    ///
    /// # Errors
    /// When no broker answers, or we may not write.
    pub(super) fn open(shared: &Arc<Shared>, lane: u32) -> Result<Self, ProduceError> {
        let partitions = look(shared)?;
        let limit = record_limit(&shared.source.settings)?;
        let mut session = Self {
            shared: Arc::clone(shared),
            lane,
            producer: producer(shared, lane, limit)?,
            partitions,
            looked: Instant::now(),
            limit,
            keys: None,
            pending: Vec::new(),
            usable: false,
        };
        session.take_over()?;
        Ok(session)
    }

    /// Whoever else had the lane can commit no more, and its open transaction is ended.
    fn take_over(&mut self) -> Result<(), ProduceError> {
        let taken = self.producer.init_transactions(TAKE_OVER);
        self.usable = taken.is_ok();
        taken.map_err(|error| self.refusal(self.reason(&error)))
    }

    /// Whether it can go on.
    pub(super) fn is_usable(&self) -> bool {
        self.usable
    }

    /// Reads the lane's keys, once.
    pub(super) fn load_keys(&mut self) -> Result<(), ProduceError> {
        if self.keys.is_some() {
            return Ok(());
        }
        let mut ended = None;
        for _ in 0..MOST_TAKE_OVERS {
            match keys_topic::read(&self.shared, self.lane, ended)? {
                Found::Keys(keys) => {
                    debug!(stream = %self.shared.name, lane = self.lane, keys = keys.len(), "read the keys of a lane");
                    self.keys = Some(keys);
                    return Ok(());
                }
                Found::Undecided(end) => {
                    self.producer = producer(&self.shared, self.lane, self.limit)?;
                    self.take_over()?;
                    ended = Some(end);
                }
            }
        }
        Err(ProduceError::NotKept {
            reason: "another writer takes the idempotency keys over again and again".to_owned(),
        })
    }

    /// Answers what needs no transaction, and hands back the others.
    pub(super) fn admit(&mut self, group: Vec<Request>) -> Admitted {
        let none = KeyIndex::default();
        if let Some(keys) = &mut self.keys {
            keys.expire(self.shared.now_us());
        }
        admit(group, self.keys.as_ref().unwrap_or(&none), |append| {
            self.check_size(append)
        })
    }

    fn check_size(&self, append: &Append) -> Result<(), ProduceError> {
        let sizes = append.messages.iter().map(size);
        match sizes.enumerate().find(|(_, size)| *size > self.limit) {
            None => Ok(()),
            Some((index, bytes)) => Err(ProduceError::TooLarge {
                topic: self.shared.source.settings.topic.clone(),
                event: index + 1,
                bytes,
                limit: self.limit,
            }),
        }
    }

    /// Commits all requests in one transaction: their answers.
    pub(super) fn transact(&mut self, writes: &[Request]) -> Result<Vec<Appended>, Failure> {
        self.look_if_due().map_err(Failure::Failed)?;
        let messages = || writes.iter().flat_map(|request| &request.append.messages);
        let bytes: usize = messages().map(size).sum();
        let more = Duration::from_secs((bytes / BYTES_PER_SECOND) as u64);
        // Past the brokers' own limit there is nothing to wait for.
        let patience = (PATIENCE + more).min(TRANSACTION_TIMEOUT);
        let deadline = Instant::now() + patience;
        self.reports().begin(writes.len());
        if let Err(error) = self.producer.begin_transaction() {
            return Err(self.broken(&error));
        }
        let written = self.write(writes, deadline);
        let answers = written.map_err(|fault| self.abort(fault))?;
        crash_point("produce:written");
        self.commit(deadline)?;
        crash_point("produce:committed");
        Ok(answers)
    }

    /// Sends events, then keys with what they will be answered, and waits until all are acknowledged.
    fn write(&mut self, writes: &[Request], deadline: Instant) -> Result<Vec<Appended>, Fault> {
        for (index, request) in writes.iter().enumerate() {
            self.send_events(index, &request.append)?;
        }
        self.delivered(deadline)?;
        crash_point("produce:sent");
        let ends = self.reports().ends();
        let answers: Vec<Appended> = writes
            .iter()
            .zip(&ends)
            .map(|(request, ends)| appended(&request.append, ends))
            .collect();
        let now_us = self.shared.now_us();
        let mut entries = Vec::new();
        for (request, appended) in writes.iter().zip(&answers) {
            if let Some(key) = &request.append.key {
                let answer = Answer::new(&key.body_hash, appended, now_us);
                let hash = KeyHash::of(&key.key);
                self.send_key(hash, &answer, writes.len())?;
                entries.push((hash, answer));
            }
        }
        if !entries.is_empty() {
            self.delivered(deadline)?;
        }
        self.pending = entries;
        Ok(answers)
    }

    fn send_events(&self, index: usize, append: &Append) -> Result<(), Fault> {
        let settings = &self.shared.source.settings;
        // With a key column each record goes where its key belongs; else the request stays together, in its order.
        let partition = match settings.key_column {
            Some(_) => None,
            None => i32::try_from(self.shared.next_partition(self.partitions)).ok(),
        };
        for (sent, message) in append.messages.iter().enumerate() {
            let mut record =
                BaseRecord::<[u8], [u8], usize>::with_opaque_to(&settings.topic, index);
            record.payload = Some(&message.value);
            record.key = message.key.as_deref();
            record.timestamp = message.timestamp_ms;
            record.partition = partition;
            record.headers = headers(message);
            self.send(record)?;
            if sent % SENT_AT_ONCE == SENT_AT_ONCE - 1 {
                self.producer.poll(Duration::ZERO);
            }
        }
        Ok(())
    }

    fn send_key(&self, key: KeyHash, answer: &Answer, opaque: usize) -> Result<(), Fault> {
        let topic = keys_topic::name(&self.shared.stream);
        let (key, value) = (key.hex(), answer.encode());
        let record = BaseRecord::with_opaque_to(&topic, opaque)
            .partition(i32::try_from(self.lane).unwrap_or(0))
            .key(key.as_bytes())
            .payload(&value[..]);
        self.send(record)
    }

    fn send(&self, record: BaseRecord<'_, [u8], [u8], usize>) -> Result<(), Fault> {
        let sent = self.producer.send(record);
        sent.map_err(|(error, _)| self.reason(&error))
    }

    /// Waits until everything that was sent is acknowledged.
    fn delivered(&self, deadline: Instant) -> Result<(), Fault> {
        let begin = Instant::now();
        while self.producer.in_flight_count() > 0 {
            if Instant::now() > deadline {
                return Err(self.heard(Fault {
                    code: Code::RD_KAFKA_RESP_ERR__TIMED_OUT,
                    text: "the brokers do not acknowledge the records in time".to_owned(),
                }));
            }
            self.producer.poll(Duration::ZERO);
            // A small part of what was waited for, so that an answer is seen soon and a silence costs little.
            let pause = (begin.elapsed() / 16).clamp(MIN_PAUSE, MAX_PAUSE);
            std::thread::sleep(pause);
        }
        match self.reports().failed() {
            None => Ok(()),
            Some(fault) => Err(fault),
        }
    }

    fn commit(&mut self, deadline: Instant) -> Result<(), Failure> {
        let deadline = deadline.max(Instant::now() + COMMIT);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Err(error) = self.producer.commit_transaction(left) else {
                break;
            };
            let fault = self.reason(&error);
            match &error {
                Error::Transaction(error) if error.txn_requires_abort() => {
                    return Err(self.abort(fault));
                }
                Error::Transaction(error) if error.is_retriable() && Instant::now() < deadline => {}
                _ => {
                    self.usable = false;
                    return Err(Failure::Unknown(fault.text));
                }
            }
        }
        let pending = std::mem::take(&mut self.pending);
        if let Some(keys) = &mut self.keys {
            for (key, answer) in pending {
                keys.remember(key, answer);
            }
        }
        Ok(())
    }

    /// Gives a transaction up that was not committed, for `fault`.
    fn abort(&mut self, fault: Fault) -> Failure {
        let aborted = self.producer.abort_transaction(ABORT);
        // The next session's start aborts it if this could not.
        self.usable = aborted.is_ok();
        let fault = self.dead().unwrap_or(fault);
        if is_lost(fault.code) {
            self.usable = false;
            return Failure::Lost(self.refusal(fault));
        }
        match self.refusal(fault) {
            error @ (ProduceError::Refused { .. } | ProduceError::BatchTooLarge { .. }) => {
                // librdkafka gets no later record through to that partition: it purges them, without a reason.
                self.usable = false;
                Failure::Refused(error)
            }
            error => Failure::Failed(error),
        }
    }

    /// The producer is of no more use, before anything was sent.
    fn broken(&mut self, error: &Error) -> Failure {
        self.usable = false;
        let fault = self.reason(error);
        Failure::Lost(self.refusal(fault))
    }

    fn reports(&self) -> &Reports {
        self.producer.context()
    }

    /// Why librdkafka works no more, if so; else what it says of `error`, or has heard from the brokers.
    fn reason(&self, error: &Error) -> Fault {
        self.dead().unwrap_or_else(|| self.heard(fault(error)))
    }

    /// The reason why librdkafka works no more.
    fn dead(&self) -> Option<Fault> {
        let (code, text) = self.producer.client().fatal_error()?;
        let code = code_of(code);
        Some(Fault { code, text })
    }

    /// That no answer came has a reason that was heard of elsewhere.
    fn heard(&self, fault: Fault) -> Fault {
        match self.reports().heard() {
            Some(heard) if fault.is_transient() => heard,
            _ => fault,
        }
    }

    fn refusal(&self, fault: Fault) -> ProduceError {
        refusal(&self.shared, fault)
    }

    fn look_if_due(&mut self) -> Result<(), ProduceError> {
        if self.looked.elapsed() >= LOOK {
            self.partitions = look(&self.shared)?;
            self.looked = Instant::now();
        }
        Ok(())
    }
}

/// A producer for a lane, which does not own it yet.
fn producer(
    shared: &Shared,
    lane: u32,
    limit: usize,
) -> Result<BaseProducer<Reports>, ProduceError> {
    let id = format!("{}{lane}", transactional_prefix(shared));
    let mut config = client(&shared.source.settings)?;
    config
        .set("transactional.id", &id)
        .set("transaction.timeout.ms", millis(TRANSACTION_TIMEOUT))
        .set("message.timeout.ms", millis(TRANSACTION_TIMEOUT))
        .set("message.max.bytes", limit.to_string())
        // A transaction is sent as soon as it is there.
        .set("linger.ms", "0")
        // What waits is bounded by the requests.
        .set("queue.buffering.max.messages", "0")
        // Where other clients put a key.
        .set("partitioner", "murmur2_random");
    let made = config.create_with_context(Reports::default());
    made.map_err(|error| KafkaError::Options(error.to_string()).into())
}

/// Whether the topic is the one that the stream was declared on: how many partitions it has.
fn look(shared: &Shared) -> Result<u32, KafkaError> {
    let source = &shared.source;
    let topic = Topic::connect(&source.settings, &shared.stream)?;
    let partitions = topic.partitions_of(source, TIMEOUT)?;
    Ok(u32::try_from(partitions.len()).unwrap_or(u32::MAX))
}

/// The most bytes of a record that the topic takes; Kafka's default where we may not ask.
fn record_limit(settings: &KafkaSettings) -> Result<usize, ProduceError> {
    let admin = admin(settings)?;
    let options = AdminOptions::new().request_timeout(Some(TIMEOUT));
    let topic = ResourceSpecifier::Topic(&settings.topic);
    let described = block_on(admin.describe_configs([&topic], &options));
    let configs = described.ok().and_then(|all| all.into_iter().next()?.ok());
    let limit = configs.and_then(|configs| {
        let entry = configs.get("max.message.bytes")?;
        entry.value.as_ref()?.parse().ok()
    });
    // Within what librdkafka takes.
    Ok(limit.unwrap_or(RECORD_LIMIT).clamp(1000, 1_000_000_000))
}

/// A client that asks the brokers for other things than records.
pub(super) fn admin(
    settings: &KafkaSettings,
) -> Result<AdminClient<DefaultClientContext>, ProduceError> {
    let made = client(settings)?.create();
    made.map_err(|error| KafkaError::Options(error.to_string()).into())
}

pub(super) fn client(settings: &KafkaSettings) -> Result<ClientConfig, KafkaError> {
    let mut config = ClientConfig::new();
    for (name, value) in connection(settings)? {
        config.set(name, value);
    }
    config.set_log_level(RDKafkaLogLevel::Notice);
    Ok(config)
}

/// What the `transactional.id` of each lane begins with.
fn transactional_prefix(shared: &Shared) -> String {
    format!("dovetail-{}-", shared.stream)
}

/// What a fault means for the append.
pub(super) fn refusal(shared: &Shared, fault: Fault) -> ProduceError {
    let settings = &shared.source.settings;
    let topic = settings.topic.clone();
    let keys = keys_topic::name(&shared.stream);
    let grant = match fault.code {
        Code::RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED => format!(
            "WRITE and DESCRIBE on the transactional ids that begin with `{}`",
            transactional_prefix(shared)
        ),
        Code::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED => {
            format!("WRITE and DESCRIBE on topics `{topic}` and `{keys}`")
        }
        Code::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED => {
            "IDEMPOTENT_WRITE on the cluster".to_owned()
        }
        Code::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE
        | Code::RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE => {
            let reason = fault.text;
            return ProduceError::BatchTooLarge { topic, reason };
        }
        Code::RD_KAFKA_RESP_ERR_INVALID_RECORD
        | Code::RD_KAFKA_RESP_ERR_INVALID_MSG
        | Code::RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP
        | Code::RD_KAFKA_RESP_ERR_POLICY_VIOLATION => {
            let reason = fault.text;
            return ProduceError::Refused { topic, reason };
        }
        _ => {
            let group = format!("dovetail-{}", shared.stream);
            return match KafkaError::of(fault, &settings.brokers, &topic, &group) {
                KafkaError::Other { reason, .. } => ProduceError::NotKept { reason },
                error => error.into(),
            };
        }
    };
    ProduceError::Forbidden {
        reason: fault.text,
        grant,
    }
}

/// Whether the producer is of no more use: somebody else owns the lane now, the brokers have forgotten that it was ours,
/// or librdkafka gives its records up.
fn is_lost(code: Code) -> bool {
    matches!(
        code,
        Code::RD_KAFKA_RESP_ERR__FENCED
            | Code::RD_KAFKA_RESP_ERR_PRODUCER_FENCED
            | Code::RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH
            | Code::RD_KAFKA_RESP_ERR_INVALID_PRODUCER_ID_MAPPING
            | Code::RD_KAFKA_RESP_ERR_UNKNOWN_PRODUCER_ID
            | Code::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER
            | Code::RD_KAFKA_RESP_ERR_INVALID_TXN_STATE
            | Code::RD_KAFKA_RESP_ERR__STATE
            // Given up unsent, and nothing says why: a producer made anew gets it through or learns the reason.
            | Code::RD_KAFKA_RESP_ERR__PURGE_QUEUE
            | Code::RD_KAFKA_RESP_ERR__PURGE_INFLIGHT
    )
}

/// About what a record takes in its topic.
fn size(message: &Message) -> usize {
    let key = message.key.as_ref().map_or(0, |key| key.len());
    let headers = message.headers.iter();
    let headers: usize = headers
        .map(|(name, value)| name.len() + value.as_ref().map_or(0, |value| value.len()) + 10)
        .sum();
    RECORD_OVERHEAD + message.value.len() + key + headers
}

fn headers(message: &Message) -> Option<OwnedHeaders> {
    if message.headers.is_empty() {
        return None;
    }
    let size = message.headers.len();
    let headers = message.headers.iter();
    Some(headers.fold(
        OwnedHeaders::new_with_capacity(size),
        |all, (key, value)| {
            let value = value.as_deref();
            all.insert(Header { key, value })
        },
    ))
}

fn millis(time: Duration) -> String {
    time.as_millis().to_string()
}
