// SPDX-License-Identifier: Apache-2.0
//! A store that does not answer for a while, and one that belongs to somebody else by now.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::sync::Arc;
use std::time::Duration;

use dovetail_batch_layer::{BatchError, RetentionPolicy, StartRequest};
use dovetail_log::catalog::Catalog;
use dovetail_model::{Entry, ManualClock, Outcome, RunMode, ViewId};
use dovetail_sim::{Event, GatedStore, Rig};
use object_store::ObjectStoreExt as _;
use object_store::path::Path;

const FLIGHT: Event = (978_307_200_000_000, Some("SFO"), Some(1), 100);
const SQL: &str = "SELECT origin, count(*) AS n FROM flights GROUP BY origin";

fn full() -> StartRequest {
    StartRequest {
        mode: RunMode::Full,
        trigger: "user",
        ..StartRequest::default()
    }
}

async fn view_with_a_generation(rig: &Rig) -> ViewId {
    let view = rig.create_view("origins", SQL).await;
    rig.push(&[FLIGHT; 3]);
    rig.run(&view, full()).await;
    view
}

/// The store goes away while a run computes, and comes back: the ledger says that the run failed, and the next one of
/// its kind can start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_an_outage_ended_does_not_stay_at_work() {
    let store = GatedStore::new();
    let rig = Rig::over(Arc::clone(&store) as _, 256 << 20, 1).await;
    let view = view_with_a_generation(&rig).await;
    rig.push(&[FLIGHT; 2]);
    store.set_open(false);
    let run = rig.batch.start(&view, full()).await.unwrap();
    while store.waiting().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    store.set_catalog_lost(true);
    store.set_open(true);
    // Longer than a commit is tried.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(rig.batch.is_in_flight(run.id));
    store.set_catalog_lost(false);
    let ended = rig.batch.wait(run.id).await.unwrap();
    assert_eq!(ended.outcome, Outcome::Failed, "{ended:?}");
    let next = rig.run(&view, full()).await;
    assert_eq!(next.outcome, Outcome::Promoted, "{next:?}");
    rig.check("origins").await;
}

/// Hours later, a process that was paused goes on with what it knew, while another has the store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_superseded_process_takes_no_file_for_an_orphan() {
    let store = GatedStore::new();
    let rig = Rig::over(Arc::clone(&store) as _, 256 << 20, 1).await;
    let view = view_with_a_generation(&rig).await;

    let clock = Arc::new(ManualClock::at(1_800_000_000_000_000));
    let other = Catalog::open(Arc::clone(&store) as _, clock).await.unwrap();
    other.claim("other", "elsewhere", true).await.unwrap();
    let file = Path::from(format!("views/{view}/files/new.parquet"));
    store
        .put(&file, "of the other's generation".into())
        .await
        .unwrap();
    let committed = other.commit::<std::convert::Infallible>(|state| {
        let mut manifest = (**state.views[&view].live_manifest().unwrap()).clone();
        manifest.number = state.views[&view].next_generation;
        manifest.files[0].path = "files/new.parquet".to_owned();
        Ok(vec![Entry::GenerationWritten {
            manifest: Arc::new(manifest),
        }])
    });
    committed.await.unwrap();

    rig.wait(Duration::from_secs(3 * 3600));
    let swept = rig.batch.sweep(&RetentionPolicy::default()).await;
    assert!(matches!(swept, Err(BatchError::Superseded(_))), "{swept:?}");
    assert!(store.head(&file).await.is_ok());
}
