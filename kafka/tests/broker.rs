// SPDX-License-Identifier: Apache-2.0
//! A stream on a real broker: what is read, what is not, and what is said about it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
use dovetail_kafka::{KafkaError, KafkaLog, Phase, Sink, declare};
use dovetail_log::CommittedBatch;
use dovetail_model::{
    Column, ColumnType, Hole, KafkaSettings, KafkaSource, MessageFormat, Offset, PartitionId,
    Position, Share, Source, StartAt, StreamDef, StreamSchema, SystemClock, Tombstones,
    UnknownColumns,
};
use dovetail_testkit::kafka::{Broker, Record};

/// The broker of the tests that leave it alone.
static BROKER: LazyLock<Broker> = LazyLock::new(Broker::start);
/// Long, for machines that are busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);

fn column(name: &str, column_type: ColumnType) -> Column {
    Column {
        name: name.to_owned(),
        column_type,
        nullable: true,
    }
}

fn schema(columns: Vec<Column>) -> StreamSchema {
    StreamSchema {
        columns,
        event_time: None,
        unknown_columns: UnknownColumns::Ignore,
    }
}

fn numbers() -> StreamSchema {
    schema(vec![column("n", ColumnType::BigInt)])
}

fn settings(broker: &Broker, topic: &str) -> KafkaSettings {
    KafkaSettings {
        brokers: broker.address(),
        topic: topic.to_owned(),
        format: MessageFormat::Json,
        schema_registry: None,
        start: StartAt::Earliest,
        tombstones: Tombstones::DeadLetter,
        key_column: None,
        timestamp_column: None,
        headers_column: None,
        security: [].into(),
    }
}

fn declared(settings: &KafkaSettings) -> Result<KafkaSource, KafkaError> {
    declare(
        settings,
        &"k1".parse().expect("an id"),
        Duration::from_secs(10),
    )
}

/// A stream under test: its log, and what came out of it.
struct Stream {
    log: KafkaLog,
    unread: Unread,
    full: Arc<AtomicBool>,
    batches: Receiver<Arc<CommittedBatch>>,
    at: Position,
    events: Vec<RecordBatch>,
    dead_letters: Vec<(PartitionId, Offset, String, Vec<u8>)>,
}

/// When the oldest unread record was made, as told last.
type Unread = Arc<Mutex<Option<i64>>>;

struct Channel {
    batches: Sender<Arc<CommittedBatch>>,
    unread: Unread,
    /// Whether it takes no more for now.
    full: Arc<AtomicBool>,
}

impl Sink for Channel {
    fn has_room(&mut self, _: Duration) -> bool {
        let full = self.full.load(Ordering::Relaxed);
        if full {
            std::thread::sleep(Duration::from_millis(20));
        }
        !full
    }

    fn take(&mut self, batch: Arc<CommittedBatch>) -> bool {
        self.batches.send(batch).is_ok()
    }

    fn unread_since(&mut self, since_ms: Option<i64>) {
        *self.unread.lock().expect("sound") = since_ms;
    }
}

impl Stream {
    fn open(schema: StreamSchema, source: &KafkaSource, from: &Position) -> Self {
        Self::open_behind(schema, source, from, &[])
    }

    fn open_behind(
        schema: StreamSchema,
        source: &KafkaSource,
        from: &Position,
        holes: &[Hole],
    ) -> Self {
        let def = StreamDef {
            id: "k1".parse().expect("an id"),
            name: "k".to_owned(),
            schema,
            source: Source::Kafka(Box::new(source.clone())),
            created_at: chrono::DateTime::UNIX_EPOCH,
        };
        let (sender, batches) = channel();
        let (unread, full) = (Unread::default(), Arc::default());
        let clock = Arc::new(SystemClock);
        let sink = Box::new(Channel {
            batches: sender,
            unread: Arc::clone(&unread),
            full: Arc::clone(&full),
        });
        let log =
            KafkaLog::open(&def, source, Share::ALL, from, holes, clock, sink).expect("a thread");
        Self {
            log,
            unread,
            full,
            batches,
            at: from.clone(),
            events: Vec::new(),
            dead_letters: Vec::new(),
        }
    }

