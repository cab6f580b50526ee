// SPDX-License-Identifier: Apache-2.0
//! `/metrics` as Prometheus reads it: every line, strictly; and every metric is in the documentation.

use std::collections::{BTreeMap, BTreeSet};

use dovetail_log::object::{
    CacheCounts, Counts, Latencies, Operation, Purpose, RequestCount, RequestKind, RequestOutcome,
};
use dovetail_model::{GenerationNumber, Outcome, Problem, RunMode};

use super::*;
use crate::ports::*;

/// Something of every family.
pub(super) async fn measurements(fake: &Fake) -> Result<Measurements, Problem> {
    let mut status = fake.status().await?;
    status.stages = vec![
        stage("ingest", Some("flights"), Some(7)),
        stage("batch", None, None),
    ];
    let mut stream = status.streams[0].clone();
    // What a name may hold, quotes and all.
    stream.name = "odd \"one\"\\\n".to_owned();
    stream.source = Some(SourceInfo {
        kind: "kafka".to_owned(),
        topic: "t".to_owned(),
        phase: "reading".to_owned(),
        reason: None,
        lag: 5,
        lag_seconds: 1.5,
        partitions: vec![PartitionInfo {
            partition: dovetail_model::PartitionId(3),
            position: dovetail_model::Offset(1),
            end: dovetail_model::Offset(6),
            lag: 5,
            lag_seconds: 1.5,
        }],
        skipped_tombstones: 0,
        skipped_replays: 0,
    });
    status.streams.push(stream);
    let mut view = fake.view_status("airport_delays").await?;
    view.generations = vec![GenerationInfo {
        number: GenerationNumber(3),
        parent: None,
        mode: Some(RunMode::Full),
        run: None,
        live: true,
        horizon: String::new(),
        definition_version: 1,
        exclusions: vec![],
        groups: 424,
        bytes: 4240,
        created_at: String::new(),
    }];
    status.views = vec![view];
    let kind = RequestKind {
        operation: Operation::PutIfAbsent,
        purpose: Purpose::Catalog,
        outcome: RequestOutcome::Done,
    };
    let count = RequestCount {
        requests: 3,
        sent_bytes: 300,
        received_bytes: 0,
    };
    let mut latencies = Latencies {
        sum_s: 40.5,
        ..Latencies::default()
    };
    latencies.buckets[0] = 2;
    *latencies.buckets.last_mut().unwrap() = 1;
    Ok(Measurements {
        status,
        holds: Holds {
            runs: true,
            store: true,
        },
        batch_runs: vec![BatchRunCount {
            view: "airport_delays".to_owned(),
            mode: RunMode::Full,
            outcome: Outcome::Promoted,
            runs: 2,
        }],
        requests: Counts {
            kinds: BTreeMap::from([(kind, count)]),
            latencies: BTreeMap::from([(Operation::PutIfAbsent, latencies)]),
        },
        cache: Some(CacheCounts {
            disk_hits: 6,
            misses: 4,
            ..CacheCounts::default()
        }),
    })
}

/// Two within a millisecond, one of twenty minutes.
fn stage_latencies() -> dovetail_seam::Latencies {
    let latency = dovetail_seam::Latency::default();
    for ms in [1, 1, 1_200_000] {
        latency.note(std::time::Duration::from_millis(ms));
    }
    latency.read()
}

fn stage(name: &str, stream: Option<&str>, total: Option<u64>) -> StageStatus {
    StageStatus {
        stage: name.to_owned(),
        stream: stream.map(str::to_owned),
        per_second: 1.0,
        total,
        latencies: stage_latencies(),
        waiting: 2,
        busy: 0.25,
        limited_by: None,
        failing: None,
    }
}

/// What was read: the type of each family, and each series with its value.
#[derive(Default)]
struct Read {
    families: BTreeMap<String, String>,
    series: BTreeMap<String, f64>,
}

fn is_name(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c.is_ascii_lowercase())
        && chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// What stands behind `{`, up to and with `}`; quotes and backslashes are escaped inside values.
fn skip_labels(text: &str) -> &str {
    let mut rest = text;
    loop {
        let (name, behind) = rest.split_once("=\"").expect("a label");
        assert!(is_name(name), "{text}");
        let mut chars = behind.char_indices();
        let end = loop {
            match chars.next().expect("a value ends") {
                (_, '\\') => {
                    let (_, escaped) = chars.next().expect("something is escaped");
                    assert!(matches!(escaped, '\\' | '"' | 'n'), "{text}");
                }
                (at, '"') => break at,
                _ => {}
            }
        };
        rest = &behind[end + 1..];
        match rest.split_at(1) {
            (",", next) => rest = next,
            ("}", next) => return next,
            _ => panic!("{text}"),
        }
    }
}

