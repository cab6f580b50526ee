// SPDX-License-Identifier: Apache-2.0
//! The options of a stream that reads a Kafka topic.
//!
//! Purpose: `WITH (source = 'kafka', …)` into [`KafkaSettings`], and back into SQL. Invariants: a secret is a
//! reference, never itself a part of a statement, so it is neither stored nor shown; options that contradict
//! each other are refused here, before any broker is asked. Non-goals: whether the topic is there.

use std::collections::BTreeMap;

use dovetail_model::{
    Column, ColumnType, KafkaSettings, MessageFormat, Problem, SchemaRegistry, StreamSchema,
    Tombstones,
};

use super::options::{OptionValue, Options};
use super::render::{literal, word};

/// The options' names.
pub(super) const KNOWN: [&str; 23] = [
    "brokers",
    "topic",
    "format",
    "schema_registry",
    "schema_registry_username",
    "schema_registry_password",
    "schema_registry_token",
    "schema_registry_ca_location",
    "schema_registry_certificate_location",
    "schema_registry_key_location",
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
/// Those that say how to connect to the schema registry.
const REGISTRY: &[&str] = KNOWN.split_at(10).0.split_at(4).1;
/// Those that say how to connect to the brokers.
const SECURITY: &[&str] = KNOWN.split_at(15).1;
/// Those of them whose value is a secret.
const SECRETS: [&str; 4] = [
    "sasl_password",
    "ssl_key_password",
    "schema_registry_password",
    "schema_registry_token",
];
const PROTOCOLS: [&str; 4] = ["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"];
const MECHANISMS: [&str; 3] = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"];
const FORMATS: [(&str, MessageFormat); 4] = [
    ("json", MessageFormat::Json),
    ("csv", MessageFormat::Csv),
    ("avro", MessageFormat::Avro),
    ("protobuf", MessageFormat::Protobuf),
];
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
    if let Some(broker) = brokers.split(',').find(|broker| !has_port(broker.trim())) {
        return Err(source.problem(format!(
            "`brokers` has `{}`: a broker is host:port, and a port is 1 to 65535",
            broker.trim()
        )));
    }
    let topic = required("topic", "flights")?;
    let format_option = options.take("format");
    let format = format_option.as_ref();
    let format = format.map_or(Ok(MessageFormat::Json), |o| o.one_of(&FORMATS))?;
    let schema_registry = registry(options, format, format_option.as_ref().unwrap_or(&source))?;
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
        schema_registry,
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

/// Whether the port of a broker, if one is said, is one: librdkafka takes `99999` for another.
fn has_port(broker: &str) -> bool {
    let address = broker
        .rsplit_once("://")
        .map_or(broker, |(_, address)| address);
    match address.rsplit_once(':') {
        // An IPv6 address without a port.
        Some((host, _)) if host.contains(':') && !host.ends_with(']') => true,
        Some((host, port)) => !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0),
        None => !address.is_empty(),
    }
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

/// Where the schemas are; `format_at` is what says the format.
fn registry(
    options: &mut Options,
    format: MessageFormat,
    format_at: &OptionValue,
) -> Result<Option<SchemaRegistry>, Problem> {
    let url = options.take("schema_registry");
    let mut access = BTreeMap::new();
    for key in REGISTRY {
        let Some(option) = options.take(key) else {
            continue;
        };
        if url.is_none() {
            return Err(option.problem(format!(
                "`{key}` says nothing without a registry: add schema_registry = 'http://127.0.0.1:8081', or leave `{key}` out"
            )));
        }
        access.insert(*key, (value_of(key, &option)?, option));
    }
    let name = word(&FORMATS, &format);
    let url = match (url, format.needs_registry()) {
        (None, false) => return Ok(None),
        (None, true) => {
            return Err(format_at.problem(format!(
                "format = '{name}' needs the registry that keeps the schemas of the records: add schema_registry = 'http://127.0.0.1:8081'"
            )));
        }
        (Some(option), false) => {
            return Err(option.problem(format!(
                "`schema_registry` says nothing when format is '{name}': set it to 'avro' or 'protobuf', or leave `schema_registry` out"
            )));
        }
        (Some(option), true) => registry_url(&option)?,
    };
    let pairs = [
        ("schema_registry_username", "schema_registry_password"),
        (
            "schema_registry_certificate_location",
            "schema_registry_key_location",
        ),
    ];
    needs_both(&access, &pairs)?;
    if let (Some((_, option)), true) = (
        access.get("schema_registry_token"),
        access.contains_key("schema_registry_username"),
    ) {
        return Err(option.problem(
            "a request carries one of the two: give `schema_registry_token`, or `schema_registry_username` and `schema_registry_password`",
        ));
    }
    if let Some((key, (_, option))) = access.iter().find(|(key, _)| key.ends_with("_location"))
        && url.starts_with("http:")
    {
        return Err(option.problem(format!(
            "`{key}` says nothing when the URL of `schema_registry` begins with http: write https, or leave `{key}` out"
        )));
    }
    let access = access.into_iter();
    Ok(Some(SchemaRegistry {
        url,
        access: access.map(|(k, (text, _))| (k.to_owned(), text)).collect(),
    }))
}

fn registry_url(option: &OptionValue) -> Result<String, Problem> {
    let text = filled(option)?;
    let rest = text
        .strip_prefix("http://")
        .or_else(|| text.strip_prefix("https://"));
    let host = rest.map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
    match host {
        Some(host) if host.contains('@') => Err(option.problem(
            "who we are would be stored with the statement: write `schema_registry_username` and `schema_registry_password` instead of a name in the URL",
        )),
        Some(host) if !host.is_empty() && !text.contains(['?', '#', ' ']) => Ok(text),
        _ => Err(option.problem(format!(
            "`{text}` is no URL of a registry: write it as 'http://127.0.0.1:8081', with its path, if it has one"
        ))),
    }
}

/// What an option says, if it is a reference where it is a secret.
fn value_of(key: &str, option: &OptionValue) -> Result<String, Problem> {
    let text = filled(option)?;
    if SECRETS.contains(&key) && !is_reference(&text) {
        return Err(option.problem(format!(
            "`{key}` would be stored with the statement: write {key} = 'env:NAME' or 'file:/path', where the server finds it"
        )));
    }
    Ok(text)
}

/// Refuses one option of a pair without the other.
fn needs_both(
    given: &BTreeMap<&str, (String, OptionValue)>,
    pairs: &[(&str, &str)],
) -> Result<(), Problem> {
    for (one, other) in pairs.iter().flat_map(|(a, b)| [(a, b), (b, a)]) {
        if let (Some((_, option)), None) = (given.get(one), given.get(other)) {
            return Err(option.problem(format!("`{one}` needs `{other}`, too")));
        }
    }
    Ok(())
}

fn security(options: &mut Options) -> Result<BTreeMap<String, String>, Problem> {
    let mut given = BTreeMap::new();
    for key in SECURITY {
        let Some(option) = options.take(key) else {
            continue;
        };
        let text = value_of(key, &option)?;
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
        given.insert(*key, (text, option));
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
    needs_both(&given, &pairs)?;
    let given = given.into_iter();
    Ok(given
        .map(|(key, (text, _))| (key.to_owned(), text))
        .collect())
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
    if let Some(registry) = &settings.schema_registry {
        options.push(format!("schema_registry = {}", literal(&registry.url)));
        let access = registry.access.iter();
        options.extend(access.map(|(key, value)| format!("{key} = {}", literal(value))));
    }
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
