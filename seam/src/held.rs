// SPDX-License-Identifier: Apache-2.0
//! A cut as one question takes it, wherever the runs are: in this process, or in the one that takes the events.
//!
//! Purpose: law 3 (one snapshot) for a reader that runs apart from the speed layer. Taking a cut fixes its position and
//! names its runs; they are fetched later, by the scans that turn out to need them. Collaborators: [`StreamCell`] is
//! where a local cut comes from; another process answers [`RemoteRuns`] and [`RemoteTail`] out of the very cut that it
//! holds for the question. Non-goals: transport.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use datafusion::logical_expr::Expr;
use dovetail_log::raw::RawSnapshot;
use dovetail_model::{Position, PositionToken, Problem, ProblemKind, StreamDef, StreamId, ViewId};
use dovetail_view::Run;
use tokio::time::{Instant, timeout_at};

use crate::{Cut, Generation, Poisoned, StreamCell, Tail};

/// Finds the cells of the streams that this process serves.
pub trait Cells: Send + Sync + Debug {
    /// The stream's cell, unless it was dropped.
    fn cell(&self, id: &StreamId) -> Option<Arc<StreamCell>>;
}

/// What a question needs of one stream.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The stream.
    pub stream: StreamId,
    /// The views of it.
    pub views: Vec<ViewId>,
    /// Whether the events themselves.
    pub events: bool,
    /// Whether the runs behind the generations; if not, the generations answer alone.
    pub merged: bool,
    /// Where earlier generations end that answer in place of the live ones: how old what lies behind them is, will be
    /// asked.
    pub ends: Vec<Position>,
    /// What the cut must cover: tokens of this stream.
    pub after: Vec<PositionToken>,
    /// Until when the question waits.
    pub deadline: Instant,
    /// How long that was when it was asked.
    pub timeout: Duration,
}

/// Takes cuts for questions.
#[async_trait]
pub trait CutSource: Send + Sync + Debug {
    /// Takes one cut of one stream, once it covers what is wanted. None for a stream that is not there.
    ///
    /// # Errors
    /// `Timeout` when it does not cover it in time; `Unavailable` when whoever has the runs does not answer.
    async fn take(&self, wanted: &Wanted) -> Result<Option<HeldCut>, Problem>;

    /// Makes the catalog as new as that of whoever decides; a question named what is not known here.
    async fn catch_up(&self) {}
}

/// Cuts of the streams of this process.
#[derive(Debug, Clone)]
pub struct LocalCuts(pub Arc<dyn Cells>);

#[async_trait]
impl CutSource for LocalCuts {
    async fn take(&self, wanted: &Wanted) -> Result<Option<HeldCut>, Problem> {
        let Some(cell) = self.0.cell(&wanted.stream) else {
            return Ok(None);
        };
        let mut cut = cell.load();
        for awaited in &wanted.after {
            let waiting = cell.wait_for(&awaited.position);
            cut = timeout_at(wanted.deadline, waiting).await.map_err(|_| {
                let reached = token(&cell.load().stream, cell.load().position());
                not_reached(awaited, &reached, wanted.timeout)
            })?;
        }
        Ok(Some(HeldCut::of(&cell, &cut, wanted)))
    }
}

/// What a question is told whose `after` was not reached in time.
pub fn not_reached(awaited: &PositionToken, reached: &PositionToken, waited: Duration) -> Problem {
    Problem::new(
        ProblemKind::Timeout,
        format!(
            "waited {} ms for `{awaited}`, and reached `{reached}`",
            waited.as_millis()
        ),
    )
    .with("awaited", awaited.to_string())
    .with("reached", reached.to_string())
}

/// The token of a position of `stream`.
pub fn token(stream: &StreamDef, position: &Position) -> PositionToken {
    PositionToken {
        name: stream.name.clone(),
        stream: stream.id.clone(),
        position: position.clone(),
    }
}

/// One stream at one position, held for one question. What it names stays readable for as long as it lives.
#[derive(Debug, Clone)]
pub struct HeldCut {
    /// The stream's declaration.
    pub stream: Arc<StreamDef>,
    /// Everything before it is in this cut, nothing else is.
    pub position: Position,
    /// The views that answer, of those that were wanted.
    pub views: BTreeMap<ViewId, HeldView>,
    /// The events, where they were wanted.
    pub events: Option<HeldEvents>,
    /// How old what it does not cover is.
    pub ages: Ages,
    /// Said of every answer from it.
    pub notes: Vec<String>,
    /// Lives as long as the cut.
    pub guard: Option<Arc<dyn Any + Send + Sync>>,
}

