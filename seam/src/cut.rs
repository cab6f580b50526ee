// SPDX-License-Identifier: Apache-2.0
//! What one query holds of one stream.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dovetail_log::raw::RawSnapshot;
use dovetail_model::{GenerationNumber, Position, Span, StreamDef, ViewId};
use dovetail_view::{Run, View};
use serde::{Deserialize, Serialize};

use crate::{Accumulated, Generation, Tail};

/// A span of which a view holds no runs: an expression could not compute some event, such as a division by zero,
/// or they took more memory than there is.
///
/// The view does not answer while a poisoned span lies behind its horizon: an answer without it would be
/// wrong. A generation that covers the span heals it. Other views, the archive and ingest are not concerned.
///
/// It takes no memory that grows: no horizon will ever lie between two pinned edges of the past, so a failed
/// micro-batch makes all between the last pinned edge and the next one a single poisoned span, runs and all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Poisoned {
    /// The events that no run holds.
    pub span: Span,
    /// The first micro-batch in the span that could not be accumulated: its events are to be looked at first.
    pub failed: Span,
    /// Why.
    pub reason: Poison,
}

/// Why a view holds no runs of a span.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Poison {
    /// An expression fails on some event: what the engine said. It fails until the event is excluded or the view
    /// redefined.
    Event(String),
    /// They took more memory than there is: who needed how much, for what, and the way out. The next incremental run may
    /// heal it.
    Memory(String),
    /// A segment of the raw log is not what was written: which. An incremental run heals it once the file is restored.
    Damage(String),
}

impl Poison {
    /// What is said of it.
    pub fn text(&self) -> &str {
        match self {
            Self::Event(text) | Self::Memory(text) | Self::Damage(text) => text,
        }
    }
}

impl Poisoned {
    /// What an operator needs to know: the view, what went wrong, the offsets, and the way out.
    pub fn explain(&self, view: &str, stream: &str) -> String {
        match &self.reason {
            Poison::Event(reason) => format!(
                "view `{view}` cannot compute an event of stream `{stream}` in {}: {reason}; exclude such events (`dovetail exclude {stream} --where … --reason …`) and recompute the view (`dovetail replay {view}`), or redefine it",
                self.named_span()
            ),
            Poison::Memory(reason) => format!(
                "view `{view}` holds nothing of stream `{stream}` in {}: {reason}; it answers again once an incremental run has succeeded, which is tried by itself",
                self.named_span()
            ),
            Poison::Damage(reason) => format!(
                "view `{view}` holds nothing of stream `{stream}` in {}: {reason}; then `dovetail recompute {view} --mode incremental`",
                self.named_span()
            ),
        }
    }

    /// The span that [`Self::explain`] names.
    pub fn named_span(&self) -> &Span {
        match &self.reason {
            Poison::Event(_) => &self.failed,
            Poison::Memory(_) | Poison::Damage(_) => &self.span,
        }
    }

    /// Takes in the span behind it. An event that fails is what to look at first.
    fn extend(&mut self, next: Self) {
        let span = self.span.followed_by(&next.span);
        self.span = span.expect("a view's runs and poisoned spans are adjacent");
        if self.is_of_memory() {
            self.failed = next.failed;
            self.reason = next.reason;
        }
    }

    /// Whether an incremental run may heal it without anyone's doing.
    pub fn is_of_memory(&self) -> bool {
        matches!(self.reason, Poison::Memory(_))
    }
}

/// One view at the cut's position: a generation and exactly the runs from its horizon on.
#[derive(Debug, Clone)]
pub struct ViewCut {
    /// The view's name.
    pub name: String,
    /// Which of the view's definitions the runs are of: versions are never used twice.
    pub version: u64,
    /// The definition, compiled.
    pub view: Arc<View>,
    /// The live generation; none while the first one is being built.
    pub generation: Option<Arc<Generation>>,
    /// Where the runs start: the generation's horizon, or where the view joined the stream.
    pub start: Position,
    /// Adjacent runs from `start` to the cut's position, poisoned spans aside.
    pub runs: Vec<Arc<Run>>,
    /// Spans with events that could not be accumulated, oldest first: one per pinned edge at most.
    pub poisoned: Vec<Poisoned>,
    /// What earlier generations answered with that were live a moment ago, oldest first.
    pub(crate) retired: Vec<Retired>,
}

/// What a view held between an earlier generation's horizon and the next one's: whoever reads the catalog elsewhere may
/// not know of the next one yet.
#[derive(Debug, Clone)]
pub(crate) struct Retired {
    generation: Arc<Generation>,
    runs: Vec<Arc<Run>>,
    poisoned: Vec<Poisoned>,
    at: Instant,
}

