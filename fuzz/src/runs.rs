// SPDX-License-Identifier: Apache-2.0
//! Runs as they travel between processes: what was sent arrives, and anything else is an error.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::compute::concat_batches;
use arrow_flight::FlightData;
use arrow_flight::error::FlightError;
use bytes::Bytes;
use dovetail_exchange::{decode_runs, encode_runs};
use dovetail_log::Format;
use dovetail_log::decode::{Decoder, OnError};
use dovetail_model::{Offset, Position, Problem, Span, UnknownColumns};
use dovetail_view::{Run, View};
use futures::executor::block_on;
use futures::{TryStreamExt as _, stream};

use crate::schema::every_type;

/// States of every kind that travels: numbers, texts, lists, totals in bytes, sketches.
const SQL: &str = "SELECT t, day, count(*) AS seen, sum(l) AS whole, avg(d) AS mean, max(t) AS last, bool_and(b) AS every,
    approx_distinct(i) AS kinds, array_agg(i ORDER BY i) AS numbers, sum(m) AS paid, var_pop(d) AS spread
    FROM events GROUP BY t, day";

static VIEW: LazyLock<View> = LazyLock::new(|| {
    let schema = every_type(UnknownColumns::Ignore);
    let streams = BTreeMap::from([("events".to_owned(), schema)]);
    View::compile(SQL, &streams).expect("the definition is sound")
});

/// Two runs, and how they travel.
static SENT: LazyLock<(Vec<Arc<Run>>, Vec<FlightData>)> = LazyLock::new(|| {
    let runs = runs_of(b"two runs of a few groups each");
    let messages = sent(&runs);
    (runs, messages)
});

const TEXTS: [&str; 5] = ["null", r#""""#, r#""é""#, r#""x\u0000y""#, r#""SFO""#];

/// By the first byte: events whose runs arrive as they were sent, changes of messages that were sent, or messages that
/// nobody sent.
pub(crate) fn runs(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else {
        return;
    };
    match kind % 3 {
        0 => {
            let runs = runs_of(rest);
            let arrived = arrived(&runs, sent(&runs)).expect("what was sent arrives");
            assert_eq!(contents(&arrived), contents(&runs));
        }
        1 => {
            let (runs, messages) = &*SENT;
            let damaged = changed(messages, rest);
            let whole = damaged == *messages;
            match arrived(runs, damaged) {
                Ok(arrived) => assert!(!whole || contents(&arrived) == contents(runs)),
                Err(problem) => assert!(!whole, "{problem}"),
            }
        }
        _ => {
            let (runs, messages) = &*SENT;
            // Behind the schema, without which nothing is looked at.
            let mut made = vec![messages[0].clone()];
            made.extend(rest.split(|byte| *byte == b'|').map(message));
            let _ = arrived(runs, made);
        }
    }
}

/// A message of any bytes: how long its header is, the header, the body.
fn message(bytes: &[u8]) -> FlightData {
    let (length, rest) = bytes.split_first().unwrap_or((&0, &[]));
    let (header, body) = rest.split_at(rest.len().min(usize::from(*length)));
    FlightData::new()
        .with_data_header(Bytes::copy_from_slice(header))
        .with_data_body(Bytes::copy_from_slice(body))
}

/// Messages with bytes changed. The bytes are edits, four each: a message, a place in it, and what is added to the byte
/// there.
fn changed(messages: &[FlightData], edits: &[u8]) -> Vec<FlightData> {
    let mut changed = messages.to_vec();
    for edit in edits.chunks_exact(4) {
        let message = usize::from(edit[0]) % changed.len();
        let message = &mut changed[message];
        let place = usize::from(u16::from_le_bytes([edit[1], edit[2]]));
        let mut header = message.data_header.to_vec();
        let mut body = message.data_body.to_vec();
        let byte = match place.checked_sub(header.len()) {
            None => header.get_mut(place),
            Some(place) => body.get_mut(place),
        };
        if let Some(byte) = byte {
            *byte = byte.wrapping_add(edit[3]);
        }
        (message.data_header, message.data_body) = (header.into(), body.into());
    }
    changed
}

/// Two adjacent runs over events that the bytes describe, one each.
fn runs_of(bytes: &[u8]) -> Vec<Arc<Run>> {
    let line = |byte: &u8| {
        let text = TEXTS[usize::from(*byte) % TEXTS.len()];
        let (number, day) = (i64::from(*byte) - 100, byte % 3 + 1);
        let (whole, every) = (number << 40, byte.is_multiple_of(2));
        format!(
            r#"{{"at":{byte},"t":{text},"day":"2001-01-0{day}","i":{number},"l":{whole},"d":{number}.5,"m":"{number}.25","b":{every}}}"#
        ) + "\n"
    };
    let decoder = Decoder::new(&every_type(UnknownColumns::Ignore));
    let at = |offset: usize| Position::single(Offset(offset as u64));
    let half = bytes.len() / 2;
    let parts = [(0, &bytes[..half]), (half, &bytes[half..])];
    let run = |(from, part): (usize, &[u8])| {
        let lines: String = part.iter().map(line).collect();
        let span = Span::new(at(from), at(from + part.len())).expect("it goes forward");
        if lines.is_empty() {
            return Arc::new(Run::empty(&VIEW, span));
        }
        let events = decoder.decode(Format::Ndjson, &lines.into(), OnError::Reject, "fuzz");
        let events = archived(&events.expect("the events are sound").events, from);
        Arc::new(VIEW.accumulate(&events, span).expect("the events fit"))
    };
    parts.into_iter().map(run).collect()
}

/// Events as the log hands them on, from this offset on.
fn archived(events: &RecordBatch, from: usize) -> RecordBatch {
    let rows = events.num_rows();
    let offsets = (from as i64..).take(rows);
    let system: [ArrayRef; 3] = [
        Arc::new(Int32Array::from_value(0, rows)),
        Arc::new(Int64Array::from_iter_values(offsets)),
        Arc::new(TimestampMicrosecondArray::from_value(0, rows)),
    ];
    let columns = events.columns().iter().cloned().chain(system).collect();
    let schema = every_type(UnknownColumns::Ignore).events();
    RecordBatch::try_new(schema, columns).expect("the columns of a stream")
}

fn sent(runs: &[Arc<Run>]) -> Vec<FlightData> {
    let messages = encode_runs(&VIEW, runs).expect("the runs are of the view");
    block_on(messages.try_collect()).expect("runs can be sent")
}

fn arrived(runs: &[Arc<Run>], messages: Vec<FlightData>) -> Result<Vec<Arc<Run>>, Problem> {
    let spans: Vec<Span> = runs.iter().map(|run| run.span().clone()).collect();
    let messages = stream::iter(messages.into_iter().map(Ok::<_, FlightError>));
    block_on(decode_runs(&VIEW, &spans, messages))
}

/// All of each run.
fn contents(runs: &[Arc<Run>]) -> Vec<(&Span, RecordBatch)> {
    let whole = |run| {
        let run: &Arc<Run> = run;
        let states = concat_batches(&VIEW.state_schema(), run.states());
        (run.span(), states.expect("states of one view"))
    };
    runs.iter().map(whole).collect()
}
