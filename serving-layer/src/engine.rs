// SPDX-License-Identifier: Apache-2.0
//! The SQL engine: merged views and streams as tables over one cut per stream.
//!
//! Purpose: plan a question over the cuts of the streams it reads, each taken once, and run it on the query
//! threads. Collaborators: [`CutSource`] and the catalog say what there is; `dovetail-seam` holds the cuts;
//! [`crate::ports`] is what callers see.
//! Invariants: one snapshot (law 3): every view of a stream, and the stream itself, at the same position;
//! only our tables resolve; user SQL changes nothing. Non-goals: definitions, HTTP.

mod column_names;
mod fetched;
mod interrupt;
mod lookup;
mod merged_scan;
mod page;
mod parts;
mod provenance;
mod query;
mod rules;
mod session;
mod settled;
mod snapshot;
mod stream_table;
mod view_table;
mod wanted;
mod watched;
mod width;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use datafusion::error::DataFusionError;
use dovetail_log::catalog::Catalog;
use dovetail_model::Clock;
use dovetail_seam::{CutSource, GroupFinder, Meter};
use tokio::runtime::Handle;

use crate::held::ReadersShare;
pub use crate::problem::problem_of;
pub use provenance::freshness_ms;
pub use session::QuerySession;
pub use snapshot::build_failure;

/// Queries that run at once unless said otherwise; more wait for a place until their deadline.
const QUERIES: usize = 64;
/// Of those, some are for those that take no longer, unless said otherwise.
const USUAL_TIME: Duration = Duration::from_secs(30);

/// Answers questions. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Engine {
    catalog: Arc<Catalog>,
    cuts: Arc<dyn CutSource>,
    clock: Arc<dyn Clock>,
    session: Arc<QuerySession>,
    finder: GroupFinder,
    runtime: Handle,
    readers: ReadersShare,
    usual_time: Duration,
    meter: Arc<Meter>,
    direct_lookups: Arc<AtomicU64>,
}

impl Engine {
    /// An engine over the streams of `cuts`, whose queries run on `runtime`.
    pub fn new(
        catalog: Arc<Catalog>,
        cuts: Arc<dyn CutSource>,
        clock: Arc<dyn Clock>,
        session: QuerySession,
        runtime: Handle,
    ) -> Self {
        Self {
            catalog,
            cuts,
            clock,
            finder: lookup::finder(&session, &runtime),
            readers: ReadersShare::of(session.memory_pool(), QUERIES),
            usual_time: USUAL_TIME,
            session: Arc::new(session),
            runtime,
            meter: Arc::default(),
            direct_lookups: Arc::default(),
        }
    }

    /// The same engine, where `most` queries run at once, three quarters of them those that may take longer than
    /// `usual`.
    #[must_use]
    pub fn with_queries_at_once(mut self, most: usize, usual: Duration) -> Self {
        self.usual_time = usual;
        self.readers = ReadersShare::of(self.session.memory_pool(), most);
        self
    }

    /// How many lookups were answered without a plan.
    pub fn direct_lookups(&self) -> u64 {
        self.direct_lookups.load(Ordering::Relaxed)
    }

    /// The same engine, with the time of planning and starting queries on `meter`. Waiting is not work: neither for a
    /// place or a seat nor for a position.
    #[must_use]
    pub fn metered(mut self, meter: Arc<Meter>) -> Self {
        self.meter = meter;
        self
    }
}

/// As the engine carries an error that is ours.
fn external(error: impl std::error::Error + Send + Sync + 'static) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
