// SPDX-License-Identifier: Apache-2.0
//! Appends to a topic of a real broker: whole or not at all, once by their keys, and bounded when nothing answers.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use dovetail_kafka::produce::{
    Append, Appended, IdempotencyKey, KafkaWriter, Message, ProduceError,
};
use dovetail_kafka::{KafkaError, declare};
use dovetail_model::{
    Clock, KafkaSettings, KafkaSource, ManualClock, MessageFormat, Offset, PartitionId, Position,
    ProblemKind, StartAt, StreamId, SystemClock, Tombstones,
};
use dovetail_testkit::kafka::{Broker, Record, Seen};
use futures::executor::block_on;

/// The broker of the tests that leave it alone.
static BROKER: LazyLock<Broker> = LazyLock::new(Broker::start);
const DAY_US: i64 = 24 * 3600 * 1_000_000;

fn settings(broker: &Broker, topic: &str) -> KafkaSettings {
    KafkaSettings {
        brokers: broker.address(),
        topic: topic.to_owned(),
        format: MessageFormat::Json,
        start: StartAt::Earliest,
        tombstones: Tombstones::DeadLetter,
        key_column: None,
        timestamp_column: None,
        headers_column: None,
        schema_registry: None,
        security: [].into(),
    }
}

/// A stream, named as its topic.
struct Stream {
    id: StreamId,
    source: KafkaSource,
    clock: Arc<dyn Clock>,
}

impl Stream {
    fn new(broker: &Broker, topic: &str) -> Self {
        Self::with(&settings(broker, topic))
    }

    fn with(settings: &KafkaSettings) -> Self {
        let id: StreamId = StreamId::from_random(rand::random());
        let source = declare(settings, &id, Duration::from_secs(10)).expect("the topic is there");
        Self {
            id,
            source,
            clock: Arc::new(SystemClock),
        }
    }

    fn writer(&self) -> KafkaWriter {
        let topic = &self.source.settings.topic;
        KafkaWriter::new(&self.id, topic, &self.source, Arc::clone(&self.clock))
    }

    fn keys_topic(&self) -> String {
        format!("dovetail.keys.{}", self.id)
    }
}

fn messages(values: &[&str]) -> Vec<Message> {
    let message = |value: &&str| Message {
        value: (*value).to_owned().into(),
        ..Message::default()
    };
    values.iter().map(message).collect()
}

fn append(values: &[&str]) -> Append {
    Append {
        messages: messages(values),
        ..Append::default()
    }
}

fn keyed(key: &str, body: u8, values: &[&str]) -> Append {
    Append {
        key: Some(IdempotencyKey {
            key: key.to_owned(),
            body_hash: [body; 32],
        }),
        ..append(values)
    }
}

/// The lane of a key.
fn lane(key: &str) -> u8 {
    blake3::hash(key.as_bytes()).as_bytes()[0] % 4
}

/// A key of a lane; those without a key are of lane 0, too.
fn key_of(wanted: u8) -> String {
    let mut keys = (0..).map(|n: u32| n.to_string());
    let key = keys.find(|key| lane(key) == wanted);
    key.expect("there are many")
}

fn values(seen: &[Seen]) -> Vec<String> {
    let mut values: Vec<String> = seen
        .iter()
        .map(|seen| String::from_utf8_lossy(&seen.value).into_owned())
        .collect();
    values.sort();
    values
}

fn done(writer: &KafkaWriter, append: Append) -> Appended {
    block_on(writer.append(append)).expect("it is appended")
}

fn refused(writer: &KafkaWriter, append: Append) -> ProduceError {
    block_on(writer.append(append)).expect_err("it is refused")
}

