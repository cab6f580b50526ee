use dovetail_model::{
    Column, ColumnType, Problem, Source, StartAt, StreamSchema, Tombstones, UnknownColumns,
};

use super::*;

fn column(name: &str, column_type: ColumnType, nullable: bool) -> Column {
    Column {
        name: name.to_owned(),
        column_type,
        nullable,
    }
}

/// `n` is in the value of a record; `k`, `t` and `h` are its key, timestamp and headers.
fn stream(format: MessageFormat, columns: [bool; 3]) -> (StreamDef, KafkaSettings) {
    let text = |name| column(name, ColumnType::Varchar, true);
    let pair = ColumnType::Struct(vec![text("name"), text("value")]);
    let envelope = [
        column("k", ColumnType::Varchar, false),
        column("t", ColumnType::Timestamp, false),
        column("h", ColumnType::List(Box::new(pair)), true),
    ];
    let [k, t, h] = columns;
    let name = |name: &str, is: bool| is.then(|| name.to_owned());
    let declared = envelope.into_iter().zip(columns);
    let declared = declared.filter_map(|(column, is)| is.then_some(column));
    let def = StreamDef {
        id: "k1".parse().unwrap(),
        name: "numbers".to_owned(),
        schema: StreamSchema {
            columns: declared
                .chain([column("n", ColumnType::BigInt, true)])
                .collect(),
            event_time: None,
            unknown_columns: UnknownColumns::Reject,
        },
        source: Source::Embedded,
        created_at: chrono::DateTime::UNIX_EPOCH,
    };
    let settings = KafkaSettings {
        brokers: String::new(),
        topic: "numbers".to_owned(),
        format,
        start: StartAt::Earliest,
        tombstones: Tombstones::DeadLetter,
        key_column: name("k", k),
        timestamp_column: name("t", t),
        headers_column: name("h", h),
        schema_registry: None,
        security: [].into(),
    };
    (def, settings)
}

fn letter(format: Format, bytes: &[u8], envelope: Option<Envelope>) -> ArchivedDeadLetter {
    ArchivedDeadLetter {
        partition: PartitionId(3),
        offset: Offset(17),
        arrived_at_us: 0,
        letter: DeadLetter {
            bytes: Bytes::copy_from_slice(bytes),
            format,
            reason: "bad".to_owned(),
            line: None,
            column: None,
            origin: String::new(),
            envelope,
        },
    }
}

fn envelope() -> Envelope {
    let header = |name: &str, value: &[u8]| (name.to_owned(), Some(Bytes::copy_from_slice(value)));
    Envelope {
        key: Some("a".into()),
        timestamp_ms: Some(1000),
        // The mark of a try that failed is not kept.
        headers: vec![header("h", b"v"), header(HEADER, b"k1:0@1")],
    }
}

fn encode(_: MessageFormat, events: &arrow::array::RecordBatch) -> Result<Vec<Bytes>, Problem> {
    use arrow::array::AsArray;
    let numbers = events["n"].as_primitive::<arrow::datatypes::Int64Type>();
    let values = numbers.values().iter();
    Ok(values.map(|n| format!("{n}\n").into()).collect())
}

/// The record of one letter.
fn record(
    (def, settings): &(StreamDef, KafkaSettings),
    letter: ArchivedDeadLetter,
) -> Option<Message> {
    let records = Replayer::new(def, settings).records(&[letter], &encode);
    records.unwrap().pop().unwrap().ok()
}

