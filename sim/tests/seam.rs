// SPDX-License-Identifier: Apache-2.0
//! The laws, with every layer between event and answer: cut, snapshot, seam, old data survives.

use std::time::Duration;

use dovetail_batch_layer::{BatchError, RetentionPolicy, StartRequest};
use dovetail_model::{
    CatalogState, Entry, Offset, Outcome, Position, Problem, RepairScope, RunMode, ViewId,
};
use dovetail_serving_layer::ports::Layer;
use dovetail_sim::{MORE_COLUMNS, Rig, collect};
use futures::TryStreamExt as _;
use object_store::ObjectStore as _;
use object_store::path::Path;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

#[path = "seam/at_once.rs"]
mod at_once;
#[path = "seam/relief.rs"]
mod relief;

const ORIGINS: [Option<&str>; 6] = [
    Some("SFO"),
    Some("JFK"),
    Some("LAX"),
    Some("ATL"),
    Some(""),
    None,
];
const HOUR_US: i64 = 3_600_000_000;
const START_US: i64 = 978_307_200_000_000;
const HOURLY: &str = "SELECT origin, date_trunc('hour', at) AS hour, count(*) AS flights, sum(delay) AS delays, \
     avg(delay) AS mean, min(distance) AS nearest, max(distance) AS farthest, count(distinct distance) AS distances \
     FROM flights GROUP BY origin, hour";
const TOTAL: &str = "SELECT count(*) AS n, sum(distance) AS d, avg(delay) AS mean FROM flights";
const BY_ORIGIN: &str = "SELECT origin, count(*) AS n, median(delay) AS p50, \
     first_value(delay ORDER BY distance, at) AS first FROM flights WHERE distance > 100 GROUP BY origin";
const OVER_MORE: &str = "SELECT origin, count(more1) AS n, sum(more1) AS d, max(delay) AS latest FROM flights GROUP BY origin";
const REDEFINED: &str =
    "SELECT origin, count(*) AS n, sum(distance) AS d FROM flights GROUP BY origin";
/// The columns and states of `REDEFINED`, and other numbers in them.
const REDEFINED_AGAIN: &str =
    "SELECT origin, count(*) AS n, sum(distance + 10) AS d FROM flights GROUP BY origin";

fn events(random: &mut StdRng) -> Vec<(i64, Option<&'static str>, Option<i32>, i64)> {
    let count = random.random_range(0..40);
    let event = |random: &mut StdRng| {
        // Mostly near the present, sometimes anywhere: late is normal.
        let hour = if random.random_bool(0.8) {
            random.random_range(20..24)
        } else {
            random.random_range(0..24)
        };
        let at = START_US + hour * HOUR_US + random.random_range(0..HOUR_US);
        let delay = random
            .random_bool(0.9)
            .then(|| random.random_range(-20..200));
        (
            at,
            ORIGINS[random.random_range(0..ORIGINS.len())],
            delay,
            random.random_range(50..3000),
        )
    };
    (0..count).map(|_| event(random)).collect()
}

fn start(mode: RunMode, dry_run: bool) -> StartRequest {
    StartRequest {
        mode,
        dry_run,
        trigger: "user",
        ..StartRequest::default()
    }
}

