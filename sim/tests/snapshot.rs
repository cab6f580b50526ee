// SPDX-License-Identifier: Apache-2.0
//! One snapshot: both views and the stream, in one statement and alone, while events arrive, runs merge, tails
//! are archived, and generations are promoted, rolled back and redefined. Every answer equals the oracle at its
//! own stated position.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::{Array as _, AsArray as _, Int64Array, RecordBatch};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use dovetail_batch_layer::StartRequest;
use dovetail_model::{
    Exclusion, GenerationNumber, Offset, Outcome, PartitionId, Position, PositionToken,
    RepairScope, RunMode, ViewId,
};
use dovetail_serving_layer::ports::{Layer, Provenance};
use dovetail_sim::{Event, Rig};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::task::JoinSet;

const ORIGINS: [Option<&str>; 5] = [Some("SFO"), Some("JFK"), Some("LAX"), Some(""), None];
const HOUR_US: i64 = 3_600_000_000;
const START_US: i64 = 978_307_200_000_000;
const HOURLY: &str = "SELECT origin, date_trunc('hour', at) AS hour, count(*) AS n, sum(distance) AS d, \
     sum(delay) AS delays, avg(delay) AS mean FROM flights GROUP BY origin, hour";
const FAR_HOURLY: &str = "SELECT origin, date_trunc('hour', at) AS hour, count(*) AS n, sum(distance) AS d, \
     sum(delay) AS delays, avg(delay) AS mean FROM flights WHERE distance > 500 GROUP BY origin, hour";
const TOTAL: &str = "SELECT count(*) AS n, sum(distance) AS d, sum(delay) AS delays, avg(delay) AS mean FROM flights";
/// One statement over both views and the stream.
const ALL: &str = "SELECT 'hourly' AS what, origin, hour, n, d, delays, mean FROM hourly \
     UNION ALL SELECT 'total', NULL, NULL, n, d, delays, mean FROM total \
     UNION ALL SELECT 'stream', NULL, NULL, count(*), sum(distance), sum(delay), avg(delay) FROM flights";
/// The same as a join: what it counts of each.
const JOINED: &str = "SELECT h.n AS hourly, t.n AS total, s.n AS stream FROM (SELECT sum(n) AS n FROM hourly) h, \
     total t, (SELECT count(*) AS n FROM flights) s";

/// What happens while it is asked.
struct World {
    rig: Rig,
    known: Known,
    hourly: ViewId,
    total: ViewId,
    over: AtomicBool,
    moves: AtomicU64,
    answers: AtomicU64,
    positions: Mutex<BTreeSet<String>>,
}

/// Ends the world when it is dropped, also by a failure: else its threads would keep the test from ending.
struct Over(Arc<World>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Relaxed);
    }
}

