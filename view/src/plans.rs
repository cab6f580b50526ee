// SPDX-License-Identifier: Apache-2.0
//! From events to sorted states as a DataFusion plan, for inputs larger than memory.
//!
//! Purpose: the batch layer, and rebuilding runs. Collaborators: `compile` gives the expressions, `ops` groups; the
//! caller gives a leaf and a task context whose memory pool decides whether operators spill. Two shapes:
//!
//! ```text
//!   events ─► GroupExec ─► states                         states of a fixed size
//!   events ─► AccumulateExec ─► ReduceExec ─► states      states that grow with every event
//! ```
//!
//! Invariants: the aggregate expressions are those of `ops`; no physical optimizer rule runs over these plans.

mod accumulate;
mod external;
mod group;
mod reduce;
#[cfg(test)]
mod testing;

use std::sync::Arc;

use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::common::internal_err;
use datafusion::error::Result;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};

use self::accumulate::AccumulateExec;
use self::external::Merging;
use self::group::GroupExec;
use self::reduce::ReduceExec;
use crate::ViewError;
use crate::common_keys::ORDER;
use crate::compile::{Named, Parts};
use crate::ops::Operators;
use crate::run::SortKey;
use crate::state::expect_schema;

/// The plan builders of one view.
pub(crate) struct Plans {
    /// Of the columns that are read.
    events: SchemaRef,
    operators: Arc<Operators>,
    sort_key: Arc<SortKey>,
}

type Plan = Arc<dyn ExecutionPlan>;

impl Plans {
    pub(crate) fn new(
        parts: &Parts,
        operators: Arc<Operators>,
        sort_key: Arc<SortKey>,
    ) -> Result<Self, ViewError> {
        Ok(Self {
            events: Arc::new(parts.events_schema.project(&parts.event_columns)?),
            operators,
            sort_key,
        })
    }

    /// The states of events: each key once, in order, in one partition.
    pub(crate) fn states(&self, events: Plan) -> Result<Plan, ViewError> {
        let events = self.leaf(events)?;
        let (operators, order) = (Arc::clone(&self.operators), self.sort_order());
        let merging = Merging::new(Arc::clone(&operators), Arc::clone(&self.sort_key));
        if !operators.states_grow() {
            return Ok(Arc::new(GroupExec::new(events, merging, order)));
        }
        let states: Plan = Arc::new(AccumulateExec::new(events, operators));
        Ok(Arc::new(ReduceExec::new(coalesced(states), merging, order)))
    }

    /// The order of the sort key over a batch of states; none without GROUP BY.
    pub(crate) fn sort_order(&self) -> Option<LexOrdering> {
        LexOrdering::new(self.sort_key.order().iter().map(|index| {
            let name = self.operators.state_schema().field(*index).name();
            PhysicalSortExpr::new(Arc::new(Column::new(name, *index)), ORDER)
        }))
    }

    /// The events that are read, in the order in which [`Operators`] expect them. Texts may be in dictionary form where
    /// those take them so.
    fn leaf(&self, events: Plan) -> Result<Plan, ViewError> {
        let found = events.schema();
        let mut columns: Vec<Named> = Vec::new();
        for field in self.events.fields() {
            let index = found.index_of(field.name())?;
            let name = field.name().clone();
            columns.push((Arc::new(Column::new(&name, index)), name));
        }
        let is_expected =
            |schema: &SchemaRef| expect_schema("events", &self.events, &self.decoded(schema));
        if found.fields().len() == columns.len() && is_expected(&found).is_ok() {
            return Ok(events);
        }
        let projected: Plan = Arc::new(ProjectionExec::try_new(columns, events)?);
        is_expected(&projected.schema())?;
        Ok(projected)
    }

    /// The schema of events, with plain columns for those that may be in dictionary form.
    fn decoded(&self, events: &SchemaRef) -> SchemaRef {
        let coded = self.operators.coded_columns();
        let fields = events.fields().iter().enumerate();
        let fields = fields.map(|(index, field)| match field.data_type() {
            DataType::Dictionary(_, values) if coded.contains(&index) => {
                let plain = field.as_ref().clone();
                plain.with_data_type(values.as_ref().clone())
            }
            _ => field.as_ref().clone(),
        });
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }
}

fn only_child(of: &str, children: Vec<Plan>) -> Result<Plan> {
    <[Plan; 1]>::try_from(children)
        .map(|[child]| child)
        .or_else(|children| internal_err!("{of} with {} children", children.len()))
}

fn coalesced(plan: Plan) -> Plan {
    if plan.output_partitioning().partition_count() == 1 {
        plan
    } else {
        Arc::new(CoalescePartitionsExec::new(plan))
    }
}
