// SPDX-License-Identifier: Apache-2.0
//! The options of a stream that reads a Kafka topic.
//!
//! Purpose: `WITH (source = 'kafka', …)` into [`KafkaSettings`], and back into SQL. Invariants: a secret is a
//! reference, never itself a part of a statement, so it is neither stored nor shown; options that contradict
//! each other are refused here, before any broker is asked. Non-goals: whether the topic is there.

use std::collections::BTreeMap;

use dovetail_model::{
    Column, ColumnType, KafkaSettings, MessageFormat, Problem, StreamSchema, Tombstones,
};

use super::options::{OptionValue, Options};
use super::render::{literal, word};

/// The options' names.
pub(super) const KNOWN: [&str; 16] = [
    "brokers",
    "topic",
    "format",
    "start",
    "tombstones",
    "key_column",
    "timestamp_column",
    "headers_column",
    "security_protocol",
    "sasl_mechanism",
    "sasl_username",
    "sasl_password",
    "ssl_ca_location",
    "ssl_certificate_location",
    "ssl_key_location",
    "ssl_key_password",
];
/// Those that say how to connect.
const SECURITY: &[&str] = KNOWN.split_at(8).1;
/// Those of them whose value is a secret.
const SECRETS: [&str; 2] = ["sasl_password", "ssl_key_password"];
const PROTOCOLS: [&str; 4] = ["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"];
const MECHANISMS: [&str; 3] = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"];
const FORMATS: [(&str, MessageFormat); 2] =
    [("json", MessageFormat::Json), ("csv", MessageFormat::Csv)];
const TOMBSTONES: [(&str, Tombstones); 2] = [
    ("dead-letter", Tombstones::DeadLetter),
    ("skip", Tombstones::Skip),
];

/// Takes the options of the source out; none for the embedded log.
pub(super) fn kafka_settings(
    options: &mut Options,
    schema: &StreamSchema,
) -> Result<Option<KafkaSettings>, Problem> {
    let source = options.take("source");
    let is_kafka = match &source {
        Some(source) => source.one_of(&[("embedded", false), ("kafka", true)])?,
        None => false,
    };
    let Some(source) = source.filter(|_| is_kafka) else {
        return match options.first() {
            None => Ok(None),
            Some(option) => Err(option.problem(format!(
                "`{}` is for streams that read Kafka: add source = 'kafka'",
                option.key()
            ))),
        };
    };
    let mut required = |key: &str, example: &str| match options.take(key) {
        Some(option) => filled(&option),
        None => Err(source.problem(format!(
            "a stream that reads Kafka needs `{key}`: add {key} = '{example}'"
        ))),
    };
    let brokers = required("brokers", "127.0.0.1:9092")?;
    let topic = required("topic", "flights")?;
    let format = options.take("format");
    let format = format.map_or(Ok(MessageFormat::Json), |o| o.one_of(&FORMATS))?;
    let start = match options.take("start") {
        Some(option) => option
            .text()?
            .parse()
            .map_err(|e: String| option.problem(e))?,
        None => Default::default(),
    };
    let tombstones = options.take("tombstones");
    let tombstones = tombstones.map_or(Ok(Tombstones::default()), |o| o.one_of(&TOMBSTONES))?;
    let mut envelope = |key: &str, column_type: &ColumnType| {
        let option = options.take(key);
        option
            .map(|option| envelope_column(&option, schema, column_type))
            .transpose()
    };
    let settings = KafkaSettings {
        brokers,
        topic,
        format,
        start,
        tombstones,
        key_column: envelope("key_column", &ColumnType::Varchar)?,
        timestamp_column: envelope("timestamp_column", &ColumnType::Timestamp)?,
        headers_column: envelope("headers_column", &headers_type())?,
        security: security(options)?,
    };
    let mut columns: Vec<&str> = settings.envelope_columns().collect();
    columns.sort_unstable();
    if let Some(twice) = columns.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(source.problem(format!(
            "column `{}` cannot hold two things: give the key, the timestamp and the headers a column each",
            twice[0]
        )));
    }
    if columns.len() == schema.columns.len() {
        return Err(source.problem(
            "no column is left for the values of the records: declare those that they have",
        ));
    }
    Ok(Some(settings))
}

/// `LIST<STRUCT<name VARCHAR, value VARCHAR>>`
fn headers_type() -> ColumnType {
    let text = |name: &str| Column {
        name: name.to_owned(),
        column_type: ColumnType::Varchar,
        nullable: true,
    };
    ColumnType::List(Box::new(ColumnType::Struct(vec![
        text("name"),
        text("value"),
    ])))
}

