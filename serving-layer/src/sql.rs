// SPDX-License-Identifier: Apache-2.0
//! The SQL surface: what a statement asks for, and declarations as text again.
//!
//! Purpose: one statement in, a [`Statement`] out, or a problem that names line and column and says what to
//! write instead. Collaborators: DataFusion's sqlparser for tokens and queries; [`crate::http`] and the
//! binary's `plan` and `apply`. Invariants: a definition rendered as text parses to the same definition;
//! nothing but the listed statements gets through. Non-goals: names, types and mergeability of a SELECT
//! (the view compiler and the SQL engine check those).

mod alter;
mod column;
mod create;
mod kafka_options;
mod locate;
mod misread;
mod nesting;
mod options;
mod parse;
mod refused;
mod render;
mod source;
mod statement;
mod volume;

pub use dovetail_view::sql_type;
pub use locate::{problem_in, problem_with};
pub use nesting::PLANNING_STACK_BYTES;
pub use options::render_interval;
pub use parse::{check_predicate, parse, parse_definitions, parse_directory};
pub use render::{render_stream, render_stream_schema, render_view};
pub(crate) use render::{unit_word, unknown_columns_word};
pub(crate) use source::problem_at;
pub use statement::{
    AddColumn, AlterStream, AlterView, CreateStream, CreateView, Definition, ObjectKind, Show,
    Statement, ViewOptions,
};
pub use volume::render_bytes;
