// SPDX-License-Identifier: Apache-2.0
//! The handlers. Each names the role it needs, takes its parameters, refuses the rest, and calls one port.

pub(super) mod definitions;
pub(super) mod exclusions;
pub(super) mod runs;
mod show;
pub(super) mod sql;
pub(super) mod status;
pub(super) mod streams;
pub(super) mod views;

use std::time::Duration;

use dovetail_model::Problem;
use tokio::time::timeout_at;

use super::answer::timed_out;
use crate::ports::Limits;

/// A port answers its own timeout, since it knows what it waited for. This long after it we stop waiting.
const GRACE: Duration = Duration::from_millis(500);

/// Waits for a port until shortly past the deadline.
async fn in_time<T>(
    limits: &Limits,
    answer: impl Future<Output = Result<T, Problem>>,
) -> Result<T, Problem> {
    match timeout_at(limits.deadline + GRACE, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(timed_out(limits)),
    }
}