fn filled(option: &OptionValue) -> Result<String, Problem> {
    let text = option.text()?.trim();
    if text.is_empty() {
        return Err(option.problem(format!("`{}` is empty", option.key())));
    }
    Ok(text.to_owned())
}

fn envelope_column(
    option: &OptionValue,
    schema: &StreamSchema,
    column_type: &ColumnType,
) -> Result<String, Problem> {
    let name = option.text()?;
    let column = schema.columns.iter().find(|column| column.name == name);
    match column {
        Some(column) if column.column_type == *column_type => Ok(name.to_owned()),
        Some(column) => Err(option.problem(format!(
            "`{}` fills column `{name}`: declare it as {column_type}, not {}",
            option.key(),
            column.column_type
        ))),
        None => Err(option.problem(format!(
            "`{}` names column `{name}`, which is not declared: add `{name} {column_type}`",
            option.key()
        ))),
    }
}

fn security(options: &mut Options) -> Result<BTreeMap<String, String>, Problem> {
    let mut given = BTreeMap::new();
    for key in SECURITY {
        let Some(option) = options.take(key) else {
            continue;
        };
        let text = filled(&option)?;
        if SECRETS.contains(key) && !is_reference(&text) {
            return Err(option.problem(format!(
                "`{key}` would be stored with the statement: write {key} = 'env:NAME' or 'file:/path', where the server finds it"
            )));
        }
        let words: &[&str] = match *key {
            "security_protocol" => &PROTOCOLS,
            "sasl_mechanism" => &MECHANISMS,
            _ => &[],
        };
        if !words.is_empty() && !words.contains(&text.as_str()) {
            let known: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
            return Err(option.problem(format!(
                "`{key}` cannot be '{text}': it is one of {}",
                known.join(", ")
            )));
        }
        given.insert((*key).to_owned(), (text, option));
    }
    let protocol = given.get("security_protocol").map(|(text, _)| text.clone());
    let protocol = protocol.as_deref().unwrap_or("PLAINTEXT");
    let (sasl, ssl) = (protocol.starts_with("SASL"), protocol.ends_with("SSL"));
    for (key, (_, option)) in &given {
        let fits = match key {
            key if key.starts_with("sasl") => sasl,
            key if key.starts_with("ssl") => ssl,
            _ => true,
        };
        if !fits {
            return Err(option.problem(format!(
                "`{key}` says nothing when security_protocol is '{protocol}': set it to one that uses it, or leave `{key}` out"
            )));
        }
    }
    for needed in ["sasl_mechanism", "sasl_username", "sasl_password"] {
        if let Some((_, option)) = given.get("security_protocol")
            && sasl
            && !given.contains_key(needed)
        {
            return Err(option.problem(format!(
                "security_protocol = '{protocol}' needs `{needed}`, too"
            )));
        }
    }
    let pairs = [("ssl_certificate_location", "ssl_key_location")];
    for (one, other) in pairs.into_iter().chain(pairs.map(|(a, b)| (b, a))) {
        if let (Some((_, option)), None) = (given.get(one), given.get(other)) {
            return Err(option.problem(format!("`{one}` needs `{other}`, too")));
        }
    }
    Ok(given.into_iter().map(|(k, (text, _))| (k, text)).collect())
}

/// `env:NAME` or `file:/path`
fn is_reference(text: &str) -> bool {
    let named = |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic());
    text.strip_prefix("env:").is_some_and(named)
        || text
            .strip_prefix("file:")
            .is_some_and(|path| path.starts_with('/'))
}

/// The options that declare these settings again, `key = 'value'` each.
pub(super) fn render_kafka(settings: &KafkaSettings) -> Vec<String> {
    let mut options = vec![
        "source = 'kafka'".to_owned(),
        format!("brokers = {}", literal(&settings.brokers)),
        format!("topic = {}", literal(&settings.topic)),
        format!("format = '{}'", word(&FORMATS, &settings.format)),
        format!("start = '{}'", settings.start),
    ];
    if settings.tombstones != Tombstones::default() {
        let value = word(&TOMBSTONES, &settings.tombstones);
        options.push(format!("tombstones = '{value}'"));
    }
    let columns = [
        ("key_column", &settings.key_column),
        ("timestamp_column", &settings.timestamp_column),
        ("headers_column", &settings.headers_column),
    ];
    for (key, column) in columns {
        options.extend(column.iter().map(|c| format!("{key} = {}", literal(c))));
    }
    let security = settings.security.iter();
    options.extend(security.map(|(key, value)| format!("{key} = {}", literal(value))));
    options
}

#[cfg(test)]
mod tests;