#[test]
fn a_request_stays_together_and_its_position_is_behind_it() {
    BROKER.create_topic("together", 3);
    let stream = Stream::new(&BROKER, "together");
    let writer = stream.writer();
    let mut partitions = BTreeSet::new();
    for round in 0..3 {
        let read: Position = [(PartitionId(7), Offset(9))].into_iter().collect();
        let request = Append {
            rejected: 1,
            read: read.clone(),
            ..append(&["a", "b", "c"])
        };
        let appended = done(&writer, request);
        assert_eq!((appended.accepted, appended.rejected), (2, 1));
        assert!(!appended.duplicate && appended.position.covers(&read));
        let touched: Vec<_> = appended.position.iter().filter(|(p, _)| p.0 != 7).collect();
        let [(partition, next)] = touched[..] else {
            panic!("{} touches several partitions", appended.position);
        };
        partitions.insert(partition);
        let seen = BROKER.committed("together");
        assert_eq!(seen.len(), 3 * (round + 1));
        let mut there = seen
            .iter()
            .filter(|seen| seen.partition == partition.0 as i32);
        let last = there.next_back().expect("it is there");
        assert_eq!((last.offset + 1) as u64, next.0);
    }
    // Each takes its turn.
    assert_eq!(partitions.len(), 3);
    let nothing = done(&writer, append(&[]));
    assert_eq!((nothing.accepted, nothing.position), (0, Position::zero()));
}

#[test]
fn records_go_where_other_clients_put_their_keys() {
    BROKER.create_topic("by-key", 4);
    let mut settings = settings(&BROKER, "by-key");
    settings.key_column = Some("k".to_owned());
    let stream = Stream::with(&settings);
    // What the Java client's own test of its hash, murmur2, says of them.
    let hashes = [
        ("21", -973_932_308),
        ("foobar", -790_332_482),
        ("a-little-bit-long-string", -985_981_536),
        ("a-little-bit-longer-string", -1_486_304_829),
        ("abc", 479_470_107),
    ];
    let keyed = |(n, (key, _)): (i64, &(&str, i32))| Message {
        key: Some((*key).to_owned().into()),
        value: "{}".into(),
        timestamp_ms: Some(1000 + n),
        headers: vec![("h".to_owned(), Some("v".into()))],
    };
    let all: Vec<Message> = (0..).zip(&hashes).map(keyed).collect();
    let request = Append {
        messages: all,
        ..Append::default()
    };
    let appended = done(&stream.writer(), request);
    let seen = BROKER.committed("by-key");
    assert_eq!(seen.len(), hashes.len());
    let ends: Position = (0..4)
        .map(|p| {
            let last = seen
                .iter()
                .filter(|s| s.partition == p)
                .map(|s| s.offset)
                .max();
            (
                PartitionId(p as u32),
                Offset(last.map_or(0, |last| last as u64 + 1)),
            )
        })
        .collect();
    assert_eq!(appended.position, ends);
    for (n, (key, hash)) in (0..).zip(hashes) {
        let found = seen
            .iter()
            .find(|s| s.key.as_deref() == Some(key.as_bytes()));
        let found = found.expect("it is there");
        assert_eq!(found.partition, (0x7fff_ffff & hash) % 4, "{key}");
        assert_eq!(found.timestamp_ms, Some(1000 + n));
    }
}

#[test]
fn a_key_counts_once_and_answers_the_same_by_whoever_owns_the_lane() {
    BROKER.create_topic("keys", 2);
    let stream = Stream::new(&BROKER, "keys");
    let writer = stream.writer();
    let first = done(&writer, keyed("k", 1, &["a", "b"]));
    assert!(!first.duplicate);
    let again = Appended {
        duplicate: true,
        ..first.clone()
    };
    assert_eq!(done(&writer, keyed("k", 1, &["a", "b"])), again);
    let other = refused(&writer, keyed("k", 2, &["c"]));
    assert_eq!(other.kind(), ProblemKind::Unprocessable, "{other}");
    // Another owner takes over and knows what was answered; the first one is fenced, and takes over in turn.
    let second = stream.writer();
    assert_eq!(done(&second, keyed("k", 1, &["a", "b"])), again);
    assert_eq!(values(&BROKER.committed("keys")), ["a", "b"]);
    // A request of no events is remembered as well.
    assert!(!done(&writer, keyed("empty", 1, &[])).duplicate);
    assert!(done(&second, keyed("empty", 1, &[])).duplicate);
}

