// SPDX-License-Identifier: Apache-2.0
//! Other processes that compute for this one: the port through which work goes to them.
//!
//! Invariant: whatever a worker does, dies, falls silent or answers twice, nothing but its one accepted answer has an
//! effect. Files that it wrote for anything else are named by nobody, and are collected as orphans.

use std::fmt::Debug;
use std::future::pending;

use async_trait::async_trait;
use dovetail_model::{RowsRead, RunMode};

use crate::{Answer, Work};

/// The workers of this process.
#[async_trait]
pub trait Workers: Debug + Send + Sync {
    /// A free place to compute a run of `mode` in, as soon as some worker has one.
    async fn place(&self, mode: RunMode) -> Box<dyn Place>;
}

/// A place in a worker, kept until it is dropped.
#[async_trait]
pub trait Place: Debug + Send + Sync {
    /// The worker's name.
    fn worker(&self) -> &str;

    /// Computes `work` there; `hear` is told how far it is. Dropped before its end, the worker is told to give up.
    ///
    /// # Errors
    /// [`Lost`] when the worker cannot be expected to answer any more.
    async fn compute(
        &mut self,
        work: &Work,
        hear: &(dyn Fn(RowsRead) + Send + Sync),
    ) -> Result<Answer, Lost>;
}

/// A worker that died, fell silent, or does not know the work any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Lost(pub String);

/// No workers at all.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoWorkers;

#[async_trait]
impl Workers for NoWorkers {
    async fn place(&self, _: RunMode) -> Box<dyn Place> {
        pending().await
    }
}