async fn step(rig: &Rig, views: &[ViewId], random: &mut StdRng) -> &'static str {
    let view = &views[random.random_range(0..views.len())];
    match random.random_range(0..100) {
        0..38 => {
            let events = events(random);
            rig.push(&events);
            "push"
        }
        38..51 => {
            while rig.merge() {}
            "merge"
        }
        51..57 => {
            rig.archive().await;
            "archive"
        }
        57..59 => {
            // Segments join: horizons lie inside of them from now on.
            rig.upkeep().await;
            "upkeep"
        }
        59..69 => {
            rig.run(view, start(RunMode::Incremental, false)).await;
            "incremental"
        }
        69..75 => {
            rig.run(view, start(RunMode::Full, false)).await;
            "full"
        }
        75..81 => staged(rig, view, random).await,
        81..85 => {
            let from = START_US + random.random_range(0..20) * HOUR_US;
            let scope = RepairScope {
                from_us: Some(from),
                to_us: Some(from + 3 * HOUR_US),
                predicate: random
                    .random_bool(0.5)
                    .then(|| "n > 0".to_owned())
                    .filter(|_| false),
            };
            if rig.catalog.state().views[view].pending.is_none() {
                rig.run(
                    view,
                    StartRequest {
                        scope,
                        ..start(RunMode::Repair, false)
                    },
                )
                .await;
            }
            "repair"
        }
        85..87 => {
            rig.exclude(&format!("delay = {}", random.random_range(-20..200)))
                .await;
            "exclude"
        }
        87..89 => {
            // Over the newest column, which older events do not have.
            let schema = rig.schema();
            let column = schema.columns.last().map_or("delay", |c| c.name.as_str());
            rig.exclude(&format!("{column} = {}", random.random_range(0..50)))
                .await;
            "exclude by the newest column"
        }
        89..94 => {
            let known: Vec<_> = rig.catalog.state().views[view]
                .generations
                .keys()
                .copied()
                .collect();
            let named = random.random_range(0..known.len());
            let to = random.random_bool(0.5).then(|| known[named]);
            // Refused when there is nothing to go back to, or it is live already.
            let _ = rig.batch.rollback(view, to).await;
            "rollback"
        }
        94..96 => {
            let events = events(random);
            rig.add_column(&events).await;
            "add column"
        }
        96..98 => {
            shed(rig, view, random).await;
            "shed"
        }
        _ => {
            redefine(rig, &views[2], random).await;
            "redefine"
        }
    }
}

/// Another definition than the newest, which half of the time is built at once.
async fn redefine(rig: &Rig, view: &ViewId, random: &mut StdRng) {
    let has_more = rig
        .schema()
        .columns
        .iter()
        .any(|c| c.name == MORE_COLUMNS[0]);
    let state = rig.catalog.state();
    let newest = state.views[view]
        .pending
        .as_ref()
        .unwrap_or(&state.views[view].def);
    let mut others = vec![BY_ORIGIN, REDEFINED, REDEFINED_AGAIN];
    others.extend(has_more.then_some(OVER_MORE));
    others.retain(|sql| rig.compile(sql).definition_hash() != newest.definition_hash);
    let sql = others[random.random_range(0..others.len())];
    rig.redefine_view(view, sql).await;
    if random.random_bool(0.5) {
        rig.run(view, start(RunMode::Full, false)).await;
    }
}

/// A view lets go of its runs: it does not answer, until an incremental run has brought its generation forward.
async fn shed(rig: &Rig, view: &ViewId, random: &mut StdRng) {
    rig.push(&[(START_US, None, None, 50)]);
    rig.shed(view);
    let more = events(random);
    rig.push(&more);
    let name = rig.catalog.state().views[view].def.name.clone();
    let refused = rig
        .query(&format!("SELECT * FROM {name}"), Layer::Merged)
        .await;
    let problem = refused.map(|_| ()).expect_err("it holds nothing");
    assert_eq!(problem.kind.status(), 503);
    rig.run(view, start(RunMode::Incremental, false)).await;
}

/// A staged run, with events, refreshes and a lack of memory before the decision.
async fn staged(rig: &Rig, view: &ViewId, random: &mut StdRng) -> &'static str {
    let run = rig.run(view, start(RunMode::Full, true)).await;
    assert_eq!(run.outcome, Outcome::Staged);
    let more = events(random);
    rig.push(&more);
    if random.random_bool(0.5) {
        rig.run(view, start(RunMode::Incremental, false)).await;
    }
    let promoted = random.random_bool(0.5);
    if promoted && random.random_bool(0.3) {
        rig.shed(view);
    }
    if promoted {
        rig.batch
            .promote(run.id)
            .await
            .expect("nothing made it stale");
        "staged, promoted"
    } else {
        rig.batch.discard(run.id).await.expect("it is staged");
        "staged, discarded"
    }
}

