// SPDX-License-Identifier: Apache-2.0
//! Old generations go, with their files, when their time is over and not before; what a rollback needs stays.
//!
//! The clock is the rig's. The store's is the machine's, years ahead or behind: nothing may compare the two.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use dovetail_batch_layer::{RetentionPolicy, StartRequest};
use dovetail_log::raw::delta::DeltaLog;
use dovetail_model::{GenerationNumber, RunMode, SystemClock, ViewId};
use dovetail_seam::Generation;
use dovetail_sim::Rig;
use futures::TryStreamExt as _;
use object_store::ObjectStoreExt as _;
use object_store::path::Path;

const HOUR: Duration = Duration::from_secs(3600);
/// In hours.
const DAYS: u32 = 24;
const YEARS: u32 = 365 * DAYS;
const START_US: i64 = 978_307_200_000_000;
const BY_ORIGIN: &str =
    "SELECT origin, count(*) AS n, sum(delay) AS delays FROM flights GROUP BY origin";

/// Pushes an event that changes a group of every generation, and runs the batch layer.
async fn run(rig: &Rig, view: &ViewId, mode: RunMode) {
    rig.push(&[(START_US, Some("SFO"), Some(1), 100)]);
    let request = StartRequest {
        mode,
        trigger: "user",
        ..StartRequest::default()
    };
    rig.run(view, request).await;
}

/// Answers how many files are gone.
async fn sweep(rig: &Rig) -> usize {
    let swept = rig.batch.sweep(&RetentionPolicy::default()).await;
    usize::try_from(swept.expect("the sweep ends")).expect("few files")
}

/// The readable generations, oldest first.
fn generations(rig: &Rig, view: &ViewId) -> Vec<GenerationNumber> {
    let state = rig.catalog.state();
    state.views[view].generations.keys().copied().collect()
}

/// The files of a view that are there.
async fn stored(rig: &Rig, view: &ViewId) -> BTreeSet<String> {
    let prefix = Path::from(format!("{}/files", Generation::view_root(view)));
    let listed = rig
        .store
        .list(Some(&prefix))
        .map_ok(|file| file.location.to_string());
    listed.try_collect().await.expect("the files are listed")
}

