// SPDX-License-Identifier: Apache-2.0
//! A stream's schema grows while events arrive and batch runs work: nothing acknowledged is lost or doubled, and
//! no event is read in another schema than it was acknowledged in.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use dovetail::node::Node;
use dovetail_model::{Outcome, Problem, RunMode};
use dovetail_serving_layer::ports::{
    Change, Control as _, DdlResult, Ingest as _, OnError, RecomputeRequest, ReplayAnswer,
    ReplayRequest,
};
use dovetail_serving_layer::sql::parse_directory;

use crate::support::node::{append, define, integers, open};

const CREATE: &str = "CREATE STREAM events (n BIGINT NOT NULL, part BIGINT NOT NULL)";
const VIEW: &str = "CREATE VIEW parts AS SELECT part, count(*) AS seen, sum(n) AS numbers, max(_offset) AS last FROM events GROUP BY part";

async fn full_run(node: &Node, view: &str) {
    let request = RecomputeRequest {
        mode: RunMode::Full,
        ..RecomputeRequest::default()
    };
    let run = node.recompute(view, request).await.unwrap();
    let ended = node.batch().wait(run.id).await.unwrap();
    assert_eq!(ended.outcome, Outcome::Promoted, "{:?}", ended.error);
}

/// What the writers sent, and what was acknowledged of it.
struct Load {
    node: Node,
    next_part: AtomicI64,
    /// Set when the column `note` is there: what is appended from then on has it.
    noted: AtomicBool,
    done: AtomicBool,
}

impl Load {
    /// Appends of ten events, each with a part of its own, until told to stop. Answers how many events, and which
    /// parts were begun when the column was there.
    async fn write(self: Arc<Self>) -> (i64, Vec<i64>) {
        let (mut sent, mut with_notes) = (0, vec![]);
        while !self.done.load(Ordering::SeqCst) {
            let part = self.next_part.fetch_add(1, Ordering::SeqCst);
            if self.noted.load(Ordering::SeqCst) {
                with_notes.push(part);
            }
            let lines: String = (0..10)
                .map(|n| format!("{{\"n\":{n},\"part\":{part},\"note\":1}}\n"))
                .collect();
            let answer = append(&self.node, "events", &lines, OnError::Reject).await;
            assert_eq!((answer.accepted, answer.rejected), (10, 0));
            sent += 10;
        }
        (sent, with_notes)
    }