fn seeds() -> u64 {
    std::env::var("DOVETAIL_SIM_SEEDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(12)
}

/// Every other seed has a stream of several partitions.
fn partitions(seed: u64) -> u32 {
    if seed.is_multiple_of(2) { 1 } else { 3 }
}

fn first_seed() -> u64 {
    std::env::var("DOVETAIL_SIM_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

/// Any order of pushes, merges, archives, runs, promotes, rollbacks, exclusions, redefinitions and new columns: every
/// merged answer equals the oracle at its own position.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_equals_the_oracle_at_its_own_position() {
    for seed in first_seed()..first_seed() + seeds() {
        let mut random = StdRng::seed_from_u64(seed);
        let rig = Rig::with_partitions(64 << 20, partitions(seed)).await;
        let views = [
            rig.create_view("hourly", HOURLY).await,
            rig.create_view("total", TOTAL).await,
            rig.create_view("by_origin", BY_ORIGIN).await,
        ];
        let mut history = vec![];
        for round in 0..60 {
            history.push(step(&rig, &views, &mut random).await);
            println!("seed {seed}: {}", history.last().unwrap());
            for name in ["hourly", "total", "by_origin"] {
                rig.check(name).await;
            }
            if round % 4 == 3 {
                rig.check_stream().await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_on_history_is_building_until_its_first_generation() {
    let rig = Rig::new(64 << 20).await;
    let mut random = StdRng::seed_from_u64(1);
    rig.push(&events(&mut random));
    rig.push(&[(START_US, Some("SFO"), Some(1), 100)]);
    let view = rig.create_view("late", HOURLY).await;
    let problem = rig
        .query("SELECT * FROM late", Layer::Merged)
        .await
        .unwrap_err();
    assert_eq!(problem.kind.status(), 503, "{problem}");
    rig.push(&events(&mut random));
    let built = rig.run(&view, StartRequest::build()).await;
    assert_eq!(built.outcome, Outcome::Promoted);
    rig.check("late").await;
    // Whoever else saw that it was to be built comes too late.
    let again = rig.batch.start(&view, StartRequest::build()).await;
    assert!(matches!(again, Err(BatchError::NothingToBuild(_))));
    rig.push(&events(&mut random));
    rig.check("late").await;
}

/// Runs of one definition never stand beside a generation of another, even if their columns have the same types.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_definition_after_a_rollback_is_not_taken_for_the_one_rolled_back() {
    let rig = Rig::new(64 << 20).await;
    let flights = [(START_US, Some("SFO"), Some(1), 200); 3];
    let view = rig.create_view("by_origin", BY_ORIGIN).await;
    rig.push(&flights);
    let mut built = vec![];
    for sql in [REDEFINED, REDEFINED_AGAIN] {
        rig.redefine_view(&view, sql).await;
        rig.run(&view, start(RunMode::Full, false)).await;
        built.extend(rig.catalog.state().views[&view].live);
        rig.push(&flights);
        rig.check("by_origin").await;
        rig.batch.rollback(&view, None).await.unwrap();
        rig.push(&flights);
        rig.check("by_origin").await;
    }
    for generation in [built[1], built[0], built[1]] {
        rig.batch.rollback(&view, Some(generation)).await.unwrap();
        rig.push(&flights);
        rig.check("by_origin").await;
    }
}

/// A definition that is superseded while a generation of it is brought forward joins the cut again, as any earlier
/// one, and what superseded it is given up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_definition_that_is_superseded_meanwhile_is_brought_back() {
    let rig = Rig::new(64 << 20).await;
    let view = rig.create_view("by_origin", BY_ORIGIN).await;
    rig.push(&[(START_US, Some("SFO"), Some(1), 200)]);
    rig.redefine_view(&view, REDEFINED).await;
    let staged = rig.run(&view, start(RunMode::Full, true)).await;
    assert_eq!(held(&rig), [1, 2]);

    // Something is acknowledged that no cut holds yet, so a target must wait for it.
    rig.cell.note_acknowledged(&Position::single(Offset(2)));
    let mut rollback = Box::pin(rig.batch.rollback(&view, staged.generation));
    assert!(futures::poll!(&mut rollback).is_pending());
    rig.redefine_view(&view, REDEFINED_AGAIN).await;
    assert_eq!(held(&rig), [1, 3]);
    rig.push(&[(START_US, Some("JFK"), None, 200)]);
    assert_eq!(rollback.await.unwrap().given_up, Some(3));
    assert_eq!(held(&rig), [2]);
    rig.check("by_origin").await;
}

/// To go back from what is being built is to give it up: what answers stays, and its schedule.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_while_a_definition_is_built_gives_up_that_alone() {
    let rig = Rig::new(64 << 20).await;
    let view = rig.create_view("by_origin", BY_ORIGIN).await;
    rig.push(&[(START_US, Some("SFO"), Some(1), 200)]);
    rig.redefine_view(&view, REDEFINED).await;
    rig.run(&view, start(RunMode::Full, false)).await;
    rig.redefine_view(&view, REDEFINED_AGAIN).await;
    let live = rig.catalog.state().views[&view].live.unwrap();
    let published = rig.batch.rollback(&view, None).await.unwrap();
    assert_eq!((published.given_up, published.live), (Some(3), live));
    assert_eq!((published.before, published.candidate), (Some(live), live));
    assert!(!published.schedule_paused);
    assert_eq!(held(&rig), [2]);
    rig.check("by_origin").await;
    let published = rig.batch.rollback(&view, None).await.unwrap();
    assert_eq!(published.before, Some(live));
    assert!(published.candidate < live, "{published:?}");
    assert!(published.schedule_paused);
    assert_eq!(held(&rig), [1]);
    rig.check("by_origin").await;
}

/// A view that is dropped while a new definition is built comes back with both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_comes_back_with_the_definition_that_was_being_built() {
    let rig = Rig::new(64 << 20).await;
    let view = rig.create_view("by_origin", BY_ORIGIN).await;
    rig.push(&[(START_US, Some("SFO"), Some(1), 200)]);
    rig.redefine_view(&view, REDEFINED).await;
    rig.batch.drop_view(&view).await.unwrap();
    assert!(held(&rig).is_empty());
    rig.push(&[(START_US, Some("JFK"), None, 200)]);
    let state = rig.catalog.state();
    let dropped = &state.views[&view];
    let (live, pending) = (rig.compile(BY_ORIGIN), rig.compile(REDEFINED));
    let restored = rig.batch.undrop_view(dropped, live, Some(pending)).await;
    assert!(restored.unwrap(), "it answers");
    assert_eq!(held(&rig), [1, 2]);
    rig.check("by_origin").await;
    rig.push(&[(START_US, Some("SFO"), None, 300)]);
    rig.run(&view, StartRequest::build()).await;
    assert_eq!(held(&rig), [2]);
    rig.check("by_origin").await;
}

/// Versions of the definitions that the cut holds, of all views.
fn held(rig: &Rig) -> Vec<u64> {
    let cut = rig.cell.load();
    cut.all_views().map(|(_, view)| view.version).collect()
}

/// A pin that is taken while runs are being merged makes the merge vain: the edge may become a horizon.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_merge_never_hides_an_edge_that_was_pinned_meanwhile() {
    let rig = Rig::new(64 << 20).await;
    let view = rig.create_view("hourly", HOURLY).await;
    let flight = [(START_US, Some("SFO"), Some(1), 100)];
    rig.push(&flight);
    let (pin, _) = rig.cell.pin();
    rig.push(&flight);
    let held = rig.cell.load().views()[&view].clone();
    let merged = || held.view.merge(&held.runs).unwrap();
    assert!(!rig.cell.replace_runs(&view, held.version, merged()));
    assert_eq!(rig.cell.load().views()[&view].runs.len(), 2);
    drop(pin);
    assert!(rig.cell.replace_runs(&view, held.version, merged()));
    assert_eq!(rig.cell.load().views()[&view].runs.len(), 1);
    rig.check("hourly").await;
}

/// The raw log may be ahead of the cut: the commit got through, and whoever waited for it was gone or saw an error.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_that_the_cut_missed_is_followed() {
    let rig = Rig::new(64 << 20).await;
    let view = rig.create_view("hourly", HOURLY).await;
    let flights = [(START_US, Some("SFO"), Some(1), 200); 3];
    for round in 0..4 {
        rig.push(&flights);
        rig.archive_unheard().await;
        let archived = rig.cell.load().raw().archived().clone();
        assert_ne!(archived, *rig.cell.load().position());
        rig.push(&flights);
        match round {
            0 => rig.archive().await,
            1 => drop(rig.run(&view, start(RunMode::Incremental, false)).await),
            2 => rig.upkeep().await,
            _ => rig.add_column(&flights).await,
        }
        rig.check_stream().await;
        rig.check("hourly").await;
    }
    rig.archive().await;
    rig.run(&view, start(RunMode::Full, false)).await;
    rig.check_stream().await;
    rig.check("hourly").await;
}

