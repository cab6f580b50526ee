// SPDX-License-Identifier: Apache-2.0
//! Files and pipes into a stream, through the public HTTP API.
//!
//! Purpose: what `dovetail ingest` and the demo share. Collaborators: [`crate::client`] carries the
//! requests. Invariants: one request at a time, in input order, so that offsets follow the input; every
//! request has an idempotency key that a second attempt at the same input repeats, so that an interrupted
//! ingest is resumed by running it again. Non-goals: decoding events; the server does that.
//!
//! ```text
//!  file, pipe ──► reader thread ──► splitter ──► sender ──► POST /v1/streams/{stream}
//!                 decompress        bodies       key, retry
//!                 (Parquet, Arrow: to Arrow bodies)
//! ```

mod arrow;
mod identity;
mod input;
mod parts;
mod sender;
pub mod split;

pub use identity::Identity;
pub use input::{Input, InputError, InputFormat};
pub use parts::Parts;
pub use sender::{Ack, OnError, Sender};