    /// Queries never fail, and hold whole appends. Nothing may have arrived yet.
    async fn read(self: Arc<Self>) {
        const SEEN: &str = "SELECT coalesce(sum(seen), 0) FROM parts";
        while !self.done.load(Ordering::SeqCst) {
            let sql = "SELECT count(*), sum(n), count(DISTINCT part) FROM events";
            let rows = integers(&self.node, sql, None).await;
            let parts = rows[0][2];
            assert_eq!(rows[0][0], parts * 10);
            let seen = integers(&self.node, SEEN, None).await;
            assert!(seen[0][0] >= parts * 10, "{seen:?} after {parts} parts");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_grows_under_appends_runs_and_queries() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let node = open(&data).await;
    define(&node, CREATE).await.unwrap();
    define(&node, VIEW).await.unwrap();
    let load = Arc::new(Load {
        node: node.clone(),
        next_part: AtomicI64::new(0),
        noted: AtomicBool::new(false),
        done: AtomicBool::new(false),
    });
    let writers: Vec<_> = (0..4)
        .map(|_| tokio::spawn(Arc::clone(&load).write()))
        .collect();
    let reader = tokio::spawn(Arc::clone(&load).read());
    full_run(&node, "parts").await;
    let before = load.next_part.load(Ordering::SeqCst);
    define(&node, "ALTER STREAM events ADD COLUMN note INT")
        .await
        .unwrap();
    load.noted.store(true, Ordering::SeqCst);
    full_run(&node, "parts").await;
    for n in 0..5 {
        let sql = format!("ALTER STREAM events ADD COLUMN more{n} VARCHAR");
        let (altered, ()) = tokio::join!(define(&node, &sql), full_run(&node, "parts"));
        altered.unwrap();
    }
    load.done.store(true, Ordering::SeqCst);
    reader.await.unwrap();
    let (mut sent, mut with_notes) = (10, vec![]);
    for writer in writers {
        let (events, parts) = writer.await.unwrap();
        sent += events;
        with_notes.extend(parts);
    }
    assert!(
        before > 0 && !with_notes.is_empty(),
        "the load was too small"
    );
    // Behind all that was acknowledged.
    let last = load.next_part.load(Ordering::SeqCst);
    let lines: String = (0..10)
        .map(|n| format!("{{\"n\":{n},\"part\":{last}}}\n"))
        .collect();
    let end = append(&node, "events", &lines, OnError::Reject).await;
    let end = end.position.as_str();
    drop(load);

    verify(&node, end, sent, &with_notes).await;
    node.shutdown().await;
    drop(node);
    let node = open(&data).await;
    verify(&node, end, sent, &with_notes).await;
    full_run(&node, "parts").await;
    verify(&node, end, sent, &with_notes).await;
    node.shutdown().await;
}

/// Every event once in stream and view; an append has its notes whole or, when it was decoded before, not at all.
async fn verify(node: &Node, end: &str, sent: i64, with_notes: &[i64]) {
    let all = integers(node, "SELECT count(*), sum(n) FROM events", Some(end)).await;
    assert_eq!(all, [[sent, sent / 10 * 45]]);
    let viewed = "SELECT sum(seen), sum(numbers), min(seen), max(seen), max(last) FROM parts";
    let viewed = integers(node, viewed, Some(end)).await;
    assert_eq!(viewed, [[sent, sent / 10 * 45, 10, 10, sent - 1]]);
    let noted = "SELECT part, count(*), count(note), count(more0) FROM events GROUP BY part";
    for row in integers(node, noted, Some(end)).await {
        assert_eq!((row[1], row[3]), (10, 0));
        assert!(
            [0, 10].contains(&row[2]),
            "part {} is torn: {row:?}",
            row[0]
        );
        if with_notes.contains(&row[0]) {
            assert_eq!(row[2], 10, "part {} has lost its notes", row[0]);
        }
    }
}

/// Decoded under the schema before, it is committed before the change, however long it takes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_under_way_ends_under_the_schema_it_began_in() {
    let home = tempfile::tempdir().unwrap();
    let node = open(&home.path().join("data")).await;
    define(&node, CREATE).await.unwrap();
    let lines: String = (0..100_000)
        .map(|n| format!("{{\"n\":{n},\"part\":0,\"note\":1}}\n"))
        .collect();
    let mut slow = Box::pin(append(&node, "events", &lines, OnError::Reject));
    assert!(futures::poll!(&mut slow).is_pending());
    let altered = define(&node, "ALTER STREAM events ADD COLUMN note INT");
    let (altered, slow) = tokio::join!(altered, slow);
    altered.unwrap();
    assert_eq!(slow.accepted, 100_000);
    let line = "{\"n\":0,\"part\":1,\"note\":1}\n";
    let end = append(&node, "events", line, OnError::Reject).await;
    let counted = "SELECT part, count(*), count(note) FROM events GROUP BY part ORDER BY part";
    let counted = integers(&node, counted, Some(&end.position)).await;
    assert_eq!(counted, [[0, 100_000, 0], [1, 1, 1]]);
    node.shutdown().await;
}

async fn letters(node: &Node, lines: &str) -> u64 {
    append(node, "orders", lines, OnError::DeadLetter)
        .await
        .rejected
}

async fn replay(node: &Node) -> (u64, u64) {
    let all = ReplayRequest { ids: None };
    let ReplayAnswer {
        accepted, rejected, ..
    } = node.replay_dead_letters("orders", all).await.unwrap();
    (accepted, rejected)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_land_once_when_the_schema_is_fixed() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let node = open(&data).await;
    define(
        &node,
        "CREATE STREAM orders (id BIGINT NOT NULL, town VARCHAR NOT NULL) WITH (unknown_columns = 'reject')",
    )
    .await
    .unwrap();
    define(
        &node,
        "CREATE VIEW total AS SELECT count(*) AS n, sum(id) AS ids FROM orders",
    )
    .await
    .unwrap();
    let lines = "{\"id\":1,\"town\":\"a\"}\n{\"id\":2,\"town\":\"a\",\"coupon\":\"x\"}\n{\"id\":4}\n\
                 {\"id\":8,\"coupon\":\"y\"}\n{\"id\":\"none\"}\n";
    assert_eq!(letters(&node, lines).await, 4);
    assert_eq!(replay(&node).await, (0, 4));
    // Each fix lets in what it makes readable, once.
    define(&node, "ALTER STREAM orders ADD COLUMN coupon VARCHAR")
        .await
        .unwrap();
    assert_eq!(replay(&node).await, (1, 3));
    assert_eq!(replay(&node).await, (0, 3));
    define(&node, "ALTER STREAM orders ALTER COLUMN town DROP NOT NULL")
        .await
        .unwrap();
    assert_eq!(replay(&node).await, (2, 1));
    assert_eq!(replay(&node).await, (0, 1));
    let end = append(&node, "orders", "{\"id\":16}\n", OnError::Reject).await;
    node.shutdown().await;
    drop(node);

    let node = open(&data).await;
    assert_eq!(replay(&node).await, (0, 1));
    for full in [false, true] {
        if full {
            full_run(&node, "total").await;
        }
        let events = "SELECT count(*), sum(id), count(town), count(coupon) FROM orders";
        let events = integers(&node, events, Some(&end.position)).await;
        assert_eq!(events, [[5, 31, 2, 2]]);
        let total = integers(&node, "SELECT n, ids FROM total", Some(&end.position)).await;
        assert_eq!(total, [[5, 31]]);
    }
    node.shutdown().await;
}

async fn apply(node: &Node, sql: &str) -> Result<Vec<Change>, Problem> {
    let files = || parse_directory(vec![("all.sql".to_owned(), sql.to_owned())]).unwrap();
    let planned = node.plan(files()).await;
    let streams = || node.catalog().state().streams.clone();
    let before = streams();
    assert_eq!(node.plan(files()).await, planned);
    assert_eq!(streams(), before, "plan changes nothing");
    let applied = node.apply(files()).await;
    assert_eq!(applied.is_ok(), planned.is_ok());
    match (&applied, &planned) {
        (Ok(applied), Ok(planned)) => assert_eq!(applied, planned),
        _ => assert_eq!(streams(), before, "all of it or nothing"),
    }
    applied
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_with_more_columns_alters_the_stream() {
    let home = tempfile::tempdir().unwrap();
    let node = open(&home.path().join("data")).await;
    let stream = |columns: &str| format!("CREATE STREAM s ({columns}) WITH (event_time = 'at');");
    let view =
        "CREATE VIEW v AS SELECT date_trunc('day', at) AS day, count(*) AS n FROM s GROUP BY day;";
    let declared = stream("at TIMESTAMP NOT NULL, a INT NOT NULL");
    let wrong = format!("{declared}CREATE VIEW v AS SELECT sum(b) AS b FROM s;");
    assert!(apply(&node, &wrong).await.is_err());
    apply(&node, &format!("{declared}{view}")).await.unwrap();
    let line = "{\"at\":\"2026-01-01T00:00:00\",\"a\":1}\n";
    let early = append(&node, "s", line, OnError::Reject).await;

    // A later view of the same directory sees the new column.
    let grown = stream("at TIMESTAMP NOT NULL, a INT, \"B b\" INT, c LIST<INT>");
    let by_c = "CREATE VIEW w AS SELECT count(c) AS n FROM s;";
    let changes = apply(&node, &format!("{grown}{view}{by_c}")).await.unwrap();
    let results: Vec<DdlResult> = changes.iter().map(|change| change.result).collect();
    assert_eq!(
        results,
        [DdlResult::Altered, DdlResult::Unchanged, DdlResult::Created]
    );
    assert_eq!(
        changes[0].details,
        ["+ \"B b\" INT", "+ c LIST<INT>", "a: NOT NULL -> NULL"]
    );
    let info = node.stream("s").await.unwrap();
    assert_eq!(info.columns.len(), 4);
    assert!(
        info.definition.contains("c LIST<INT>"),
        "{}",
        info.definition
    );
    // A token of the time before is one of the same stream.
    let sql = "SELECT count(*), count(c) FROM s";
    assert_eq!(integers(&node, sql, Some(&early.position)).await, [[1, 0]]);

    let again = apply(&node, &format!("{grown}{view}")).await.unwrap();
    assert!(
        again
            .iter()
            .all(|change| change.result == DdlResult::Unchanged)
    );
    for (columns, reason) in [
        ("at TIMESTAMP NOT NULL, a INT", "column `B b` would be gone"),
        (
            "at TIMESTAMP NOT NULL, a BIGINT, \"B b\" INT, c LIST<INT>",
            "column `a` is INT and would be BIGINT",
        ),
        (
            "at TIMESTAMP NOT NULL, a INT, \"B b\" INT, c LIST<INT>, day DATE",
            "view `v` uses the name `day` for something else",
        ),
    ] {
        let problem = apply(&node, &stream(columns)).await.unwrap_err();
        assert_eq!(problem.kind.status(), 409);
        assert!(problem.detail.contains(reason), "{problem}");
        assert_eq!(problem.members["file"], "all.sql");
    }
    node.shutdown().await;
}