/// A batch run that is cancelled takes the archive that it waits for to its end.
/// On one thread, so that nothing is archived before the waiting is over.
#[tokio::test]
async fn an_archive_goes_on_when_nobody_waits_for_it() {
    let rig = Rig::new(64 << 20).await;
    let view = rig.create_view("hourly", HOURLY).await;
    let flights = [(START_US, Some("SFO"), Some(1), 200); 3];
    for _ in 0..8 {
        rig.push(&flights);
        let end = rig.cell.load().position().clone();
        let mut archiving = Box::pin(rig.archive());
        assert!(futures::poll!(&mut archiving).is_pending());
        drop(archiving);
        rig.push(&flights);
        let archived = async {
            while *rig.cell.load().raw().archived() != end {
                tokio::task::yield_now().await;
            }
        };
        let archived = tokio::time::timeout(Duration::from_secs(60), archived).await;
        archived.expect("the raw log and the cut advance together");
        rig.check_stream().await;
        rig.run(&view, start(RunMode::Incremental, false)).await;
        rig.check_stream().await;
        rig.check("hourly").await;
    }
}

/// Archived events, a tail and a batch on its way to the speed layer, all of the schema before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_grows_under_archive_tail_and_a_batch_on_its_way() {
    let rig = Rig::new(64 << 20).await;
    let view = rig.create_view("hourly", HOURLY).await;
    let flight = [(START_US, Some("SFO"), Some(1), 100); 9];
    for _ in MORE_COLUMNS {
        rig.push(&flight);
        rig.archive().await;
        rig.push(&flight);
        rig.add_column(&flight).await;
        rig.check_stream().await;
        rig.push(&flight);
        rig.check_stream().await;
        rig.check("hourly").await;
    }
    rig.archive().await;
    rig.check_stream().await;
    rig.run(&view, start(RunMode::Full, false)).await;
    rig.check("hourly").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_a_table_with_the_same_seam() {
    let rig = Rig::new(64 << 20).await;
    let mut random = StdRng::seed_from_u64(2);
    for round in 0..6 {
        rig.push(&events(&mut random));
        if round % 3 == 1 {
            rig.archive().await;
        }
        let (rows, provenance) = rig
            .query(
                "SELECT count(*) AS n, sum(distance) AS d FROM flights",
                Layer::Merged,
            )
            .await
            .unwrap();
        let token: dovetail_model::PositionToken = provenance.streams[0].position.parse().unwrap();
        let expected = rig
            .oracle
            .answer(
                "SELECT count(*) AS n, sum(distance) AS d FROM flights",
                &token.position,
                &[],
            )
            .await;
        assert_eq!(
            arrow::util::pretty::pretty_format_batches(&rows)
                .unwrap()
                .to_string(),
            arrow::util::pretty::pretty_format_batches(&expected)
                .unwrap()
                .to_string()
        );
    }
}

