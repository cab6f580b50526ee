// SPDX-License-Identifier: Apache-2.0
//! A real Kafka broker of one node (KRaft), and what producers and admins do to it; a schema registry and servers of S3
//! and of Azure's blobs beside it.
//!
//! Invariants: it listens on loopback only, on ports that were free; it ends with its [`Broker`], or with the
//! process that started it, however that ends; a broker that does not start fails the test with its log.

mod azure;
mod gateway;
pub mod process;
mod registry;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use futures::executor::block_on;
use rdkafka::ClientConfig;
use rdkafka::admin::{
    AdminClient, AdminOptions, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

pub use azure::{AZURE_KEYS, AzureServer};
pub use gateway::{BUCKET, Gateway, KEY_ID, KEYS, SECRET, store_options};
use process::{Kept, free_ports};
pub use registry::Registry;

const TIMEOUT: Duration = Duration::from_secs(30);

/// As in `pom.xml`.
const VERSION: &str = "4.3.1";

/// A running broker.
#[derive(Debug)]
pub struct Broker {
    // Ends before its directory is removed.
    process: Option<Kept>,
    dir: tempfile::TempDir,
    port: u16,
}

impl Broker {
    /// Starts a broker on an empty directory.
    pub fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let [port, controller] = free_ports();
        let log_dir = dir.path().join("data");
        let properties = format!(
            "process.roles=broker,controller\n\
             node.id=1\n\
             controller.quorum.voters=1@127.0.0.1:{controller}\n\
             listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
             controller.listener.names=CONTROLLER\n\
             listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
             log.dirs={}\n\
             num.partitions=1\n\
             auto.create.topics.enable=false\n\
             offsets.topic.replication.factor=1\n\
             offsets.topic.num.partitions=1\n\
             transaction.state.log.replication.factor=1\n\
             transaction.state.log.min.isr=1\n\
             transaction.state.log.num.partitions=1\n\
             share.coordinator.state.topic.replication.factor=1\n\
             share.coordinator.state.topic.min.isr=1\n\
             group.initial.rebalance.delay.ms=0\n",
            log_dir.display()
        );
        fs::write(dir.path().join("server.properties"), properties).expect("its properties");
        fs::write(dir.path().join("log4j2.properties"), LOG4J).expect("its log's properties");
        let mut broker = Self {
            dir,
            port,
            process: None,
        };
        let formatted = broker
            .java("kafka.tools.StorageTool")
            .args(["format", "-t", "AAAAAAAAQACAAAAAAAAAAQ", "-c"])
            .arg(broker.dir.path().join("server.properties"))
            .output()
            .expect("java runs");
        assert!(
            formatted.status.success(),
            "kafka's storage cannot be formatted: {}{}",
            String::from_utf8_lossy(&formatted.stdout),
            String::from_utf8_lossy(&formatted.stderr)
        );
        broker.run();
        broker
    }

    /// `host:port` of its listener.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Starts it again after [`Broker::kill`].
    pub fn run(&mut self) {
        let mut java = self.java("kafka.Kafka");
        java.arg(self.dir.path().join("server.properties"));
        let mut process = Kept::start(&java, Stdio::piped(), Stdio::inherit());
        let mut said = String::new();
        let mut lines = BufReader::new(process.take_stdout().expect("it is piped")).lines();
        let started = lines.by_ref().any(|line| {
            let line = line.unwrap_or_default();
            let started = line.contains("Kafka Server started");
            writeln!(said, "{line}").expect("a string takes it");
            started
        });
        assert!(started, "kafka ended before it started:\n{said}");
        // It must not stop at a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        self.process = Some(process);
    }

    /// Ends it at once, as kill -9 does.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Makes a topic of so many partitions.
    pub fn create_topic(&self, topic: &str, partitions: i32) {
        self.create_topic_with(topic, partitions, &[]);
    }

    /// The same with options.
    pub fn create_topic_with(&self, topic: &str, partitions: i32, config: &[(&str, &str)]) {
        let begin = Instant::now();
        let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
        for (option, value) in config {
            new = new.set(option, value);
        }
        let made = block_on(self.admin().create_topics([&new], &options())).expect("it answers");
        made[0].as_ref().expect("the topic is made");
        // It has no leaders for a moment.
        let client: BaseProducer = self.config().create().expect("a client");
        for partition in 0..partitions {
            let led = || client.client().fetch_watermarks(topic, partition, TIMEOUT);
            while let Err(error) = led() {
                assert!(begin.elapsed() < TIMEOUT, "topic `{topic}`: {error}");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }

    /// How far a group says that it has read a partition.
    pub fn group_offset(&self, group: &str, topic: &str, partition: i32) -> Option<i64> {
        let mut config = self.config();
        config.set("group.id", group);
        let consumer: BaseConsumer = config.create().expect("a consumer");
        let mut list = TopicPartitionList::new();
        list.add_partition(topic, partition);
        let committed = consumer.committed_offsets(list, TIMEOUT);
        let committed = committed.expect("it answers");
        match committed.elements()[0].offset() {
            Offset::Offset(next) => Some(next),
            _ => None,
        }
    }

    /// An option of a topic.
    pub fn topic_option(&self, topic: &str, option: &str) -> Option<String> {
        let wanted = ResourceSpecifier::Topic(topic);
        let admin = self.admin();
        let described = block_on(admin.describe_configs([&wanted], &options()));
        let described = described
            .expect("it answers")
            .remove(0)
            .expect("the topic is there");
        described.get(option)?.value.clone()
    }

    /// Deletes a topic.
    pub fn delete_topic(&self, topic: &str) {
        let gone = block_on(self.admin().delete_topics(&[topic], &options())).expect("it answers");
        gone[0].as_ref().expect("the topic is deleted");
    }

    /// Raises the number of a topic's partitions.
    pub fn add_partitions(&self, topic: &str, total: usize) {
        let more = NewPartitions::new(topic, total);
        let made =
            block_on(self.admin().create_partitions([&more], &options())).expect("it answers");
        made[0].as_ref().expect("the partitions are made");
    }

    /// Deletes what lies before an offset, as retention does.
    pub fn delete_before(&self, topic: &str, partition: i32, offset: i64) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(offset))
            .expect("an offset");
        block_on(self.admin().delete_records(&list, &options())).expect("the records are deleted");
    }

    /// Cuts the end of the last transaction off a partition, while the broker is down: what is left when it has ended a
    /// transaction without telling the partition, which it does if that has no leader at the moment.
    pub fn lose_marker(&self, topic: &str, partition: i32) {
        assert!(self.process.is_none(), "the broker runs");
        let dir = self.dir.path().join("data");
        let log = dir.join(format!("{topic}-{partition}/{:020}.log", 0));
        let bytes = fs::read(&log).expect("its first segment");
        // A batch: its offset and length, then the rest; its attributes stand at byte 21.
        let (mut last, mut next) = (0, 0);
        while let Some(length) = bytes.get(next + 8..next + 12) {
            let length = u32::from_be_bytes(length.try_into().expect("four bytes"));
            (last, next) = (next, next + 12 + length as usize);
        }
        let attributes = u16::from_be_bytes([bytes[last + 21], bytes[last + 22]]);
        assert_eq!(attributes & 0x30, 0x30, "the last batch is no marker");
        let file = fs::OpenOptions::new().write(true).open(&log);
        let cut = file.and_then(|file| file.set_len(last as u64));
        cut.expect("it is cut");
    }

    /// A consumer that sees what is committed, or everything.
    fn consumer(&self, isolation: &str) -> BaseConsumer {
        let mut config = self.config();
        config
            .set("group.id", "committed")
            .set("isolation.level", isolation)
            .set("enable.partition.eof", "true")
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "earliest");
        config.create().expect("a consumer")
    }

    /// Waits until every transaction of a topic that has begun is decided.
    ///
    /// # Panics
    /// When one is not within the time-out.
    pub fn wait_until_decided(&self, topic: &str) {
        let begin = Instant::now();
        let [all, committed] = ["read_uncommitted", "read_committed"].map(|i| self.consumer(i));
        let metadata = all.fetch_metadata(Some(topic), TIMEOUT);
        for partition in metadata.expect("it answers").topics()[0].partitions() {
            let end = |of: &BaseConsumer| of.fetch_watermarks(topic, partition.id(), TIMEOUT);
            let (_, end_of_all) = end(&all).expect("it answers");
            while end(&committed).expect("it answers").1 < end_of_all {
                let open = format!(
                    "a transaction is open in partition {} of `{topic}`",
                    partition.id()
                );
                assert!(begin.elapsed() < TIMEOUT, "{open}");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    /// What a plain consumer sees of a topic now: the records of committed transactions, in order of partition and
    /// offset. Transactions that are about to end are waited for: a commit is acknowledged before all partitions know.
    pub fn committed(&self, topic: &str) -> Vec<Seen> {
        self.wait_until_decided(topic);
        let (consumer, mut open) = self.reading(topic, Offset::Beginning);
        let mut seen = vec![];
        while !open.is_empty() {
            match consumer.poll(TIMEOUT).expect("it reads to the end") {
                Ok(message) => seen.push(Seen {
                    partition: message.partition(),
                    offset: message.offset(),
                    key: message.key().map(<[u8]>::to_vec),
                    value: message.payload().unwrap_or_default().to_vec(),
                    timestamp_ms: message.timestamp().to_millis(),
                }),
                Err(KafkaError::PartitionEOF(partition)) => {
                    open.remove(&partition);
                }
                Err(error) => panic!("topic `{topic}` cannot be read: {error}"),
            }
        }
        seen.sort_by_key(|seen| (seen.partition, seen.offset));
        seen
    }

    /// A consumer that follows a topic from its end on.
    ///
    /// # Panics
    /// When the topic is not there.
    pub fn follow(&self, topic: &str) -> Follower {
        Follower(self.reading(topic, Offset::End).0)
    }

    /// A consumer of what is committed in all partitions of a topic from there on, and which those are.
    fn reading(&self, topic: &str, from: Offset) -> (BaseConsumer, BTreeSet<i32>) {
        let consumer = self.consumer("read_committed");
        let metadata = consumer.fetch_metadata(Some(topic), TIMEOUT);
        let metadata = metadata.expect("it answers");
        let partitions = metadata.topics()[0].partitions().iter();
        let partitions: BTreeSet<i32> = partitions.map(|partition| partition.id()).collect();
        let mut list = TopicPartitionList::new();
        for partition in &partitions {
            list.add_partition_offset(topic, *partition, from)
                .expect("an offset");
        }
        consumer.assign(&list).expect("it is assigned");
        (consumer, partitions)
    }

    /// A producer without transactions; its records are acknowledged by all.
    pub fn producer(&self) -> Producer {
        let producer = self.config().create_with_context(Acknowledged::default());
        Producer(producer.expect("a producer"))
    }

    /// A producer whose records count once it commits.
    pub fn transactional(&self, id: &str) -> Producer {
        let mut config = self.config();
        config.set("transactional.id", id);
        let producer = config.create_with_context::<_, BaseProducer<_>>(Acknowledged::default());
        let producer = producer.expect("a producer");
        producer.init_transactions(TIMEOUT).expect("transactions");
        Producer(producer)
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", self.address())
            .set("acks", "all")
            .set("compression.type", "lz4")
            .set("linger.ms", "1")
            .set("enable.idempotence", "true");
        config
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.config().create().expect("an admin")
    }

    fn java(&self, main: &str) -> Command {
        let mut java = Command::new("java");
        java.args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
            .arg(format!(
                "-Dlog4j2.configurationFile={}",
                self.dir.path().join("log4j2.properties").display()
            ))
            .arg("-cp")
            .arg(format!("{}/*", jars().display()))
            .arg(main);
        java
    }
}

/// A record as a consumer sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value.
    pub value: Vec<u8>,
    /// Its timestamp, milliseconds since the Unix epoch.
    pub timestamp_ms: Option<i64>,
}

/// A plain consumer that reads on.
pub struct Follower(BaseConsumer);

impl std::fmt::Debug for Follower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Follower")
    }
}