#[test]
fn an_owner_that_was_fenced_takes_over_and_learns_what_it_missed() {
    BROKER.create_topic("fenced", 1);
    let stream = Stream::new(&BROKER, "fenced");
    let (first, second) = (stream.writer(), stream.writer());
    // All keys of one lane: those that the first owner has not seen yet are what matters.
    done(&first, keyed("k", 1, &["a"]));
    let same = (0..)
        .map(|n| format!("other-{n}"))
        .find(|key| lane(key) == lane("k"));
    let same = same.expect("there are many");
    let missed = done(&second, keyed(&same, 2, &["b"]));
    let learnt = done(&first, keyed(&same, 2, &["b"]));
    assert_eq!(
        learnt,
        Appended {
            duplicate: true,
            ..missed
        }
    );
    // Without a key, too: nothing was committed by the fenced one, so it just goes on.
    done(&first, append(&["c"]));
    done(&second, append(&["d"]));
    done(&first, append(&["e"]));
    assert_eq!(
        values(&BROKER.committed("fenced")),
        ["a", "b", "c", "d", "e"]
    );
}

#[test]
fn a_key_that_another_owner_gives_up_does_not_count() {
    let streams = ["given-up", "example"].map(|topic| {
        BROKER.create_topic(topic, 1);
        Stream::new(&BROKER, topic)
    });
    let [stream, example] = &streams;
    let (key, other) = (key_of(0), key_of(1));
    let writer = stream.writer();
    done(&writer, keyed(&other, 1, &["a"]));
    // The lane of the key is ours, and its keys are not read yet.
    done(&writer, append(&["b"]));
    done(&example.writer(), keyed(&key, 1, &["c"]));
    let record = BROKER.committed(&example.keys_topic()).remove(0);
    let another = BROKER.transactional(&format!("dovetail-{}-0", stream.id));
    another.begin();
    let hash = String::from_utf8(record.key.expect("a hash")).expect("in hex");
    another.send_one(
        &stream.keys_topic(),
        &Record {
            key: Some(&hash),
            value: Some(&record.value),
            ..Record::default()
        },
    );
    assert!(!done(&writer, keyed(&key, 1, &["c"])).duplicate);
    assert_eq!(values(&BROKER.committed("given-up")), ["a", "b", "c"]);
}

#[test]
fn a_key_dies_after_a_day() {
    BROKER.create_topic("day", 1);
    let mut stream = Stream::new(&BROKER, "day");
    let clock = Arc::new(ManualClock::at(SystemClock.now().timestamp_micros()));
    stream.clock = Arc::clone(&clock) as Arc<dyn Clock>;
    let writer = stream.writer();
    done(&writer, keyed("k", 1, &["a"]));
    clock.advance(DAY_US - 1);
    assert!(done(&writer, keyed("k", 1, &["a"])).duplicate);
    clock.advance(1);
    // For the owner that knew it, and for one that reads it.
    assert!(!done(&writer, keyed("k", 2, &["b"])).duplicate);
    clock.advance(DAY_US);
    assert!(!done(&stream.writer(), keyed("k", 3, &["c"])).duplicate);
    assert_eq!(values(&BROKER.committed("day")), ["a", "b", "c"]);
}

#[test]
fn the_keys_topic_is_compacted_and_holds_what_was_answered() {
    BROKER.create_topic("kept", 1);
    let stream = Stream::new(&BROKER, "kept");
    let writer = stream.writer();
    done(&writer, append(&["no key"]));
    let appended = done(&writer, keyed("k", 1, &["a"]));
    let seen = BROKER.committed(&stream.keys_topic());
    assert_eq!(seen.len(), 1);
    let record: serde_json::Value = serde_json::from_slice(&seen[0].value).expect("JSON");
    assert_eq!(record["accepted"], 1);
    assert_eq!(
        record["position"]["0"],
        appended.position.get(PartitionId(0)).0
    );
    let policy = BROKER.topic_option(&stream.keys_topic(), "cleanup.policy");
    assert_eq!(policy.as_deref(), Some("compact,delete"));
    // A record that is none of ours stops the lane's keys, by name, and nothing else.
    let producer = BROKER.producer();
    for partition in 0..4 {
        let record = Record {
            partition,
            key: Some("nonsense"),
            value: Some(b"nonsense"),
            ..Record::default()
        };
        producer.send_one(&stream.keys_topic(), &record);
    }
    let other = stream.writer();
    let error = refused(&other, keyed("k", 1, &["a"]));
    assert!(
        matches!(error, ProduceError::KeyUnreadable { .. }),
        "{error}"
    );
    assert!(error.to_string().contains(&stream.keys_topic()), "{error}");
    done(&other, append(&["still no key"]));
}