/// A view's generation, and what it answers with beside it.
#[derive(Debug, Clone)]
pub struct Answering {
    /// None while the first one is being built.
    pub generation: Option<Arc<Generation>>,
    /// From its horizon to the cut's position, poisoned spans aside.
    pub runs: Vec<Arc<Run>>,
    /// As in [`ViewCut::poisoned`].
    pub poisoned: Vec<Poisoned>,
}

impl ViewCut {
    /// A definition that joins the stream at `start` and has no generation yet.
    pub fn new(name: &str, version: u64, view: Arc<View>, start: Position) -> Self {
        Self {
            name: name.to_owned(),
            version,
            view,
            generation: None,
            start,
            runs: vec![],
            poisoned: vec![],
            retired: vec![],
        }
    }

    /// What the view answers with under the generation of this number, or under the live one where none is named. None
    /// for one that is neither live nor was a moment ago.
    pub fn under(&self, number: Option<GenerationNumber>) -> Option<Answering> {
        let live = Answering {
            generation: self.generation.clone(),
            runs: self.runs.clone(),
            poisoned: self.poisoned.clone(),
        };
        let Some(number) = number else {
            return Some(live);
        };
        if live
            .generation
            .as_ref()
            .is_some_and(|g| g.number() == number)
        {
            return Some(live);
        }
        let is_asked = |retired: &Retired| retired.generation.number() == number;
        let from = self.retired.iter().position(is_asked)?;
        let mut answering = Answering {
            generation: Some(Arc::clone(&self.retired[from].generation)),
            runs: vec![],
            poisoned: vec![],
        };
        for retired in &self.retired[from..] {
            answering.runs.extend(retired.runs.iter().cloned());
            answering.poisoned.extend(retired.poisoned.iter().cloned());
        }
        answering.runs.extend(live.runs);
        answering.poisoned.extend(live.poisoned);
        Some(answering)
    }

    /// Whether it let go of runs for want of memory, and nothing else is missing: the next incremental run that
    /// succeeds gives it back.
    pub fn is_out_of_memory(&self) -> bool {
        !self.poisoned.is_empty() && self.poisoned.iter().all(Poisoned::is_of_memory)
    }

    /// Bytes of its runs in memory.
    pub fn bytes(&self) -> usize {
        let retired = self.retired.iter().flat_map(|retired| &retired.runs);
        self.runs.iter().chain(retired).map(|run| run.bytes()).sum()
    }

    /// Where its runs and poisoned spans end.
    pub(crate) fn end(&self) -> &Position {
        let run = self.runs.last().map(|run| run.span().to());
        let poisoned = self.poisoned.last().map(|poisoned| poisoned.span.to());
        let ends = [run, poisoned].into_iter().flatten();
        ends.fold(
            &self.start,
            |end, other| {
                if other.covers(end) { other } else { end }
            },
        )
    }

    /// Adds what the micro-batch of `span`, which starts where the view ends, was accumulated to.
    pub(crate) fn push(
        &mut self,
        span: &Span,
        made: Accumulated,
        pinned: impl Fn(&Position) -> bool,
    ) {
        let mut from = span.from().clone();
        let follows_poison = self.poisoned.last().is_some_and(|p| *p.span.to() == from);
        let mut first = match made {
            Ok(run) if !follows_poison || pinned(&from) => {
                self.runs.push(run);
                return;
            }
            // No horizon will lie between the poisoned span and this run, so it would never answer.
            Ok(_) => None,
            Err(reason) => Some((span.clone(), Poison::Event(reason))),
        };
        while !pinned(&from) {
            if let Some(run) = self.runs.pop_if(|run| *run.span().to() == from) {
                from = run.span().from().clone();
            } else if let Some(earlier) = self.poisoned.pop_if(|p| *p.span.to() == from) {
                from = earlier.span.from().clone();
                if first.is_none() || !earlier.is_of_memory() {
                    first = Some((earlier.failed, earlier.reason));
                }
            } else {
                break;
            }
        }
        if let (Some((failed, reason)), Ok(span)) = (first, Span::new(from, span.to().clone())) {
            self.poisoned.push(Poisoned {
                span,
                failed,
                reason,
            });
        }
    }

    /// Lets go of all its runs: the view holds nothing of what they covered.
    pub(crate) fn shed(&mut self, reason: &Poison, pinned: impl Fn(&Position) -> bool) {
        let runs = std::mem::take(&mut self.runs)
            .into_iter()
            .map(|run| Poisoned {
                span: run.span().clone(),
                failed: run.span().clone(),
                reason: reason.clone(),
            });
        let mut pieces: Vec<Poisoned> = std::mem::take(&mut self.poisoned);
        pieces.extend(runs);
        // Each ends where the next one starts, so that their offsets add up to more and more.
        let sum = |at: &Position| at.iter().map(|(_, offset)| offset.0).sum::<u64>();
        pieces.sort_by_key(|piece| (sum(piece.span.from()), sum(piece.span.to())));
        for piece in pieces {
            match self.poisoned.last_mut() {
                Some(last) if !pinned(piece.span.from()) => last.extend(piece),
                _ => self.poisoned.push(piece),
            }
        }
    }