impl World {
    fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }

    fn push_events(&self, mut random: StdRng) {
        // Bounded, so that the oracle stays quick; asked long enough, the last answers see only moves.
        for _ in 0..4000 {
            if !self.goes_on() {
                return;
            }
            let events = events(&mut random);
            // Known before it is durable: no answer may be ahead of the oracle.
            self.known.push(&events);
            self.rig.push(&events);
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn merge_runs(&self) {
        while self.goes_on() {
            if !self.rig.merge() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    async fn archive_tails(&self) {
        while self.goes_on() {
            for _ in 0..10 {
                self.rig.archive().await;
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
            self.rig.upkeep().await;
        }
    }

    /// Moves the pointer of a view in every way there is, one after the other.
    async fn move_pointer(&self, view: &ViewId, mut random: StdRng) {
        while self.goes_on() {
            match random.random_range(0..10) {
                0..3 => {
                    self.run(view, RunMode::Incremental, false).await;
                }
                5 if self.rig.catalog.state().views[view].pending.is_none() => {
                    self.run(view, RunMode::Repair, false).await;
                }
                3..=5 => {
                    self.run(view, RunMode::Full, false).await;
                }
                6 | 7 => self.stage(view, &mut random).await,
                8 => {
                    // Refused when there is nothing to go back to.
                    let _ = self.rig.batch.rollback(view, None).await;
                }
                _ if *view == self.hourly => self.redefine(view, &mut random).await,
                _ => {
                    let delay = random.random_range(-20..200);
                    self.rig.exclude(&format!("delay = {delay}")).await;
                }
            }
            self.moves.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn run(&self, view: &ViewId, mode: RunMode, dry_run: bool) -> bool {
        let scope = if mode == RunMode::Repair {
            let from_us = Some(START_US + 20 * HOUR_US);
            RepairScope {
                from_us,
                ..RepairScope::default()
            }
        } else {
            RepairScope::default()
        };
        let request = StartRequest {
            mode,
            scope,
            dry_run,
            trigger: "user",
            ..StartRequest::default()
        };
        let run = self.rig.batch.run_to_end(view, request).await;
        let run = run.expect("nobody else runs this view");
        // An exclusion that was declared in between makes a run stale, and nothing else makes it fail.
        let error = run.error.clone().unwrap_or_default();
        assert!(
            run.outcome != Outcome::Failed || error.contains("exclusions have changed"),
            "{error}"
        );
        run.outcome == Outcome::Staged
    }

    async fn stage(&self, view: &ViewId, random: &mut StdRng) {
        if !self.run(view, RunMode::Full, true).await {
            return;
        }
        let runs = &self.rig.catalog.state().runs;
        let staged = runs.values().rev().find(|run| run.view == *view);
        let id = staged.expect("it was just staged").id;
        if random.random_bool(0.7) {
            // Refused when an exclusion came in between; then it stays staged, and hurts nobody.
            let _ = self.rig.batch.promote(id).await;
        } else {
            self.rig.batch.discard(id).await.expect("it is staged");
        }
    }

    async fn redefine(&self, view: &ViewId, random: &mut StdRng) {
        let state = self.rig.catalog.state();
        let known = &state.views[view];
        if known.pending.is_none() {
            let far = known.def.sql.contains("500");
            self.rig
                .redefine_view(view, if far { HOURLY } else { FAR_HOURLY })
                .await;
            // Queries go on over the old definition for a while.
            tokio::time::sleep(Duration::from_millis(random.random_range(0..50))).await;
            self.run(view, RunMode::Full, false).await;
        }
    }

    /// Asks in every way in turn, until there are enough answers, and checks each.
    async fn ask(&self, wanted: u64, mut way: usize) {
        let mut covered = Position::zero();
        // Until enough has happened meanwhile, too: else it is no test of a snapshot at all.
        while self.answers.load(Ordering::Relaxed) < wanted
            || self.moves.load(Ordering::Relaxed) <= wanted / 20
        {
            let (sql, layer) = [
                (ALL, Layer::Merged),
                ("SELECT * FROM hourly", Layer::Merged),
                (JOINED, Layer::Merged),
                ("SELECT * FROM total", Layer::Merged),
                (ALL, Layer::Merged),
                (TOTAL, Layer::Merged),
                ("SELECT * FROM hourly", Layer::Batch),
                (ALL, Layer::Batch),
                (JOINED, Layer::Batch),
            ][way % 9];
            way += 1;
            let answer = self.rig.query(sql, layer).await;
            let (rows, provenance) = answer.expect("both views are live");
            let [stream] = provenance.streams.as_slice() else {
                panic!("{sql} read one stream: {provenance:?}");
            };
            let token: PositionToken = stream.position.parse().expect("a token");
            let at = token.position;
            self.check(sql, &rows, &provenance, at.get(PartitionId(0)));
            if layer == Layer::Merged {
                assert!(
                    at.covers(&covered),
                    "{covered:?} was answered before {at:?}"
                );
                covered = at;
            }
            self.answers.fetch_add(1, Ordering::Relaxed);
            let mut positions = self.positions.lock().unwrap();
            positions.insert(stream.position.clone());
        }
    }

    fn check(&self, sql: &str, rows: &[RecordBatch], from: &Provenance, at: Offset) {
        let stream = || self.known.answer(TOTAL, &[], at);
        match sql {
            ALL => {
                for view in ["hourly", "total"] {
                    assert_eq!(
                        groups(rows, Some(view)),
                        self.view(view, from, at),
                        "{from:?}"
                    );
                }
                assert_eq!(groups(rows, Some("stream")), stream(), "{from:?}");
            }
            JOINED => {
                let count = |groups: Groups| groups.values().map(|group| group.n).sum::<i64>();
                assert_eq!(
                    sum_of(rows, "hourly"),
                    count(self.view("hourly", from, at)),
                    "{from:?}"
                );
                assert_eq!(
                    sum_of(rows, "total"),
                    count(self.view("total", from, at)),
                    "{from:?}"
                );
                assert_eq!(sum_of(rows, "stream"), count(stream()), "{from:?}");
            }
            TOTAL => assert_eq!(groups(rows, None), stream(), "{from:?}"),
            _ => {
                let view = &from.views[0].view;
                assert_eq!(groups(rows, None), self.view(view, from, at), "{from:?}");
            }
        }
    }

    /// What a view must answer: by the definition and the exclusions of the generation that it says it read,
    /// and up to that generation's horizon where it answers alone.
    fn view(&self, name: &str, from: &Provenance, at: Offset) -> Groups {
        let mut read = from.views.iter().filter(|view| view.view == name);
        let first = read.next().expect("it was read");
        let number: GenerationNumber = first.generation;
        assert!(
            read.next().is_none(),
            "one generation of a view in one answer"
        );
        let state = self.rig.catalog.state();
        let view = state.view_named(name).expect("it is there");
        let manifest = &view.generations[&number];
        let horizon = manifest.inputs.horizon.get(PartitionId(0));
        let at = match first.layer {
            Layer::Merged => at,
            Layer::Batch => {
                assert!(at <= horizon, "the answer's position is true of each view");
                let beyond = first.notes.iter().any(|note| note.contains("beyond"));
                assert_eq!(beyond, at < horizon, "{from:?}");
                horizon
            }
        };
        self.known
            .answer(&manifest.sql, &manifest.inputs.exclusions, at)
    }
}

/// A group as both views and the stream show it.
#[derive(Debug, Default, PartialEq)]
struct Group {
    n: i64,
    d: Option<i64>,
    delays: Option<i64>,
    mean: Option<f64>,
}

/// By origin and hour; one group without either where nothing is grouped.
type Groups = BTreeMap<(Option<String>, Option<i64>), Group>;

/// Every event that was ever pushed, by offset: the oracle, which knows no SQL but the few texts above.
#[derive(Default)]
struct Known(Mutex<Vec<Event>>);

impl Known {
    fn push(&self, events: &[Event]) {
        self.0.lock().unwrap().extend_from_slice(events);
    }

    fn answer(&self, sql: &str, exclusions: &[Exclusion], at: Offset) -> Groups {
        let grouped = sql.contains("GROUP BY");
        let far = sql.contains("500");
        let wrong: Vec<(u64, Option<i32>)> = exclusions
            .iter()
            .map(|exclusion| {
                let delay = exclusion.predicate.strip_prefix("delay = ").unwrap();
                (exclusion.bound.get(PartitionId(0)).0, delay.parse().ok())
            })
            .collect();
        let mut groups = Groups::new();
        if !grouped {
            groups.insert((None, None), Group::default());
        }
        let known = self.0.lock().unwrap();
        let mut counts: BTreeMap<(Option<String>, Option<i64>), i64> = BTreeMap::new();
        for (offset, (time, origin, delay, distance)) in (0..at.0).zip(known.iter()) {
            let excluded = |(bound, wrong): &(u64, Option<i32>)| offset < *bound && delay == wrong;
            if (far && *distance <= 500) || wrong.iter().any(excluded) {
                continue;
            }
            let key = if grouped {
                (
                    origin.map(str::to_owned),
                    Some(time - time.rem_euclid(HOUR_US)),
                )
            } else {
                (None, None)
            };
            let group = groups.entry(key.clone()).or_default();
            group.n += 1;
            group.d = Some(group.d.unwrap_or(0) + distance);
            if let Some(delay) = delay {
                group.delays = Some(group.delays.unwrap_or(0) + i64::from(*delay));
                *counts.entry(key).or_default() += 1;
            }
        }
        for (key, count) in counts {
            let group = groups.get_mut(&key).unwrap();
            group.mean = group.delays.map(|sum| sum as f64 / count as f64);
        }
        groups
    }
}

/// The groups in an answer: all of them, or those of one member of [`ALL`].
fn groups(rows: &[RecordBatch], what: Option<&str>) -> Groups {
    let mut groups = Groups::new();
    for batch in rows {
        let text = |name: &str| {
            let column = batch.column_by_name(name)?;
            Some(
                cast(column, &DataType::Utf8)
                    .unwrap()
                    .as_string::<i32>()
                    .clone(),
            )
        };
        let number = |name: &str| {
            let column = batch.column_by_name(name)?;
            Some(
                cast(column, &DataType::Int64)
                    .unwrap()
                    .as_primitive::<Int64Type>()
                    .clone(),
            )
        };
        let at = |column: &Option<Int64Array>, row| {
            let column = column.as_ref()?;
            column.is_valid(row).then(|| column.value(row))
        };
        let (member, origin, hour) = (text("what"), text("origin"), number("hour"));
        let (n, d, delays) = (number("n"), number("d"), number("delays"));
        let mean = batch
            .column_by_name("mean")
            .unwrap()
            .as_primitive::<Float64Type>();
        for row in 0..batch.num_rows() {
            if member.as_ref().is_some_and(|m| Some(m.value(row)) != what) {
                continue;
            }
            let origin = origin.as_ref().filter(|origin| origin.is_valid(row));
            let key = (origin.map(|o| o.value(row).to_owned()), at(&hour, row));
            let group = Group {
                n: at(&n, row).unwrap(),
                d: at(&d, row),
                delays: at(&delays, row),
                mean: mean.is_valid(row).then(|| mean.value(row)),
            };
            assert!(
                groups.insert(key, group).is_none(),
                "a group is there twice"
            );
        }
    }
    groups
}

/// The sum of a column of counts.
fn sum_of(rows: &[RecordBatch], column: &str) -> i64 {
    let all = concat_batches(&rows[0].schema(), rows).expect("one schema");
    let column = all.column_by_name(column).expect("the column");
    let numbers = column.as_primitive::<Int64Type>();
    numbers.iter().flatten().sum()
}

fn events(random: &mut StdRng) -> Vec<Event> {
    let event = |random: &mut StdRng| {
        let hour = if random.random_bool(0.8) {
            random.random_range(20..24)
        } else {
            random.random_range(0..24)
        };
        let delay = random
            .random_bool(0.9)
            .then(|| random.random_range(-20..200));
        (
            START_US + hour * HOUR_US + random.random_range(0..HOUR_US),
            ORIGINS[random.random_range(0..ORIGINS.len())],
            delay,
            random.random_range(50..3000),
        )
    };
    (0..random.random_range(0..8))
        .map(|_| event(random))
        .collect()
}

fn from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// `DOVETAIL_SNAPSHOT_ANSWERS` says how many answers are checked, `DOVETAIL_SIM_SEED` what happens meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_answer_is_of_one_snapshot() {
    let seed = from_env("DOVETAIL_SIM_SEED").unwrap_or_else(rand::random);
    println!("DOVETAIL_SIM_SEED={seed}");
    let wanted = from_env("DOVETAIL_SNAPSHOT_ANSWERS").unwrap_or(300);
    let mut random = StdRng::seed_from_u64(seed);
    let rig = Rig::new(64 << 20).await;
    let world = Arc::new(World {
        hourly: rig.create_view("hourly", HOURLY).await,
        total: rig.create_view("total", TOTAL).await,
        rig,
        known: Known::default(),
        over: AtomicBool::new(false),
        moves: AtomicU64::new(0),
        answers: AtomicU64::new(0),
        positions: Mutex::default(),
    });
    let mut seeds = || StdRng::seed_from_u64(random.random());
    let mut movers = JoinSet::new();
    let (w, random) = (Arc::clone(&world), seeds());
    movers.spawn_blocking(move || w.push_events(random));
    let w = Arc::clone(&world);
    movers.spawn_blocking(move || w.merge_runs());
    let w = Arc::clone(&world);
    movers.spawn(async move { w.archive_tails().await });
    for view in [world.hourly.clone(), world.total.clone()] {
        let (w, random) = (Arc::clone(&world), seeds());
        movers.spawn(async move { w.move_pointer(&view, random).await });
    }
    let mut askers = JoinSet::new();
    for way in 0..3 {
        let w = Arc::clone(&world);
        askers.spawn(async move { w.ask(wanted, way * 2).await });
    }
    let over = Over(Arc::clone(&world));
    tokio::select! {
        () = all(&mut askers) => {}
        () = all(&mut movers) => panic!("the world stood still before it was over"),
    }
    drop(over);
    all(&mut movers).await;
    let moves = world.moves.load(Ordering::Relaxed);
    let positions = world.positions.lock().unwrap().len();
    println!("{wanted} answers at {positions} positions, {moves} moves of a pointer");
    assert!(positions as u64 > wanted / 20, "{positions} positions");
}

async fn all(tasks: &mut JoinSet<()>) {
    while let Some(ended) = tasks.join_next().await {
        ended.expect("no task saw what it must not see");
    }
}
