use dovetail_model::{Column, ColumnType, StartAt, Tombstones, UnknownColumns};

use super::*;

fn column(name: &str, column_type: ColumnType) -> Column {
    Column {
        name: name.to_owned(),
        column_type,
        nullable: true,
    }
}

fn headers_type() -> ColumnType {
    let text = |name| column(name, ColumnType::Varchar);
    let pair = ColumnType::Struct(vec![text("name"), text("value")]);
    ColumnType::List(Box::new(pair))
}

struct Stream {
    settings: KafkaSettings,
    schema: StreamSchema,
    decoder: Decoder,
}

impl Stream {
    /// `n` and `at` are in the value of a record; with an `envelope`, `k`, `t` and `h` are its key, timestamp and
    /// headers.
    fn new(format: MessageFormat, envelope: bool, unknown_columns: UnknownColumns) -> Self {
        let mut columns = vec![
            column("n", ColumnType::BigInt),
            column("at", ColumnType::Timestamp),
        ];
        if envelope {
            columns.insert(0, column("k", ColumnType::Varchar));
            columns.push(column("t", ColumnType::Timestamp));
            columns.push(column("h", headers_type()));
        }
        let name = |name: &str| envelope.then(|| name.to_owned());
        let schema = StreamSchema {
            columns,
            event_time: None,
            unknown_columns,
        };
        Self {
            settings: KafkaSettings {
                brokers: String::new(),
                topic: "numbers".to_owned(),
                format,
                start: StartAt::Earliest,
                tombstones: Tombstones::DeadLetter,
                key_column: name("k"),
                timestamp_column: name("t"),
                headers_column: name("h"),
                schema_registry: None,
                security: [].into(),
            },
            decoder: Decoder::new(&schema),
            schema,
        }
    }

    fn json(envelope: bool) -> Self {
        Self::new(MessageFormat::Json, envelope, UnknownColumns::Ignore)
    }

    fn compose(&self, format: Format, text: &str, on_error: OnError) -> Result<Composed, Problem> {
        let composer = Composer {
            settings: &self.settings,
            schema: &self.schema,
            decoder: &self.decoder,
        };
        let bytes = Bytes::copy_from_slice(text.as_bytes());
        let body = Body {
            format,
            bytes: &bytes,
            on_error,
        };
        composer.compose(body, &encode)
    }
}

/// As the serving layer does it, for `n` and `at`; a time loses its fraction in CSV.
fn encode(format: MessageFormat, batch: &RecordBatch) -> Result<Vec<Bytes>, Problem> {
    let n = batch["n"].as_primitive::<arrow::datatypes::Int64Type>();
    let at = batch["at"].as_primitive::<TimestampMicrosecondType>();
    let row = |row: usize| {
        let at = at.value_as_datetime(row).expect("a time");
        match format {
            MessageFormat::Json => format!("{{\"n\":{},\"at\":\"{at:?}\"}}", n.value(row)),
            MessageFormat::Csv => format!("{},{}", n.value(row), at.format("%Y-%m-%dT%H:%M:%S")),
            format => panic!("{format:?} is not written"),
        }
    };
    Ok((0..batch.num_rows()).map(|at| row(at).into()).collect())
}

fn values(composed: &Composed) -> Vec<&str> {
    let values = composed.messages.iter();
    values
        .map(|message| std::str::from_utf8(&message.value).expect("text"))
        .collect()
}

#[test]
fn json_goes_as_it_came() {
    let body = "{\"n\": 1,  \"more\": [1, 2.50]}\r\n\n {\"n\":2}\n";
    let composed = Stream::json(false).compose(Format::Ndjson, body, OnError::Reject);
    let composed = composed.expect("it is good");
    assert_eq!(
        values(&composed),
        ["{\"n\": 1,  \"more\": [1, 2.50]}", "{\"n\":2}"]
    );
    assert_eq!(composed.rejected, 0);
    let array =
        Stream::json(false).compose(Format::Json, "[{\"n\":1}, {\"n\":2}]", OnError::Reject);
    assert_eq!(
        values(&array.expect("it is good")),
        ["{\"n\":1}", "{\"n\":2}"]
    );
}

