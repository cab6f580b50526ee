// SPDX-License-Identifier: Apache-2.0
//! Cuts for the questions of other processes, over Arrow Flight, and work for those that compute ([`Desk`]).
//!
//! ```text
//! reader                                   process that takes the events
//!   take: stream, views, after ──────────►   waits, loads one cut, holds it
//!        ◄────────────────────────────────   position, generations, sizes of runs, sequence of the catalog
//!   (reads the catalog up to there, opens the generations)
//!   fetch: runs of a view, key filter ───►   out of the very cut that it holds
//!   fetch: tail, columns ────────────────►
//!   release ─────────────────────────────►   or the question's time is up
//! ```
//! Purpose: law 3 (one snapshot) for replicas that only read: all that a question merges comes from one cut, at one
//! position, taken once. Collaborators: `dovetail-seam` says what a cut is; [`CutServer`] hands cuts out, [`RemoteCuts`]
//! takes them, each over the same catalog and the same store.
//! Invariants: the reader's catalog is at least as new as the cut, so each generation that the cut names is known;
//! a cut of an epoch that is over is refused by the reader. What the server holds for readers is bounded in number and
//! in time. Where several processes take the events, a reader asks all of them, in one epoch and under the same generations, and the
//! one that decides takes the targets of batch runs of them ([`Member`], [`RemoteTargets`]). Non-goals: writing anything; deciding what a
//! definition means.

mod client;
mod fetches;
mod filter;
mod server;
mod states;
mod wire;
mod work;

pub use client::{Greeted, PeerToken, RemoteCuts, RemoteCutsConfig, RemoteTargets};
pub use server::{CutServer, Member, Permits, Reports};
pub use states::{Messages, decode_runs, encode_runs};
pub use wire::{Heard, Joining, Report, StreamReport, TakeTarget};
pub use work::{
    Begun, Computes, Desk, Hand, HandConfig, WorkPlace, WorkerLost, WorkerStatus, WorkerTask,
};
