// SPDX-License-Identifier: Apache-2.0
use chrono::DateTime;
use dovetail_model::{KafkaSource, Position, Source, StreamDef};

use super::has_port;
use crate::sql::statement::{CreateStream, Definition, Statement};
use crate::sql::{parse, render_stream};

const COLUMNS: &str =
    "id BIGINT NOT NULL, k VARCHAR, at TIMESTAMP, h LIST<STRUCT<name VARCHAR, value VARCHAR>>";

fn create(options: &str) -> Result<CreateStream, String> {
    match parse(&format!("CREATE STREAM s ({COLUMNS}) WITH ({options})")) {
        Ok(Statement::Define(Definition::CreateStream(create))) => Ok(create),
        Ok(other) => panic!("{other:?}"),
        Err(problem) => Err(problem.detail),
    }
}

const PLAIN: &str = "source = 'kafka', brokers = 'a:9092,b:9092', topic = 't'";
const AVRO: &str = "source = 'kafka', brokers = 'a:9092', topic = 't', format = 'avro', schema_registry = 'https://r:8081/x'";
const SASL: &str = "security_protocol = 'SASL_SSL', sasl_mechanism = 'SCRAM-SHA-512', sasl_username = 'd', sasl_password = 'env:KAFKA_PASSWORD'";

#[test]
fn what_is_shown_declares_the_same_stream() {
    for more in [
        "",
        ", format = 'csv', start = 'latest', tombstones = 'skip'",
        ", start = '0@12,3@40', key_column = 'k', timestamp_column = 'at', headers_column = 'h'",
        &format!(
            ", start = '2026-01-31T00:00:00Z', event_time = 'at', {SASL}, ssl_ca_location = '/etc/o''k.pem'"
        ),
        ", format = 'avro', schema_registry = 'http://r:8081/apis/ccompat/v7'",
        ", format = 'protobuf', schema_registry = 'https://r', schema_registry_username = 'd', \
         schema_registry_password = 'env:P', schema_registry_ca_location = '/ca.pem', \
         schema_registry_certificate_location = '/c.pem', schema_registry_key_location = '/k.pem'",
        ", format = 'avro', schema_registry = 'http://r', schema_registry_token = 'file:/t'",
    ] {
        let created = create(&format!("{PLAIN}{more}")).expect(more);
        let stream = StreamDef {
            id: "s1".parse().expect("an id"),
            name: "s".to_owned(),
            schema: created.schema.clone(),
            source: Source::Kafka(Box::new(KafkaSource {
                settings: *created.kafka.clone().expect("it reads Kafka"),
                topic_id: "id".to_owned(),
                start: Position::zero(),
            })),
            created_at: DateTime::UNIX_EPOCH,
        };
        let shown = render_stream(&stream);
        let again = Statement::Define(Definition::CreateStream(created));
        assert_eq!(parse(&shown), Ok(again), "{shown}");
    }
}

#[test]
fn a_broker_is_a_host_and_perhaps_a_port() {
    for sound in [
        "a",
        "a:1",
        "a:65535",
        "SSL://a:1",
        "[::1]:9092",
        "[::1]",
        "::1",
    ] {
        assert!(has_port(sound), "{sound}");
    }
    for wrong in [
        "", "a:", "a:0", "a:65536", ":9092", "SSL://", "a:b", "[::1]:0",
    ] {
        assert!(!has_port(wrong), "{wrong}");
    }
}

