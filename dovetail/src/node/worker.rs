// SPDX-License-Identifier: Apache-2.0
//! A worker: a replica that computes batch runs for the process that takes the events.
//!
//! Purpose: batch runs that take neither the cores nor the memory of that process. Collaborators: `dovetail-exchange`
//! brings the work and takes the answers, `dovetail-batch-layer` computes. Invariants: it commits nothing: what it
//! writes are files that nobody names before its answer is accepted. Non-goals: deciding what is computed.

use std::net::SocketAddr;
use std::sync::Arc;

use datafusion::execution::memory_pool::FairSpillPool;
use dovetail_batch_layer::{Computer, ComputerConfig};
use dovetail_exchange::{Hand, HandConfig};
use dovetail_log::object::check_store;
use tracing::info;

use super::NodeError;
use super::claim::host;
use super::replica::Replica;
use super::storage::{engine_runtime, task_context};
use super::workers::Computations;

/// What a worker is told beside what a replica is.
#[derive(Debug)]
pub(super) struct WorkerConfig {
    /// Memory of all runs that it computes at a time, in even shares.
    pub(super) batch_memory_bytes: usize,
    /// How many full or repair runs that are, and how many incremental ones beside them.
    pub(super) batch_runs: usize,
    /// Where its API listens.
    pub(super) address: SocketAddr,
}

/// Computes on the threads of `replica`, which has opened the store for writing. The process to work for need not be
/// there yet.
///
/// # Errors
/// When the store does not take what a worker writes.
pub(super) async fn open_worker(
    config: WorkerConfig,
    replica: &Replica,
) -> Result<Hand, NodeError> {
    let (url, store) = replica.store();
    if url.is_remote() {
        check_store(url, store).await?;
    }
    let WorkerConfig {
        batch_memory_bytes,
        batch_runs,
        address,
    } = config;
    let pool = Arc::new(FairSpillPool::new(batch_memory_bytes));
    let runtime = engine_runtime(replica.data_dir(), pool, store)?;
    let partitions = replica.partitions();
    let computer = Computer::new(ComputerConfig {
        store: Arc::clone(store),
        clock: replica.clock(),
        task: task_context(runtime, partitions),
        partitions,
        runs: batch_runs,
    });
    let name = format!("{}:{}", host(), address.port());
    info!(worker = %name, runs = batch_runs, "computing batch runs for the process that takes the events");
    let hand = HandConfig {
        catalog: Arc::clone(replica.catalog()),
        token: replica.peer_token(),
        name,
        runs: batch_runs,
        runtime: replica.batch_runtime(),
    };
    let computes = Computations(Arc::new(computer));
    Ok(Hand::new(hand, Arc::new(computes)))
}
