// SPDX-License-Identifier: Apache-2.0
//! `dovetail status`: where every seam stands and what holds the others up.

use clap::Args;
use indicatif::HumanBytes;
use serde_json::Value;

use super::CliError;
use super::args::Show;
use super::console::Console;
use super::runs;
use super::table::{self, Column};
use crate::client::Client;

/// What `dovetail status` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dovetail status
  dovetail status --format json")]
pub(super) struct StatusArgs {
    #[command(flatten)]
    show: Show,
}

pub(super) async fn run(
    args: StatusArgs,
    client: &Client,
    console: &mut Console,
) -> Result<(), CliError> {
    let status = client.get(&["v1", "status"]).await?;
    if args.show.is_json() {
        return console.json(&status);
    }
    console.line(render(&status))
}

/// The status as people read it.
fn render(status: &Value) -> String {
    let text = |value: &Value| table::plain(value, "-");
    let memory = &status["memory"];
    let mut shown = format!(
        "dovetail {}, up {} s, catalog at {}\n",
        text(&status["version"]),
        text(&status["uptime_s"]),
        text(&status["catalog_sequence"]),
    );
    if memory.is_null() {
        shown.push_str("speed layer: in the processes that take events\n");
    } else {
        shown.push_str(&format!(
            "speed layer: {} of {} (hard limit {})\n",
            bytes(&memory["used_bytes"]),
            bytes(&memory["soft_limit_bytes"]),
            bytes(&memory["hard_limit_bytes"]),
        ));
    }
    let disk = &status["disk"];
    if !disk.is_null() {
        shown.push_str(&format!(
            "disk: {} of {} free, for {}\n",
            bytes(&disk["free_bytes"]),
            bytes(&disk["all_bytes"]),
            text(&disk["directory"]),
        ));
    }
    let lists: [(&str, &str, &[Column]); 6] = [
        ("Stages", "stages", STAGES),
        ("Streams", "streams", STREAMS),
        ("Views", "views", VIEWS),
        ("Batch runs, running or staged", "runs", runs::COLUMNS),
        ("Processes that take events", "ingest", INGEST),
        ("Workers", "workers", WORKERS),
    ];
    for (title, name, columns) in lists {
        let records = table::items(&status[name], "");
        if !records.is_empty() {
            shown.push_str(&format!("\n{title}\n{}\n", table::list(columns, records)));
        }
        for record in records {
            let notes = table::items(&record["notes"], "").iter();
            let reason = Some(&record["source"]["reason"]).filter(|reason| !reason.is_null());
            for note in notes.chain(reason) {
                shown.push_str(&format!("{}: {}\n", text(&record["name"]), text(note)));
            }
        }
    }
    let bottleneck = status["bottleneck"].as_str();
    let bottleneck =
        bottleneck.map_or_else(|| "none, every stage is idle".into(), table::printable);
    shown.push_str(&format!("\nbottleneck: {bottleneck}"));
    shown
}

fn bytes(value: &Value) -> String {
    value
        .as_u64()
        .map_or_else(|| "-".to_owned(), |bytes| HumanBytes(bytes).to_string())
}

const STAGES: &[Column] = &[
    Column::new("stage", |stage| stage["stage"].clone()),
    Column::new("stream", |stage| stage["stream"].clone()),
    Column::new("per second", |stage| match stage["per_second"].as_f64() {
        Some(few) if few > 0.0 && few < 10.0 => ((few * 10.0).round() / 10.0).into(),
        _ => rounded(&stage["per_second"], 1.0),
    }),
    Column::new("waiting", |stage| stage["waiting"].clone()),
    Column::new("busy %", |stage| rounded(&stage["busy"], 100.0)),
    Column::new("limited by", |stage| stage["limited_by"].clone()),
];

const STREAMS: &[Column] = &[
    Column::new("stream", |stream| stream["name"].clone()),
    Column::new("durable", |stream| stream["position"].clone()),
    Column::new("accumulated", |stream| offsets(&stream["accumulated"])),
    Column::new("archived", |stream| offsets(&stream["archived"])),
    Column::new("behind ms", |stream| stream["freshness_ms"].clone()),
    Column::new("lag", |stream| stream["lag"].clone()),
    Column::new("source", source),
    Column::new("archived bytes", |stream| {
        bytes(&stream["archived_bytes"]).into()
    }),
    Column::new("dead letters", |stream| stream["dead_letters"].clone()),
    Column::new("exclusions", |stream| stream["exclusions"].clone()),
];

