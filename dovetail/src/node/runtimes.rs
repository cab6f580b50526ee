// SPDX-License-Identifier: Apache-2.0
//! Threads apart: a recompute must not starve appends, nor queries the speed layer.
//!
//! The caller's runtime does I/O; queries have threads of their own, batch runs have threads that yield to
//! everything else. The speed layer's threads are its own (`dovetail-speed-layer`).

use std::io;

use dovetail_serving_layer::sql::PLANNING_STACK_BYTES;
use tokio::runtime::{Builder, Handle, Runtime};

/// How much lower than the others the batch threads rank: nice values run from 0 to 19.
const BATCH_NICE: i32 = 10;

/// Query threads for each core. One that computes a large batch for seconds holds up nobody then: the system shares
/// the cores between them.
const QUERY_THREADS_PER_CORE: usize = 4;

/// The query and the batch threads.
#[derive(Debug)]
pub(crate) struct Runtimes {
    query: Option<Runtime>,
    batch: Option<Runtime>,
}

impl Runtimes {
    pub(crate) fn new(threads: usize) -> io::Result<Self> {
        let query = Builder::new_multi_thread()
            .worker_threads(QUERY_THREADS_PER_CORE * threads)
            .thread_name("query")
            .thread_stack_size(PLANNING_STACK_BYTES)
            .enable_all()
            .build()?;
        let batch = Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("batch")
            .thread_stack_size(PLANNING_STACK_BYTES)
            .on_thread_start(|| {
                // Refused only where a policy forbids it; then batch threads rank like the others.
                let _ = rustix::process::setpriority_process(None, BATCH_NICE);
            })
            .enable_all()
            .build()?;
        Ok(Self {
            query: Some(query),
            batch: Some(batch),
        })
    }

    pub(crate) fn query(&self) -> Handle {
        self.query
            .as_ref()
            .expect("the runtime lives until drop")
            .handle()
            .clone()
    }

    pub(crate) fn batch(&self) -> Handle {
        self.batch
            .as_ref()
            .expect("the runtime lives until drop")
            .handle()
            .clone()
    }
}

impl Drop for Runtimes {
    fn drop(&mut self) {
        // Dropping a runtime blocks, which an async context forbids.
        for runtime in [self.query.take(), self.batch.take()].into_iter().flatten() {
            runtime.shutdown_background();
        }
    }
}