    /// Takes batches until they cover `position`; each goes on where the last one ended.
    fn read_to(&mut self, position: &Position) {
        let begin = Instant::now();
        while !self.at.covers(position) {
            let left = PATIENCE.saturating_sub(begin.elapsed());
            let batch = self.batches.recv_timeout(left).unwrap_or_else(|_| {
                panic!(
                    "stuck at {} before {position}: {:?}",
                    self.at,
                    self.log.state()
                )
            });
            assert_eq!(*batch.span.from(), self.at);
            self.at = batch.span.to().clone();
            if batch.events.num_rows() > 0 {
                self.events.push(batch.events.clone());
            }
            for ((partition, offset), letter) in &batch.dead_letters {
                assert!(
                    letter.origin.ends_with(&format!("/{partition}@{offset}")),
                    "{}",
                    letter.origin
                );
                let (reason, bytes) = (letter.reason.clone(), letter.bytes.to_vec());
                self.dead_letters.push((*partition, *offset, reason, bytes));
            }
        }
    }

    fn read_to_end(&mut self) {
        let end = self.log.stable_end();
        let end = end.unwrap_or_else(|_| {
            self.until(|phase| *phase == Phase::Reading);
            self.log.stable_end().expect("it reads")
        });
        self.read_to(&end);
    }

