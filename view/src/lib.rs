// SPDX-License-Identifier: Apache-2.0
//! One view definition, compiled once: accumulate, merge, finish. The only place that knows aggregates.
//!
//! Purpose: both layers compute a view from the same physical aggregate expressions, so they cannot drift
//! apart. A view's *states* are what DataFusion's `AggregateMode::Partial` emits; they merge with
//! `PartialReduce` and end with `Final`.
//!
//! ```text
//!   events ── accumulate ──► run ─┐
//!   events ── accumulate ──► run ─┴─ merge ──► run ── finish ──► rows
//!                                               │ ▲
//!                                       to_file ▼ │ states_of_file
//!                                             Parquet rows ── output_of_file ──► rows
//! ```
//!
//! Invariants (the cut law): however the events are cut, batched and merged, the finished rows are the same
//! up to each output's [`Equality`].
//! Collaborators: the speed layer calls the operations in memory, the batch layer runs the plans, the
//! serving layer finishes. Non-goals: where events come from and where files go.

mod adjacent;
mod aggregates;
pub mod calendar;
mod checks;
mod common_keys;
mod compile;
mod computable;
mod engine;
mod equality;
mod error;
mod event_place;
mod exclusions;
mod finisher;
mod functions;
mod group_key;
mod hooked;
mod identity;
pub mod json_value;
mod keyed;
mod ops;
mod places;
mod plans;
mod predicate;
mod rehearsal;
mod replaced;
mod run;
mod state;
mod storage;
mod time_key;
mod types;
mod view;
mod words;

pub use common_keys::CommonKeys;
pub use compile::KeyColumn;
pub use engine::{analyzer_rules, type_planner};
pub use equality::Equality;
pub use error::{Answered, EventFailed, FinishFailed, ViewError, WhereFailed, engine_error_kind};
pub use event_place::EventPlace;
pub use exclusions::{ExclusionFailed, exclusion_predicate};
pub use finisher::Finisher;
pub use functions::{
    APPROX_DISTINCT_RELATIVE_ERROR, ApproxDistinct, Avg, BoundedCalls, CheckedNumbers,
    ExactNumbers, Median, MinMax, Ordered, SameNumbers, Sum, UNBOUNDED_FUNCTIONS, keep_digits,
    number_of_json, register_functions,
};
pub use group_key::{GroupKey, rows_while};
pub use hooked::{Hook, Hooked};
pub use keyed::KeyedStates;
pub use predicate::Predicate;
pub use replaced::replaced;
pub use run::Run;
pub use state::{batch as record_batch, bytes_of};
pub use types::sql_type;
pub use view::View;
pub use words::{Calculations, is_of_a_pattern, words_of};
