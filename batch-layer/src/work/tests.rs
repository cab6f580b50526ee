// SPDX-License-Identifier: Apache-2.0
use arrow::error::ArrowError;
use dovetail_model::{Exclusion, Offset, Position, RepairScope, Span};
use dovetail_seam::SeamError;
use dovetail_view::Answered;
use proptest::prelude::*;

use super::*;
use crate::compute::tests::{Stream, events_of};

/// What travels comes back as it was.
fn through_the_wire<T>(said: &T) -> T
where
    T: Serialize + serde::de::DeserializeOwned,
{
    serde_json::from_str(&serde_json::to_string(said).unwrap()).unwrap()
}

fn position(offset: u64) -> Position {
    Position::single(Offset(offset))
}

const SQLS: [&str; 3] = [
    "SELECT n % 7 AS k, count(*) AS events, avg(n) AS mean, max(text) AS last FROM s GROUP BY k",
    "SELECT text, n, sum(n) AS total, array_agg(n ORDER BY n DESC) AS all FROM s GROUP BY text, n",
    "SELECT count(*) AS events, approx_percentile_cont(n, 0.9) AS p90 FROM s",
];

prop_compose! {
    /// Batches of events, and three cuts between them: of the base, of the run, and where an exclusion ends.
    fn history()(
        numbers in prop::collection::vec(-50i64..50, 1..120),
        batches in 1usize..5,
        cuts in prop::array::uniform3(0u64..121),
        sql in prop::sample::select(&SQLS[..]),
        below in -60i64..60,
    ) -> History {
        History { numbers, batches, cuts, sql, below }
    }
}

#[derive(Debug, Clone)]
struct History {
    numbers: Vec<i64>,
    batches: usize,
    cuts: [u64; 3],
    sql: &'static str,
    below: i64,
}

impl History {
    fn exclusions(&self) -> Vec<Exclusion> {
        let exclusion = |bound| Exclusion {
            id: ExclusionId(1),
            predicate: format!("n < {}", self.below),
            reason: "wrong".to_owned(),
            bound: position(bound),
            declared_at: Default::default(),
        };
        (self.below % 2 == 0)
            .then(|| exclusion(self.cuts[2]))
            .into_iter()
            .collect()
    }
}

