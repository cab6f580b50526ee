// SPDX-License-Identifier: Apache-2.0
//! From a checked SELECT to the parts that accumulate, merge and finish are made of.
//!
//! ```text
//!   SQL text ── checks ──► logical plan ── analyse ──► keys, names, refusals
//!                               │ an allow-list of rules: simplify, push filters down, prune columns
//!                               ▼
//!   physical plan, no physical rules:   select list ◄ Final ◄ Partial ◄ filters, projections ◄ leaf
//!                                        `stages`      the same        `input`
//!                                                    aggregates
//! ```
//!
//! Invariants: exactly one Partial; the aggregates are the ones the planner made of the one definition, and
//! every operator is built over them; nothing here depends on data or statistics.
//! Non-goals: running anything (`ops`, `plans`).

mod keys;
mod logical;
mod measures;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::common::TableReference;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::datasource::empty::EmptyTable;
use datafusion::error::DataFusionError;
use datafusion::execution::context::SessionContext;
use datafusion::optimizer::AnalyzerRule;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::expressions::{CastExpr, Column};
use datafusion::physical_expr::{LexOrdering, PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{SelectItem, Statement as SqlStatement};
use dovetail_model::StreamSchema;

use crate::checks::{self, Checked};
use crate::engine::{resolve, session};
use crate::functions::{BoundedCalls, CheckedNumbers, SameNumbers, keep_digits};
use crate::storage::surface_type;
use crate::{Equality, ViewError, aggregates, sql_type};

pub use keys::KeyColumn;
pub(crate) use measures::{Call, Measure};

/// An expression and the name of what it computes.
pub(crate) type Named = (Arc<dyn PhysicalExpr>, String);

/// Everything that is known of a view once it is compiled.
pub(crate) struct Parts {
    pub(crate) stream: String,
    pub(crate) sql: String,
    pub(crate) events_schema: SchemaRef,
    /// Columns of `events_schema` that are read, in the order of the leaf.
    pub(crate) event_columns: Vec<usize>,
    /// Filters and projections over an empty leaf, up to the input of the aggregation.
    pub(crate) input: Arc<dyn ExecutionPlan>,
    /// The group expressions over `input`, under their output names.
    pub(crate) groups: Vec<Named>,
    /// What is added up, over `input`.
    pub(crate) measures: Vec<Measure>,
    /// The aggregate functions as they are written.
    pub(crate) calls: Vec<Call>,
    /// The order in which an aggregate must see the events, if one asks.
    pub(crate) input_order: Option<LexOrdering>,
    /// The select list over keys and finished aggregates: projections one after the other.
    pub(crate) stages: Vec<Vec<Named>>,
    /// The name of each output column, and the expression of the select list that it comes from.
    pub(crate) outputs: Vec<(String, String)>,
    pub(crate) keys: Vec<KeyColumn>,
    pub(crate) time_key: Option<usize>,
    pub(crate) equality: Vec<Equality>,
}

/// Compiles a definition.
pub(crate) fn compile(
    sql: &str,
    streams: &BTreeMap<String, StreamSchema>,
) -> Result<Parts, ViewError> {
    let checked = checks::check(sql, streams)?;
    let stream_schema = &streams[&checked.stream];
    let events_schema = stream_schema.events();
    let state = session();
    let context = SessionContext::new_with_state(state.clone());
    context
        .register_table(
            TableReference::bare(checked.stream.as_str()),
            Arc::new(EmptyTable::new(Arc::clone(&events_schema))),
        )
        .map_err(definition)?;
    let Checked {
        stream,
        sql,
        mut statement,
    } = checked;
    let written = written_outputs(&statement);
    keep_digits(&mut statement);
    let plan = resolve(state.statement_to_plan(Statement::Statement(Box::new(statement))))
        .map_err(definition)?;
    let plan = state
        .analyzer()
        .execute_and_check(plan, state.config_options(), |_, _| {})
        .map_err(definition)?;
    let mut analysed = logical::analyse(&plan, stream_schema)?;
    if written.len() == analysed.outputs.len() {
        // What the engine shows of an expression has neither its parentheses nor its casts.
        for (output, written) in analysed.outputs.iter_mut().zip(written) {
            output.sql = written;
        }
    }
    // What a message shows of the definition is its own text, so this comes behind.
    let plan = CheckedNumbers.analyze(plan, state.config_options());
    let plan = plan.and_then(|plan| SameNumbers.analyze(plan, state.config_options()));
    let plan = plan.and_then(|plan| BoundedCalls::default().analyze(plan, state.config_options()));
    let plan = plan.map_err(definition)?;
    let physical = resolve(state.create_physical_plan(&plan)).map_err(definition)?;
    let physical = Physical::take_apart(&physical)?;
    physical.into_parts(stream, sql, events_schema, analysed)
}

/// The expressions of a select list as they are written; none where it is no list of expressions.
fn written_outputs(statement: &SqlStatement) -> Vec<String> {
    let SqlStatement::Query(query) = statement else {
        return vec![];
    };
    let Some(select) = query.body.as_select() else {
        return vec![];
    };
    let items = select.projection.iter();
    let written = items.map(|item| match item {
        SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => {
            Some(expr.to_string())
        }
        _ => None,
    });
    written.collect::<Option<_>>().unwrap_or_default()
}

/// A planner's complaint is about the definition.
fn definition(error: DataFusionError) -> ViewError {
    const CONFLICT: &str = "Conflicting ordering requirements";
    if matches!(error.find_root(), DataFusionError::NotImplemented(m) if m.contains(CONFLICT)) {
        return ViewError::Definition(ORDERS_CONFLICT.to_owned());
    }
    ViewError::Engine(error).of_definition()
}

const ORDERS_CONFLICT: &str = "two of nth_value and percentiles WITHIN GROUP need the events in different orders: give them the same ORDER BY, or declare two views";

/// The physical plan, taken apart at its one aggregation.
struct Physical {
    stages: Vec<Vec<Named>>,
    partial: AggregateExec,
    /// Fields of the finished aggregation: keys, then aggregates.
    finished: SchemaRef,
}

impl Physical {
    fn take_apart(plan: &Arc<dyn ExecutionPlan>) -> Result<Self, ViewError> {
        let mut stages = Vec::new();
        let mut node = plan;
        while let Some(projection) = node.downcast_ref::<ProjectionExec>() {
            let stage = projection.expr().iter();
            stages.push(
                stage
                    .map(|e| (Arc::clone(&e.expr), e.alias.clone()))
                    .collect(),
            );
            node = projection.input();
        }
        stages.reverse();
        let unexpected = || {
            let shape = datafusion::physical_plan::displayable(plan.as_ref()).indent(false);
            ViewError::Definition(format!(
                "the definition does not plan as one aggregation over the stream:\n{shape}"
            ))
        };
        let finish = aggregate(node, AggregateMode::Final).ok_or_else(unexpected)?;
        let partial = aggregate(finish.input(), AggregateMode::Partial).ok_or_else(unexpected)?;
        check_input(partial.input()).ok_or_else(unexpected)?;
        partial.aggr_expr().iter().try_for_each(check_order)?;
        Ok(Self {
            stages,
            finished: finish.schema(),
            partial: partial.clone(),
        })
    }

    fn into_parts(
        self,
        stream: String,
        sql: String,
        events_schema: SchemaRef,
        analysed: logical::Analysed,
    ) -> Result<Parts, ViewError> {
        let input = Arc::clone(self.partial.input());
        let leaf = leaf_schema(&input);
        let event_columns = leaf
            .fields()
            .iter()
            .map(|field| events_schema.index_of(field.name()))
            .collect::<Result<_, _>>()?;
        let planned = self.partial.group_expr().expr().len();
        if planned != analysed.key_outputs.len() || !self.partial.group_expr().is_single() {
            return Err(ViewError::Definition(format!(
                "the definition groups by {} expressions, but plans with {planned}: leave out those that repeat others",
                analysed.key_outputs.len()
            )));
        }
        let (groups, keys) = keys::key_columns(&self.partial, &analysed)?;
        let stages = finish_stages(self.stages, &self.finished, &groups, &input, &analysed)?;
        let asked = asked(&self.partial);
        let (measures, calls) = measures::measures(&asked, &input.schema())?;
        Ok(Parts {
            stream,
            sql,
            events_schema,
            event_columns,
            groups,
            measures,
            calls,
            input_order: input_order(&self.partial)?,
            stages,
            outputs: analysed
                .outputs
                .into_iter()
                .map(|o| (o.name, o.sql))
                .collect(),
            keys,
            time_key: analysed.time_key,
            equality: analysed.equality,
            input,
        })
    }
}

fn aggregate(plan: &Arc<dyn ExecutionPlan>, mode: AggregateMode) -> Option<&AggregateExec> {
    plan.downcast_ref::<AggregateExec>()
        .filter(|aggregate| *aggregate.mode() == mode)
}

/// Only filters and projections may lie between the leaf and the aggregation.
fn check_input(mut plan: &Arc<dyn ExecutionPlan>) -> Option<()> {
    loop {
        plan = if let Some(filter) = plan.downcast_ref::<FilterExec>() {
            filter.input()
        } else if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
            projection.input()
        } else {
            return plan.is::<EmptyExec>().then_some(());
        };
    }
}

