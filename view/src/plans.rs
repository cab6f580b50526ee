// SPDX-License-Identifier: Apache-2.0
//! Accumulate, merge, sort and finish as DataFusion plans, for inputs larger than memory.
//!
//! Purpose: the batch layer and merged reads. Collaborators: `compile` gives the expressions, the caller a
//! leaf and a task context whose memory pool decides whether operators spill. States that grow with every event
//! have operators of our own ([`AccumulateExec`], [`ReduceExec`]).
//! Invariants: the aggregate expressions are those of `ops`; no physical optimizer rule may run over
//! these plans (rules would fuse or reorder the aggregations).

mod accumulate;
mod reduce;

use std::sync::Arc;

use arrow::compute::SortOptions;
use datafusion::common::internal_err;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{LexOrdering, PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode, PhysicalGroupBy};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties, Partitioning};

use self::accumulate::AccumulateExec;
use self::reduce::{Merging, ReduceExec};
use crate::ViewError;
use crate::compile::{Named, Parts};
use crate::ops::Operators;
use crate::run::SortKey;
use crate::state::expect_schema;

/// The plan builders of one view.
pub(crate) struct Plans {
    input: Arc<dyn ExecutionPlan>,
    input_order: Option<LexOrdering>,
    groups: Vec<Named>,
    aggregates: Vec<Arc<datafusion::physical_expr::aggregate::AggregateFunctionExpr>>,
    filters: Vec<Option<Arc<dyn PhysicalExpr>>>,
    stages: Vec<Vec<Named>>,
    operators: Arc<Operators>,
    sort_key: Arc<SortKey>,
}

type Plan = Arc<dyn ExecutionPlan>;

impl Plans {
    pub(crate) fn new(parts: &Parts, operators: Arc<Operators>, sort_key: Arc<SortKey>) -> Self {
        Self {
            input: Arc::clone(&parts.input),
            input_order: parts.input_order.clone(),
            groups: parts.groups.clone(),
            aggregates: parts.aggregates.clone(),
            filters: parts.filters.clone(),
            stages: parts.stages.clone(),
            operators,
            sort_key,
        }
    }

    pub(crate) fn accumulate(&self, events: Plan) -> Result<Plan, ViewError> {
        let leaf = self.leaf(events)?;
        if self.operators.states_grow() {
            return Ok(Arc::new(AccumulateExec::new(
                leaf,
                Arc::clone(&self.operators),
            )));
        }
        let mut input = Arc::clone(&self.input)
            .transform_up(|node| {
                Ok(if node.is::<EmptyExec>() {
                    Transformed::yes(Arc::clone(&leaf))
                } else {
                    Transformed::no(node)
                })
            })?
            .data;
        if let Some(order) = &self.input_order {
            input = Arc::new(SortExec::new(order.clone(), input).with_preserve_partitioning(true));
        }
        let groups = group_by(self.groups.clone());
        let filters = self.filters.clone();
        let partial = self.aggregate(AggregateMode::Partial, groups, filters, input)?;
        self.rename(partial)
    }

    pub(crate) fn merge(&self, states: Plan) -> Result<Plan, ViewError> {
        expect_schema("states", self.operators.state_schema(), &states.schema())?;
        if self.operators.states_grow() {
            let (operators, sort_key) = (Arc::clone(&self.operators), Arc::clone(&self.sort_key));
            let merging = Merging::new(operators, sort_key);
            let states = coalesced(states);
            return Ok(Arc::new(ReduceExec::new(
                states,
                merging,
                self.sort_order(),
            )));
        }
        let partitions = states.output_partitioning().partition_count();
        let input: Plan = if partitions == 1 {
            states
        } else if self.groups.is_empty() {
            Arc::new(CoalescePartitionsExec::new(states))
        } else {
            let keys = self.key_columns().into_iter().map(|(expr, _)| expr);
            let by_key = Partitioning::Hash(keys.collect(), partitions);
            Arc::new(RepartitionExec::try_new(states, by_key)?)
        };
        let no_filters = vec![None; self.aggregates.len()];
        let groups = group_by(self.key_columns());
        let reduced = self.aggregate(AggregateMode::PartialReduce, groups, no_filters, input)?;
        self.rename(reduced)
    }

