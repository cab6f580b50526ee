// SPDX-License-Identifier: Apache-2.0
//! Where a stream's cut lives, and the swaps that move it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use dovetail_log::CommittedBatch;
use dovetail_log::raw::RawSnapshot;
use dovetail_model::{Position, Span, StreamDef, ViewId};
use dovetail_view::{Run, View};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::pins::Pins;
use crate::{Cut, Generation, Pin, Poison, SeamError, StageMeters, Tail, ViewCut};

/// What one micro-batch made of one view: its run, or why it could not be computed.
pub type Accumulated = Result<Arc<Run>, String>;

/// Holds the [`Cut`] of one stream. Readers load it without a lock; writers swap it one at a time, each
/// swap checked against the invariants in the crate's head.
#[derive(Debug)]
pub struct StreamCell {
    cut: ArcSwap<Cut>,
    writer: Mutex<()>,
    position: watch::Sender<Position>,
    pins: Pins,
    durable: Mutex<Durable>,
    meters: StageMeters,
    /// How long what a publish took out of the runs can still be asked for.
    grace: Duration,
    /// Whether other processes have the runs: then every position is an edge of them.
    is_elsewhere: bool,
}

/// Batches that are durable and not accumulated yet.
#[derive(Debug)]
struct Durable {
    position: Position,
    /// Where each batch ends, and when it arrived.
    pending: VecDeque<(Position, i64)>,
    /// When the oldest event was made that the log has and has not handed on, as far as it told.
    unread_since_us: Option<i64>,
}

impl StreamCell {
    /// The cell of a stream whose raw log is `raw` and whose views are still to come. Its position is the
    /// archived one: the log's tail behind it is pushed like new events.
    pub fn new(stream: Arc<StreamDef>, raw: Arc<RawSnapshot>) -> Self {
        let position = raw.archived().clone();
        let durable = Durable {
            position: position.clone(),
            pending: VecDeque::new(),
            unread_since_us: None,
        };
        let (sender, _) = watch::channel(position.clone());
        let cut = Cut {
            stream,
            position,
            raw,
            tail: Tail::default(),
            views: BTreeMap::new(),
            candidates: BTreeMap::new(),
        };
        Self {
            cut: ArcSwap::from_pointee(cut),
            writer: Mutex::new(()),
            position: sender,
            pins: Pins::default(),
            durable: Mutex::new(durable),
            meters: StageMeters::default(),
            grace: Duration::ZERO,
            is_elsewhere: false,
        }
    }

    /// The cell of a stream whose runs other processes hold: its cut is the archive, and follows it.
    pub fn elsewhere(stream: Arc<StreamDef>, raw: Arc<RawSnapshot>) -> Self {
        Self {
            is_elsewhere: true,
            ..Self::new(stream, raw)
        }
    }

    /// The same cell, whose runs can be asked for under an earlier generation until `grace` after the next one is
    /// published: for readers in other processes, which learn of it later.
    #[must_use]
    pub fn with_grace(self, grace: Duration) -> Self {
        Self { grace, ..self }
    }

    /// Whether other processes have the runs.
    pub fn is_elsewhere(&self) -> bool {
        self.is_elsewhere
    }

    /// Where the stages that work on this stream note what they do.
    pub fn meters(&self) -> &StageMeters {
        &self.meters
    }

    /// The cut as it is now.
    pub fn load(&self) -> Arc<Cut> {
        self.cut.load_full()
    }

    /// Told of each accumulated position.
    pub fn watch(&self) -> watch::Receiver<Position> {
        self.position.subscribe()
    }

    /// Waits until the cut covers `position`, and returns it. Never returns if it never does: put a
    /// time-out around it.
    pub async fn wait_for(&self, position: &Position) -> Arc<Cut> {
        let mut watch = self.watch();
        loop {
            let cut = self.load();
            if cut.position.covers(position) {
                return cut;
            }
            // The sender lives in `self`, so this cannot fail while we hold it.
            let _ = watch.changed().await;
        }
    }

    /// Notes that `batch` is durable and on its way to the speed layer.
    pub fn note_durable(&self, batch: &CommittedBatch) {
        let mut durable = self.durable.lock();
        durable.position = durable.position.join(batch.span.to());
        let pending = (batch.span.to().clone(), batch.arrived_at_us);
        durable.pending.push_back(pending);
    }

