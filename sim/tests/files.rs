// SPDX-License-Identifier: Apache-2.0
//! Generations of several files, and keys that are equal without being the same: the places where a group could
//! be looked for in the wrong file, or not be recognised.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use dovetail_batch_layer::StartRequest;
use dovetail_model::{RepairScope, RunMode, ViewId};
use dovetail_sim::{Event, Rig};

const START_US: i64 = 978_307_200_000_000;
/// More than two files of 64 Ki groups.
const GROUPS: i64 = 140_000;

fn event(distance: i64) -> Event {
    (START_US, Some("SFO"), Some(1), distance)
}

fn start(mode: RunMode, scope: RepairScope) -> StartRequest {
    StartRequest {
        mode,
        scope,
        trigger: "user",
        ..StartRequest::default()
    }
}

async fn run(rig: &Rig, view: &ViewId, mode: RunMode) {
    rig.run(view, start(mode, RepairScope::default())).await;
}

fn files(rig: &Rig, view: &ViewId) -> Vec<i64> {
    let state = rig.catalog.state();
    let live = state.views[view].live_manifest().unwrap();
    live.files.iter().map(|file| file.rows as i64).collect()
}

/// The last group of a file, the first of the next, one between two files and one behind the last.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_at_the_edges_of_files_are_found_there() {
    let rig = Rig::new(256 << 20).await;
    let sql = "SELECT distance, count(*) AS n, sum(delay) AS d FROM flights GROUP BY distance";
    let view = rig.create_view("by_distance", sql).await;
    // Even numbers, so that there is room between two files.
    let all: Vec<Event> = (0..GROUPS).map(|n| event(2 * n)).collect();
    rig.push(&all);
    run(&rig, &view, RunMode::Full).await;
    let rows = files(&rig, &view);
    assert!(rows.len() > 1, "{rows:?}");
    let last = 2 * (rows[0] - 1);

    for edges in [vec![last], vec![last + 2], vec![last + 1, 2 * GROUPS + 1]] {
        rig.push(&edges.iter().map(|n| event(*n)).collect::<Vec<_>>());
        rig.check("by_distance").await;
        run(&rig, &view, RunMode::Incremental).await;
        rig.check("by_distance").await;
    }

    // The exclusion takes whole groups away, so a file must be found by them alone.
    for gone in [last, last + 2] {
        rig.exclude(&format!("distance = {gone}")).await;
        let scope = RepairScope {
            predicate: Some(format!("distance = {gone}")),
            ..RepairScope::default()
        };
        rig.run(&view, start(RunMode::Repair, scope)).await;
        rig.check("by_distance").await;
    }
}

/// `-0.0` and `0.0` are one group, whichever comes first in whichever layer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_zeros_are_one_group_in_both_layers() {
    let sql = "SELECT CAST(delay AS DOUBLE) * 0.0 AS zero, count(*) AS n, sum(distance) AS d FROM flights GROUP BY zero";
    let signs = [Some(5), Some(-5), None];
    for first in signs {
        for second in signs {
            let rig = Rig::new(64 << 20).await;
            let view = rig.create_view("zeros", sql).await;
            let flight = |delay| [(START_US, Some("SFO"), delay, 100)];
            rig.push(&flight(first));
            run(&rig, &view, RunMode::Full).await;
            rig.push(&flight(second));
            rig.check("zeros").await;
            rig.push(&flight(first));
            rig.check("zeros").await;
            run(&rig, &view, RunMode::Incremental).await;
            rig.check("zeros").await;
        }
    }
}