/// A question that was asked is answered from the files of its cut, even if they are compacted away before it
/// has read them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_outlives_the_files_it_reads() {
    const ROWS: usize = 20_000;
    let rig = Rig::new(64 << 20).await;
    let events = vec![(START_US, Some("SFO"), Some(1), 100); ROWS];
    for _ in 0..10 {
        rig.push(&events);
        rig.archive().await;
    }
    let asked = rig.ask("SELECT * FROM flights", Layer::Merged).await;
    rig.upkeep().await;
    // Time goes on, so that what was compacted away counts as old.
    rig.push(&events);
    rig.upkeep().await;
    let (rows, _) = collect(asked.unwrap()).await.unwrap();
    let rows: usize = rows.iter().map(|batch| batch.num_rows()).sum();
    assert_eq!(rows, 10 * ROWS);
}

/// A generation that retention lets go while it is brought forward does not become live: its files may be gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_to_what_expires_meanwhile_is_refused() {
    let rig = Rig::new(64 << 20).await;
    let view = rig.create_view("hourly", HOURLY).await;
    let old = rig.catalog.state().views[&view].live.unwrap();
    rig.push(&[(START_US, Some("SFO"), Some(1), 100)]);
    rig.run(&view, start(RunMode::Incremental, false)).await;

    // Something is acknowledged that no cut holds yet, so a target must wait for it.
    rig.cell.note_acknowledged(&Position::single(Offset(2)));
    let mut rollback = Box::pin(rig.batch.rollback(&view, Some(old)));
    assert!(futures::poll!(&mut rollback).is_pending());
    let expired = Entry::GenerationsExpired {
        view: view.clone(),
        generations: vec![old],
    };
    let mut entries = Some(vec![expired]);
    let decide = |_: &CatalogState| Ok::<_, Problem>(entries.take().unwrap_or_default());
    rig.catalog.commit(decide).await.unwrap();
    rig.push(&[(START_US, Some("JFK"), None, 200)]);
    let error = rollback.await.unwrap_err();
    assert!(error.to_string().contains("generation"), "{error}");
    rig.check("hourly").await;
}