    /// Notes that everything before `position` is acknowledged, perhaps before its batch is handed on.
    pub fn note_acknowledged(&self, position: &Position) {
        let mut durable = self.durable.lock();
        durable.position = durable.position.join(position);
    }

    /// The durable position.
    pub fn durable(&self) -> Position {
        self.durable.lock().position.clone()
    }

    /// Notes that the log holds events which it has not handed on yet, the oldest made about then (microseconds
    /// since the Unix epoch); none when there are none.
    pub fn note_unread_since(&self, micros: Option<i64>) {
        self.durable.lock().unread_since_us = micros;
    }

    /// What was noted so last.
    pub fn unread_since_us(&self) -> Option<i64> {
        self.durable.lock().unread_since_us
    }

    /// When the oldest durable event that no cut holds yet arrived; None when all are in.
    pub fn oldest_pending_us(&self) -> Option<i64> {
        self.durable
            .lock()
            .pending
            .front()
            .map(|(_, arrived)| *arrived)
    }

    /// Pins the current position as an edge, and returns it with the cut it was taken from.
    pub fn pin(&self) -> (Pin, Arc<Cut>) {
        let _writer = self.writer.lock();
        let cut = self.load();
        (self.pins.pin(cut.position.clone()), cut)
    }

    /// Adds one micro-batch: its events to the tail, its runs to every view, in one swap.
    ///
    /// `runs` must hold an entry for every live view and candidate of the cut that the runs were made
    /// for; a view that joined since is advanced by an empty run only if it started behind the batch.
    ///
    /// # Errors
    /// When the batch does not start where the cut ends, or a view lacks its run.
    pub fn advance(
        &self,
        batch: &Arc<CommittedBatch>,
        runs: &BTreeMap<(ViewId, u64), Accumulated>,
    ) -> Result<(), SeamError> {
        let span = &batch.span;
        self.swap(|cut| {
            if cut.position != *span.from() {
                return Err(SeamError::NotAdjacent {
                    stream: cut.stream.name.clone(),
                    at: cut.position.clone(),
                    from: span.from().clone(),
                });
            }
            let candidates = cut.candidates.iter_mut().map(|((id, _), view)| (id, view));
            for (id, view) in cut.views.iter_mut().chain(candidates) {
                view.forget_retired(self.grace);
                match runs.get(&(id.clone(), view.version)) {
                    Some(made) => view.push(span, made.clone(), |at| self.pins.hold(at)),
                    None => return Err(SeamError::NoView(id.clone())),
                }
            }
            cut.tail.push(in_schema(batch, &cut.raw)?);
            cut.position = span.to().clone();
            Ok(())
        })?;
        let mut durable = self.durable.lock();
        while durable
            .pending
            .front()
            .is_some_and(|(end, _)| span.to().covers(end))
        {
            durable.pending.pop_front();
        }
        drop(durable);
        self.position.send_replace(span.to().clone());
        Ok(())
    }

    /// Replaces adjacent runs of a view by the one run that they merge to. Returns false, and changes
    /// nothing, when the runs are gone or a pinned edge lies inside: the merge was in vain.
    pub fn replace_runs(&self, id: &ViewId, version: u64, merged: Run) -> bool {
        let merged = Arc::new(merged);
        self.swap(|cut| {
            let view = cut
                .definition_mut(id, version)
                .ok_or_else(|| SeamError::NoView(id.clone()))?;
            if self.pins.cross(merged.span()) {
                return Err(SeamError::NoView(id.clone()));
            }
            let first = view
                .runs
                .iter()
                .position(|run| run.span().from() == merged.span().from());
            let last = view
                .runs
                .iter()
                .position(|run| run.span().to() == merged.span().to());
            match (first, last) {
                (Some(first), Some(last)) if first <= last => {
                    view.runs.splice(first..=last, [Arc::clone(&merged)]);
                    Ok(())
                }
                _ => Err(SeamError::NoView(id.clone())),
            }
        })
        .is_ok()
    }

    /// Lets go of the runs of one definition of a view, because there is no memory for them: it does not answer until
    /// a generation covers what they covered. Returns how many bytes they took; none, and nothing changes, if it is
    /// gone.
    pub fn shed(&self, id: &ViewId, version: u64, reason: &Poison) -> usize {
        self.change(|cut| {
            let Some(view) = cut.definition_mut(id, version) else {
                return 0;
            };
            let bytes = view.bytes();
            view.shed(reason, |at| self.pins.hold(at));
            bytes
        })
    }

