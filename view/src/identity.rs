// SPDX-License-Identifier: Apache-2.0
//! Hashes that say whether two definitions, or two sets of states, are the same.

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;

use crate::compile::Parts;
use crate::functions::has_floats;

/// Counts changes of what our own code stores: the layout of files, our sketches, and what a definition's SQL means.
const FORMAT_VERSION: u32 = 4;

/// Hash of the SELECT and of the stream columns it reads.
pub(crate) fn definition_hash(parts: &Parts) -> String {
    let mut hasher = Hasher::new("dovetail view definition");
    hasher.add(&parts.stream);
    hasher.add(&parts.sql);
    let mut columns = parts.event_columns.clone();
    columns.sort_unstable();
    for index in columns {
        let field = parts.events_schema.field(index);
        hasher.add(field.name());
        hasher.add(field.data_type());
        hasher.add(field.is_nullable());
    }
    hasher.hex()
}

/// Hash of everything that states of this view depend on beyond the definition's meaning.
pub(crate) fn state_fingerprint(parts: &Parts, state_schema: &SchemaRef) -> String {
    let mut hasher = Hasher::new("dovetail view states");
    hasher.add(FORMAT_VERSION);
    hasher.add(datafusion::DATAFUSION_VERSION);
    for measure in &parts.measures {
        hasher.add(measure.function.fun().name());
    }
    for call in &parts.calls {
        hasher.add(call.function.fun().name());
        hasher.add(format!("{:?}", call.measures));
        if is_rounded(&call.function) {
            hasher.add("rounded");
        }
    }
    for field in state_schema.fields() {
        hasher.add(field.data_type());
    }
    // Former ones had several groups for what is one now.
    if parts.keys.iter().any(|key| has_floats(&key.data_type)) {
        hasher.add("same numbers");
    }
    hasher.hex()
}

/// Whether `aggregate` is an `avg` or `median` that keeps its digits: a former one cut some off, which the types of its
/// states need not show.
fn is_rounded(aggregate: &AggregateFunctionExpr) -> bool {
    let cut_off = matches!(aggregate.fun().name(), "avg" | "median");
    cut_off && aggregate.field().data_type() != &DataType::Float64
}

/// Hashes texts one after the other, each with its length.
struct Hasher(blake3::Hasher);

impl Hasher {
    fn new(purpose: &str) -> Self {
        let mut hasher = Self(blake3::Hasher::new());
        hasher.add(purpose);
        hasher
    }

    fn add(&mut self, part: impl ToString) {
        let text = part.to_string();
        self.0.update(&(text.len() as u64).to_le_bytes());
        self.0.update(text.as_bytes());
    }

    fn hex(&self) -> String {
        self.0.finalize().to_hex().to_string()
    }
}
