// SPDX-License-Identifier: Apache-2.0
//! Messages of Avro and Protobuf behind the schema that they were written with.

use std::sync::LazyLock;

use dovetail_log::decode::{Decoder, RegisteredSchema, WriterSchemas};
use dovetail_model::{MessageFormat, UnknownColumns};

use crate::schema::every_type;

/// A zero byte and the id of the schema.
const FRAME: [u8; 5] = [0, 0, 0, 0, 1];

const AVRO: &str = r#"{"type": "record", "name": "Event", "fields": [
    {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    {"name": "b", "type": ["null", "boolean"], "default": null},
    {"name": "i", "type": "int"},
    {"name": "l", "type": ["null", "long"], "default": null},
    {"name": "d", "type": "double"},
    {"name": "m", "type": {"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2}},
    {"name": "t", "type": ["null", "string"], "default": null},
    {"name": "day", "type": {"type": "int", "logicalType": "date"}},
    {"name": "s", "type": ["null", {"type": "record", "name": "Client", "fields": [
        {"name": "os", "type": "string"}, {"name": "n", "type": {"type": "array", "items": "int"}}]}], "default": null},
    {"name": "a", "type": {"type": "array", "items": "string"}},
    {"name": "left_out", "type": {"type": "map", "values": ["null", "long", {"type": "fixed", "name": "F", "size": 3}]}}
]}"#;

const PROTOBUF: &str = r#"syntax = "proto3";
import "google/protobuf/timestamp.proto";
message Event {
    google.protobuf.Timestamp at = 1;
    bool b = 2;
    sint32 i = 3;
    fixed64 unsaid = 4;
    int64 l = 5;
    double d = 6;
    string m = 7;
    optional string t = 8;
    string day = 9;
    Client s = 10;
    repeated string a = 11;
    map<string, int64> left_out = 12;
    message Client { string os = 1; repeated int32 n = 2; }
}"#;

static AVRO_READER: LazyLock<Reader> =
    LazyLock::new(|| Reader::new(MessageFormat::Avro, "AVRO", AVRO));
static PROTOBUF_READER: LazyLock<Reader> =
    LazyLock::new(|| Reader::new(MessageFormat::Protobuf, "PROTOBUF", PROTOBUF));

pub(crate) fn avro(data: &[u8]) {
    AVRO_READER.check(data);
}

pub(crate) fn protobuf(data: &[u8]) {
    PROTOBUF_READER.check(data);
}

struct Reader {
    format: MessageFormat,
    decoder: Decoder,
    schemas: WriterSchemas,
}

impl Reader {
    fn new(format: MessageFormat, kind: &str, text: &str) -> Self {
        let decoder = Decoder::new(&every_type(UnknownColumns::Ignore));
        let schema = RegisteredSchema {
            kind: kind.to_owned(),
            text: text.to_owned(),
            references: vec![],
        };
        let mut schemas = WriterSchemas::default();
        schemas.insert(1, decoder.writer_schema(format, &schema));
        Self {
            format,
            decoder,
            schemas,
        }
    }

    /// A message is an event or a bad one, and neither depends on what else comes with it.
    fn check(&self, body: &[u8]) {
        let message = [&FRAME[..], body].concat();
        let nonsense = [&FRAME[..], &[0xff; 12]].concat();
        let alone = self.decode(&[&message]);
        let among = self.decode(&[&nonsense, &message, &nonsense, &message]);
        assert_eq!(alone.0.num_rows() + alone.1.len(), 1);
        assert_eq!(among.0.num_rows(), 2 * alone.0.num_rows());
        assert_eq!(among.1.len(), 2 + 2 * alone.1.len());
        if let [reason] = &alone.1[..] {
            assert!(!reason.contains("cannot be used"), "the schema: {reason}");
            assert_eq!(*reason, among.1[1]);
        } else {
            assert_eq!(alone.0, among.0.slice(0, 1));
            assert_eq!(alone.0, among.0.slice(1, 1));
        }
    }

    /// The events, and why the others are none.
    fn decode(&self, messages: &[&Vec<u8>]) -> (arrow::array::RecordBatch, Vec<String>) {
        let messages = messages.iter().map(|message| &message[..]);
        let decoded = self
            .decoder
            .decode_messages(self.format, &self.schemas, messages)
            .expect("a few messages have room");
        let reasons = decoded.bad.into_iter().map(|bad| bad.reason);
        (decoded.events, reasons.collect())
    }
}