impl Follower {
    /// Reads until it has a record of the partition at this offset, or behind it.
    ///
    /// # Panics
    /// When that does not come within the time-out.
    pub fn wait_for(&self, partition: i32, offset: i64) {
        loop {
            match self.0.poll(TIMEOUT).expect("it comes") {
                Ok(seen) if seen.partition() == partition && seen.offset() >= offset => return,
                Ok(_) | Err(KafkaError::PartitionEOF(_)) => {}
                Err(error) => panic!("the topic cannot be read: {error}"),
            }
        }
    }
}

/// Puts records into topics.
pub struct Producer(BaseProducer<Acknowledged>);

/// The offset of the record that was acknowledged last.
#[derive(Default)]
struct Acknowledged(AtomicI64);

impl ClientContext for Acknowledged {}

impl ProducerContext for Acknowledged {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Ok(message) = result {
            self.0.store(message.offset(), Ordering::Relaxed);
        }
    }
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Producer")
    }
}

/// One record to be.
#[derive(Debug, Clone, Default)]
pub struct Record<'a> {
    /// Its partition.
    pub partition: i32,
    /// Its value; none makes a tombstone.
    pub value: Option<&'a [u8]>,
    /// Its key.
    pub key: Option<&'a str>,
    /// Its timestamp, milliseconds since the Unix epoch; now if none.
    pub timestamp_ms: Option<i64>,
    /// Its headers.
    pub headers: &'a [(&'a str, &'a str)],
}

