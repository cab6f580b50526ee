// SPDX-License-Identifier: Apache-2.0
//! A query that waits for the position it asked for is not at work.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::sync::Arc;
use std::time::Duration;

use dovetail_model::{Offset, Position, PositionToken, ProblemKind};
use dovetail_seam::Meter;
use dovetail_serving_layer::ports::{Layer, Limits, Queries as _, QueryRequest};
use dovetail_sim::Rig;
use tokio::time::Instant;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_execution_keeps_queries_busy() {
    let rig = Rig::new(64 << 20).await;
    let meter = Arc::<Meter>::default();
    let engine = rig.engine.clone().metered(Arc::clone(&meter));
    let ask = |after: Vec<PositionToken>, timeout| QueryRequest {
        sql: "SELECT count(*) AS n FROM flights".to_owned(),
        parameters: None,
        limits: Limits {
            after,
            layer: Layer::Merged,
            generation: None,
            timeout,
            deadline: Instant::now() + timeout,
        },
    };
    let stream = rig
        .catalog
        .state()
        .stream_named("flights")
        .unwrap()
        .def
        .id
        .clone();
    let beyond = PositionToken {
        name: "flights".to_owned(),
        stream,
        position: Position::single(Offset(1)),
    };
    let timed_out = engine
        .query(ask(vec![beyond], Duration::from_millis(300)))
        .await;
    assert_eq!(timed_out.err().unwrap().kind, ProblemKind::Timeout);
    assert_eq!(meter.rates().busy, 0.0);

    engine
        .query(ask(vec![], Duration::from_secs(60)))
        .await
        .unwrap();
    assert!(meter.rates().busy > 0.0);
}