    /// Whether some run or poisoned span ends exactly at `edge`, or the runs start there.
    pub(crate) fn has_edge(&self, edge: &Position) -> bool {
        self.start == *edge
            || self.runs.iter().any(|run| run.span().to() == edge)
            || self
                .poisoned
                .iter()
                .any(|poisoned| poisoned.span.to() == edge)
    }

    /// Puts `generation` in place of the live one, and takes what it covers out of the runs. What went is kept for
    /// `grace` under the former one.
    pub(crate) fn settle(
        &mut self,
        generation: Arc<Generation>,
        horizon: &Position,
        grace: Duration,
    ) {
        let covers = |span: &Span| horizon.covers(span.to());
        let runs = self.runs.extract_if(.., |run| covers(run.span())).collect();
        let poisoned = self.poisoned.extract_if(.., |p| covers(&p.span)).collect();
        self.start = horizon.clone();
        let former = self.generation.replace(generation);
        if let Some(generation) = former
            && grace > Duration::ZERO
        {
            self.retired.push(Retired {
                generation,
                runs,
                poisoned,
                at: Instant::now(),
            });
        }
        self.forget_retired(grace);
    }

    /// Lets go of what was retired longer than `grace` ago.
    pub(crate) fn forget_retired(&mut self, grace: Duration) {
        self.retired.retain(|retired| retired.at.elapsed() < grace);
    }
}

/// What one query holds of one stream: a position, the raw log and its tail, and for each view a
/// generation and its runs. Swapped whole, read without a lock.
#[derive(Debug, Clone)]
pub struct Cut {
    pub(crate) stream: Arc<StreamDef>,
    pub(crate) position: Position,
    pub(crate) raw: Arc<RawSnapshot>,
    pub(crate) tail: Tail,
    pub(crate) views: BTreeMap<ViewId, ViewCut>,
    pub(crate) candidates: BTreeMap<(ViewId, u64), ViewCut>,
}

impl Cut {
    /// The stream's declaration.
    pub fn stream(&self) -> &Arc<StreamDef> {
        &self.stream
    }

    /// The accumulated position: everything before it is in this cut, nothing else is.
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// The raw log as of this cut.
    pub fn raw(&self) -> &Arc<RawSnapshot> {
        &self.raw
    }

    /// The committed batches between the archived position and this cut's.
    pub fn tail(&self) -> &Tail {
        &self.tail
    }

    /// The views that answer.
    pub fn views(&self) -> &BTreeMap<ViewId, ViewCut> {
        &self.views
    }

    /// Live views and candidates: everything that the speed layer accumulates. A candidate is another definition
    /// of a view, kept fresh beside the live one until the pointer moves to a generation of it: a new definition
    /// that is being built, or an old one that is being brought back. There may be several of one view.
    pub fn all_views(&self) -> impl Iterator<Item = (&ViewId, &ViewCut)> {
        self.views.iter().chain(self.candidates())
    }

    /// The candidates alone.
    pub fn candidates(&self) -> impl Iterator<Item = (&ViewId, &ViewCut)> {
        self.candidates.iter().map(|((id, _), view)| (id, view))
    }

    /// One definition of a view, live or a candidate.
    pub fn definition(&self, id: &ViewId, version: u64) -> Option<&ViewCut> {
        let live = self.views.get(id).filter(|view| view.version == version);
        live.or_else(|| self.candidates.get(&(id.clone(), version)))
    }

    pub(crate) fn definition_mut(&mut self, id: &ViewId, version: u64) -> Option<&mut ViewCut> {
        let live = self
            .views
            .get_mut(id)
            .filter(|view| view.version == version);
        live.or_else(|| self.candidates.get_mut(&(id.clone(), version)))
    }

    /// Bytes that the speed layer holds in memory for this stream: runs and tail.
    pub fn bytes(&self) -> usize {
        self.all_views()
            .map(|(_, view)| view.bytes())
            .sum::<usize>()
            + self.tail.bytes()
    }

    /// When the oldest event at or behind `from` that this cut holds arrived, microseconds since the Unix
    /// epoch; for a raw segment that `from` splits, the arrival of its first event. None when `from`
    /// covers the cut.
    pub fn oldest_arrival_from(&self, from: &Position) -> Option<i64> {
        if from.covers(&self.position) {
            return None;
        }
        let archived = self
            .raw
            .segments()
            .iter()
            .filter(|s| !from.covers(s.span.to()))
            .filter_map(|s| s.arrived.map(|(first, _)| first));
        let tail = self
            .tail
            .iter()
            .filter(|b| !from.covers(b.span.to()))
            .map(|b| b.arrived_at_us);
        archived.chain(tail).min()
    }
}

#[cfg(test)]
#[path = "cut/tests.rs"]
mod tests;
