// SPDX-License-Identifier: Apache-2.0
//! A staged run compared with its base, as a table.

use serde_json::Value;

use super::console::Console;
use super::grid::{Grid, Item};
use super::{CliError, table};
use crate::client::Client;

/// Asks for the diff of a run.
pub(super) async fn fetch(client: &Client, run: &str) -> Result<Value, CliError> {
    Ok(client.get(&["v1", "runs", run, "diff"]).await?)
}

/// Whether the staged generation differs from its base in any group.
pub(super) fn is_empty(diff: &Value) -> bool {
    ["added", "removed", "changed"]
        .iter()
        .all(|count| diff[*count].as_u64() == Some(0))
}

/// Shows a diff: the counts, then the largest changes.
pub(super) fn show(console: &mut Console, diff: &Value) -> Result<(), CliError> {
    console.line(summary(diff))?;
    if table::items(&diff["largest"], "").is_empty() {
        return Ok(());
    }
    console.line(largest(diff))
}

/// The counts, in a line.
pub(super) fn summary(diff: &Value) -> String {
    let count = |name: &str| table::plain(&diff[name], "?");
    format!(
        "against generation {}: groups added {}, removed {}, changed {}",
        count("base"),
        count("added"),
        count("removed"),
        count("changed"),
    )
}

/// The largest changes: key columns, then for each other column both values where they differ.
fn largest(diff: &Value) -> Grid {
    let changes = table::items(&diff["largest"], "");
    let keys = columns(changes, &["key"]);
    let values = columns(changes, &["before", "after"]);
    let titles = keys.iter().chain(&values).cloned();
    let mut shown = Grid::new(std::iter::once("change".to_owned()).chain(titles));
    for change in changes {
        let what = match (change["before"].is_null(), change["after"].is_null()) {
            (true, _) => "added",
            (_, true) => "removed",
            _ => "changed",
        };
        let mut row = vec![Item::from(what.to_owned())];
        row.extend(
            keys.iter()
                .map(|key| table::item(&change["key"][key], "NULL")),
        );
        row.extend(values.iter().map(|column| {
            let (before, after) = (&change["before"][column], &change["after"][column]);
            match what {
                "added" => table::item(after, "NULL"),
                "removed" => table::item(before, "NULL"),
                _ if before == after => table::item(after, "NULL"),
                _ => {
                    let text = |value| table::plain(value, "NULL");
                    format!("{} → {}", text(before), text(after)).into()
                }
            }
        }));
        shown.row(row);
    }
    shown
}

/// The columns that the objects at `sides` of the changes have, in their order.
fn columns(changes: &[Value], sides: &[&str]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for change in changes {
        for side in sides {
            for name in change[*side]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(n, _)| n)
            {
                if !names.contains(name) {
                    names.push(name.clone());
                }
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn both_values_stand_side_by_side() {
        let diff = json!({"base": 3, "added": 1, "removed": 1, "changed": 2, "largest": [
            {"key": {"origin": "SFO", "hour": "2001-01-03T10:00:00"},
             "before": {"flights": 10, "avg_delay": 99.5}, "after": {"flights": 10, "avg_delay": 7.25}},
            {"key": {"origin": "XXX", "hour": null}, "before": {"flights": 1, "avg_delay": null}, "after": null},
            {"key": {"origin": "OAK", "hour": null}, "before": null, "after": {"flights": 2, "avg_delay": 0.5}},
        ]});
        let shown = format!("{}\n{}", summary(&diff), largest(&diff));
        insta::assert_snapshot!(shown, @r#"
        against generation 3: groups added 1, removed 1, changed 2
        ┌─────────┬────────┬─────────────────────┬─────────┬─────────────┐
        │ change  ┆ origin ┆ hour                ┆ flights ┆ avg_delay   │
        ╞═════════╪════════╪═════════════════════╪═════════╪═════════════╡
        │ changed ┆ SFO    ┆ 2001-01-03T10:00:00 ┆      10 ┆ 99.5 → 7.25 │
        │ removed ┆ XXX    ┆ NULL                ┆       1 ┆ NULL        │
        │ added   ┆ OAK    ┆ NULL                ┆       2 ┆         0.5 │
        └─────────┴────────┴─────────────────────┴─────────┴─────────────┘
        "#);
        assert!(!is_empty(&diff));
        assert!(is_empty(&json!({"added": 0, "removed": 0, "changed": 0})));
    }
}