/// An order that holds the same expression twice would panic where it is used: DataFusion keeps both in
/// the state and one in the accumulator. The text was checked; two texts may still mean the same.
fn check_order(aggregate: &Arc<AggregateFunctionExpr>) -> Result<(), ViewError> {
    let orders = aggregate.order_bys();
    let repeated = orders
        .iter()
        .enumerate()
        .find(|(index, order)| orders[..*index].iter().any(|o| o.expr.eq(&order.expr)));
    match repeated {
        None => Ok(()),
        Some((_, order)) => Err(ViewError::refused(
            aggregate.name(),
            format!(
                "it is ordered by `{}` twice: leave one of them out",
                order.expr
            ),
        )),
    }
}

fn leaf_schema(plan: &Arc<dyn ExecutionPlan>) -> SchemaRef {
    let mut node = plan;
    while let Some(child) = node.children().first() {
        node = child;
    }
    node.schema()
}

/// The aggregate functions that the planner made of the select list.
fn asked(partial: &AggregateExec) -> Vec<Measure> {
    let pairs = partial.aggr_expr().iter().zip(partial.filter_expr());
    let asked = pairs.map(|(function, filter)| Measure {
        function: Arc::clone(function),
        filter: filter.clone(),
    });
    asked.collect()
}

/// The order that aggregates like `nth_value` must see their input in. Those that sort for themselves
/// (`array_agg`, `string_agg`) or compare (`first_value`) do not ask.
///
/// Not the plan's own requirement: that leaves out what is also a group key, as if it were the same in the
/// whole group; but `-0.0` and `0.0` are one key and two places in an order.
fn input_order(partial: &AggregateExec) -> Result<Option<LexOrdering>, ViewError> {
    use datafusion::logical_expr::utils::AggregateOrderSensitivity::HardRequirement;
    let mut order: &[PhysicalSortExpr] = &[];
    for aggregate in partial.aggr_expr() {
        let asks = aggregate.order_sensitivity() == HardRequirement
            && aggregates::is_order_sensitive(aggregate.fun().name());
        let wanted = if asks { aggregate.order_bys() } else { &[] };
        if wanted.starts_with(order) {
            order = wanted;
        } else if !order.starts_with(wanted) {
            return Err(ViewError::Definition(ORDERS_CONFLICT.to_owned()));
        }
    }
    Ok(LexOrdering::new(order.to_vec()))
}