/// One view of a held cut.
#[derive(Debug, Clone)]
pub struct HeldView {
    /// The view's name.
    pub name: String,
    /// The live generation; none while the first one is being built.
    pub generation: Option<Arc<Generation>>,
    /// The runs from its horizon on.
    pub runs: Runs,
    /// As in a [`crate::ViewCut`].
    pub poisoned: Vec<Poisoned>,
}

impl HeldView {
    /// Whether it let go of runs for want of memory, and nothing else is missing.
    pub fn is_out_of_memory(&self) -> bool {
        !self.poisoned.is_empty() && self.poisoned.iter().all(Poisoned::is_of_memory)
    }
}

/// Told of the bytes that something fetched takes in memory, before it is kept; refuses what is too much.
pub type Account<'a> = dyn FnMut(usize) -> Result<(), Problem> + Send + 'a;

/// Where the runs of a view are.
#[derive(Debug, Clone)]
pub enum Runs {
    /// In this process.
    Here(Vec<Arc<Run>>),
    /// In another one.
    Elsewhere(Arc<dyn RemoteRuns>),
}

impl Default for Runs {
    fn default() -> Self {
        Self::Here(vec![])
    }
}

impl Runs {
    /// Rows and bytes of each.
    pub fn sizes(&self) -> Vec<(u64, usize)> {
        match self {
            Self::Here(runs) => {
                let size = |run: &Arc<Run>| (run.rows() as u64, run.bytes());
                runs.iter().map(size).collect()
            }
            Self::Elsewhere(runs) => runs.sizes(),
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        match self {
            Self::Here(runs) => runs.len(),
            Self::Elsewhere(runs) => runs.sizes().len(),
        }
    }

    /// The runs, of which rows may be missing that no `filters` lets through; these are over key columns. What has to
    /// be brought here is on `account`.
    ///
    /// # Errors
    /// `Unavailable` when whoever holds them does not answer; what `account` refuses.
    pub async fn fetch(
        &self,
        filters: &[Expr],
        account: &mut Account<'_>,
    ) -> Result<Vec<Arc<Run>>, Problem> {
        match self {
            Self::Here(runs) => Ok(runs.clone()),
            Self::Elsewhere(runs) => runs.fetch(filters, account).await,
        }
    }
}

/// Runs in another process, held there for one question.
#[async_trait]
pub trait RemoteRuns: Send + Sync + Debug {
    /// Rows and bytes of each.
    fn sizes(&self) -> Vec<(u64, usize)>;

    /// As [`Runs::fetch`].
    ///
    /// # Errors
    /// As there.
    async fn fetch(
        &self,
        filters: &[Expr],
        account: &mut Account<'_>,
    ) -> Result<Vec<Arc<Run>>, Problem>;
}

/// The events of a held cut: raw log and tail, with the archived position between them.
#[derive(Debug, Clone)]
pub struct HeldEvents {
    /// At least what was archived when the cut was taken.
    pub raw: Arc<RawSnapshot>,
    /// Where the tail begins.
    pub archived: Position,
    /// What was not archived yet.
    pub tail: HeldTail,
}

/// Where the tail of a held cut is.
#[derive(Debug, Clone)]
pub enum HeldTail {
    /// In this process.
    Here(Tail),
    /// In another one.
    Elsewhere(Arc<dyn RemoteTail>),
}

impl HeldTail {
    /// Rows and bytes; none where it is in another process, which does not say.
    pub fn size(&self) -> Option<(u64, usize)> {
        match self {
            Self::Here(tail) => Some((tail.rows() as u64, tail.bytes())),
            Self::Elsewhere(_) => None,
        }
    }