/// Computed here and by a worker that knows nothing but what travels and what is on the store.
async fn alike(history: History) {
    let stream = Stream::new(history.sql).await;
    let size = history.numbers.len().div_ceil(history.batches);
    for batch in history.numbers.chunks(size) {
        stream.archive(&events_of(batch)).await;
    }
    let computer = Computer::new(stream.computer());
    let archived = history.numbers.len() as u64;
    let [from, to, _] = history.cuts.map(|cut| cut.min(archived));
    let (from, to) = (position(from.min(to)), position(from.max(to)));
    let exclusions = history.exclusions();
    let keys = ["k > 0", "n < 3 AND length(text) = 2"];
    let predicate = SQLS.iter().position(|sql| *sql == history.sql);
    let predicate = predicate.and_then(|which| keys.get(which));
    let scope = RepairScope {
        predicate: predicate.map(|keys| (*keys).to_owned()),
        ..RepairScope::default()
    };
    let mut base = stream.nothing();
    let mut base_exclusions = vec![];
    for round in 0..4 {
        let manifest = Arc::clone(&base);
        let computation = match round {
            0 => Computation::Full {
                horizon: from.clone(),
                exclusions: vec![],
            },
            1 => Computation::Forward {
                base: manifest,
                to: to.clone(),
            },
            // Its groups are those of the scope, and those that the exclusion touches.
            2 => Computation::Repair {
                base: manifest,
                scope: scope.clone(),
                exclusions: exclusions.clone(),
            },
            _ => Computation::Full {
                horizon: to.clone(),
                exclusions: exclusions.clone(),
            },
        };
        let (id, view) = (stream.view_id(), stream.view());
        let work = Work::new(&id, "v", &view, &stream.def, &stream.raw(), computation);
        let here = stream.job().compute(&work.computation).await.unwrap();
        let read = stream.read_last();
        let progress = Arc::default();
        let answer = computer.compute(&through_the_wire(&work), &progress).await;
        let answer = through_the_wire(&answer);
        let there = answer.result.unwrap();
        let horizon = if round == 0 { &from } else { &to };
        if round >= 2 {
            base_exclusions = exclusions.clone();
        }
        let [one, other] = [&here, &there]
            .map(|computed| stream.manifest(computed.clone(), horizon, &base_exclusions));
        assert_eq!(
            stream.rows(&one).await,
            stream.rows(&other).await,
            "round {round}"
        );
        assert_eq!(here.files.len(), there.files.len());
        assert_eq!(answer.read.total(), read, "round {round}");
        base = other;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn a_worker_computes_what_would_be_computed_here(history in history()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(alike(history));
    }
}

#[tokio::test]
async fn work_says_all_and_survives_the_wire() {
    let stream = Stream::new(SQLS[0]).await;
    let base = stream.nothing();
    for computation in [
        Computation::Full {
            horizon: position(5),
            exclusions: vec![],
        },
        Computation::Forward {
            base: Arc::clone(&base),
            to: position(7),
        },
        Computation::Repair {
            base,
            scope: RepairScope {
                from_us: Some(-1),
                to_us: None,
                predicate: Some("k = 'it''s'".to_owned()),
            },
            exclusions: vec![],
        },
    ] {
        let (id, view) = (stream.view_id(), stream.view());
        let work = Work::new(&id, "v", &view, &stream.def, &stream.raw(), computation);
        assert_eq!(through_the_wire(&work), work);
    }
}

/// A worker of another engine would make states that do not merge with ours.
#[tokio::test]
async fn a_worker_that_would_compute_something_else_computes_nothing() {
    let stream = Stream::new(SQLS[0]).await;
    stream.archive(&events_of(&[1, 2, 3])).await;
    let computer = Computer::new(stream.computer());
    let whole = || Computation::Full {
        horizon: position(3),
        exclusions: vec![],
    };
    let (id, view) = (stream.view_id(), stream.view());
    let work = Work::new(&id, "v", &view, &stream.def, &stream.raw(), whole());
    let no_such_version = Work {
        raw_version: work.raw_version + 7,
        ..work.clone()
    };
    let other_engine = Work {
        state_fingerprint: "other".to_owned(),
        ..work
    };
    for work in [no_such_version, other_engine] {
        let answer = computer.compute(&work, &Arc::default()).await;
        assert!(matches!(answer.result, Err(Failure::Own(_))), "{answer:?}");
    }
}

/// The same words and the same kind, as if it had been computed here.
#[tokio::test]
async fn errors_of_the_data_mean_the_same_here() {
    let span = Span::up_to(position(3));
    let said = |error: BatchError| {
        let explained = error.explained("v", "s", &span, Answered::Others, &[]);
        (explained.kind(), explained.to_string())
    };
    for sql in [
        "SELECT n % 3 AS k, sum(1 / (n - 2)) AS x FROM s GROUP BY k",
        "SELECT n % 3 AS k, sum(CAST(text AS BIGINT)) AS x FROM s GROUP BY k",
        "SELECT n % 3 AS k, 10 / (count(*) - 1) AS x FROM s GROUP BY k",
        SQLS[0],
    ] {
        let stream = Stream::new(sql).await;
        stream.archive(&events_of(&[1, 2, 3])).await;
        let exclusion = Exclusion {
            id: ExclusionId(4),
            predicate: "100 / (n - 2) > 5".to_owned(),
            reason: "wrong".to_owned(),
            bound: position(3),
            declared_at: Default::default(),
        };
        let whole = Computation::Full {
            horizon: position(3),
            exclusions: (sql == SQLS[0]).then_some(exclusion).into_iter().collect(),
        };
        let (id, view) = (stream.view_id(), stream.view());
        let work = Work::new(&id, "v", &view, &stream.def, &stream.raw(), whole);
        let here = stream.job().compute(&work.computation).await.unwrap_err();
        let computer = Computer::new(stream.computer());
        let answer = computer.compute(&work, &Arc::default()).await;
        let failure = through_the_wire(&answer).result.unwrap_err();
        let there = failure.into_error(RunMode::Full, "w").unwrap();
        let (here, there) = (said(here), said(there));
        assert_eq!(here, there, "{sql}");
        assert_eq!(here.0, dovetail_model::ProblemKind::Conflict, "{here:?}");
        // Of 1, 2 and 3 the second cannot be divided by, and the first has no text that is a number.
        let named = match sql {
            _ if sql.contains("count(*) - 1") => "the group k = ",
            _ if sql.contains("CAST") => "the event at partition 0, offset 0",
            _ => "the event at partition 0, offset 1",
        };
        assert!(here.1.contains(named), "{here:?}");
    }
}

/// Neither the view nor an event is at fault.
#[tokio::test]
async fn a_where_that_fails_on_a_group_is_named() {
    let stream = Stream::new("SELECT n, count(*) AS c FROM s GROUP BY n").await;
    stream.archive(&events_of(&[1, 2, 3])).await;
    let whole = Computation::Full {
        horizon: position(3),
        exclusions: vec![],
    };
    let base = stream.job().compute(&whole).await.unwrap();
    let repair = Computation::Repair {
        base: stream.manifest(base, &position(3), &[]),
        scope: RepairScope {
            predicate: Some("1 / (n - 2) = 1".to_owned()),
            ..RepairScope::default()
        },
        exclusions: vec![],
    };
    let here = stream.job().compute(&repair).await.unwrap_err();
    let there = Failure::of(&here).into_error(RunMode::Repair, "w").unwrap();
    for error in [here, there] {
        let span = Span::up_to(position(3));
        let error = error.explained("v", "s", &span, Answered::Others, &[]);
        assert_eq!(error.kind(), dovetail_model::ProblemKind::Conflict);
        assert_eq!(
            error.to_string(),
            "the `where` of the repair (`1 / (n - 2) = 1`) cannot be computed for the group n = 2, \
             which the event at partition 0, offset 1 falls in: divide by zero error; \
             the view is as it was: ask again with one that can be computed for every group \
             (nullif for a divisor, TRY_CAST for a cast, CASE for anything else)"
        );
    }
}

#[test]
fn what_is_not_of_the_run_is_the_workers_own_trouble() {
    let memory = BatchError::Memory {
        limit: 64 << 20,
        at_a_time: 2,
        mode: RunMode::Repair,
        worker: None,
        reason: "no room".to_owned(),
    };
    let failure = through_the_wire(&Failure::of(&memory));
    let there = failure
        .into_error(RunMode::Repair, "w")
        .unwrap()
        .to_string();
    assert!(
        there.contains("start the worker `w` with") && there.contains("64 MiB"),
        "{there}"
    );
    assert!(there.contains("fewer --batch-runs"), "{there}");
    let own = [
        BatchError::Engine(DataFusionError::Internal("oops".to_owned())),
        BatchError::Engine(DataFusionError::IoError(
            std::io::ErrorKind::StorageFull.into(),
        )),
        BatchError::Seam(SeamError::Forget("no disk".to_owned())),
        BatchError::Refused("not a key".to_owned()),
    ];
    for error in own {
        let text = error.to_string();
        let failure = through_the_wire(&Failure::of(&error));
        let back = failure
            .into_error(RunMode::Full, "w")
            .map(|_| ())
            .unwrap_err();
        assert_eq!(back, text);
    }
    let cast = ArrowError::CastError("Cannot cast string 'x' to value of Int64 type".to_owned());
    let cast = BatchError::Engine(cast.into());
    assert!(matches!(Failure::of(&cast), Failure::Event(_)));
}