/// The select list's projections, with keys read in the type they have in states and every output cast
/// to the type it has in answers and files.
fn finish_stages(
    mut stages: Vec<Vec<Named>>,
    finished: &SchemaRef,
    groups: &[Named],
    input: &Arc<dyn ExecutionPlan>,
    analysed: &logical::Analysed,
) -> Result<Vec<Vec<Named>>, ViewError> {
    if stages.is_empty() {
        let all = finished.fields().iter().enumerate();
        stages.push(
            all.map(|(index, field)| (column(field.name(), index), field.name().clone()))
                .collect(),
        );
    }
    let mut fields = finished.fields().to_vec();
    for (index, (expr, name)) in groups.iter().enumerate() {
        let data_type = expr.data_type(&input.schema())?;
        let original = finished.field(index).data_type().clone();
        for (stage_expr, _) in &mut stages[0] {
            *stage_expr = read_key(stage_expr, index, name, &data_type, &original)?;
        }
        let field = finished.field(index).clone();
        fields[index] = Arc::new(field.with_name(name).with_data_type(data_type));
    }
    let mut schema = Arc::new(Schema::new(fields));
    let last = stages.len() - 1;
    for (position, stage) in stages.iter_mut().enumerate() {
        if position == last {
            for ((expr, name), output) in stage.iter_mut().zip(&analysed.outputs) {
                *expr = to_surface(expr, &schema, &output.sql)?;
                name.clone_from(&output.name);
            }
        }
        schema = Arc::new(Schema::new(stage_fields(stage, &schema)?));
    }
    Ok(stages)
}

