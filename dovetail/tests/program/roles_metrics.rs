// SPDX-License-Identifier: Apache-2.0
//! `/metrics` of every process where roles run apart: each shows what it has, and no zero for what it has not.

use std::collections::BTreeMap;

use serde_json::json;

use crate::kafka::{VIEW, create};
use crate::roles::{Place, complete, scene};
use crate::support::server::{Calls, HANGS};

/// Every series of a process with its value.
struct Shown(BTreeMap<String, f64>);

impl Shown {
    async fn of(calls: &Calls) -> Self {
        let text = calls.get("/metrics").await.unwrap();
        let lines = text.as_str().unwrap().lines();
        let series = lines.filter(|line| !line.starts_with('#')).map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            (series.to_owned(), value.parse().unwrap())
        });
        Self(series.collect())
    }

    /// The values of a metric whose labels have `part`.
    fn values(&self, name: &str, part: &str) -> Vec<f64> {
        let series = self.0.iter().filter(|(series, _)| {
            let rest = series.strip_prefix(name);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('{') && rest.contains(part))
        });
        series.map(|(_, value)| *value).collect()
    }

    fn sum(&self, name: &str, part: &str) -> f64 {
        self.values(name, part).iter().sum()
    }

    fn has(&self, name: &str) -> bool {
        !self.values(name, "").is_empty()
    }
}

const OF_RUNS: [&str; 5] = [
    "dovetail_speed_memory_bytes",
    "dovetail_stream_freshness_seconds",
    "dovetail_view_freshness_seconds",
    "dovetail_view_phase",
    "dovetail_view_run_groups",
];
const OF_STORE: [&str; 5] = [
    "dovetail_stream_archived_events",
    "dovetail_stream_dead_letters",
    "dovetail_view_horizon_offset",
    "dovetail_view_generation",
    "dovetail_batch_runs",
];

#[tokio::test(flavor = "multi_thread")]
async fn each_process_shows_what_it_has() {
    let (mut random, broker, mut oracle) = scene(4);
    let place = Place::new();
    let batch = place.batch().await;
    let takers = [place.ingest("one").await, place.ingest("two").await];
    let (serve, worker) = (place.serve("serve").await, place.worker("worker").await);
    let calls = serve.calls();
    calls.sql(&create(&broker), json!({})).await.unwrap();
    calls.sql(VIEW, json!({})).await.unwrap();
    for _ in 0..4 {
        oracle.transact(&mut random, true);
    }
    complete(&oracle, &calls).await;
    let run = calls.recompute("digits", &json!({})).await.unwrap();
    assert_eq!(run["outcome"], "promoted", "{run}");
    let decided = Shown::of(&batch.calls()).await;
    let full = |outcome| format!("mode=\"full\",outcome=\"{outcome}\"");
    let runs = |outcome| decided.values("dovetail_batch_runs", &full(outcome));
    // That none failed is said; the view's own first run is one of those that did not.
    assert_eq!((runs("promoted"), runs("failed")), (vec![2.0], vec![0.0]));
    oracle.transact(&mut random, true);
    complete(&oracle, &calls).await;

    let events = oracle.totals()[0]["n"].as_f64().unwrap();
    let mut taken = [
        Shown::of(&takers[0].calls()).await,
        Shown::of(&takers[1].calls()).await,
    ];
    // Each of those that take events has its own partitions, and together they have all.
    for (partition, end) in oracle.end().iter() {
        let labels = format!("partition=\"{partition}\"");
        let lags = taken
            .iter()
            .map(|shown| shown.values("dovetail_source_lag_offsets", &labels));
        assert_eq!(lags.map(|lags| lags.len()).sum::<usize>(), 1, "{partition}");
        let labels = format!("{labels},layer=\"accumulated\"");
        let at = taken
            .iter()
            .map(|shown| shown.sum("dovetail_stream_offset", &labels));
        assert_eq!(at.sum::<f64>(), end.0 as f64, "{partition}");
    }
    let handled = taken
        .iter()
        .map(|shown| shown.sum("dovetail_stage_handled_total", "stage=\"accumulate\""));
    assert_eq!(handled.sum::<f64>(), events);
    for shown in &mut taken {
        assert_eq!(shown.values("dovetail_view_phase", "phase=\"live\""), [1.0]);
        assert!(shown.sum("dovetail_speed_memory_hard_limit_bytes", "") > 0.0);
        check(shown, true, false);
    }

    // What they say of it comes to the one that decides every half second.
    let heard = async {
        loop {
            let shown = Shown::of(&batch.calls()).await;
            let at = shown.sum("dovetail_stream_offset", "layer=\"accumulated\"");
            let end: u64 = oracle.end().iter().map(|(_, end)| end.0).sum();
            let lags = shown.values("dovetail_source_lag_offsets", "");
            if at == end as f64 && lags == [0.0; 4] {
                return shown;
            }
        }
    };
    let shown = tokio::time::timeout(HANGS, heard).await.unwrap();
    assert_eq!(
        shown.values("dovetail_source_phase", "phase=\"reading\""),
        [1.0]
    );
    assert!(
        shown
            .values("dovetail_stage_busy_ratio", "stream")
            .is_empty()
    );
    assert!(shown.sum("dovetail_stream_archived_events", "") > 0.0);
    check(&shown, false, true);

    let shown = Shown::of(&calls).await;
    assert!(shown.sum("dovetail_stage_handled_total", "queries") >= 4.0);
    assert!(shown.sum("dovetail_store_requests_total", "catalog") > 0.0);
    assert!(!shown.has("dovetail_stream_offset"));
    check(&shown, false, false);
    check(&Shown::of(&worker.calls()).await, false, false);
}

/// Has the families of `runs` and of the `store`, and those that every process has.
fn check(shown: &Shown, runs: bool, store: bool) {
    for name in OF_RUNS {
        assert_eq!(shown.has(name), runs, "{name}");
    }
    for name in OF_STORE {
        assert_eq!(shown.has(name), store, "{name}");
    }
    for name in [
        "dovetail_build_info",
        "dovetail_uptime_seconds",
        "dovetail_cache_bytes",
    ] {
        assert!(shown.has(name), "{name}");
    }
}