/// The files that some of a view's generations name.
fn named(rig: &Rig, view: &ViewId, of: &[GenerationNumber]) -> BTreeSet<String> {
    let state = rig.catalog.state();
    let root = Generation::view_root(view);
    let manifests = of
        .iter()
        .map(|number| &state.views[view].generations[number]);
    let files = manifests.flat_map(|manifest| &manifest.files);
    files.map(|file| format!("{root}/{}", file.path)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn generations_and_their_files_go_when_their_time_is_over() {
    let rig = Rig::new(64 << 20).await;
    let view = rig.create_view("by_origin", BY_ORIGIN).await;
    for _ in 0..14 {
        run(&rig, &view, RunMode::Incremental).await;
    }
    let all = generations(&rig, &view);
    assert!(all.len() > 12, "{all:?}");

    // Young: all stay, however many.
    rig.wait(HOUR * (DAYS - 1));
    assert_eq!(sweep(&rig).await, 0);
    assert_eq!(generations(&rig, &view), all);
    assert_eq!(stored(&rig, &view).await, named(&rig, &view, &all));

    // Old: the ten newest stay.
    let (old, newest) = all.split_at(all.len() - 10);
    let files_of_old = named(&rig, &view, old);
    rig.wait(HOUR * (50 * YEARS));
    sweep(&rig).await;
    assert_eq!(generations(&rig, &view), newest);
    let left = stored(&rig, &view).await;
    assert!(left.is_superset(&files_of_old), "who reads them may end");

    // And then their files, once the grace is over.
    let grace = RetentionPolicy::default().orphans_after.to_std().unwrap();
    rig.wait(grace + HOUR);
    let before = left.len();
    let deleted = sweep(&rig).await;
    let left = stored(&rig, &view).await;
    assert_eq!(deleted, before - left.len());
    assert_eq!(left, named(&rig, &view, newest));
    assert!(
        files_of_old.difference(&left).count() > 0,
        "{files_of_old:?}"
    );
    rig.check("by_origin").await;

    // What is left can be gone back to, what is gone cannot.
    let error = rig.batch.rollback(&view, Some(old[1])).await.unwrap_err();
    assert!(error.to_string().contains("generation"), "{error}");
    rig.batch.rollback(&view, Some(newest[0])).await.unwrap();
    rig.check("by_origin").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_with_nowhere_to_go_says_how_to_name_a_generation() {
    let rig = Rig::new(64 << 20).await;
    let view = rig.create_view("by_origin", BY_ORIGIN).await;
    run(&rig, &view, RunMode::Incremental).await;
    let error = rig.batch.rollback(&view, None).await.unwrap_err();
    let error = error.to_string();
    for part in [
        "no earlier promote",
        "--generation N",
        "`dovetail runs --view by_origin`",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_a_rollback_goes_stays_however_old() {
    let rig = Rig::new(64 << 20).await;
    let view = rig.create_view("by_origin", BY_ORIGIN).await;
    run(&rig, &view, RunMode::Incremental).await;
    run(&rig, &view, RunMode::Full).await;
    let target = rig.catalog.state().views[&view].before_promote.unwrap();
    for _ in 0..12 {
        run(&rig, &view, RunMode::Incremental).await;
    }
    rig.wait(HOUR * (50 * YEARS));
    sweep(&rig).await;
    let left = generations(&rig, &view);
    assert_eq!((left.len(), left[0]), (11, target), "{left:?}");
    rig.batch.rollback(&view, None).await.unwrap();
    rig.check("by_origin").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_nothing_names_goes_when_it_is_old_enough() {
    let rig = Rig::new(64 << 20).await;
    let view = rig.create_view("by_origin", BY_ORIGIN).await;
    run(&rig, &view, RunMode::Incremental).await;
    let before = stored(&rig, &view).await;
    let stray = Path::from(format!(
        "{}/files/stray.parquet",
        Generation::view_root(&view)
    ));
    rig.store
        .put(&stray, "left by a crash".into())
        .await
        .unwrap();

    // By the rig's clock the store's lies far ahead; and then far behind.
    for years in [0, 50] {
        rig.wait(HOUR * (years * YEARS));
        assert_eq!(sweep(&rig).await, 0, "{years}");
        rig.wait(HOUR / 2);
        assert_eq!(sweep(&rig).await, 0, "{years}");
        assert!(stored(&rig, &view).await.contains(stray.as_ref()));
        if years == 0 {
            // Once it is not there, its age begins anew.
            let file = rig.store.get(&stray).await.unwrap().bytes().await.unwrap();
            rig.store.delete(&stray).await.unwrap();
            assert_eq!(sweep(&rig).await, 0);
            rig.store.put(&stray, file.into()).await.unwrap();
        }
    }
    rig.wait(HOUR / 2);
    assert_eq!(sweep(&rig).await, 1);
    assert_eq!(stored(&rig, &view).await, before);
    rig.check("by_origin").await;
}

/// Whoever reads the table, and every projection does, reads from the last checkpoint on, however old the view is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_of_a_projection_stays_short() {
    let rig = Rig::new(64 << 20).await;
    let view = rig.create_view("by_origin", BY_ORIGIN).await;
    for _ in 0..40 {
        run(&rig, &view, RunMode::Incremental).await;
    }
    let root = Generation::view_root(&view);
    let log = async || {
        let listed = rig.store.list(Some(&root.clone().join("_delta_log")));
        let names = listed.map_ok(|file| file.location.filename().unwrap().to_owned());
        let mut names: Vec<String> = names.try_collect().await.unwrap();
        names.sort();
        names
    };
    sweep(&rig).await;
    let long = log().await;
    assert!(
        long.len() > 40,
        "a reader may be in the middle of it: {long:?}"
    );
    rig.wait(HOUR + HOUR / 60);
    sweep(&rig).await;
    let short = log().await;
    let commits = short.iter().filter(|name| name.ends_with(".json")).count();
    assert!(commits <= 16, "{short:?}");
    assert_eq!(
        short
            .iter()
            .filter(|name| name.ends_with(".parquet"))
            .count(),
        1
    );

    // And it still shows the live generation, before and behind the next commit.
    for _ in 0..2 {
        let table = DeltaLog::new(rig.store.clone(), root.clone(), Arc::new(SystemClock)).unwrap();
        let table = table.load().await.unwrap().expect("the table is there");
        let shown: BTreeSet<String> = table
            .files()
            .map(|f| format!("{root}/{}", f.path))
            .collect();
        let live = rig.catalog.state().views[&view].live.unwrap();
        assert_eq!(shown, named(&rig, &view, &[live]));
        run(&rig, &view, RunMode::Incremental).await;
    }
}