#[test]
fn a_bad_event_refuses_the_body_or_goes_to_the_topic_as_it_came() {
    let body = "{\"n\":1}\n\n{\"n\":\"x\"}\n{\"n\":}\n";
    let stream = Stream::json(false);
    let refused = stream.compose(Format::Ndjson, body, OnError::Reject);
    let refused = refused.expect_err("it is bad");
    assert_eq!(refused.members["line"], 3, "{refused:?}");
    assert_eq!(refused.members["column"], "n", "{refused:?}");
    assert_eq!(refused.members["bad"], 2, "{refused:?}");
    let kept = stream.compose(Format::Ndjson, body, OnError::DeadLetter);
    let kept = kept.expect("bad events are kept");
    assert_eq!(values(&kept), ["{\"n\":1}", "{\"n\":\"x\"}", "{\"n\":}"]);
    assert_eq!(kept.rejected, 2);
}

#[test]
fn the_envelope_leaves_the_value() {
    let body = r#"{"k": "a\u00e4", "n": 1, "x": 1.10, "t": "2001-01-01T00:00:00.001", "h": [{"name": "u", "value": null}]}"#;
    let stream = Stream::json(true);
    let composed = stream.compose(Format::Ndjson, body, OnError::Reject);
    let message = composed.expect("it is good").messages.remove(0);
    assert_eq!(message.value, r#"{"n":1,"x":1.10}"#);
    assert_eq!(message.key, Some(Bytes::from("aä")));
    assert_eq!(message.timestamp_ms, Some(978_307_200_001));
    assert_eq!(message.headers, [("u".to_owned(), None)]);
    let none = stream.compose(Format::Ndjson, "{\"n\":1,\"k\":null}", OnError::Reject);
    let none = none.expect("it is good").messages.remove(0);
    assert_eq!(
        none,
        Message {
            value: Bytes::from("{\"n\":1}"),
            ..Message::default()
        }
    );
}

#[test]
fn what_an_envelope_cannot_hold_is_refused_with_its_line() {
    let stream = Stream::json(true);
    for (event, column, reason) in [
        (r#"{"t": "2001-01-01T00:00:00.0001"}"#, "t", "finer"),
        (r#"{"t": "1970-01-01T00:00:00"}"#, "t", "lies after"),
        (r#"{"h": [{"value": "v"}]}"#, "h", "needs a name"),
        (r#"{"h": [{"name": "a\u0000b"}]}"#, "h", "zero byte"),
    ] {
        let body = format!("{{\"n\": 1}}\n{event}\n");
        for on_error in [OnError::Reject, OnError::DeadLetter] {
            let refused = stream.compose(Format::Ndjson, &body, on_error);
            let refused = refused.expect_err(event);
            assert_eq!(refused.members["line"], 2, "{refused:?}");
            assert_eq!(refused.members["column"], column, "{refused:?}");
            assert!(refused.detail.contains(reason), "{refused:?}");
        }
    }
}

/// Without its key the stream would read an event where a dead letter was announced.
#[test]
fn an_event_that_is_bad_by_its_envelope_alone_is_never_sent() {
    let stream = Stream::json(true);
    let refused = stream.compose(Format::Ndjson, r#"{"n": 1, "k": 5}"#, OnError::DeadLetter);
    assert_eq!(refused.expect_err("its key is bad").members["column"], "k");
    let kept = stream.compose(Format::Ndjson, r#"{"n": "x", "k": 5}"#, OnError::DeadLetter);
    assert_eq!(kept.expect("it is a dead letter").rejected, 1);
}

#[test]
fn fields_that_are_not_declared_are_judged_with_the_envelope() {
    let strict = Stream::new(MessageFormat::Json, true, UnknownColumns::Reject);
    let good = strict.compose(Format::Ndjson, r#"{"n": 1, "k": "a"}"#, OnError::Reject);
    assert_eq!(values(&good.expect("all are declared")), ["{\"n\":1}"]);
    let bad = strict.compose(Format::Ndjson, r#"{"n": 1, "x": 1}"#, OnError::Reject);
    assert!(bad.is_err());
}

#[test]
fn other_formats_are_written_anew_or_refused() {
    let stream = Stream::json(true);
    let body = "k,at,n\na,2001-01-01T00:00:00.5,1\n,2001-01-01T00:00:00,2\n";
    let composed = stream.compose(Format::Csv, body, OnError::Reject);
    let composed = composed.expect("it is good");
    assert_eq!(
        values(&composed),
        [
            "{\"n\":1,\"at\":\"2001-01-01T00:00:00.500\"}",
            "{\"n\":2,\"at\":\"2001-01-01T00:00:00\"}"
        ]
    );
    assert_eq!(composed.messages[0].key, Some(Bytes::from("a")));
    assert_eq!(composed.messages[1].key, None);
    for on_error in [OnError::Reject, OnError::DeadLetter] {
        let bad = stream.compose(Format::Csv, "n,at\nx,2001-01-01T00:00:00\n", on_error);
        let bad = bad.expect_err("it is bad");
        assert_eq!(
            (bad.kind, &bad.members["line"]),
            (ProblemKind::Invalid, &2.into())
        );
        let says = bad.detail.contains("cannot be kept in topic `numbers`");
        assert_eq!(says, on_error == OnError::DeadLetter, "{bad}");
    }
}

#[test]
fn what_does_not_read_back_is_never_sent() {
    let stream = Stream::new(MessageFormat::Csv, false, UnknownColumns::Ignore);
    let good = stream.compose(
        Format::Ndjson,
        r#"{"n": 1, "at": "2001-01-01T00:00:00"}"#,
        OnError::Reject,
    );
    assert_eq!(
        values(&good.expect("it is good")),
        ["1,2001-01-01T00:00:00"]
    );
    let lossy = stream.compose(
        Format::Ndjson,
        r#"{"n": 1, "at": "2001-01-01T00:00:00.5"}"#,
        OnError::Reject,
    );
    let lossy = lossy.expect_err("the test's encoder loses half a second");
    assert_eq!(lossy.kind, ProblemKind::UnsupportedMedia, "{lossy}");
}

#[test]
fn topics_with_schemas_of_a_registry_take_no_events() {
    for (format, named) in [
        (MessageFormat::Avro, "Avro"),
        (MessageFormat::Protobuf, "Protobuf"),
    ] {
        let stream = Stream::new(format, false, UnknownColumns::Ignore);
        for body in [Format::Ndjson, Format::Csv] {
            let refused = stream.compose(body, "", OnError::DeadLetter);
            let refused = refused.expect_err("no schema would be known");
            assert_eq!(refused.kind, ProblemKind::UnsupportedMedia, "{refused}");
            let says = refused.detail.contains(named) && refused.detail.contains("JSON and CSV");
            assert!(says, "{refused}");
        }
    }
}

#[test]
fn more_events_than_a_transaction_may_have_are_refused_with_the_limit() {
    let text = "{}\n".repeat(MOST_EVENTS + 1);
    for format in [MessageFormat::Json, MessageFormat::Csv] {
        let stream = Stream::new(format, false, UnknownColumns::Ignore);
        let refused = stream.compose(Format::Ndjson, &text, OnError::Reject);
        let problem = refused.expect_err("one too many");
        assert_eq!(problem.kind, ProblemKind::TooLarge);
        let limit = format!(
            "{} events, and one request may append {MOST_EVENTS}",
            MOST_EVENTS + 1
        );
        assert!(problem.detail.contains(&limit), "{problem}");
    }
    let allowed = &text[..text.len() - 3];
    let composed = Stream::json(false).compose(Format::Ndjson, allowed, OnError::Reject);
    assert_eq!(
        composed.expect("as many as may be").messages.len(),
        MOST_EVENTS
    );
}