    /// Whether merging over `span` would hide a pinned edge.
    pub fn is_pinned_inside(&self, span: &Span) -> bool {
        self.pins.cross(span)
    }

    /// The raw log advanced, or was compacted: what it covers leaves the tail.
    ///
    /// # Errors
    /// When it would move back or past the accumulated position.
    pub fn archived(&self, raw: Arc<RawSnapshot>) -> Result<(), SeamError> {
        self.swap(|cut| replace_raw(cut, raw))
    }

    /// The raw log advanced, and the cut of a cell whose runs are elsewhere with it.
    ///
    /// # Errors
    /// When it would move back.
    pub fn follow(&self, raw: Arc<RawSnapshot>) -> Result<(), SeamError> {
        debug_assert!(
            self.is_elsewhere,
            "runs of this process would be left behind"
        );
        let position = raw.archived().clone();
        self.swap(|cut| {
            cut.position = cut.position.join(&position);
            replace_raw(cut, raw)
        })?;
        self.came_to(position);
        Ok(())
    }

    /// Tells whoever waits for it that the raw log came to `position`, where runs are elsewhere.
    fn came_to(&self, position: Position) {
        self.note_acknowledged(&position);
        self.position.send_replace(position);
    }

    /// The stream's schema grew to that of `stream`, and the raw log with it: one swap, so that a query reads the
    /// archive and the tail in one schema. Views stay as they are, since what they read did not change. A cell whose runs
    /// are elsewhere follows the raw log with it.
    ///
    /// # Errors
    /// As [`StreamCell::archived`], and when the tail does not fit the schema.
    pub fn evolve(&self, stream: Arc<StreamDef>, raw: Arc<RawSnapshot>) -> Result<(), SeamError> {
        let position = raw.archived().clone();
        self.swap(|cut| {
            if self.is_elsewhere {
                cut.position = cut.position.join(&position);
            }
            replace_raw(cut, raw)?;
            let mut tail = Tail::default();
            for batch in cut.tail.iter() {
                tail.push(in_schema(batch, &cut.raw)?);
            }
            cut.tail = tail;
            cut.stream = stream;
            Ok(())
        })?;
        if self.is_elsewhere {
            self.came_to(position);
        }
        Ok(())
    }

    /// A view joins the stream with what it has already: runs and poisoned spans from `view.start` to the
    /// accumulated position.
    ///
    /// # Errors
    /// When they do not reach the accumulated position.
    pub fn restore_view(&self, id: ViewId, view: ViewCut) -> Result<(), SeamError> {
        self.swap(|cut| {
            if !self.is_elsewhere {
                check_reaches(cut, &view)?;
            }
            cut.views.insert(id, view);
            Ok(())
        })
    }

    /// Another definition of a view joins as a candidate, with what it has already, as [`Self::restore_view`] has it.
    ///
    /// # Errors
    /// When its runs do not reach the accumulated position.
    pub fn restore_candidate(&self, id: ViewId, view: ViewCut) -> Result<(), SeamError> {
        self.swap(|cut| {
            check_reaches(cut, &view)?;
            cut.candidates.insert((id, view.version), view);
            Ok(())
        })
    }

    /// A view joins at the accumulated position of this instant, with no generation and no runs. Returns
    /// that position.
    pub fn join_view(&self, id: ViewId, name: &str, version: u64, view: Arc<View>) -> Position {
        self.change(|cut| {
            let start = cut.position.clone();
            let joined = ViewCut::new(name, version, view, start.clone());
            cut.views.insert(id, joined);
            start
        })
    }

    /// Another definition of a view joins as a candidate, at the accumulated position of this instant. Returns
    /// false, and changes nothing, when the cut holds the definition already.
    pub fn join_candidate(&self, id: &ViewId, name: &str, version: u64, view: Arc<View>) -> bool {
        self.change(|cut| {
            if cut.definition(id, version).is_some() {
                return false;
            }
            let joined = ViewCut::new(name, version, view, cut.position.clone());
            cut.candidates.insert((id.clone(), version), joined);
            true
        })
    }

    /// A view and its candidates leave the stream. Queries that hold a cut go on.
    pub fn remove_view(&self, id: &ViewId) {
        self.change(|cut| {
            cut.views.remove(id);
            cut.candidates.retain(|(of, _), _| of != id);
        });
    }