const VIEWS: &[Column] = &[
    Column::new("view", |view| view["name"].clone()),
    Column::new("phase", |view| {
        let building = &view["building"];
        if building.is_null() {
            return view["phase"].clone();
        }
        let phase = table::plain(&view["phase"], "-");
        if building["waiting"] == true {
            return format!("{phase}, waits for other runs").into();
        }
        if building["run"].is_null() {
            return format!("{phase}, none is at work").into();
        }
        let read = table::plain(&building["rows_read"], "?");
        let total = table::plain(&building["rows_total"], "?");
        format!("{phase}, {read} of {total} events read").into()
    }),
    Column::new("generation", |view| view["generation"].clone()),
    Column::new("seam", |view| view["horizon"].clone()),
    Column::new("up to", |view| offsets(&view["position"])),
    Column::new("behind ms", |view| view["freshness_ms"].clone()),
    Column::new("runs", |view| view["runs"].clone()),
    Column::new("run bytes", |view| bytes(&view["run_bytes"]).into()),
    Column::new("next full", |view| {
        if view["schedule_paused"].as_bool() == Some(true) {
            return "paused".into();
        }
        match (volume(view), &view["next_recompute"]) {
            (None, next) => table::to_the_second(next),
            (Some(volume), Value::Null) => volume.into(),
            (Some(volume), next) => {
                let next = table::plain(&table::to_the_second(next), "-");
                format!("{next}, or {volume}").into()
            }
        }
    }),
    Column::new("next refresh", |view| {
        table::to_the_second(&view["next_refresh"])
    }),
];