    /// The events in order, of them the columns of `StreamSchema::events()` that are named, in this order. What has to
    /// be brought here is on `account`.
    ///
    /// # Errors
    /// `Unavailable` when whoever holds them does not answer; what `account` refuses.
    pub async fn fetch(
        &self,
        columns: &[usize],
        account: &mut Account<'_>,
    ) -> Result<Vec<RecordBatch>, Problem> {
        match self {
            Self::Here(tail) => {
                let of = |events: &RecordBatch| events.project(columns);
                let batches = tail.iter().map(|batch| of(&batch.events));
                batches.collect::<Result<_, _>>().map_err(Problem::internal)
            }
            Self::Elsewhere(tail) => tail.fetch(columns, account).await,
        }
    }
}

/// A tail in another process, held there for one question.
#[async_trait]
pub trait RemoteTail: Send + Sync + Debug {
    /// As [`HeldTail::fetch`].
    ///
    /// # Errors
    /// As there.
    async fn fetch(
        &self,
        columns: &[usize],
        account: &mut Account<'_>,
    ) -> Result<Vec<RecordBatch>, Problem>;
}

/// How old the events are that an answer from a cut does not cover.
#[derive(Debug, Clone)]
pub enum Ages {
    /// As the cell of the cut knows.
    Here(Arc<StreamCell>, Arc<Cut>),
    /// As another process told when the cut was taken there.
    Told(ToldAges),
    /// Nobody could be asked.
    Unknown,
}

/// When events arrived that a cut, or a shorter answer from it, does not cover; microseconds since the Unix epoch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ToldAges {
    /// The oldest durable one behind the cut's position.
    pub behind_cut: Option<i64>,
    /// The oldest one behind each generation that answers alone.
    pub behind: Vec<(Position, Option<i64>)>,
}

impl HeldCut {
    /// What `wanted` names of a cut of this process.
    pub fn of(cell: &Arc<StreamCell>, cut: &Arc<Cut>, wanted: &Wanted) -> Self {
        let views = wanted.views.iter().filter_map(|id| {
            let view = cut.views().get(id)?;
            let held = HeldView {
                name: view.name.clone(),
                generation: view.generation.clone(),
                runs: Runs::Here(if wanted.merged {
                    view.runs.clone()
                } else {
                    vec![]
                }),
                poisoned: view.poisoned.clone(),
            };
            Some((id.clone(), held))
        });
        Self {
            stream: Arc::clone(cut.stream()),
            position: cut.position().clone(),
            views: views.collect(),
            events: wanted.events.then(|| HeldEvents {
                raw: Arc::clone(cut.raw()),
                archived: cut.raw().archived().clone(),
                tail: HeldTail::Here(cut.tail().clone()),
            }),
            ages: Ages::Here(Arc::clone(cell), Arc::clone(cut)),
            notes: vec![],
            // Generations that are no longer live are deleted once no cut holds them.
            guard: Some(Arc::clone(cut) as _),
        }
    }

    /// When the oldest durable event arrived that an answer up to `position` does not cover, in microseconds since the
    /// Unix epoch; none when it covers all.
    ///
    /// `position` is the cut's, or the meet of it and of where generations end that answer alone.
    ///
    /// # Errors
    /// When nobody could be asked.
    pub fn oldest_behind(&self, position: &Position) -> Result<Option<i64>, AgeUnknown> {
        match &self.ages {
            Ages::Here(cell, cut) => Ok(oldest_behind(cell, cut, position)),
            Ages::Told(told) => {
                // Not covered by the meet of ends is what some end does not cover.
                let shorter = told
                    .behind
                    .iter()
                    .filter(|(end, _)| end.covers(position) && !position.covers(&self.position));
                let behind = shorter.filter_map(|(_, arrived)| *arrived);
                Ok(behind.chain(told.behind_cut).min())
            }
            Ages::Unknown => Err(AgeUnknown),
        }
    }
}

/// How fresh an answer is cannot be said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AgeUnknown;

/// When the oldest durable event arrived that `position`, in a cut of `cell`, does not cover, in microseconds since the
/// Unix epoch; none when it covers all.
pub fn oldest_behind(cell: &StreamCell, cut: &Cut, position: &Position) -> Option<i64> {
    let unread = cell.unread_since_us();
    if position.covers(&cell.durable()) {
        return unread;
    }
    let known = [
        cut.oldest_arrival_from(position),
        cell.oldest_pending_us(),
        unread,
    ];
    known.into_iter().flatten().min()
}
