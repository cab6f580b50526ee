// SPDX-License-Identifier: Apache-2.0
//! What the demo asks again and again, and what every answer must be.
//!
//! Two questions. The first is about days that are complete, so its rows may not change whatever arrives
//! and whatever is promoted, and a plain recount of the sample says what they are. The second counts the
//! events three ways in one statement (one view, the other view, the stream itself); at position N each
//! must be N. A seam with a gap or an overlap of a single event breaks the second, a wrong group the first.

use chrono::DateTime;
use dovetail_model::{Offset, PartitionId, PositionToken};
use serde_json::{Value, json};

use crate::client::{Client, ClientError};

/// Rows of the first question.
pub(super) const TOP: usize = 5;

/// An answer.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    /// The columns, with name and type.
    pub(super) columns: Value,
    /// The rows.
    pub(super) rows: Value,
    /// What it was made from.
    pub(super) provenance: Value,
}

impl Answer {
    fn of(document: &Value) -> Self {
        Self {
            columns: document["columns"].clone(),
            rows: document["rows"].clone(),
            provenance: document["provenance"].clone(),
        }
    }

    /// The generation of the one view it reads.
    pub(super) fn generation(&self) -> Option<u64> {
        self.provenance["views"][0]["generation"].as_u64()
    }

    /// How many events it covers. The sample has no dead letters and the stream one partition, so offsets
    /// count events.
    pub(super) fn covered(&self) -> Result<usize, String> {
        let position = self.provenance["streams"][0]["position"].as_str();
        let Offset(covered) = position
            .unwrap_or_default()
            .parse::<PositionToken>()
            .map_err(|e| format!("an answer states no position: {e}"))?
            .position
            .get(PartitionId(0));
        usize::try_from(covered).map_err(|e| e.to_string())
    }
}

/// The questions about one span of complete days.
#[derive(Debug, Clone)]
pub(super) struct Question {
    client: Client,
    /// The first question.
    pub(super) sql: String,
    /// A position that covers the complete days.
    after: String,
    expected: Vec<Value>,
}

/// The second question.
const WITNESS: &str = "\
SELECT (SELECT sum(flights) FROM airport_delays) AS by_hour,
       (SELECT sum(flights) FROM route_performance) AS by_route,
       (SELECT count(*) FROM flights) AS events";

impl Question {
    /// The question about all days before `midnight_us`, which `after` covers and whose answer is
    /// `expected`.
    pub(super) fn new(
        client: Client,
        midnight_us: i64,
        after: String,
        expected: Vec<Value>,
    ) -> Self {
        let midnight = DateTime::from_timestamp_micros(midnight_us).unwrap_or_default();
        let sql = format!(
            "SELECT origin, count(*) AS hours, sum(flights) AS flights, max(avg_delay) AS worst_hour\n\
             FROM airport_delays WHERE hour < TIMESTAMP '{}'\n\
             GROUP BY origin ORDER BY flights DESC, origin LIMIT {TOP}",
            midnight.format("%Y-%m-%d %H:%M:%S")
        );
        Self {
            client,
            sql,
            after,
            expected,
        }
    }

    /// Asks the first question.
    pub(super) async fn ask(&self) -> Result<Answer, ClientError> {
        self.ask_after(&self.after).await
    }

    /// Asks the first question of an answer that covers `after`, a position behind the complete days.
    pub(super) async fn ask_after(&self, after: &str) -> Result<Answer, ClientError> {
        let body = json!({"sql": self.sql, "after": after});
        let document = self.client.post(&["v1", "sql"], &body).await?;
        Ok(Answer::of(&document))
    }

    /// Whether an answer to the first question is right.
    pub(super) fn check(&self, answer: &Answer) -> Result<(), String> {
        let rows = answer
            .rows
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        if same_rows(rows, &self.expected) {
            return Ok(());
        }
        Err(format!(
            "an answer is wrong: expected {}, got {}, from {}",
            Value::from(self.expected.clone()),
            answer.rows,
            answer.provenance
        ))
    }

    /// Asks the second question and checks its answer; the number of events it counted.
    pub(super) async fn witness(&self, after: Option<&str>) -> Result<u64, String> {
        let mut body = json!({ "sql": WITNESS });
        if let Some(after) = after {
            body["after"] = after.into();
        }
        let document = self.client.post(&["v1", "sql"], &body).await;
        let answer = Answer::of(&document.map_err(|e| format!("a question failed: {e}"))?);
        check_witness(&answer)
    }
}

/// Whether two answers have the same rows in the same order.
pub(super) fn same_rows(left: &[Value], right: &[Value]) -> bool {
    left.len() == right.len() && left.iter().zip(right).all(|(a, b)| same(a, b))
}

/// Equality of JSON values where `12` and `12.0` are one number.
fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter()
                    .all(|(name, value)| b.get(name).is_some_and(|other| same(value, other)))
        }
        _ => left == right,
    }
}

fn check_witness(answer: &Answer) -> Result<u64, String> {
    let covered = answer.covered()? as u64;
    let row = &answer.rows[0];
    let agree = ["by_hour", "by_route", "events"]
        .iter()
        .all(|count| row[*count].as_u64() == Some(covered));
    if agree {
        return Ok(covered);
    }
    Err(format!(
        "an answer does not add up: at position 0@{covered} it counts {row}, from {}",
        answer.provenance
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_differ_by_value_not_by_spelling() {
        let row = |n: Value| vec![json!({"origin": "SFO", "n": n})];
        assert!(same_rows(&row(json!(12)), &row(json!(12.0))));
        assert!(!same_rows(&row(json!(12)), &row(json!(12.000000000000002))));
        assert!(!same_rows(&row(json!(1)), &[]));
        assert!(!same_rows(&row(json!(1)), &[json!({"origin": "SFO"})]));
    }

    #[test]
    fn a_witness_that_misses_one_event_is_found() {
        let answer = |by_route: u64| Answer {
            columns: Value::Null,
            rows: json!([{"by_hour": 7, "by_route": by_route, "events": 7}]),
            provenance: json!({"streams": [{"position": "flights~k3f:0@7"}]}),
        };
        assert_eq!(check_witness(&answer(7)), Ok(7));
        assert!(check_witness(&answer(8)).unwrap_err().contains("0@7"));
        let mut nowhere = answer(7);
        nowhere.provenance = Value::Null;
        assert!(check_witness(&nowhere).unwrap_err().contains("no position"));
    }
}