/// How far the volume has come that starts a full run.
fn volume(view: &Value) -> Option<String> {
    let archived = &view["archived_since_full"];
    let of = |reached: String, wanted: &Value| {
        let wanted = (!wanted.is_null()).then(|| table::plain(wanted, "-"));
        wanted.map(|wanted| format!("at {reached} of {wanted}"))
    };
    let events = table::plain(&archived["events"], "0");
    let events = of(events, &view["recompute_after_events"]).map(|text| text + " events");
    let bytes = of(bytes(&archived["bytes"]), &view["recompute_after_bytes"]);
    let parts: Vec<String> = events.into_iter().chain(bytes).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

const INGEST: &[Column] = &[
    Column::new("process", |member| member["id"].clone()),
    Column::new("host", |member| member["host"].clone()),
    Column::new("at", |member| member["url"].clone()),
    Column::new("takes", |member| member["share"].clone()),
    Column::new("silent (ms)", |member| member["silent_ms"].clone()),
    Column::new("memory", |member| bytes(&member["bytes"]).into()),
];

const WORKERS: &[Column] = &[
    Column::new("worker", |worker| worker["name"].clone()),
    Column::new("runs at a time", |worker| worker["runs"].clone()),
    Column::new("computes", |worker| {
        let task = |task: &Value| {
            let [mode, view, read] =
                ["mode", "view", "rows_read"].map(|name| table::plain(&task[name], "?"));
            format!("{mode} of {view}, {read} events read")
        };
        let tasks: Vec<_> = table::items(&worker["computing"], "")
            .iter()
            .map(task)
            .collect();
        match tasks.as_slice() {
            [] => "nothing".into(),
            tasks => tasks.join("; ").into(),
        }
    }),
];

/// Where a stream's events come from, and whether they do.
fn source(stream: &Value) -> Value {
    let source = &stream["source"];
    if source.is_null() {
        return "embedded".into();
    }
    let text = |value: &Value| table::plain(value, "-");
    let behind = match source["lag"].as_u64() {
        Some(0) | None => String::new(),
        Some(lag) => format!(", {lag} behind"),
    };
    format!(
        "{} {}: {}{behind}",
        text(&source["kind"]),
        text(&source["topic"]),
        text(&source["phase"])
    )
    .into()
}

/// The offsets of a token, where the name of its stream stands next to it already.
fn offsets(token: &Value) -> Value {
    let short = token
        .as_str()
        .and_then(|token| Some(token.rsplit_once(':')?.1));
    short.map_or_else(|| token.clone(), Value::from)
}

/// A number times `scale`, without its fraction.
fn rounded(value: &Value, scale: f64) -> Value {
    value.as_f64().map_or(Value::Null, |number| {
        ((number * scale).round() as i64).into()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn status_as_people_read_it() {
        let status = json!({
            "version": "0.1.0", "uptime_s": 61, "catalog_sequence": 12, "bottleneck": "accumulate of flights",
            "memory": {"used_bytes": 1048576, "soft_limit_bytes": 536870912u64, "hard_limit_bytes": 1073741824u64},
            "disk": {"directory": "/var/lib/dovetail", "free_bytes": 5368709120u64, "all_bytes": 53687091200u64},
            "stages": [
                {"stage": "ingest", "stream": "flights", "per_second": 51234.56, "waiting": 0, "busy": 0.254, "limited_by": null},
                {"stage": "queries", "stream": null, "per_second": 2.5, "waiting": 0, "busy": 0.0012, "limited_by": null},
            ],
            "streams": [{"name": "flights", "position": "flights~k3f:0@100", "accumulated": "flights~k3f:0@90",
                "archived": "flights~k3f:0@50", "freshness_ms": 12, "lag": 10, "archived_bytes": 2048, "dead_letters": 1, "exclusions": 0},
                {"name": "clicks", "position": "clicks~k4f:0@1,1@2", "accumulated": "clicks~k4f:0@1,1@2", "archived": "clicks~k4f:0@0",
                 "freshness_ms": 700, "lag": 0, "archived_bytes": 0, "dead_letters": 0, "exclusions": 0,
                 "source": {"kind": "kafka", "topic": "c", "phase": "retrying", "reason": "no broker answers", "lag": 7}}],
            "views": [
                {"name": "a", "phase": "live", "generation": 3, "horizon": "flights~k3f:0@50", "position": "flights~k3f:0@90",
                 "freshness_ms": 12, "runs": 4, "run_bytes": 4096, "schedule_paused": true, "next_refresh": "2001-01-01T00:05:00"},
                {"name": "b", "phase": "building", "building": {"run": 7, "rows_read": 5, "rows_total": null}},
                {"name": "c", "phase": "poisoned", "notes": ["view `c` cannot compute an event"]},
                {"name": "d", "phase": "building", "building": {"run": null, "rows_read": 0}},
            ],
            "runs": [],
            "workers": [
                {"name": "one:8082", "runs": 1, "computing": [{"view": "a", "mode": "full", "rows_read": 70}]},
                {"name": "two:8082", "runs": 2, "computing": []},
            ],
        });
        insta::assert_snapshot!(render(&status), @r#"
        dovetail 0.1.0, up 61 s, catalog at 12
        speed layer: 1.00 MiB of 512.00 MiB (hard limit 1.00 GiB)
        disk: 5.00 GiB of 50.00 GiB free, for /var/lib/dovetail

        Stages
        ┌─────────┬─────────┬────────────┬─────────┬────────┬────────────┐
        │ stage   ┆ stream  ┆ per second ┆ waiting ┆ busy % ┆ limited by │
        ╞═════════╪═════════╪════════════╪═════════╪════════╪════════════╡
        │ ingest  ┆ flights ┆      51235 ┆       0 ┆     25 ┆ -          │
        │ queries ┆ -       ┆        2.5 ┆       0 ┆      0 ┆ -          │
        └─────────┴─────────┴────────────┴─────────┴────────┴────────────┘

        Streams
        ┌─────────┬────────────────────┬─────────────┬──────────┬───────────┬─────┬─────────────────────────────┬────────────────┬──────────────┬────────────┐
        │ stream  ┆ durable            ┆ accumulated ┆ archived ┆ behind ms ┆ lag ┆ source                      ┆ archived bytes ┆ dead letters ┆ exclusions │
        ╞═════════╪════════════════════╪═════════════╪══════════╪═══════════╪═════╪═════════════════════════════╪════════════════╪══════════════╪════════════╡
        │ flights ┆ flights~k3f:0@100  ┆ 0@90        ┆ 0@50     ┆        12 ┆  10 ┆ embedded                    ┆ 2.00 KiB       ┆            1 ┆          0 │
        │ clicks  ┆ clicks~k4f:0@1,1@2 ┆ 0@1,1@2     ┆ 0@0      ┆       700 ┆   0 ┆ kafka c: retrying, 7 behind ┆ 0 B            ┆            0 ┆          0 │
        └─────────┴────────────────────┴─────────────┴──────────┴───────────┴─────┴─────────────────────────────┴────────────────┴──────────────┴────────────┘
        clicks: no broker answers

        Views
        ┌──────┬──────────────────────────────┬────────────┬──────────────────┬───────┬───────────┬──────┬───────────┬───────────┬─────────────────────┐
        │ view ┆ phase                        ┆ generation ┆ seam             ┆ up to ┆ behind ms ┆ runs ┆ run bytes ┆ next full ┆ next refresh        │
        ╞══════╪══════════════════════════════╪════════════╪══════════════════╪═══════╪═══════════╪══════╪═══════════╪═══════════╪═════════════════════╡
        │ a    ┆ live                         ┆          3 ┆ flights~k3f:0@50 ┆ 0@90  ┆        12 ┆    4 ┆ 4.00 KiB  ┆ paused    ┆ 2001-01-01T00:05:00 │
        │ b    ┆ building, 5 of ? events read ┆ -          ┆ -                ┆ -     ┆ -         ┆ -    ┆ -         ┆ -         ┆ -                   │
        │ c    ┆ poisoned                     ┆ -          ┆ -                ┆ -     ┆ -         ┆ -    ┆ -         ┆ -         ┆ -                   │
        │ d    ┆ building, none is at work    ┆ -          ┆ -                ┆ -     ┆ -         ┆ -    ┆ -         ┆ -         ┆ -                   │
        └──────┴──────────────────────────────┴────────────┴──────────────────┴───────┴───────────┴──────┴───────────┴───────────┴─────────────────────┘
        c: view `c` cannot compute an event

        Workers
        ┌──────────┬────────────────┬───────────────────────────┐
        │ worker   ┆ runs at a time ┆ computes                  │
        ╞══════════╪════════════════╪═══════════════════════════╡
        │ one:8082 ┆              1 ┆ full of a, 70 events read │
        │ two:8082 ┆              2 ┆ nothing                   │
        └──────────┴────────────────┴───────────────────────────┘

        bottleneck: accumulate of flights
        "#);
        // An answer without anything is shown too, not a crash.
        let nothing = render(&json!({}));
        assert!(nothing.starts_with("dovetail -"));
        assert!(nothing.ends_with("bottleneck: none, every stage is idle"));
    }
}