impl Producer {
    /// Begins a transaction.
    pub fn begin(&self) {
        self.0.begin_transaction().expect("a transaction begins");
    }

    /// Commits it.
    pub fn commit(&self) {
        self.0.commit_transaction(TIMEOUT).expect("it is committed");
    }

    /// Aborts it. Records that were sent stay in the log, and no consumer sees them.
    pub fn abort(&self) {
        self.flush();
        self.0.abort_transaction(TIMEOUT).expect("it is aborted");
    }

    /// Sends values to a partition and waits until they are acknowledged.
    pub fn send(&self, topic: &str, partition: i32, values: impl IntoIterator<Item: AsRef<[u8]>>) {
        for value in values {
            self.queue(
                topic,
                &Record {
                    partition,
                    value: Some(value.as_ref()),
                    ..Record::default()
                },
            );
        }
        self.flush();
    }

    /// Sends one record and waits until it is acknowledged: its offset.
    pub fn send_one(&self, topic: &str, record: &Record<'_>) -> i64 {
        self.queue(topic, record);
        self.flush();
        self.0.context().0.load(Ordering::Relaxed)
    }

    fn queue(&self, topic: &str, record: &Record<'_>) {
        let mut headers = OwnedHeaders::new();
        for (key, value) in record.headers {
            headers = headers.insert(Header {
                key,
                value: Some(*value),
            });
        }
        let mut message = BaseRecord::<str, [u8]>::to(topic)
            .partition(record.partition)
            .headers(headers);
        message.payload = record.value;
        message.key = record.key;
        message.timestamp = record.timestamp_ms;
        while let Err((error, back)) = self.0.send(message) {
            assert_eq!(
                error.rdkafka_error_code(),
                Some(rdkafka::types::RDKafkaErrorCode::QueueFull),
                "{error}"
            );
            self.0.poll(Duration::from_millis(10));
            message = back;
        }
    }