    /// One sort over all partitions. A sort each with a merge behind them would use more cores, but a
    /// `SortPreservingMergeExec` cannot spill: it fails when the sorts below it hold the whole pool.
    pub(crate) fn sort(&self, states: Plan) -> Result<Plan, ViewError> {
        let states = coalesced(states);
        let Some(order) = self.sort_order() else {
            return Ok(states);
        };
        if states
            .equivalence_properties()
            .ordering_satisfy(order.clone())?
        {
            return Ok(states);
        }
        Ok(Arc::new(SortExec::new(order, states)))
    }

    pub(crate) fn finish(&self, states: Plan) -> Result<Plan, ViewError> {
        expect_schema("states", self.operators.state_schema(), &states.schema())?;
        let no_filters = vec![None; self.aggregates.len()];
        let groups = group_by(self.key_columns());
        let input = coalesced(states);
        let mut plan = self.aggregate(AggregateMode::Final, groups, no_filters, input)?;
        for stage in &self.stages {
            plan = Arc::new(ProjectionExec::try_new(stage.clone(), plan)?);
        }
        Ok(plan)
    }

    /// The order of the sort key over a batch of states; none without GROUP BY.
    pub(crate) fn sort_order(&self) -> Option<LexOrdering> {
        let options = SortOptions {
            descending: false,
            nulls_first: true,
        };
        LexOrdering::new(self.sort_key.order().iter().map(|index| {
            let name = self.operators.state_schema().field(*index).name();
            PhysicalSortExpr::new(Arc::new(Column::new(name, *index)), options)
        }))
    }

    /// The events that are read, in the order that the filters and projections expect.
    fn leaf(&self, events: Plan) -> Result<Plan, ViewError> {
        let mut node = &self.input;
        while let Some(child) = node.children().first() {
            node = child;
        }
        let expected = node.schema();
        let found = events.schema();
        let mut columns: Vec<Named> = Vec::new();
        for field in expected.fields() {
            let index = found.index_of(field.name())?;
            let name = field.name().clone();
            columns.push((Arc::new(Column::new(&name, index)), name));
        }
        if found.fields().len() == columns.len()
            && expect_schema("events", &expected, &found).is_ok()
        {
            return Ok(events);
        }
        let projected: Plan = Arc::new(ProjectionExec::try_new(columns, events)?);
        expect_schema("events", &expected, &projected.schema())?;
        Ok(projected)
    }

    fn aggregate(
        &self,
        mode: AggregateMode,
        groups: PhysicalGroupBy,
        filters: Vec<Option<Arc<dyn PhysicalExpr>>>,
        input: Plan,
    ) -> Result<Plan, ViewError> {
        let input_schema = match mode {
            AggregateMode::Partial => input.schema(),
            _ => self.input.schema(),
        };
        let aggregates = self.aggregates.clone();
        let aggregate =
            AggregateExec::try_new(mode, groups, aggregates, filters, input, input_schema)?;
        Ok(Arc::new(aggregate))
    }

    /// Names state columns by position, as `state_schema` has them.
    fn rename(&self, states: Plan) -> Result<Plan, ViewError> {
        let from = states.schema();
        let columns: Vec<Named> = from
            .fields()
            .iter()
            .zip(self.operators.state_schema().fields())
            .enumerate()
            .map(|(index, (from, to))| {
                let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(from.name(), index));
                (column, to.name().clone())
            })
            .collect();
        let renamed: Plan = Arc::new(ProjectionExec::try_new(columns, states)?);
        expect_schema("states", self.operators.state_schema(), &renamed.schema())?;
        Ok(renamed)
    }

    fn key_columns(&self) -> Vec<Named> {
        self.groups
            .iter()
            .enumerate()
            .map(|(index, (_, name))| {
                let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(name, index));
                (column, name.clone())
            })
            .collect()
    }
}

fn group_by(groups: Vec<Named>) -> PhysicalGroupBy {
    if groups.is_empty() {
        PhysicalGroupBy::default()
    } else {
        PhysicalGroupBy::new_single(groups)
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