/// Reads the text format, version 0.0.4, as strictly as its documentation is written.
fn read(text: &str) -> Read {
    let mut read = Read::default();
    let mut family = (String::new(), String::new());
    let mut helped = String::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap();
            assert!(!read.families.contains_key(name), "{name} twice");
            assert!(help.len() > 10 && help.ends_with('.'), "{line}");
            helped = name.to_owned();
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert_eq!(name, helped, "help comes first");
            assert!(is_name(name) && name.starts_with("dovetail_"), "{line}");
            assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
            read.families.insert(name.to_owned(), kind.to_owned());
            family = (name.to_owned(), kind.to_owned());
        } else {
            let end = line.find(['{', ' ']).unwrap();
            let (name, rest) = line.split_at(end);
            let rest = rest.strip_prefix('{').map_or(rest, skip_labels);
            let suffix = name.strip_prefix(&family.0);
            let suffix = suffix.unwrap_or_else(|| panic!("{line} is not below its family"));
            match family.1.as_str() {
                "histogram" => assert!(["_bucket", "_sum", "_count"].contains(&suffix), "{line}"),
                _ => assert_eq!(suffix, "", "{line}"),
            }
            let value: f64 = rest.trim().parse().unwrap();
            assert!(value.is_finite() && value >= 0.0, "{line}");
            let series = line[..line.len() - rest.len()].to_owned();
            assert!(read.series.insert(series, value).is_none(), "{line} twice");
        }
    }
    assert!(text.ends_with('\n'));
    read
}

#[tokio::test]
async fn metrics_are_what_prometheus_reads() {
    let router = open(&Fake::default());
    let reply = get(&router, "/metrics").await;
    assert_eq!(
        reply.header("content-type"),
        "text/plain; version=0.0.4; charset=utf-8"
    );
    let read = read(reply.text());
    for (series, value) in [
        ("dovetail_build_info{version=\"0.1.0\"}", 1.0),
        ("dovetail_uptime_seconds", 5.0),
        (
            "dovetail_stage_handled_total{stage=\"ingest\",stream=\"flights\"}",
            7.0,
        ),
        ("dovetail_stage_busy_ratio{stage=\"batch\"}", 0.25),
        (
            "dovetail_stage_seconds_bucket{stage=\"ingest\",stream=\"flights\",le=\"0.001\"}",
            2.0,
        ),
        (
            "dovetail_stage_seconds_bucket{stage=\"batch\",le=\"600\"}",
            2.0,
        ),
        ("dovetail_stage_seconds_count{stage=\"batch\"}", 3.0),
        ("dovetail_stage_seconds_sum{stage=\"batch\"}", 1200.002),
        (
            "dovetail_stream_offset{stream=\"flights\",partition=\"0\",layer=\"archived\"}",
            1000.0,
        ),
        (
            "dovetail_stream_offset{stream=\"odd \\\"one\\\"\\\\\\n\",partition=\"0\",layer=\"durable\"}",
            1234.0,
        ),
        (
            "dovetail_view_horizon_offset{view=\"airport_delays\",stream=\"flights\",partition=\"0\"}",
            1000.0,
        ),
        (
            "dovetail_view_phase{view=\"airport_delays\",stream=\"flights\",phase=\"live\"}",
            1.0,
        ),
        (
            "dovetail_view_phase{view=\"airport_delays\",stream=\"flights\",phase=\"poisoned\"}",
            0.0,
        ),
        (
            "dovetail_store_requests_total{operation=\"put_if_absent\",purpose=\"catalog\",outcome=\"done\"}",
            3.0,
        ),
        (
            "dovetail_store_request_seconds_bucket{operation=\"put_if_absent\",le=\"30\"}",
            2.0,
        ),
        (
            "dovetail_store_request_seconds_bucket{operation=\"put_if_absent\",le=\"+Inf\"}",
            3.0,
        ),
        ("dovetail_cache_hits_total{tier=\"disk\"}", 6.0),
        ("dovetail_cache_misses_total", 4.0),
        (
            "dovetail_store_request_seconds_count{operation=\"put_if_absent\"}",
            3.0,
        ),
    ] {
        assert_eq!(read.series.get(series), Some(&value), "{series}");
    }
}

/// Families of what a process has are there where it has that, and nowhere else.
#[tokio::test]
async fn what_a_process_does_not_have_is_not_shown_as_zero() {
    let all = measurements(&Fake::default()).await.unwrap();
    let shown = |runs, store| {
        let measured = Measurements {
            holds: Holds { runs, store },
            ..all.clone()
        };
        read(&crate::http::metrics::exposition(measured).unwrap()).families
    };
    let everything = shown(true, true);
    let of_runs = [
        "dovetail_speed_memory_bytes",
        "dovetail_stream_freshness_seconds",
        "dovetail_view_phase",
        "dovetail_view_run_bytes",
    ];
    let of_store = [
        "dovetail_stream_dead_letters",
        "dovetail_stream_archived_bytes",
        "dovetail_view_generation",
        "dovetail_batch_runs",
    ];
    for (runs, store) in [(true, false), (false, true), (false, false)] {
        let shown = shown(runs, store);
        for name in of_runs {
            assert_eq!(shown.contains_key(name), runs, "{name}");
        }
        for name in of_store {
            assert_eq!(shown.contains_key(name), store, "{name}");
        }
        for name in ["dovetail_uptime_seconds", "dovetail_source_lag_offsets"] {
            assert!(shown.contains_key(name), "{name}");
        }
        assert!(shown.len() < everything.len());
    }
}

#[tokio::test]
async fn every_metric_is_documented_and_every_documented_one_is_there() {
    let router = open(&Fake::default());
    let read = read(get(&router, "/metrics").await.text());
    let page = include_str!("../../../../docs/operations.md");
    let documented = page.lines().filter_map(|line| {
        let name = line.strip_prefix("| `")?.split(['{', '`']).next()?;
        name.starts_with("dovetail_").then_some(name)
    });
    let documented: BTreeSet<&str> = documented.collect();
    let shown: BTreeSet<&str> = read.families.keys().map(String::as_str).collect();
    assert_eq!(documented, shown);
}