#[test]
fn what_contradicts_itself_is_refused_with_the_way_out() {
    for (options, says) in [
        ("source = 'pulsar'", "one of 'embedded', 'kafka'"),
        ("topic = 't'", "add source = 'kafka'"),
        (
            "source = 'embedded', brokers = 'a:1'",
            "add source = 'kafka'",
        ),
        ("source = 'kafka', topic = 't'", "needs `brokers`"),
        ("source = 'kafka', brokers = 'a:1'", "needs `topic`"),
        (
            "source = 'kafka', brokers = ' ', topic = 't'",
            "`brokers` is empty",
        ),
        (
            "source = 'kafka', brokers = 'a:9092, b:99999', topic = 't'",
            "`brokers` has `b:99999`",
        ),
        (
            "source = 'kafka', brokers = 'SSL://[::1]:0', topic = 't'",
            "a port is 1 to 65535",
        ),
        (
            &format!("{PLAIN}, format = 'xml'"),
            "one of 'json', 'csv', 'avro', 'protobuf'",
        ),
        (
            &format!("{PLAIN}, start = 'first'"),
            "'earliest', 'latest', a time",
        ),
        (
            &format!("{PLAIN}, key_column = 'id'"),
            "declare it as VARCHAR, not BIGINT",
        ),
        (
            &format!("{PLAIN}, key_column = 'nothing'"),
            "which is not declared",
        ),
        (
            &format!("{PLAIN}, sasl_username = 'd'"),
            "security_protocol is 'PLAINTEXT'",
        ),
        (
            &format!("{PLAIN}, security_protocol = 'SSL', sasl_username = 'd'"),
            "`sasl_username` says nothing",
        ),
        (
            &format!("{PLAIN}, security_protocol = 'SASL_SSL'"),
            "needs `sasl_mechanism`",
        ),
        (
            &format!("{PLAIN}, security_protocol = 'tls'"),
            "one of 'PLAINTEXT', 'SSL'",
        ),
        (
            &format!("{PLAIN}, security_protocol = 'SSL', ssl_key_location = '/k'"),
            "needs `ssl_certificate_location`",
        ),
        (
            &format!("{PLAIN}, {}", SASL.replace("env:KAFKA_PASSWORD", "hunter2")),
            "'env:NAME' or 'file:/path'",
        ),
        (
            &format!("{PLAIN}, format = 'protobuf'"),
            "format = 'protobuf' needs the registry",
        ),
        (
            &format!("{PLAIN}, format = 'csv', schema_registry = 'http://r'"),
            "says nothing when format is 'csv'",
        ),
        (
            &format!("{PLAIN}, schema_registry_token = 'env:T'"),
            "says nothing without a registry",
        ),
        (
            &AVRO.replace("https://r:8081/x", "r:8081"),
            "`r:8081` is no URL of a registry",
        ),
        (&AVRO.replace("r:8081/x", ""), "is no URL of a registry"),
        (
            &AVRO.replace("r:8081", "hunter2@r"),
            "instead of a name in the URL",
        ),
        (
            &format!("{AVRO}, schema_registry_password = 'hunter2'"),
            "'env:NAME' or 'file:/path'",
        ),
        (
            &format!("{AVRO}, schema_registry_password = 'env:P'"),
            "`schema_registry_password` needs `schema_registry_username`",
        ),
        (
            &format!(
                "{AVRO}, schema_registry_token = 'env:T', schema_registry_username = 'd', schema_registry_password = 'env:P'"
            ),
            "a request carries one of the two",
        ),
        (
            &format!("{AVRO}, schema_registry_key_location = '/k'"),
            "needs `schema_registry_certificate_location`",
        ),
        (
            &format!("{AVRO}, schema_registry_ca_location = '/c'").replace("https", "http"),
            "begins with http: write https",
        ),
    ] {
        let detail = create(options).expect_err(options);
        assert!(detail.contains(says), "{options}: {detail}");
        assert!(!detail.contains("hunter2"), "{detail}");
    }
}

#[test]
fn the_statements_of_the_documentation_are_ones() {
    let text = include_str!("../../../../docs/kafka.md");
    let blocks: Vec<&str> = text.split("```sql\n").skip(1).collect();
    assert!(blocks.len() >= 2);
    for block in blocks {
        let sql = block.split("```").next().unwrap_or_default();
        let parsed = parse(sql.trim().trim_end_matches(';'));
        match parsed {
            Ok(Statement::Define(Definition::CreateStream(create))) => {
                assert!(create.kafka.is_some());
            }
            Ok(Statement::Define(Definition::SkipHole { name })) => assert_eq!(name, "flights"),
            other => panic!("{sql}: {other:?}"),
        }
    }
}