#[test]
fn a_keys_topic_that_is_too_small_is_refused_with_the_command_that_makes_it() {
    BROKER.create_topic("small-keys", 1);
    let stream = Stream::new(&BROKER, "small-keys");
    BROKER.create_topic(&stream.keys_topic(), 1);
    let error = refused(&stream.writer(), keyed("k", 1, &["a"]));
    assert_eq!(error.kind(), ProblemKind::Forbidden, "{error}");
    let text = error.to_string();
    assert!(
        text.contains("--partitions 4 --config cleanup.policy=compact,delete"),
        "{text}"
    );
    assert!(BROKER.committed("small-keys").is_empty());
}

#[test]
fn a_record_that_is_too_large_refuses_its_request_alone() {
    BROKER.create_topic_with("limit", 1, &[("max.message.bytes", "2000")]);
    let stream = Stream::new(&BROKER, "limit");
    let writer = stream.writer();
    let large = "x".repeat(3000);
    let (small, error) = block_on(async {
        let large = append(&["y", &large]);
        futures::join!(writer.append(append(&["a"])), writer.append(large))
    });
    small.expect("it is small");
    let error = error.expect_err("it is large");
    let text = error.to_string();
    assert_eq!(error.kind(), ProblemKind::TooLarge);
    assert!(
        text.contains("event 2") && text.contains("`limit`") && text.contains("2000"),
        "{text}"
    );
    // Many that are small each are no problem.
    let values: Vec<String> = (0..500).map(|n| format!("{n}")).collect();
    let values: Vec<&str> = values.iter().map(String::as_str).collect();
    done(&writer, append(&values));
    assert_eq!(BROKER.committed("limit").len(), 501);
}

#[test]
fn what_the_topic_does_not_take_is_refused_with_its_reason() {
    // A compacted topic wants keys.
    BROKER.create_topic_with("compacted", 1, &[("cleanup.policy", "compact")]);
    let stream = Stream::new(&BROKER, "compacted");
    let writer = stream.writer();
    let with_key = Append {
        messages: vec![Message {
            key: Some("k".into()),
            ..messages(&["a"]).remove(0)
        }],
        ..Append::default()
    };
    let (error, good) =
        block_on(async { futures::join!(writer.append(append(&["b"])), writer.append(with_key)) });
    let error = error.expect_err("it has no key");
    assert!(matches!(error, ProduceError::Refused { .. }), "{error:?}");
    good.expect("it has a key");
    assert_eq!(values(&BROKER.committed("compacted")), ["a"]);
}

#[test]
fn many_requests_at_once_share_transactions_and_each_is_whole() {
    BROKER.create_topic("many", 2);
    let stream = Stream::new(&BROKER, "many");
    let writer = stream.writer();
    let requests = (0..300).map(|n| {
        let values = [format!("{n}-a"), format!("{n}-b")];
        let request = append(&[&values[0], &values[1]]);
        writer.append(request)
    });
    let answers = block_on(futures::future::join_all(requests));
    let seen = BROKER.committed("many");
    assert_eq!(seen.len(), 600);
    for (n, answer) in answers.into_iter().enumerate() {
        let position = answer.expect("it is appended").position;
        let there = |what: &str| {
            let value = format!("{n}-{what}").into_bytes();
            let found = seen.iter().find(|seen| seen.value == value);
            found.expect("it is there")
        };
        let (a, b) = (there("a"), there("b"));
        assert_eq!((a.partition, a.offset + 1), (b.partition, b.offset));
        let end = position.get(PartitionId(b.partition as u32));
        assert_eq!(end.0, b.offset as u64 + 1);
    }
    // A transaction leaves a marker in each partition, so offsets count them.
    let last = |p: i32| {
        seen.iter()
            .filter(|s| s.partition == p)
            .map(|s| s.offset + 1)
            .max()
    };
    let markers = last(0).unwrap_or(0) + last(1).unwrap_or(0) - 600;
    assert!(markers < 200, "{markers} markers of 300 requests");
}