    /// A candidate leaves the stream, unless it has become the live definition.
    pub fn remove_candidate(&self, id: &ViewId, version: u64) {
        self.change(|cut| {
            cut.candidates.remove(&(id.clone(), version));
        });
    }

    /// Publishes a generation: the pointer that the catalog moved is followed here, and the runs that the
    /// generation covers go in the same swap.
    ///
    /// A generation of the view's candidate definition replaces the live view by the candidate.
    ///
    /// # Errors
    /// When the seam would open or move back, or the generation is of a definition that the runs are not of.
    pub fn publish(&self, id: &ViewId, generation: Arc<Generation>) -> Result<(), SeamError> {
        self.swap(|cut| {
            let horizon = cut.raw.share().part(generation.horizon());
            in_order(
                "the archived position",
                cut.raw.archived(),
                "the horizon",
                &horizon,
            )?;
            let version = generation.manifest().definition_version;
            if let Some(candidate) = cut.candidates.remove(&(id.clone(), version)) {
                // What was retired is of another definition, whose runs are not kept any more.
                cut.views.insert(id.clone(), candidate);
            }
            let view = cut
                .views
                .get_mut(id)
                .ok_or_else(|| SeamError::NoView(id.clone()))?;
            if view.version != version {
                return Err(SeamError::OtherDefinition {
                    view: view.name.clone(),
                    generation: generation.number().0,
                    of: version,
                    held: view.version,
                });
            }
            in_order("the horizon", &horizon, "the horizon before", &view.start)?;
            if !self.is_elsewhere && !view.has_edge(&horizon) {
                return Err(SeamError::NoEdge {
                    view: view.name.clone(),
                    generation: generation.number().0,
                    horizon,
                });
            }
            view.settle(generation, &horizon, self.grace);
            Ok(())
        })
    }

    /// A swap that can fail: then the cut stays as it was.
    fn swap(
        &self,
        change: impl FnOnce(&mut Cut) -> Result<(), SeamError>,
    ) -> Result<(), SeamError> {
        let _writer = self.writer.lock();
        let mut cut = (*self.load()).clone();
        change(&mut cut)?;
        self.cut.store(Arc::new(cut));
        Ok(())
    }

    /// A swap that moves no boundary, so that nothing can be wrong with it.
    fn change<T>(&self, change: impl FnOnce(&mut Cut) -> T) -> T {
        let _writer = self.writer.lock();
        let mut cut = (*self.load()).clone();
        let made = change(&mut cut);
        self.cut.store(Arc::new(cut));
        made
    }
}

/// Whether `view` has everything up to where the cut stands.
fn check_reaches(cut: &Cut, view: &ViewCut) -> Result<(), SeamError> {
    let end = view.end();
    if *end == cut.position {
        return Ok(());
    }
    Err(SeamError::NotAdjacent {
        stream: cut.stream.name.clone(),
        at: cut.position.clone(),
        from: end.clone(),
    })
}

fn replace_raw(cut: &mut Cut, raw: Arc<RawSnapshot>) -> Result<(), SeamError> {
    in_order(
        "the archived position",
        raw.archived(),
        "the archived position before",
        cut.raw.archived(),
    )?;
    in_order(
        "the accumulated position",
        &cut.position,
        "the archived position",
        raw.archived(),
    )?;
    cut.tail = cut.tail.behind(raw.archived());
    cut.raw = raw;
    Ok(())
}

/// The batch as the tail holds it: in the schema that the raw log is read in. It may have been committed before
/// the schema grew.
fn in_schema(
    batch: &Arc<CommittedBatch>,
    raw: &RawSnapshot,
) -> Result<Arc<CommittedBatch>, SeamError> {
    if batch.events.schema_ref() == raw.events() {
        return Ok(Arc::clone(batch));
    }
    let batch = batch.in_schema(raw.events());
    batch.map(Arc::new).map_err(SeamError::Batch)
}

fn in_order(
    what: &'static str,
    position: &Position,
    other: &'static str,
    bound: &Position,
) -> Result<(), SeamError> {
    if position.covers(bound) {
        return Ok(());
    }
    Err(SeamError::OutOfOrder {
        what,
        position: position.clone(),
        other,
        bound: bound.clone(),
    })
}
