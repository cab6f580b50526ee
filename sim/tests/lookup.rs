// SPDX-License-Identifier: Apache-2.0
//! Lookups by key answer what SQL answers at the same cut: over any keys, states, generations and runs.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use dovetail_batch_layer::StartRequest;
use dovetail_model::{ProblemKind, RunMode};
use dovetail_serving_layer::ports::Layer;
use dovetail_sim::{Event, Rig, lookup};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{Rng as _, SeedableRng as _};

const START_US: i64 = 978_307_200_000_000;
const HOUR_US: i64 = 3_600_000_000;
const SEEDS: u64 = 10;
const ROUNDS: usize = 10;
/// A column of this name has keys that `=` compares otherwise.
const INEXACT: &str = "half";

const KEYS: [&str; 8] = [
    "origin AS origin",
    "date_trunc('hour', at) AS hour",
    "CAST(at AS DATE) AS day",
    "delay AS delay",
    "distance % 7 AS weekday",
    "delay > 10 AS late",
    "CAST(distance AS DECIMAL(12, 2)) AS exact",
    "distance / 2.0 AS half",
];
const AGGREGATES: [&str; 8] = [
    "count(*) AS n",
    "sum(distance) AS total",
    "avg(delay) AS mean",
    "max(delay) - min(delay) AS spread",
    "count(DISTINCT distance) AS distances",
    "approx_distinct(distance) AS about",
    "array_agg(distance ORDER BY distance) AS list",
    "first_value(delay ORDER BY distance, at) AS first",
];

/// A view of one to three keys and as many aggregates.
fn definition(random: &mut StdRng) -> String {
    let mut keys = KEYS.to_vec();
    keys.shuffle(random);
    keys.truncate(random.random_range(1..4));
    let mut aggregates = AGGREGATES.to_vec();
    aggregates.shuffle(random);
    aggregates.truncate(random.random_range(1..5));
    let mut columns = [keys.as_slice(), &aggregates].concat();
    columns.shuffle(random);
    let names: Vec<&str> = keys
        .iter()
        .filter_map(|key| key.split(" AS ").last())
        .collect();
    format!(
        "SELECT {} FROM flights GROUP BY {}",
        columns.join(", "),
        names.join(", ")
    )
}

fn events(random: &mut StdRng) -> Vec<Event> {
    let origins = [Some("SFO"), Some("JFK"), Some("o'Hare"), Some(""), None];
    let event = |random: &mut StdRng| {
        let at = START_US + random.random_range(0..40) * HOUR_US;
        let delay = random.random_bool(0.8).then(|| random.random_range(-5..30));
        let origin = *origins.choose(random).unwrap();
        (at, origin, delay, random.random_range(0..12))
    };
    (0..random.random_range(1..60))
        .map(|_| event(random))
        .collect()
}

fn start(mode: RunMode) -> StartRequest {
    StartRequest {
        mode,
        trigger: "user",
        ..StartRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lookup_answers_what_sql_answers_at_the_same_cut() {
    for seed in 0..SEEDS {
        let mut random = StdRng::seed_from_u64(seed);
        let rig = Rig::new(64 << 20).await;
        let sql = definition(&mut random);
        println!("seed {seed}: {sql}");
        let view = rig.create_view("v", &sql).await;
        let compiled = rig.compile(&sql);
        assert_eq!(compiled.has_exact_keys(), !sql.contains(INEXACT));
        for _ in 0..ROUNDS {
            match random.random_range(0..10) {
                0..5 => rig.push(&events(&mut random)),
                5..7 => while rig.merge() {},
                7 => drop(rig.run(&view, start(RunMode::Incremental)).await),
                8 => drop(rig.run(&view, start(RunMode::Full)).await),
                // The groups that it empties leave with the next full run.
                _ => drop(
                    rig.exclude(&format!("distance = {}", random.random_range(0..12)))
                        .await,
                ),
            }
            let (rows, _) = rig.query("SELECT * FROM v", Layer::Merged).await.unwrap();
            for key in lookup::keys(&compiled, &rows) {
                rig.check_key("v", &compiled, &key).await.unwrap();
            }
        }
    }
}

/// Groups that are in the generation alone, in runs alone, in several runs and in both; and what exclusions emptied.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_is_found_wherever_its_states_are() {
    let rig = Rig::new(64 << 20).await;
    let sql = "SELECT origin, count(*) AS n, avg(distance) AS mean FROM flights GROUP BY origin";
    let view = rig.create_view("v", sql).await;
    let compiled = rig.compile(sql);
    let event = |origin, distance| (START_US, origin, Some(1), distance);
    rig.push(&[
        event(Some("old"), 2),
        event(Some("both"), 4),
        event(None, 8),
        event(Some("wrong"), 16),
    ]);
    rig.exclude("distance = 16").await;
    rig.run(&view, start(RunMode::Full)).await;
    rig.push(&[
        event(Some("both"), 6),
        event(Some("new"), 3),
        event(None, 10),
    ]);
    rig.push(&[event(Some("both"), 8), event(None, 12)]);
    let (rows, _) = rig
        .query("SELECT * FROM v ORDER BY n", Layer::Merged)
        .await
        .unwrap();
    let all = arrow::compute::concat_batches(&rows[0].schema(), &rows).unwrap();
    assert_eq!(all.num_rows(), 4, "{}", lookup::shown(&rows));
    for row in 0..all.num_rows() {
        let key = &lookup::keys(&compiled, &[all.slice(row, 1)])[0];
        rig.check_key("v", &compiled, key).await.unwrap();
        let (found, _) = rig.look_up("v", key, Layer::Merged).await.unwrap();
        assert_eq!(lookup::shown(&found), lookup::shown(&[all.slice(row, 1)]));
        // The generation alone knows two of them, and less of one.
        let (batch, from) = rig.look_up("v", key, Layer::Batch).await.unwrap();
        let sql = lookup::sql("v", key);
        let (expected, _) = rig.query(&sql, Layer::Batch).await.unwrap();
        assert_eq!(lookup::shown(&batch), lookup::shown(&expected));
        assert_eq!(from.streams[0].position, "flights~k3f:0@4");
    }
    assert_eq!(rig.engine.direct_lookups(), 12);
}

/// What stands in the way of an answer is said as without a direct one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lookup_is_refused_as_a_query_is() {
    let rig = Rig::new(64 << 20).await;
    let sql = "SELECT origin, 100 / (count(*) - 2) AS x FROM flights GROUP BY origin";
    let view = rig.create_view("v", sql).await;
    let compiled = rig.compile(sql);
    let event = (START_US, Some("SFO"), Some(1), 100);
    rig.push(&[event]);
    let (rows, _) = rig.query("SELECT * FROM v", Layer::Merged).await.unwrap();
    let key = &lookup::keys(&compiled, &rows)[0];
    rig.check_key("v", &compiled, key).await.unwrap();
    rig.push(&[event]);
    let refused = rig.query(&lookup::sql("v", key), Layer::Merged).await;
    let refused = refused.map(drop).unwrap_err();
    let problem = rig.look_up("v", key, Layer::Merged).await;
    let problem = problem.map(drop).unwrap_err();
    assert_eq!(problem.kind, ProblemKind::Unavailable);
    assert_eq!(
        (&problem.detail, &problem.members),
        (&refused.detail, &refused.members)
    );
    rig.shed(&view);
    let problem = rig
        .look_up("v", key, Layer::Merged)
        .await
        .map(drop)
        .unwrap_err();
    assert!(problem.detail.contains("holds nothing"), "{problem}");
}