#[test]
fn a_broker_that_is_gone_is_said_within_seconds_and_comes_back() {
    let mut broker = Broker::start();
    broker.create_topic("gone", 1);
    let stream = Stream::new(&broker, "gone");
    let writer = stream.writer();
    done(&writer, keyed("before", 1, &["a"]));
    broker.wait_until_decided("gone");
    broker.wait_until_decided(&stream.keys_topic());
    broker.kill();
    let begin = Instant::now();
    let error = refused(&writer, keyed("during", 1, &["b"]));
    assert_eq!(error.kind(), ProblemKind::Unavailable, "{error}");
    assert!(
        begin.elapsed() < Duration::from_secs(25),
        "{:?}",
        begin.elapsed()
    );
    // By now it knows.
    let begin = Instant::now();
    let error = refused(&writer, append(&["c"]));
    assert!(
        matches!(error, ProduceError::Topic(KafkaError::Unreachable { .. })),
        "{error:?}"
    );
    assert!(
        begin.elapsed() < Duration::from_secs(12),
        "{:?}",
        begin.elapsed()
    );
    broker.run();
    let begin = Instant::now();
    loop {
        match block_on(writer.append(keyed("during", 1, &["b"]))) {
            Ok(_) => break,
            Err(error) => assert_eq!(error.kind(), ProblemKind::Unavailable, "{error}"),
        }
        assert!(
            begin.elapsed() < Duration::from_secs(60),
            "it does not come back"
        );
    }
    assert!(done(&writer, keyed("before", 1, &["a"])).duplicate);
    assert_eq!(values(&broker.committed("gone")), ["a", "b"]);
}

/// A broker that comes back may take a transaction for complete that it never ended in its partitions.
#[test]
fn a_key_counts_once_though_the_brokers_lost_the_end_of_its_transaction() {
    let mut broker = Broker::start();
    broker.create_topic("unended", 1);
    let stream = Stream::new(&broker, "unended");
    let key = key_of(0);
    let first = done(&stream.writer(), keyed(&key, 1, &["a"]));
    let again = Appended {
        duplicate: true,
        ..first
    };
    broker.wait_until_decided("unended");
    broker.wait_until_decided(&stream.keys_topic());
    broker.kill();
    broker.lose_marker("unended", 0);
    broker.lose_marker(&stream.keys_topic(), 0);
    broker.run();
    assert_eq!(done(&stream.writer(), keyed(&key, 1, &["a"])), again);
    // An owner that dies within its next transaction takes the undecided key with it, and not what is known of it.
    let dying = broker.transactional(&format!("dovetail-{}-0", stream.id));
    dying.begin();
    let nothing = Record {
        key: Some("nothing"),
        ..Record::default()
    };
    dying.send_one(&stream.keys_topic(), &nothing);
    dying.abort();
    let writer = stream.writer();
    assert_eq!(done(&writer, keyed(&key, 1, &["a"])), again);
    // The next append of the lane ends it where its events are.
    done(&writer, append(&["b"]));
    assert_eq!(values(&broker.committed("unended")), ["a", "b"]);
}

#[test]
fn another_topic_of_the_same_name_takes_nothing() {
    BROKER.create_topic("reborn", 1);
    let stream = Stream::new(&BROKER, "reborn");
    BROKER.delete_topic("reborn");
    let begin = Instant::now();
    let error = loop {
        let error = refused(&stream.writer(), append(&["a"]));
        if begin.elapsed() > Duration::from_secs(10) || error.kind() == ProblemKind::Conflict {
            break error;
        }
    };
    assert!(
        matches!(error, ProduceError::Topic(KafkaError::NoTopic(_))),
        "{error:?}"
    );
    BROKER.create_topic("reborn", 1);
    let error = refused(&stream.writer(), append(&["a"]));
    assert!(
        matches!(error, ProduceError::Topic(KafkaError::OtherTopic { .. })),
        "{error:?}"
    );
    assert!(BROKER.committed("reborn").is_empty());
}

#[test]
fn a_writer_that_is_closed_takes_no_more() {
    BROKER.create_topic("closed", 1);
    let stream = Stream::new(&BROKER, "closed");
    let writer = stream.writer();
    done(&writer, append(&["a"]));
    writer.close();
    assert_eq!(refused(&writer, append(&["b"])), ProduceError::Closed);
    assert_eq!(values(&BROKER.committed("closed")), ["a"]);
}