/// The fields that a projection makes.
pub(crate) fn stage_fields(
    stage: &[Named],
    input: &Schema,
) -> Result<Vec<arrow::datatypes::Field>, ViewError> {
    stage
        .iter()
        .map(|(expr, name)| {
            Ok(arrow::datatypes::Field::new(
                name,
                expr.data_type(input)?,
                expr.nullable(input)?,
            ))
        })
        .collect()
}

fn column(name: &str, index: usize) -> Arc<dyn PhysicalExpr> {
    Arc::new(Column::new(name, index))
}

/// Where `expr` reads key `index`, it must read it under its output name and, should the state hold it
/// in a wider type, in its own.
fn read_key(
    expr: &Arc<dyn PhysicalExpr>,
    index: usize,
    name: &str,
    stored: &DataType,
    original: &DataType,
) -> Result<Arc<dyn PhysicalExpr>, ViewError> {
    let key = column(name, index);
    let is_key = |e: &Arc<dyn PhysicalExpr>| {
        e.downcast_ref::<Column>()
            .is_some_and(|c| c.index() == index)
    };
    if is_key(expr) {
        return Ok(key);
    }
    let rewritten = Arc::clone(expr).transform_down(|node| {
        if !is_key(&node) {
            return Ok(Transformed::no(node));
        }
        let read: Arc<dyn PhysicalExpr> = if stored == original {
            Arc::clone(&key)
        } else {
            Arc::new(CastExpr::new(Arc::clone(&key), original.clone(), None))
        };
        Ok(Transformed::new(
            read,
            true,
            datafusion::common::tree_node::TreeNodeRecursion::Jump,
        ))
    })?;
    Ok(rewritten.data)
}

/// `expr` in the type that users see, or a refusal that names it.
pub(crate) fn to_surface(
    expr: &Arc<dyn PhysicalExpr>,
    schema: &Schema,
    sql: &str,
) -> Result<Arc<dyn PhysicalExpr>, ViewError> {
    let data_type = expr.data_type(schema)?;
    let surface = surface_type(&data_type).ok_or_else(|| {
        ViewError::refused(
            sql,
            format!(
                "its type is {}, which no column of a view can have: write CAST(… AS {}",
                match data_type {
                    // One of microseconds could be.
                    DataType::Timestamp(_, None) => "a TIMESTAMP of another precision".to_owned(),
                    _ => sql_type(&data_type),
                },
                match data_type {
                    DataType::Duration(_) => "BIGINT) for its microseconds",
                    _ => "…) to one of BOOLEAN, INT, BIGINT, DOUBLE, DECIMAL, VARCHAR, DATE, TIMESTAMP",
                }
            ),
        )
    })?;
    if surface == data_type {
        return Ok(Arc::clone(expr));
    }
    Ok(Arc::new(CastExpr::new(Arc::clone(expr), surface, None)))
}