    /// Waits for a phase.
    fn until(&self, wanted: impl Fn(&Phase) -> bool) -> Phase {
        let begin = Instant::now();
        loop {
            let phase = self.log.state().phase;
            if wanted(&phase) {
                return phase;
            }
            assert!(begin.elapsed() < PATIENCE, "it stays {phase:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until a hole stops it: which.
    fn hole(&self) -> Hole {
        match self.until(|phase| matches!(phase, Phase::Stopped(_))) {
            Phase::Stopped(KafkaError::Hole {
                partition,
                from,
                kept,
                ..
            }) => hole(partition.0, from.0, kept.0),
            other => panic!("no hole: {other:?}"),
        }
    }

    /// `(partition, offset, n)` of all events.
    fn numbers(&self) -> Vec<(i32, i64, i64)> {
        let rows = |batch: &RecordBatch| {
            let partition = batch["_partition"]
                .as_primitive::<Int32Type>()
                .values()
                .to_vec();
            let offset = batch["_offset"]
                .as_primitive::<Int64Type>()
                .values()
                .to_vec();
            let n = batch["n"].as_primitive::<Int64Type>().values().to_vec();
            let rows = partition.into_iter().zip(offset).zip(n);
            rows.map(|((p, o), n)| (p, o, n)).collect::<Vec<_>>()
        };
        let mut all: Vec<_> = self.events.iter().flat_map(rows).collect();
        all.sort_unstable();
        all
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // Its sink must not wait for us.
        self.full.store(false, Ordering::Relaxed);
        let (_, nobody) = channel();
        drop(std::mem::replace(&mut self.batches, nobody));
        self.log.close();
    }
}

fn json(numbers: impl IntoIterator<Item = i64>) -> Vec<String> {
    numbers
        .into_iter()
        .map(|n| format!("{{\"n\": {n}}}"))
        .collect()
}

fn at(places: &[(u32, u64)]) -> Position {
    places
        .iter()
        .map(|(p, o)| (PartitionId(*p), Offset(*o)))
        .collect()
}

#[test]
fn every_record_comes_once_and_in_order() {
    BROKER.create_topic("once", 3);
    let producer = BROKER.producer();
    for partition in 0..3 {
        producer.send(
            "once",
            partition,
            json((0..500).map(|n| n * 3 + i64::from(partition))),
        );
    }
    let source = declared(&settings(&BROKER, "once")).expect("the topic is there");
    assert_eq!(source.start, Position::zero());
    let mut stream = Stream::open(numbers(), &source, &Position::zero());
    stream.read_to_end();
    assert_eq!(stream.at, at(&[(0, 500), (1, 500), (2, 500)]));
    let expected = (0..3).flat_map(|p| (0..500).map(move |n| (p, n, n * 3 + i64::from(p))));
    assert_eq!(stream.numbers(), expected.collect::<Vec<_>>());
    assert!(stream.dead_letters.is_empty());
    // It goes on where it was archived, and nowhere else.
    drop(stream);
    let mut stream = Stream::open(numbers(), &source, &at(&[(0, 490), (1, 500), (2, 3)]));
    producer.send("once", 1, json([7]));
    stream.read_to_end();
    let numbers = stream.numbers();
    assert_eq!(numbers.len(), 10 + 1 + 497);
    assert_eq!(numbers[10], (1, 500, 7));
}

#[test]
fn only_what_was_committed_counts_and_the_position_passes_the_rest() {
    BROKER.create_topic("transactions", 1);
    let producer = BROKER.transactional("transactions-1");
    let mut committed = vec![];
    for round in 0..6 {
        producer.begin();
        producer.send("transactions", 0, json([round, round + 100]));
        if round % 2 == 0 {
            producer.commit();
            committed.extend([round, round + 100]);
        } else {
            producer.abort();
        }
    }
    let source = declared(&settings(&BROKER, "transactions")).expect("the topic is there");
    let mut stream = Stream::open(numbers(), &source, &Position::zero());
    // The last transaction was aborted: its records and its marker are passed all the same.
    stream.read_to_end();
    assert_eq!(stream.at, at(&[(0, 18)]));
    let seen: Vec<i64> = stream.numbers().iter().map(|row| row.2).collect();
    assert_eq!(seen, committed);
    // Nothing of an open transaction is seen, and nobody waits for it.
    producer.begin();
    producer.send("transactions", 0, json([1000]));
    stream.read_to_end();
    assert_eq!(stream.at, at(&[(0, 18)]));
    producer.commit();
    stream.read_to_end();
    assert_eq!(stream.numbers().last(), Some(&(0, 18, 1000)));
}

#[test]
fn what_cannot_be_decoded_is_kept_with_its_place() {
    BROKER.create_topic("poison", 2);
    let producer = BROKER.producer();
    let values = [
        "{\"n\": 1}",
        "{\"n\": \"x\"}",
        "{\"n\": 2}\n",
        "{\"n\": 3} {\"n\": 4}",
        "",
        "{\"n\": 5",
    ];
    producer.send("poison", 1, values.map(str::to_owned));
    producer.send_one(
        "poison",
        &Record {
            partition: 0,
            ..Record::default()
        },
    );
    producer.send_one(
        "poison",
        &Record {
            partition: 0,
            value: Some(b"{\"n\": \"\xff\"}"),
            ..Record::default()
        },
    );
    let mut settings = settings(&BROKER, "poison");
    let source = declared(&settings).expect("the topic is there");
    let mut stream = Stream::open(numbers(), &source, &Position::zero());
    stream.read_to_end();
    assert_eq!(stream.numbers(), [(1, 0, 1), (1, 2, 2)]);
    stream.dead_letters.sort();
    let letters = stream.dead_letters.iter();
    let letters: Vec<_> = letters
        .map(|(p, o, r, b)| (p.0, o.0, r.as_str(), &b[..]))
        .collect();
    assert_eq!(letters.len(), 6, "{letters:?}");
    assert!(letters[0].2.contains("tombstone"), "{letters:?}");
    assert!(letters[1].2.contains("UTF-8"), "{letters:?}");
    assert_eq!(
        (letters[2].0, letters[2].1, letters[2].3),
        (1, 1, values[1].as_bytes())
    );
    assert!(letters[3].2.contains("nothing more"), "{letters:?}");
    drop(stream);
    settings.tombstones = Tombstones::Skip;
    let source = declared(&settings).expect("the topic is there");
    let mut stream = Stream::open(numbers(), &source, &Position::zero());
    stream.read_to_end();
    assert_eq!(stream.dead_letters.len(), 5);
    assert_eq!(stream.log.state().skipped_tombstones, 1);
}

#[test]
fn the_envelope_fills_columns() {
    BROKER.create_topic("envelope", 1);
    let producer = BROKER.producer();
    let record = Record {
        value: Some(b"{\"n\": 1}"),
        key: Some("k1"),
        timestamp_ms: Some(1_000_000_123),
        headers: &[("trace", "abc"), ("trace", "def")],
        ..Record::default()
    };
    producer.send_one("envelope", &record);
    producer.send_one(
        "envelope",
        &Record {
            key: None,
            headers: &[],
            ..record.clone()
        },
    );
    let text = |name: &str| column(name, ColumnType::Varchar);
    let pair = ColumnType::Struct(vec![text("name"), text("value")]);
    let columns = vec![
        column("headers", ColumnType::List(Box::new(pair))),
        column("n", ColumnType::BigInt),
        text("key"),
        column("at", ColumnType::Timestamp),
    ];
    let settings = KafkaSettings {
        key_column: Some("key".to_owned()),
        timestamp_column: Some("at".to_owned()),
        headers_column: Some("headers".to_owned()),
        ..settings(&BROKER, "envelope")
    };
    let source = declared(&settings).expect("the topic is there");
    let mut stream = Stream::open(schema(columns), &source, &Position::zero());
    stream.read_to_end();
    let batch = arrow::compute::concat_batches(&stream.events[0].schema(), &stream.events)
        .expect("one schema");
    let keys: Vec<_> = batch["key"].as_string::<i32>().iter().collect();
    assert_eq!(keys, [Some("k1"), None]);
    let times = batch["at"].as_primitive::<TimestampMicrosecondType>();
    assert_eq!(times.value(0), 1_000_000_123_000);
    let headers = batch["headers"].as_list::<i32>();
    let values = headers
        .value(0)
        .as_struct()
        .column(1)
        .as_string::<i32>()
        .iter()
        .collect::<Vec<_>>()
        .len();
    assert_eq!((values, headers.value(1).len()), (2, 0));
}

/// The ends are looked at now and then, what is read shows at once.
#[test]
fn what_was_handed_on_is_no_lag() {
    const EVENTS: u64 = 20;
    BROKER.create_topic("lag", 2);
    let producer = BROKER.producer();
    for partition in 0..2 {
        producer.send(
            "lag",
            partition,
            (0..EVENTS).map(|n| format!("{{\"n\": {n}}}")),
        );
    }
    let source = declared(&settings(&BROKER, "lag")).expect("the topic is there");
    let columns = vec![column("n", ColumnType::BigInt)];
    let mut stream = Stream::open(schema(columns), &source, &Position::zero());
    stream.read_to_end();
    let state = stream.log.state();
    let lags = state.partitions.iter();
    let lags: Vec<_> = lags.map(|lag| (lag.position.0, lag.offsets())).collect();
    assert_eq!(lags, [(EVENTS, 0); 2]);
}

#[test]
fn a_record_that_lacks_what_is_not_null_says_so() {
    BROKER.create_topic("no-key", 1);
    BROKER.producer().send("no-key", 0, ["{\"n\": 1}"]);
    let columns = vec![
        column("n", ColumnType::BigInt),
        Column {
            nullable: false,
            ..column("key", ColumnType::Varchar)
        },
    ];
    let settings = KafkaSettings {
        key_column: Some("key".to_owned()),
        ..settings(&BROKER, "no-key")
    };
    let source = declared(&settings).expect("the topic is there");
    let mut stream = Stream::open(schema(columns), &source, &Position::zero());
    stream.read_to_end();
    let (_, _, reason, bytes) = &stream.dead_letters[0];
    assert_eq!(reason, "the record has no key, and its column is NOT NULL");
    assert_eq!(bytes, b"{\"n\": 1}");
}

#[test]
fn csv_records_have_the_declared_columns_in_their_order() {
    BROKER.create_topic("csv", 1);
    BROKER.producer().send(
        "csv",
        0,
        ["7,seven", "x,y", "8,\"ei,ght\"", "1,a\n2,b", "9,nine\n"],
    );
    let settings = KafkaSettings {
        format: MessageFormat::Csv,
        ..settings(&BROKER, "csv")
    };
    let source = declared(&settings).expect("the topic is there");
    let columns = vec![
        column("n", ColumnType::BigInt),
        column("word", ColumnType::Varchar),
    ];
    let mut stream = Stream::open(schema(columns), &source, &Position::zero());
    stream.read_to_end();
    assert_eq!(stream.numbers(), [(0, 0, 7), (0, 2, 8), (0, 4, 9)]);
    assert_eq!(stream.dead_letters[0].3, b"n,word\nx,y");
    let two = &stream.dead_letters[1].2;
    assert!(two.ends_with("is more than one CSV record"), "{two}");
}

#[test]
fn a_start_is_where_it_was_when_the_stream_was_declared() {
    BROKER.create_topic("start", 2);
    let producer = BROKER.producer();
    for (n, timestamp_ms) in [(0, 1000), (1, 2000), (2, 3000)] {
        let value = format!("{{\"n\": {n}}}");
        let record = Record {
            value: Some(value.as_bytes()),
            timestamp_ms: Some(timestamp_ms),
            ..Record::default()
        };
        producer.send_one("start", &record);
    }
    let start = |start: StartAt| {
        declared(&KafkaSettings {
            start,
            ..settings(&BROKER, "start")
        })
        .map(|source| source.start)
    };
    assert_eq!(start(StartAt::Earliest), Ok(Position::zero()));
    assert_eq!(start(StartAt::Latest), Ok(at(&[(0, 3)])));
    let time = |ms| StartAt::Time(chrono::DateTime::from_timestamp_millis(ms).expect("a time"));
    assert_eq!(start(time(1500)), Ok(at(&[(0, 1)])));
    assert_eq!(start(time(9000)), Ok(at(&[(0, 3)])));
    assert_eq!(start(StartAt::Offsets(at(&[(0, 2)]))), Ok(at(&[(0, 2)])));
    let far = start(StartAt::Offsets(at(&[(0, 4)]))).expect_err("it is not there");
    assert!(far.to_string().contains("holds 0 to 3"), "{far}");
    let other = start(StartAt::Offsets(at(&[(2, 1)]))).expect_err("it is not there");
    assert!(other.to_string().contains("has 2 partitions"), "{other}");

    let source = declared(&KafkaSettings {
        start: StartAt::Latest,
        ..settings(&BROKER, "start")
    });
    let source = source.expect("the topic is there");
    // What comes between the declaration and the first read is not lost.
    producer.send("start", 0, json([3]));
    let mut stream = Stream::open(numbers(), &source, &Position::zero());
    stream.read_to_end();
    assert_eq!(stream.numbers(), [(0, 3, 3)]);
}

#[test]
fn partitions_that_are_added_are_read_from_their_start() {
    BROKER.create_topic("more", 1);
    let producer = BROKER.producer();
    producer.send("more", 0, json([1]));
    let source = declared(&settings(&BROKER, "more")).expect("the topic is there");
    let mut stream = Stream::open(numbers(), &source, &Position::zero());
    stream.read_to_end();
    BROKER.add_partitions("more", 3);
    // The old producer may not know of them yet.
    BROKER.producer().send("more", 2, json([2]));
    producer.send("more", 0, json([3]));
    stream.read_to(&at(&[(0, 2), (2, 1)]));
    assert_eq!(stream.numbers(), [(0, 0, 1), (0, 1, 3), (2, 0, 2)]);
}

#[test]
fn the_group_is_told_how_far_its_topic_is_read() {
    BROKER.create_topic("shown", 2);
    let producer = BROKER.producer();
    let source = declared(&settings(&BROKER, "shown")).expect("the topic is there");
    let mut stream = Stream::open(numbers(), &source, &Position::zero());
    producer.send("shown", 0, json(0..5));
    producer.send("shown", 1, json(5..7));
    stream.read_to(&at(&[(0, 5), (1, 2)]));
    let begin = Instant::now();
    let shown = || [0, 1].map(|partition| BROKER.group_offset("dovetail-k1", "shown", partition));
    while shown() != [Some(5), Some(2)] {
        assert!(begin.elapsed() < PATIENCE, "{:?}", shown());
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn what_waits_while_nothing_more_is_taken_is_known() {
    BROKER.create_topic("full", 1);
    let producer = BROKER.producer();
    let source = declared(&settings(&BROKER, "full")).expect("the topic is there");
    let mut stream = Stream::open(numbers(), &source, &Position::zero());
    producer.send("full", 0, json(0..5));
    stream.read_to(&at(&[(0, 5)]));
    stream.full.store(true, Ordering::Relaxed);
    let begin = Instant::now();
    for sent in 6..9 {
        producer.send("full", 0, json([sent]));
        let waiting = || {
            let lag = &stream.log.state().partitions[0];
            let unread = *stream.unread.lock().expect("sound");
            (lag.position, lag.offsets(), unread.is_some())
        };
        while waiting() != (Offset(5), u64::try_from(sent - 5).expect("small"), true) {
            assert!(begin.elapsed() < PATIENCE, "{:?}", waiting());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    stream.full.store(false, Ordering::Relaxed);
    stream.read_to(&at(&[(0, 8)]));
    assert_eq!(stream.numbers().len(), 8);
}

#[test]
fn a_hole_stops_the_stream_and_names_the_offsets() {
    BROKER.create_topic("hole", 1);
    BROKER.producer().send("hole", 0, json(0..10));
    let source = declared(&settings(&BROKER, "hole")).expect("the topic is there");
    BROKER.delete_before("hole", 0, 6);
    let mut stream = Stream::open(numbers(), &source, &at(&[(0, 4)]));
    let phase = stream.until(|phase| matches!(phase, Phase::Stopped(_)));
    let Phase::Stopped(error) = phase else {
        unreachable!()
    };
    assert_eq!(
        error,
        KafkaError::Hole {
            topic: "hole".to_owned(),
            partition: PartitionId(0),
            from: Offset(4),
            kept: Offset(6),
        }
    );
    assert!(stream.batches.try_recv().is_err());
    // Declared on what is left, it begins there.
    drop(stream);
    let source = declared(&settings(&BROKER, "hole")).expect("the topic is there");
    assert_eq!(source.start, at(&[(0, 6)]));
    stream = Stream::open(numbers(), &source, &Position::zero());
    stream.read_to_end();
    assert_eq!(stream.numbers().len(), 4);
}

fn hole(partition: u32, from: u64, to: u64) -> Hole {
    Hole {
        partition: PartitionId(partition),
        from: Offset(from),
        to: Offset(to),
        skipped_at: chrono::DateTime::UNIX_EPOCH,
    }
}

#[test]
fn reading_goes_on_exactly_behind_each_hole_that_is_skipped() {
    BROKER.create_topic("skip", 2);
    let producer = BROKER.producer();
    producer.send("skip", 0, json(0..10));
    producer.send("skip", 1, json(100..105));
    let source = declared(&settings(&BROKER, "skip")).expect("the topic is there");
    BROKER.delete_before("skip", 0, 6);
    BROKER.delete_before("skip", 1, 3);
    let begin = at(&[(0, 4)]);
    let mut stream = Stream::open(numbers(), &source, &begin);
    let mut holes = vec![];
    for _ in 0..2 {
        let hole = stream.hole();
        stream.log.skip(hole.partition, hole.to);
        holes.push(hole);
    }
    holes.sort_by_key(|hole| hole.partition);
    assert_eq!(holes, [hole(0, 4, 6), hole(1, 0, 3)]);
    stream.read_to(&at(&[(0, 10), (1, 5)]));
    let kept = vec![
        (0, 6, 6),
        (0, 7, 7),
        (0, 8, 8),
        (0, 9, 9),
        (1, 3, 103),
        (1, 4, 104),
    ];
    assert_eq!(stream.numbers(), kept);
    // Nothing was archived when it died: it goes on behind the holes by itself.
    drop(stream);
    let mut stream = Stream::open_behind(numbers(), &source, &begin, &holes);
    stream.read_to(&at(&[(0, 10), (1, 5)]));
    assert_eq!(stream.numbers(), kept);
    // With less than was archived, what is missing stops it again.
    drop(stream);
    let mut stream = Stream::open_behind(numbers(), &source, &at(&[(0, 3)]), &holes);
    let found = stream.hole();
    assert_eq!(found, hole(0, 3, 6));
    stream.log.skip(found.partition, found.to);
    stream.read_to_end();
    assert_eq!(stream.numbers(), kept);
}

#[test]
fn another_topic_of_the_same_name_is_not_read() {
    BROKER.create_topic("again", 1);
    let producer = BROKER.producer();
    producer.send("again", 0, json(0..3));
    let source = declared(&settings(&BROKER, "again")).expect("the topic is there");
    let mut stream = Stream::open(numbers(), &source, &Position::zero());
    stream.read_to_end();
    BROKER.delete_topic("again");
    let gone = stream.until(|phase| {
        matches!(
            phase,
            Phase::Retrying(KafkaError::NoTopic(_)) | Phase::Stopped(_)
        )
    });
    assert_eq!(
        gone,
        Phase::Retrying(KafkaError::NoTopic("again".to_owned()))
    );
    BROKER.create_topic("again", 1);
    BROKER.producer().send("again", 0, json(10..20));
    let phase = stream.until(|phase| matches!(phase, Phase::Stopped(_)));
    assert!(
        matches!(phase, Phase::Stopped(KafkaError::OtherTopic { .. })),
        "{phase:?}"
    );
    assert_eq!(stream.numbers().len(), 3);
    assert!(stream.batches.try_recv().is_err());
    // Nor when it was exchanged while nobody looked.
    drop(stream);
    let stream = Stream::open(numbers(), &source, &at(&[(0, 3)]));
    let phase = stream.until(|phase| matches!(phase, Phase::Stopped(_)));
    assert!(
        matches!(phase, Phase::Stopped(KafkaError::OtherTopic { .. })),
        "{phase:?}"
    );
}

#[test]
fn a_broker_may_go_and_come_back() {
    let mut broker = Broker::start();
    broker.create_topic("back", 2);
    broker.producer().send("back", 0, json(0..100));
    let source = declared(&settings(&broker, "back")).expect("the topic is there");
    let mut stream = Stream::open(numbers(), &source, &Position::zero());
    stream.read_to(&at(&[(0, 100)]));
    broker.kill();
    let phase = stream.until(|phase| matches!(phase, Phase::Retrying(_)));
    assert!(
        matches!(phase, Phase::Retrying(KafkaError::Unreachable { .. })),
        "{phase:?}"
    );
    assert!(
        stream.unread.lock().expect("sound").is_some(),
        "what the topic holds is not known"
    );
    broker.run();
    broker.producer().send("back", 1, json(100..200));
    stream.read_to(&at(&[(0, 100), (1, 100)]));
    assert_eq!(stream.numbers().len(), 200);
    stream.until(|phase| *phase == Phase::Reading);
    let known = || stream.unread.lock().expect("sound").is_none();
    let begin = Instant::now();
    while !known() {
        assert!(begin.elapsed() < PATIENCE, "it never knows again");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_stands_against_a_declaration_is_said_within_seconds() {
    let missing = declared(&settings(&BROKER, "missing")).expect_err("it is not there");
    assert_eq!(missing, KafkaError::NoTopic("missing".to_owned()));
    let nobody = KafkaSettings {
        brokers: "127.0.0.1:1".to_owned(),
        ..settings(&BROKER, "missing")
    };
    let unreachable = declare(
        &nobody,
        &"k1".parse().expect("an id"),
        Duration::from_secs(2),
    );
    let unreachable = unreachable.expect_err("nobody is there");
    assert!(
        matches!(unreachable, KafkaError::Unreachable { .. }),
        "{unreachable:?}"
    );
    assert!(
        unreachable.to_string().contains("127.0.0.1:1"),
        "{unreachable}"
    );
    // Why a connection fails is said, not only that it does.
    let mut tls = settings(&BROKER, "missing");
    tls.security = [("security_protocol".to_owned(), "SSL".to_owned())].into();
    let tls = declare(&tls, &"k1".parse().expect("an id"), Duration::from_secs(3));
    let tls = tls.expect_err("the listener is plain");
    assert!(tls.to_string().contains("PLAINTEXT"), "{tls}");
    let mut secret = settings(&BROKER, "missing");
    secret.security = [
        ("security_protocol", "SASL_PLAINTEXT"),
        ("sasl_mechanism", "SCRAM-SHA-512"),
        ("sasl_username", "dovetail"),
        ("sasl_password", "env:DOVETAIL_TEST_NOT_SET"),
    ]
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .into();
    let secret = declared(&secret).expect_err("it is not set");
    assert!(matches!(secret, KafkaError::Secret { .. }), "{secret:?}");
}