/// A query or a diff of a run that is discarded under it can still read: what was readable a moment ago keeps
/// its files for a while, however long ago they were written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_discarded_generation_keeps_its_files_for_a_grace() {
    let rig = Rig::new(64 << 20).await;
    let policy = RetentionPolicy::default();
    let view = rig.create_view("hourly", HOURLY).await;
    rig.push(&[(START_US, Some("SFO"), Some(1), 100)]);
    let staged = rig.run(&view, start(RunMode::Full, true)).await;
    // The files are days old when the run is discarded.
    rig.wait(Duration::from_secs(3 * 24 * 3600));
    let files = || async {
        let root = Path::from(format!("views/{view}/files"));
        let listed: Vec<_> = rig.store.list(Some(&root)).try_collect().await.unwrap();
        listed.len()
    };
    let before = files().await;
    rig.batch.discard(staged.id).await.unwrap();
    rig.batch.sweep(&policy).await.unwrap();
    assert_eq!(files().await, before, "nothing goes at once");
    rig.wait(Duration::from_secs(2 * 3600));
    rig.batch.sweep(&policy).await.unwrap();
    assert_eq!(files().await, before - 1, "the discarded one went");
    assert!(rig.catalog.state().views[&view].expired.is_empty());
    rig.check("hourly").await;
}