    /// The wrapper's own `flush` waits in steps of 100 ms.
    fn flush(&self) {
        let begin = Instant::now();
        while self.0.in_flight_count() > 0 {
            assert!(begin.elapsed() < TIMEOUT, "all is acknowledged in time");
            self.0.poll(Duration::ZERO);
            std::thread::sleep(Duration::from_micros(50));
        }
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(TIMEOUT))
}

/// Where `script/kafka-jars` puts them.
fn jars() -> PathBuf {
    let name = format!("kafka-{VERSION}");
    fetched(&name, &format!("kafka_2.13-{VERSION}.jar"), "kafka-jars")
}

/// A directory of the cache that holds `file` once a script has filled it.
fn fetched(name: &str, file: &str, script: &str) -> PathBuf {
    let dir = cached(name);
    assert!(
        dir.join(file).is_file(),
        "no {name} in the cache ({}): run script/{script} once",
        dir.display()
    );
    dir
}

/// Where the scripts put what they fetch under this name.
pub fn cached(name: &str) -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    cache.unwrap_or_default().join("dovetail").join(name)
}

const LOG4J: &str = "rootLogger.level=WARN\n\
    rootLogger.appenderRef.out.ref=out\n\
    appender.out.type=Console\n\
    appender.out.name=out\n\
    appender.out.layout.type=PatternLayout\n\
    appender.out.layout.pattern=%p %c: %m%n\n\
    logger.server.name=kafka.server.KafkaRaftServer\n\
    logger.server.level=INFO\n";
