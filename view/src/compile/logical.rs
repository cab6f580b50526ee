// SPDX-License-Identifier: Apache-2.0
//! What only the analysed logical plan can tell: volatile functions, unknown aggregates, which output is
//! which key, and how precise each output is.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Schema};
use datafusion::common::DFSchema;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Aggregate, Expr, ExprSchemable, LogicalPlan, Volatility};
use datafusion::physical_expr::create_physical_expr;
use datafusion::scalar::ScalarValue;
use dovetail_model::StreamSchema;

use crate::aggregates;
use crate::functions::unbounded;
use crate::words::words_of;
use crate::{Equality, ViewError, sql_type};

/// An output column.
pub(crate) struct Output {
    /// Its name.
    pub(crate) name: String,
    /// The expression it comes from, for messages.
    pub(crate) sql: String,
}

/// What the logical plan tells.
pub(crate) struct Analysed {
    pub(crate) outputs: Vec<Output>,
    /// For each group expression, the output that shows it.
    pub(crate) key_outputs: Vec<usize>,
    pub(crate) time_key: Option<usize>,
    pub(crate) equality: Vec<Equality>,
}

/// Looks at an analysed plan, and refuses what cannot be a view.
pub(crate) fn analyse(plan: &LogicalPlan, stream: &StreamSchema) -> Result<Analysed, ViewError> {
    refuse_unfit_expressions(plan)?;
    let LogicalPlan::Projection(projection) = plan else {
        return Err(no_aggregation(plan));
    };
    let LogicalPlan::Aggregate(aggregate) = projection.input.as_ref() else {
        return Err(no_aggregation(plan));
    };
    let classes = aggregate_classes(aggregate)?;
    let outputs: Vec<Output> = projection
        .expr
        .iter()
        .zip(projection.schema.fields())
        .map(|(expr, field)| Output {
            name: field.name().clone(),
            sql: unaliased(expr).human_display().to_string(),
        })
        .collect();
    let groups = distinct_groups(aggregate);
    let key_outputs = groups
        .iter()
        .map(|group| key_output(group, &projection.expr))
        .collect::<Result<_, _>>()?;
    let event_time = stream.event_time.as_ref().map(|e| e.column.as_str());
    let time_key =
        event_time.and_then(|column| groups.iter().position(|group| is_monotone(group, column)));
    let equality = projection
        .expr
        .iter()
        .map(|expr| output_equality(expr, &classes))
        .collect();
    Ok(Analysed {
        outputs,
        key_outputs,
        time_key,
        equality,
    })
}

fn no_aggregation(plan: &LogicalPlan) -> ViewError {
    let shown = match plan {
        LogicalPlan::Projection(projection) => projection
            .expr
            .first()
            .map(|e| unaliased(e).human_display().to_string()),
        _ => None,
    };
    ViewError::refused(
        shown.unwrap_or_else(|| plan.display().to_string()),
        "a view aggregates: use count, sum, … or add GROUP BY; single events are read from the stream itself",
    )
}

fn unaliased(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => unaliased(&alias.expr),
        other => other,
    }
}

fn refuse_unfit_expressions(plan: &LogicalPlan) -> Result<(), ViewError> {
    let mut refusal = None;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|part| {
                if let Some(reason) = unfit(part) {
                    let shown = part.human_display().to_string();
                    refusal.get_or_insert_with(|| ViewError::refused(shown, reason));
                    return Ok(TreeNodeRecursion::Stop);
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    refusal.map_or(Ok(()), Err)
}

fn unfit(expr: &Expr) -> Option<String> {
    match expr {
        Expr::ScalarFunction(function)
            if function.func.signature().volatility != Volatility::Immutable =>
        {
            Some(format!(
                "`{}` gives another value each time, so batch and speed layer would disagree: use a column of the stream, such as its event time or _arrived_at",
                function.func.name()
            ))
        }
        Expr::ScalarFunction(function) => unbounded(function).or_else(|| not_written_out(function)),
        Expr::AggregateFunction(function) => {
            let name = function.func.name();
            if function.params.distinct
                && let Some(reason) = unfit_distinct(name, &function.params.args)
            {
                return Some(reason);
            }
            if aggregates::is_order_sensitive(name) && function.params.order_by.is_empty() {
                return Some(
                    "its result depends on the order of events: give it an ORDER BY".to_owned(),
                );
            }
            aggregates::precision(name)
                .is_none()
                .then(|| format!("`{name}` is not known to merge: use another aggregate"))
        }
        Expr::WindowFunction(_) => {
            Some("window functions belong in the query that reads the view".to_owned())
        }
        Expr::ScalarSubquery(_) | Expr::InSubquery(_) | Expr::Exists(_) => {
            Some("a view reads exactly one stream, once".to_owned())
        }
        Expr::GroupingSet(_) => {
            Some("a view groups in one way: declare one view for each grouping".to_owned())
        }
        Expr::ScalarVariable(_, _) | Expr::Placeholder(_) => {
            Some("write the value itself: a view has no parameters".to_owned())
        }
        _ => None,
    }
}

/// Why a call fails on every event: these functions take some arguments as constants only, and would say so when
/// the first event comes.
fn not_written_out(call: &ScalarFunction) -> Option<String> {
    let name = call.func.name();
    let instead = match name {
        "date_trunc" => "write the unit itself, as in date_trunc('hour', …)",
        "date_bin" => "write the stride itself, as in date_bin(INTERVAL '15 minutes', …)",
        _ => return None,
    };
    let varies = |arg: &Expr| !arg.column_refs().is_empty();
    let first = call.args.first()?;
    if varies(first) {
        return Some(format!(
            "`{name}` takes one that is the same for all events: {instead}; for several, CASE has a branch for each"
        ));
    }
    (name == "date_trunc")
        .then(|| unknown_unit(call, first))
        .flatten()
}

/// What `date_trunc` says of its unit, if it does not know it. Tried on some time, as events are still to come.
fn unknown_unit(call: &ScalarFunction, unit: &Expr) -> Option<String> {
    let some_time = ScalarValue::TimestampMicrosecond(Some(0), None);
    let args = vec![unit.clone(), Expr::Literal(some_time, None)];
    let tried = Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(&call.func), args));
    let row = RecordBatchOptions::new().with_row_count(Some(1));
    let row = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &row).ok()?;
    let (nothing, props) = (DFSchema::empty(), ExecutionProps::new());
    let planning = PhysicalPlanningContext::default();
    let made = create_physical_expr(&tried, &nothing, &props, &planning).ok()?;
    made.evaluate(&row).err().map(|error| words_of(&error))
}

