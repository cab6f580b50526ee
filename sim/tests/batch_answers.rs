// SPDX-License-Identifier: Apache-2.0
//! What answers from the batch layer alone say about themselves, where generations end at different positions.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::time::Duration;

use arrow::array::{AsArray as _, RecordBatch};
use arrow::datatypes::Int64Type;
use dovetail_batch_layer::StartRequest;
use dovetail_model::{GenerationNumber, ProblemKind, RunMode, ViewId};
use dovetail_serving_layer::ports::{Layer, Limits, Queries as _, QueryRequest};
use dovetail_sim::{Event, Rig};
use tokio::time::Instant;

const COUNT: &str = "SELECT count(*) AS n FROM flights";
const FAR: &str = "SELECT count(*) AS n FROM flights WHERE distance > 0";
const ALL: &str = "SELECT near.n AS near, far.n AS far, s.n AS stream FROM near, far, (SELECT count(*) AS n FROM flights) s";

fn events(count: usize) -> Vec<Event> {
    vec![(978_307_200_000_000, Some("SFO"), Some(1), 100); count]
}

fn number(rows: &[RecordBatch], column: &str) -> i64 {
    let column = rows[0].column_by_name(column).unwrap();
    column.as_primitive::<Int64Type>().value(0)
}

async fn refresh(rig: &Rig, view: &ViewId) {
    let request = StartRequest {
        mode: RunMode::Incremental,
        trigger: "user",
        ..StartRequest::default()
    };
    rig.run(view, request).await;
}

/// Two views over ten events; `near` has them all in its generation, `far` seven, and the log holds ten more.
async fn rig() -> Rig {
    let rig = Rig::new(64 << 20).await;
    let near = rig.create_view("near", COUNT).await;
    let far = rig.create_view("far", FAR).await;
    rig.push(&events(7));
    refresh(&rig, &far).await;
    rig.push(&events(3));
    refresh(&rig, &near).await;
    rig.push(&events(10));
    rig
}

#[tokio::test]
async fn one_answer_of_two_horizons_claims_no_more_than_both_cover() {
    let rig = rig().await;
    let (rows, from) = rig.query(ALL, Layer::Batch).await.unwrap();
    assert_eq!(
        (
            number(&rows, "near"),
            number(&rows, "far"),
            number(&rows, "stream")
        ),
        (10, 7, 7),
        "each view up to its horizon, the stream up to the stated position"
    );
    assert_eq!(from.streams[0].position, "flights~k3f:0@7");
    let view = |name: &str| from.views.iter().find(|v| v.view == name).unwrap();
    assert_eq!(view("near").horizon, "flights~k3f:0@10");
    assert_eq!(view("far").horizon, "flights~k3f:0@7");
    assert!(
        view("near").notes[0].contains("reach `flights~k3f:0@10`"),
        "{from:?}"
    );
    assert!(view("far").notes.is_empty(), "{from:?}");
    assert!(
        from.streams[0].freshness_ms.is_some_and(|ms| ms > 0),
        "ten events are not covered"
    );

    let (rows, from) = rig.query(ALL, Layer::Merged).await.unwrap();
    assert_eq!(number(&rows, "near"), 20);
    assert_eq!(number(&rows, "far"), 20);
    assert_eq!(number(&rows, "stream"), 20);
    assert_eq!(from.streams[0].position, "flights~k3f:0@20");
    assert!(from.views.iter().all(|view| view.notes.is_empty()));
}

#[tokio::test]
async fn a_number_of_a_generation_is_refused_where_it_could_mean_two() {
    let rig = rig().await;
    let ask = |sql: &'static str| {
        let timeout = Duration::from_secs(60);
        let limits = Limits {
            after: vec![],
            layer: Layer::Batch,
            generation: Some(GenerationNumber(2)),
            timeout,
            deadline: Instant::now() + timeout,
        };
        rig.engine.query(QueryRequest {
            sql: sql.to_owned(),
            parameters: None,
            limits,
        })
    };
    for sql in [ALL, "SELECT * FROM near, far", "SELECT * FROM flights"] {
        let refused = ask(sql).await.err().expect("it is no single view");
        assert_eq!(refused.kind, ProblemKind::Invalid, "{sql}");
        assert!(refused.detail.contains("exactly one view"), "{refused}");
    }
    let (rows, from) = dovetail_sim::collect(ask("SELECT n FROM near").await.unwrap())
        .await
        .unwrap();
    assert_eq!(number(&rows, "n"), 10);
    assert_eq!(from.streams[0].position, "flights~k3f:0@10");
}
