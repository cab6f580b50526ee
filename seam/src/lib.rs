// SPDX-License-Identifier: Apache-2.0
//! The seam: what one query holds of one stream, and the only swaps allowed on it.
//!
//! Purpose: batch, speed and serving meet here. The speed layer pushes runs, the batch layer publishes
//! generations, the archive advances, and a query takes the [`Cut`] as it is at one instant.
//! Collaborators: `dovetail-view` for runs, `dovetail-log` for the raw log and committed batches.
//! Invariants, asserted at every swap, per partition:
//!
//! ```text
//! horizon <= archived <= accumulated <= durable
//! runs of a view: adjacent spans from its horizon to the accumulated position, no gap, no overlap
//! ```
//!
//! Non-goals: computing runs or generations, and deciding when.

mod archiver;
mod cell;
mod cut;
mod error;
mod generation;
mod group_finder;
mod held;
mod latency;
mod meter;
mod pins;
mod tail;
mod target;

pub use archiver::{Archiver, Evolution, Forget};
pub use cell::{Accumulated, StreamCell};
pub use cut::{Answering, Cut, Poison, Poisoned, ViewCut};
pub use error::SeamError;
pub use generation::{FileColumns, Generation};
pub use group_finder::{GroupFinder, NotFindable};
pub use held::{
    Account, AgeUnknown, Ages, Cells, CutSource, HeldCut, HeldEvents, HeldTail, HeldView,
    LocalCuts, RemoteRuns, RemoteTail, Runs, ToldAges, Wanted, not_reached, oldest_behind, token,
};
pub use latency::{Latencies, Latency, STAGE_BOUNDS_S};
pub use meter::{Busy, Failing, Meter, Rates, StageMeters, Waiting, Waits};
pub use pins::Pin;
pub use tail::Tail;
pub use target::{LocalTargets, Target, Targets};