/// Why an aggregate cannot be one of DISTINCT values.
fn unfit_distinct(name: &str, args: &[Expr]) -> Option<String> {
    let args: Vec<String> = args.iter().map(|a| a.human_display().to_string()).collect();
    match name {
        "count" if args.len() > 1 => Some(format!(
            "with DISTINCT it counts one expression: write count(DISTINCT struct({}))",
            args.join(", ")
        )),
        // The engine would take each pair again, and say nothing.
        "corr" | "covar_pop" | "covar_samp" => {
            Some("it takes no DISTINCT: leave it out".to_owned())
        }
        name if name.starts_with("regr_") || name.starts_with("stddev") => {
            Some("it takes no DISTINCT: leave it out".to_owned())
        }
        _ => None,
    }
}

/// The class of each aggregate, by the name of its column.
fn aggregate_classes(aggregate: &Aggregate) -> Result<HashMap<String, Equality>, ViewError> {
    let mut classes = HashMap::new();
    let input = aggregate.input.schema();
    for expr in &aggregate.aggr_expr {
        let Expr::AggregateFunction(function) = unaliased(expr) else {
            return Err(ViewError::refused(
                expr.human_display(),
                "it is not an aggregate",
            ));
        };
        let data_type = expr.get_type(input).unwrap_or(DataType::Float64);
        let name = function.func.name();
        if matches!(name, "min" | "max") && data_type.is_nested() {
            return Err(ViewError::refused(
                unaliased(expr).human_display(),
                format!(
                    "values of type {} have no order of their own: compare its fields",
                    sql_type(&data_type)
                ),
            ));
        }
        let precision = aggregates::precision(name).unwrap_or(aggregates::Precision::Moments);
        let argument = match function.params.args.first() {
            Some(argument) => argument.get_type(input)?,
            None => data_type,
        };
        classes.insert(
            expr.schema_name().to_string(),
            Equality::of(precision, &argument),
        );
    }
    Ok(classes)
}

fn output_equality(expr: &Expr, classes: &HashMap<String, Equality>) -> Equality {
    let mut equality = Equality::Exact;
    expr.apply(|part| {
        if let Expr::Column(column) = part
            && let Some(class) = classes.get(column.name())
        {
            equality = equality.combine(*class);
        }
        Ok(TreeNodeRecursion::Continue)
    })
    .expect("looking at an expression cannot fail");
    equality
}

/// The group expressions without repetitions, as the planner will have them.
fn distinct_groups(aggregate: &Aggregate) -> Vec<&Expr> {
    let mut seen = HashSet::new();
    let groups = aggregate.group_expr.iter();
    groups.filter(|group| seen.insert(*group)).collect()
}

/// The output column that shows a group expression and nothing else.
fn key_output(group: &Expr, outputs: &[Expr]) -> Result<usize, ViewError> {
    let (relation, name) = group.qualified_name();
    outputs
        .iter()
        .position(|output| match unaliased(output) {
            Expr::Column(column) => column.relation == relation && column.name == name,
            _ => false,
        })
        .ok_or_else(|| {
            let shadowed = outputs.iter().find(|output| output.qualified_name().1 == name);
            if let (Expr::Column(_), Some(output)) = (group, shadowed) {
                let shown = unaliased(output).human_display().to_string();
                return ViewError::refused(
                    format!("GROUP BY {name}"),
                    format!(
                        "there `{name}` is the stream's column, as SQL has it, and not the output that is called so: give the output another name, or group by what it is, `{shown}`"
                    ),
                );
            }
            ViewError::refused(
                unaliased(group).human_display(),
                "every group expression must be in the select list: add it there, or leave it out of GROUP BY",
            )
        })
}

/// Whether `expr` grows with the event time `column`: then groups that are near in time are near in
/// the order of this key.
fn is_monotone(expr: &Expr, column: &str) -> bool {
    match expr {
        Expr::Alias(alias) => is_monotone(&alias.expr, column),
        Expr::Column(c) => c.name() == column,
        Expr::Cast(cast) => {
            let target = cast.field.data_type();
            let temporal = matches!(target, DataType::Date32 | DataType::Timestamp(_, None));
            temporal && is_monotone(&cast.expr, column)
        }
        Expr::ScalarFunction(ScalarFunction { func, args }) => match (func.name(), &args[..]) {
            ("date_trunc", [Expr::Literal(..), time]) => is_monotone(time, column),
            ("date_bin", [stride, time, rest @ ..]) => {
                let constant = |e: &Expr| matches!(e, Expr::Literal(..) | Expr::Cast(_));
                let fixed = constant(stride) && stride.column_refs().is_empty();
                let origin = rest.iter().all(|e| e.column_refs().is_empty());
                fixed && origin && is_monotone(time, column)
            }
            _ => false,
        },
        _ => false,
    }
}
