// SPDX-License-Identifier: Apache-2.0
//! Declarations as the SQL that declares them again.

use dovetail_model::{EpochUnit, Source, StreamDef, StreamSchema, UnknownColumns, ViewDef};

use super::create::{UNITS, UNKNOWN_COLUMNS};
use super::kafka_options::render_kafka;
use super::options::render_interval;
use super::volume::render_bytes;

/// A text as a SQL literal.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The word for `value` among an option's values.
pub(super) fn word<T: PartialEq>(known: &[(&'static str, T)], value: &T) -> &'static str {
    let known = known.iter().find(|(_, v)| v == value);
    known.map_or("", |(word, _)| word)
}

/// A unit as `event_time_unit` takes it.
pub(crate) fn unit_word(unit: EpochUnit) -> &'static str {
    word(&UNITS, &unit)
}

/// What `unknown_columns` says.
pub(crate) fn unknown_columns_word(unknown: UnknownColumns) -> &'static str {
    word(&UNKNOWN_COLUMNS, &unknown)
}

/// The `CREATE STREAM` statement of a stream, one column a line, with a closing semicolon.
pub fn render_stream(stream: &StreamDef) -> String {
    render(&stream.name, &stream.schema, &stream.source)
}

/// The `CREATE STREAM` statement that declares `schema` under `name`.
pub fn render_stream_schema(name: &str, schema: &StreamSchema) -> String {
    render(name, schema, &Source::Embedded)
}

fn render(name: &str, schema: &StreamSchema, source: &Source) -> String {
    let columns: Vec<String> = schema.columns.iter().map(|c| format!("  {c}")).collect();
    let mut options = source
        .kafka()
        .map_or_else(Vec::new, |kafka| render_kafka(&kafka.settings));
    if let Some(event_time) = &schema.event_time {
        options.push(format!("event_time = {}", literal(&event_time.column)));
        if let Some(unit) = &event_time.epoch {
            options.push(format!("event_time_unit = '{}'", unit_word(*unit)));
        }
    }
    if schema.unknown_columns != UnknownColumns::default() {
        let value = unknown_columns_word(schema.unknown_columns);
        options.push(format!("unknown_columns = '{value}'"));
    }
    let columns = columns.join(",\n");
    format!("CREATE STREAM {name} (\n{columns}\n){};", with(&options))
}

/// The `CREATE VIEW` statement of a view, with a closing semicolon.
pub fn render_view(view: &ViewDef) -> String {
    let mut options = Vec::new();
    if let Some(cron) = &view.recompute {
        options.push(format!("recompute = {}", literal(cron)));
    }
    if let Some(events) = view.recompute_after.events {
        options.push(format!("recompute_after_events = {events}"));
    }
    if let Some(bytes) = view.recompute_after.bytes {
        options.push(format!("recompute_after_bytes = '{}'", render_bytes(bytes)));
    }
    if let Some(seconds) = view.refresh_s {
        options.push(format!("refresh = '{}'", render_interval(seconds)));
    }
    let select = view.sql.trim();
    // A comment at the end would swallow the semicolon.
    let last_line = select.lines().last().unwrap_or_default();
    let end = if last_line.contains("--") || last_line.contains('#') {
        "\n;"
    } else {
        ";"
    };
    format!(
        "CREATE VIEW {}{} AS\n{select}{end}",
        view.name,
        with(&options)
    )
}

fn with(options: &[String]) -> String {
    if options.is_empty() {
        String::new()
    } else {
        format!(" WITH ({})", options.join(", "))
    }
}
