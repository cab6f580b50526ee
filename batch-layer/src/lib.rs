// SPDX-License-Identifier: Apache-2.0
//! The batch layer: recompute, publish, schedule, replay and repair.
//!
//! Purpose: run `full`, `incremental` and `repair` batch runs over the raw log, stage or promote what they
//! make, roll back, compare, and start runs by cron, interval and memory pressure; let views join, change their
//! definition and leave.
//! Collaborators: the catalog (`dovetail-log`) is the ledger and the only pointer; the cell
//! (`dovetail-seam`) follows it; `dovetail-view` computes.
//! Invariants: a generation is immutable and names its inputs; the pointer moves by compare-and-set under
//! the view's publish lock; only pinned edges become horizons; a run that did not end is `failed`.
//! Non-goals: the speed layer, HTTP.
//!
//! ```text
//! start ─► take a target ─► compute files ─► staged ─► catch up ─► compare-and-set ─► swap the cut
//!              │ pin C           raw [0, C)      │        raw [C, C')     catalog           cell
//!              └ archive through C               └ discard
//! ```

mod access;
mod compute;
mod definition;
mod diff;
mod error;
mod layer;
mod ledger;
mod progress;
mod projection;
mod publish;
mod relief;
mod retention;
mod scheduler;
mod work;
mod workers;

pub use access::{StreamAccess, StreamHandle};
pub use compute::{Computation, Computed};
pub use diff::diff;
pub use error::BatchError;
pub use layer::{BatchConfig, BatchLayer, StartRequest};
pub use progress::Progress;
pub use projection::project;
pub use publish::Published;
pub use relief::{MemoryDemand, SpeedLayerMemory};
pub use retention::RetentionPolicy;
pub use scheduler::{Due, Scheduler, due_runs, next_full, next_incremental};
pub use work::{Answer, Computer, ComputerConfig, Failure, Work};
pub use workers::{Lost, NoWorkers, Place, Workers};