#[test]
fn a_record_comes_again_with_all_that_it_had_and_its_mark() {
    let all = stream(MessageFormat::Json, [true; 3]);
    let of = |bytes: &[u8], envelope| record(&all, letter(Format::Json, bytes, envelope));
    let headers = vec![
        ("h".to_owned(), Some("v".into())),
        (HEADER.to_owned(), Some("k1:3@17".into())),
    ];
    let expected = Message {
        value: "{\"n\": 1}\n".into(),
        key: Some("a".into()),
        timestamp_ms: Some(1000),
        headers,
    };
    let found = of(b"{\"n\": 1}", Some(envelope())).unwrap();
    assert_eq!(found, expected);
    let mark = found.headers[1].1.clone().unwrap();
    let (mine, other): (StreamId, StreamId) = ("k1".parse().unwrap(), "k2".parse().unwrap());
    let place = (PartitionId(3), Offset(17));
    assert_eq!(read(&mine, &mark), Some(Mark::Own(place)));
    assert_eq!(read(&other, &mark), Some(Mark::Other(place)));
    // A sign that is there is not made twice.
    assert_eq!(of(b"{\"n\": 1}\n", Some(envelope())).unwrap(), expected);
    // What is no event yet stays.
    for bad in [
        "{\"n\": \"x\"}",
        "{\"m\": 1}",
        "[{\"n\": 1}]",
        "{\"k\": \"a\", \"n\": 1}",
        "",
    ] {
        assert_eq!(of(bad.as_bytes(), Some(envelope())), None, "{bad}");
    }
    // A timestamp that is no column is the moment of the replay: an old one may be past what the topic keeps.
    let value = stream(MessageFormat::Json, [false; 3]);
    let found = record(
        &value,
        letter(Format::Json, b"{\"n\": 1}", Some(envelope())),
    );
    let now = Message {
        timestamp_ms: None,
        ..expected
    };
    assert_eq!(found, Some(now));
    let csv = stream(MessageFormat::Csv, [true; 3]);
    let found = record(&csv, letter(Format::Csv, b"n\n7", Some(envelope()))).unwrap();
    assert_eq!(
        (&found.value[..], found.key),
        (&b"7\n"[..], Some("a".into()))
    );
    // A record with a column that was not declared when it came; its header line has a line end within.
    let mut csv = stream(MessageFormat::Csv, [false; 3]);
    let more = column("m", ColumnType::BigInt, true);
    csv.0.schema.columns.insert(0, more);
    let found = record(&csv, letter(Format::Csv, b"\"n\nn\"\n5,6", None)).unwrap();
    assert_eq!(found.value, "5,6\n");
}

#[test]
fn what_the_columns_cannot_hold_is_no_event_yet() {
    let fits = |columns, envelope: Option<Envelope>| {
        let (def, settings) = stream(MessageFormat::Json, columns);
        Replayer::new(&def, &settings)
            .fits(envelope.as_ref())
            .is_ok()
    };
    let (key, timestamp, headers) = (
        [true, false, false],
        [false, true, false],
        [false, false, true],
    );
    for columns in [[false; 3], key, timestamp, headers, [true; 3]] {
        assert!(fits(columns, Some(envelope())), "{columns:?}");
    }
    // A letter from before the envelope was kept.
    assert!(fits([false; 3], None));
    let header = |name: &str, value: &'static [u8]| vec![(name.to_owned(), Some(value.into()))];
    let odd = [
        (
            key,
            Envelope {
                key: None,
                ..envelope()
            },
        ),
        (
            key,
            Envelope {
                key: Some(Bytes::from_static(b"\xff")),
                ..envelope()
            },
        ),
        (
            timestamp,
            Envelope {
                timestamp_ms: None,
                ..envelope()
            },
        ),
        (
            headers,
            Envelope {
                headers: header("h", b"\xff"),
                ..envelope()
            },
        ),
        (
            headers,
            Envelope {
                headers: header("\u{fffd}", b"v"),
                ..envelope()
            },
        ),
    ];
    for (columns, envelope) in odd {
        assert!(!fits(columns, Some(envelope.clone())), "{envelope:?}");
        assert!(!fits(columns, None), "{envelope:?}");
        let others = columns.map(|is| !is);
        assert!(fits(others, Some(envelope.clone())), "{envelope:?}");
    }
}

#[test]
fn a_mark_is_read_as_it_is_written_or_not_at_all() {
    let stream: StreamId = "k1".parse().unwrap();
    for broken in ["k1", "k1:3", "k1:x@1", "k1:3@", "k1:3@1:2", "K-1:3@1"] {
        assert_eq!(read(&stream, broken.as_bytes()), None, "{broken}");
    }
}
