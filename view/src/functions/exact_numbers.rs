// SPDX-License-Identifier: Apache-2.0
//! Numbers in SQL that are the ones written wherever they stand beside a DECIMAL.
//!
//! Purpose: DataFusion 55.2 makes `4.48` a DOUBLE, and compares it with a DECIMAL as DECIMAL(30, 15), to which it rounds
//! `4.48 * 10^15` of floats: of the numbers with two digits behind the point, 6.7 % are other ones. Here a number that a
//! DECIMAL is compared with, or an alternative to one (in CASE, `coalesce` and the like), is the DECIMAL that is written,
//! and it stays a DOUBLE elsewhere. A DECIMAL and another DOUBLE, as of a column, meet as DOUBLEs: the other way a large one
//! would not fit. Invariants: it comes before the coercion of types; columns keep the names that they had.
//! Collaborators: `written` has the digits; [`keep_digits`] sees to it that those which a DOUBLE lacks come this far.

#[cfg(test)]
mod tests;
mod written;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::metadata::{FieldMetadata, ScalarAndMetadata};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, ScalarValue, plan_err};
use datafusion::error::Result;
use datafusion::logical_expr::expr::{
    Between, Case, Cast, InList, InSubquery, ScalarFunction, SetComparison, TryCast,
};
use datafusion::logical_expr::expr_schema::cast_subquery;
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, ExprSchemable, Join, LogicalPlan, Operator, Projection,
    ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Subquery, Union, Volatility,
};
use datafusion::optimizer::AnalyzerRule;
use datafusion::sql::sqlparser::ast;

use super::rewriting::rewritten;
use written::Written;

/// The name under which a number with more digits than a DOUBLE has is called, with its text: no SQL has it by chance.
const WITH_ALL_DIGITS: &str = "number with all digits";

/// The mark of a parameter with more digits than a DOUBLE has: its text.
const DIGITS: &str = "dovetail.digits";

/// Functions whose arguments are alternatives to each other.
const ALTERNATIVES: [&str; 4] = ["coalesce", "greatest", "least", "make_array"];

/// Functions that put their arguments side by side: two of them are compared argument by argument.
const COMPOSERS: [&str; 3] = ["make_array", "named_struct", "struct"];

/// Makes the numbers exact.
#[derive(Debug)]
pub struct ExactNumbers;

impl AnalyzerRule for ExactNumbers {
    fn name(&self) -> &'static str {
        "exact_numbers"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let held = types_are_held(&plan)?;
        let mut changed = false;
        let plan = plan.transform_up_with_subqueries(|node| {
            let node = match node {
                LogicalPlan::Join(join) => joined(join)?,
                LogicalPlan::Union(union) if !held => united(union)?,
                node => Transformed::no(node),
            };
            changed |= node.transformed;
            if changed {
                return node.map_data(LogicalPlan::recompute_schema);
            }
            Ok(node)
        })?;
        rewritten(plan.data, |expr, schema| exact(expr, schema, held))
    }
}

impl ExactNumbers {
    /// As the rule does in plans, in an expression over `schema`.
    pub(crate) fn of_expression(expr: Expr, schema: &DFSchema) -> Result<Expr> {
        Ok(exact(expr, schema, false)?.data)
    }
}

/// Whether parts of the plan hold the types of others: outer references do, and the recursive term of a `WITH RECURSIVE`.
fn types_are_held(plan: &LogicalPlan) -> Result<bool> {
    let mut held = false;
    plan.apply_with_subqueries(|node| {
        held |= matches!(node, LogicalPlan::RecursiveQuery(_));
        node.apply_expressions(|expr| {
            held |= expr.contains_outer();
            Ok(if held {
                TreeNodeRecursion::Stop
            } else {
                TreeNodeRecursion::Continue
            })
        })
    })?;
    Ok(held)
}

/// `USING` pairs columns, and they are compared by no expression.
fn joined(mut join: Join) -> Result<Transformed<LogicalPlan>> {
    let mut changed = false;
    for (left, right) in &mut join.on {
        let types = (
            left.get_type(join.left.schema())?,
            right.get_type(join.right.schema())?,
        );
        let side = match types {
            (DataType::Float64, other) if other.is_decimal() => right,
            (other, DataType::Float64) if other.is_decimal() => left,
            _ => continue,
        };
        *side = double(std::mem::take(side));
        changed = true;
    }
    Ok(Transformed::new_transformed(
        LogicalPlan::Join(join),
        changed,
    ))
}

/// What the inputs of a UNION have in one column stands beside each other.
fn united(mut union: Union) -> Result<Transformed<LogicalPlan>> {
    let mut changed = false;
    for column in 0..union.schema.fields().len() {
        let outputs = union
            .inputs
            .iter()
            .map(|input| kind_of_output(input, column));
        let kinds: Vec<Kind> = outputs.collect();
        let mut decimals = match meeting(&kinds, Use::Choose) {
            Meeting::Unlike => continue,
            Meeting::Decimals(decimals) => Some(decimals.into_iter()),
            Meeting::Doubles => None,
        };
        for (input, kind) in union.inputs.iter_mut().zip(&kinds) {
            let output = match (&mut decimals, kind) {
                (Some(decimals), _) => decimals.next().flatten().map(|d| Expr::Literal(d, None)),
                (None, Kind::Decimal(_)) => {
                    Some(double(Expr::from(input.schema().qualified_field(column))))
                }
                (None, _) => None,
            };
            let Some(output) = output else { continue };
            *input = Arc::new(with_output(input, column, output)?);
            changed = true;
        }
    }
    if changed {
        union = Union::try_new_with_loose_types(union.inputs)?;
    }
    Ok(Transformed::new_transformed(
        LogicalPlan::Union(union),
        changed,
    ))
}

fn kind_of_output(plan: &LogicalPlan, column: usize) -> Kind {
    if let LogicalPlan::Projection(projection) = plan {
        return Kind::of(
            &projection.expr[column].clone().unalias(),
            projection.input.schema(),
        );
    }
    if let LogicalPlan::Values(values) = plan
        && let [row] = &values.values[..]
    {
        return Kind::of(&row[column], &values.schema);
    }
    let output = Expr::from(plan.schema().qualified_field(column));
    Kind::of(&output, plan.schema())
}

/// `plan` with another output in the place of one, under its name.
fn with_output(plan: &Arc<LogicalPlan>, column: usize, output: Expr) -> Result<LogicalPlan> {
    let outputs = plan.schema().iter().enumerate().map(|(index, field)| {
        if index == column {
            output
                .clone()
                .alias_qualified(field.0.cloned(), field.1.name())
        } else {
            Expr::from(field)
        }
    });
    let outputs = outputs.collect();
    Ok(LogicalPlan::Projection(Projection::try_new(
        outputs,
        Arc::clone(plan),
    )?))
}

fn exact(expr: Expr, schema: &DFSchema, types_are_held: bool) -> Result<Transformed<Expr>> {
    let beside = expr.transform_up(|part| {
        let held = if types_are_held {
            part.get_type(schema).ok()
        } else {
            None
        };
        let beside = beside_decimals(part, schema)?;
        match held {
            Some(held) if beside.transformed && beside.data.get_type(schema)? != held => {
                Ok(beside.update_data(|part| Expr::Cast(Cast::new(Box::new(part), held))))
            }
            _ => Ok(beside),
        }
    })?;
    // What stands beside none.
    beside.transform_data(|expr| expr.transform_up(|part| Ok(plain(part))))
}

/// A number with its text as the plain one that it is for everything else.
fn plain(part: Expr) -> Transformed<Expr> {
    let marked = match &part {
        Expr::Literal(_, Some(metadata)) => metadata.inner().contains_key(DIGITS),
        Expr::ScalarFunction(call) => call.func.name() == WITH_ALL_DIGITS,
        _ => false,
    };
    if !marked {
        return Transformed::no(part);
    }
    match part {
        Expr::Literal(value, _) => Transformed::yes(Expr::Literal(value, None)),
        part => match digits_of_call(&part).and_then(|text| text.parse().ok()) {
            Some(number) => {
                Transformed::yes(Expr::Literal(ScalarValue::Float64(Some(number)), None))
            }
            None => Transformed::no(part),
        },
    }
}

/// The text that a call of [`WithAllDigits`] has as its argument.
fn digits_of_call(part: &Expr) -> Option<&str> {
    match part {
        Expr::ScalarFunction(call) if call.func.name() == WITH_ALL_DIGITS => {
            match call.args.as_slice() {
                [Expr::Literal(ScalarValue::Utf8(Some(text)), _)] => Some(text),
                _ => None,
            }
        }
        _ => None,
    }
}

/// What a part of an expression does with those that stand in it beside each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// They are compared, and the result has another type.
    Compare,
    /// The result is one of them.
    Choose,
}

fn beside_decimals(part: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    Ok(match part {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if compares(op) => {
            let sides = together([*left, *right], Use::Compare, schema);
            sides.update_data(|[left, right]| {
                Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right)))
            })
        }
        Expr::Between(between) => {
            let negated = between.negated;
            let parts = [*between.expr, *between.low, *between.high];
            let parts = together(parts, Use::Compare, schema);
            parts.update_data(|[expr, low, high]| {
                let [expr, low, high] = [expr, low, high].map(Box::new);
                Expr::Between(Between::new(expr, negated, low, high))
            })
        }
        Expr::InList(InList {
            expr,
            list,
            negated,
        }) => {
            let parts: Vec<Expr> = std::iter::once(*expr).chain(list).collect();
            let parts = together(parts, Use::Compare, schema);
            parts.update_data(|mut list| {
                let expr = Box::new(list.remove(0));
                Expr::InList(InList::new(expr, list, negated))
            })
        }
        Expr::Case(case) => of_case(case, schema),
        Expr::ScalarFunction(ScalarFunction { func, args })
            if ALTERNATIVES.contains(&func.name()) =>
        {
            together(args, Use::Choose, schema)
                .update_data(|args| Expr::ScalarFunction(ScalarFunction::new_udf(func, args)))
        }
        Expr::ScalarFunction(call) => match call.func.name() {
            "nvl2" => of_nvl2(call, schema),
            "nullif" => of_nullif(call, schema),
            "round" => of_round(call),
            _ => Transformed::no(Expr::ScalarFunction(call)),
        },
        Expr::Cast(Cast { expr, field }) if field.data_type().is_decimal() => {
            written_decimal(*expr).update_data(|expr| {
                let expr = Box::new(expr);
                Expr::Cast(Cast { expr, field })
            })
        }
        Expr::TryCast(TryCast { expr, field }) if field.data_type().is_decimal() => {
            written_decimal(*expr).update_data(|expr| {
                let expr = Box::new(expr);
                Expr::TryCast(TryCast { expr, field })
            })
        }
        Expr::InSubquery(InSubquery {
            expr,
            subquery,
            negated,
        }) => of_subquery(*expr, subquery, schema)?.update_data(|(expr, subquery)| {
            Expr::InSubquery(InSubquery::new(Box::new(expr), subquery, negated))
        }),
        Expr::SetComparison(SetComparison {
            expr,
            subquery,
            op,
            quantifier,
        }) => of_subquery(*expr, subquery, schema)?.update_data(|(expr, subquery)| {
            Expr::SetComparison(SetComparison::new(Box::new(expr), subquery, op, quantifier))
        }),
        part => Transformed::no(part),
    })
}

fn compares(operator: Operator) -> bool {
    matches!(
        operator,
        Operator::Eq
            | Operator::NotEq
            | Operator::Lt
            | Operator::LtEq
            | Operator::Gt
            | Operator::GtEq
            | Operator::IsDistinctFrom
            | Operator::IsNotDistinctFrom
    )
}

fn of_case(case: Case, schema: &DFSchema) -> Transformed<Expr> {
    let (whens, thens): (Vec<Expr>, Vec<Expr>) = case
        .when_then_expr
        .into_iter()
        .map(|(when, then)| (*when, *then))
        .unzip();
    let with_base = case.expr.is_some();
    let looked_at: Vec<Expr> = case
        .expr
        .map(|base| *base)
        .into_iter()
        .chain(whens)
        .collect();
    let looked_at = if with_base {
        together(looked_at, Use::Compare, schema)
    } else {
        Transformed::no(looked_at)
    };
    let with_else = case.else_expr.is_some();
    let results: Vec<Expr> = thens
        .into_iter()
        .chain(case.else_expr.map(|e| *e))
        .collect();
    let results = together(results, Use::Choose, schema);
    let changed = looked_at.transformed || results.transformed;
    let mut looked_at = looked_at.data.into_iter();
    let mut results = results.data;
    let base = if with_base { looked_at.next() } else { None };
    let otherwise = if with_else { results.pop() } else { None };
    let pairs = looked_at
        .map(Box::new)
        .zip(results.into_iter().map(Box::new));
    let case = Case::new(base.map(Box::new), pairs.collect(), otherwise.map(Box::new));
    Transformed::new_transformed(Expr::Case(case), changed)
}

/// `nvl2(a, b, c)` is one of two, and its first has nothing to do with their type, which DataFusion's has.
fn of_nvl2(call: ScalarFunction, schema: &DFSchema) -> Transformed<Expr> {
    let [looked_at, some, none] = &call.args[..] else {
        return Transformed::no(Expr::ScalarFunction(call));
    };
    let when = Box::new(looked_at.clone().is_not_null());
    let [some, none] = [some, none].map(|part| Box::new(part.clone()));
    let case = of_case(Case::new(None, vec![(when, some)], Some(none)), schema);
    if case.transformed {
        case
    } else {
        Transformed::no(Expr::ScalarFunction(call))
    }
}

/// `nullif(a, b)` is `a` or nothing: it compares with `b` and never is it.
fn of_nullif(call: ScalarFunction, schema: &DFSchema) -> Transformed<Expr> {
    let [first, second] = &call.args[..] else {
        return Transformed::no(Expr::ScalarFunction(call));
    };
    let sides = [first.clone(), second.clone()];
    let sides = together(sides, Use::Compare, schema);
    if !sides.transformed {
        return Transformed::no(Expr::ScalarFunction(call));
    }
    let [left, right] = sides.data;
    let null = Expr::Literal(ScalarValue::Null, None);
    let when = (Box::new(left.eq(right)), Box::new(null));
    let otherwise = Some(Box::new(first.clone()));
    Transformed::yes(Expr::Case(Case::new(None, vec![when], otherwise)))
}

/// The digits that `round` keeps decide its type, and DataFusion knows of them only where they need no cast: then it takes
/// the result for another type than it has, and cannot compare it.
fn of_round(mut call: ScalarFunction) -> Transformed<Expr> {
    let digits = match call.args.get(1) {
        Some(Expr::Literal(ScalarValue::Int64(Some(digits)), _)) => i32::try_from(*digits).ok(),
        _ => None,
    };
    if let Some(digits) = digits {
        call.args[1] = Expr::Literal(ScalarValue::Int32(Some(digits)), None);
    }
    Transformed::new_transformed(Expr::ScalarFunction(call), digits.is_some())
}

/// A DECIMAL is looked for among DOUBLEs as a DOUBLE, and the other way round.
fn of_subquery(
    expr: Expr,
    subquery: Subquery,
    schema: &DFSchema,
) -> Result<Transformed<(Expr, Subquery)>> {
    let found = match subquery.subquery.schema().fields().first() {
        Some(field) => field.data_type().clone(),
        None => return Ok(Transformed::no((expr, subquery))),
    };
    let looked_for = expr.get_type(schema)?;
    Ok(if looked_for.is_decimal() && found.is_floating() {
        Transformed::yes((double(expr), subquery))
    } else if looked_for.is_floating() && found.is_decimal() {
        Transformed::yes((expr, cast_subquery(subquery, &DataType::Float64)?))
    } else {
        Transformed::no((expr, subquery))
    })
}

/// What stands beside others, for the choice of a type that all of them get.
enum Kind {
    Decimal(DataType),
    /// A DOUBLE or FLOAT that is none of a statement's numbers.
    Floating,
    /// A number or, where it is `text`, a text with the digits of one.
    Number {
        written: Written,
        of: NumberType,
    },
    Other,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum NumberType {
    Double,
    Whole,
    Text,
}

impl Kind {
    fn of(expr: &Expr, schema: &DFSchema) -> Self {
        if let Some((written, of)) = number(expr) {
            return Self::Number { written, of };
        }
        match expr.get_type(schema) {
            Ok(data_type) if data_type.is_decimal() => Self::Decimal(data_type),
            Ok(data_type) if data_type.is_floating() => Self::Floating,
            _ => Self::Other,
        }
    }
}

/// The number that a statement or a parameter writes.
fn number(expr: &Expr) -> Option<(Written, NumberType)> {
    match expr {
        Expr::Negative(part) => {
            let (written, of) = number(part)?;
            (of != NumberType::Text).then(|| (written.negated(), of))
        }
        Expr::Literal(ScalarValue::Float64(Some(double)), metadata) => {
            let digits = metadata.as_ref().and_then(|m| m.inner().get(DIGITS));
            let written = match digits {
                Some(digits) => Written::parse(digits),
                None => Written::shortest(*double),
            };
            Some((written?, NumberType::Double))
        }
        Expr::Literal(ScalarValue::Int64(Some(whole)), _) => {
            Some((Written::parse(&whole.to_string())?, NumberType::Whole))
        }
        Expr::Literal(ScalarValue::UInt64(Some(whole)), _) => {
            Some((Written::parse(&whole.to_string())?, NumberType::Whole))
        }
        Expr::Literal(ScalarValue::Utf8(Some(text)), _) => {
            Some((Written::parse(text)?, NumberType::Text))
        }
        part => Some((Written::parse(digits_of_call(part)?)?, NumberType::Double)),
    }
}

/// The parts with one type where a DECIMAL is among them: its own and that of the numbers, or DOUBLE.
fn together<P>(mut parts: P, used: Use, schema: &DFSchema) -> Transformed<P>
where
    P: AsMut<[Expr]> + AsRef<[Expr]>,
{
    if let Some(width) = width_of_rows(parts.as_ref()) {
        let mut changed = false;
        for column in 0..width {
            let cells: Vec<Expr> = parts
                .as_mut()
                .iter_mut()
                .map(|row| cell(row, column))
                .collect();
            let cells = together(cells, used, schema);
            changed |= cells.transformed;
            for (row, part) in parts.as_mut().iter_mut().zip(cells.data) {
                if let Expr::ScalarFunction(row) = row {
                    row.args[column] = part;
                }
            }
        }
        return Transformed::new_transformed(parts, changed);
    }
    let kinds: Vec<Kind> = parts
        .as_ref()
        .iter()
        .map(|part| Kind::of(part, schema))
        .collect();
    match meeting(&kinds, used) {
        Meeting::Unlike => Transformed::no(parts),
        Meeting::Decimals(decimals) => with_decimals(parts, decimals),
        Meeting::Doubles => as_doubles(parts, &kinds),
    }
}

/// How many cells each of the parts has, if they are rows or lists that are written out, and have as many.
fn width_of_rows(parts: &[Expr]) -> Option<usize> {
    let width = |part: &Expr| match part {
        Expr::ScalarFunction(call) if COMPOSERS.contains(&call.func.name()) => {
            Some(call.args.len())
        }
        _ => None,
    };
    let first = width(parts.first()?)?;
    parts
        .iter()
        .all(|part| width(part) == Some(first))
        .then_some(first)
}

/// A cell, taken out of its row.
fn cell(row: &mut Expr, column: usize) -> Expr {
    match row {
        Expr::ScalarFunction(row) => std::mem::take(&mut row.args[column]),
        _ => Expr::default(),
    }
}

/// What becomes of parts that stand beside each other.
enum Meeting {
    /// They stay as they are.
    Unlike,
    /// For each part that becomes one, the DECIMAL that it is.
    Decimals(Vec<Option<ScalarValue>>),
    /// The DECIMALs become DOUBLEs.
    Doubles,
}

fn meeting(kinds: &[Kind], used: Use) -> Meeting {
    if !kinds.iter().any(|kind| matches!(kind, Kind::Decimal(_))) {
        return Meeting::Unlike;
    }
    if kinds.iter().any(|kind| matches!(kind, Kind::Floating)) {
        return Meeting::Doubles;
    }
    match decimals(kinds, used) {
        Some(decimals) => Meeting::Decimals(decimals),
        // Or a number is so large or so small that no DECIMAL has it.
        None => Meeting::Doubles,
    }
}

/// For each part that becomes one, the DECIMAL that it is; nothing if one cannot be.
fn decimals(kinds: &[Kind], used: Use) -> Option<Vec<Option<ScalarValue>>> {
    let mut common = (0, 0);
    for kind in kinds {
        if let Kind::Decimal(data_type) = kind {
            common = wider(common, places_of(data_type)?);
        }
    }
    // Compared with the first part alone, a number that no such DECIMAL has may as well be another that none has.
    let others = kinds.iter().skip(1);
    let others = others.filter(|kind| matches!(kind, Kind::Number { .. }));
    let is_first = matches!(kinds.first(), Some(Kind::Number { .. })) && others.count() > 0;
    let in_sight = |written: &Written| match is_first {
        true => written.clone(),
        false => written.among(common),
    };
    let numbers: Vec<Option<Written>> = kinds
        .iter()
        .map(|kind| match (kind, used) {
            (Kind::Number { written, .. }, Use::Compare) => Some(in_sight(written)),
            // Texts and whole numbers keep the type that DataFusion gives them.
            (
                Kind::Number {
                    written,
                    of: NumberType::Double,
                },
                Use::Choose,
            ) => Some(written.clone()),
            _ => None,
        })
        .collect();
    for number in numbers.iter().flatten() {
        common = wider(common, number.places());
    }
    let decimal = |number: Option<Written>| match (number, used) {
        (None, _) => Some(None),
        (Some(number), Use::Compare) => number.decimal(common).map(Some),
        // What is larger would be the type of the result, and SQL has none as large.
        (Some(number), Use::Choose) => number
            .decimal(number.places())
            .filter(|decimal| matches!(decimal, ScalarValue::Decimal128(..)))
            .map(Some),
    };
    numbers.into_iter().map(decimal).collect()
}

/// Digits before and behind the point that hold both.
fn wider(one: (usize, usize), other: (usize, usize)) -> (usize, usize) {
    (one.0.max(other.0), one.1.max(other.1))
}

fn places_of(data_type: &DataType) -> Option<(usize, usize)> {
    match data_type {
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => {
            let behind = usize::try_from(*scale).ok()?;
            Some((usize::from(*precision).saturating_sub(behind), behind))
        }
        _ => None,
    }
}

fn with_decimals<P: AsMut<[Expr]>>(
    mut parts: P,
    decimals: Vec<Option<ScalarValue>>,
) -> Transformed<P> {
    let changed = decimals.iter().any(Option::is_some);
    for (part, decimal) in parts.as_mut().iter_mut().zip(decimals) {
        if let Some(decimal) = decimal {
            *part = Expr::Literal(decimal, None);
        }
    }
    Transformed::new_transformed(parts, changed)
}

fn as_doubles<P: AsMut<[Expr]>>(mut parts: P, kinds: &[Kind]) -> Transformed<P> {
    for (part, kind) in parts.as_mut().iter_mut().zip(kinds) {
        if matches!(kind, Kind::Decimal(_)) {
            *part = double(std::mem::take(part));
        }
    }
    Transformed::yes(parts)
}

fn double(expr: Expr) -> Expr {
    Expr::Cast(Cast::new(Box::new(expr), DataType::Float64))
}

/// A number that becomes a DECIMAL is the one written.
fn written_decimal(expr: Expr) -> Transformed<Expr> {
    match number(&expr) {
        Some((written, NumberType::Double)) => match written.decimal(written.places()) {
            Some(decimal) => Transformed::yes(Expr::Literal(decimal, None)),
            None => Transformed::no(expr),
        },
        _ => Transformed::no(expr),
    }
}

/// Whether the DOUBLE of this text, which is no BIGINT, lacks some of its digits.
fn lacks_digits(text: &str) -> bool {
    let (Some(written), Ok(double)) = (Written::parse(text), text.parse()) else {
        return false;
    };
    Written::shortest(double).is_none_or(|shortest| shortest != written)
}

/// A number as JSON writes it, as a value of SQL: BIGINT where it is one, DOUBLE otherwise, with the digits that a DOUBLE
/// lacks at hand for [`ExactNumbers`]. Nothing if it is none, or no DOUBLE is as large.
pub fn number_of_json(text: &str) -> Option<ScalarAndMetadata> {
    if let Ok(whole) = text.parse() {
        return Some(ScalarValue::Int64(Some(whole)).into());
    }
    if let Ok(whole) = text.parse() {
        return Some(ScalarValue::UInt64(Some(whole)).into());
    }
    let double: f64 = text.parse().ok()?;
    if !double.is_finite() {
        return None;
    }
    let digits = lacks_digits(text)
        .then(|| FieldMetadata::new(BTreeMap::from([(DIGITS.to_owned(), text.to_owned())])));
    Some(ScalarAndMetadata::new(
        ScalarValue::Float64(Some(double)),
        digits,
    ))
}

/// Marks the numbers of a statement that a DOUBLE lacks digits of, for [`ExactNumbers`]: DataFusion keeps no text.
pub fn keep_digits(statement: &mut impl ast::VisitMut) {
    struct Keeper;
    impl ast::VisitorMut for Keeper {
        type Break = ();

        fn pre_visit_expr(&mut self, expr: &mut ast::Expr) -> ControlFlow<()> {
            // Such as -18446744073709551615, which is a BIGINT without its sign.
            if let ast::Expr::UnaryOp {
                op: ast::UnaryOperator::Minus,
                expr: number,
            } = expr
                && let Some(text) = text_of_number(number)
                && format!("-{text}").parse::<i64>().is_err()
                && lacks_digits(&text)
            {
                **number = with_all_digits(text);
            }
            ControlFlow::Continue(())
        }

        fn post_visit_expr(&mut self, expr: &mut ast::Expr) -> ControlFlow<()> {
            if let Some(text) = text_of_number(expr)
                && text.parse::<u64>().is_err()
                && lacks_digits(&text)
            {
                *expr = with_all_digits(text);
            }
            ControlFlow::Continue(())
        }
    }
    let _ = statement.visit(&mut Keeper);
}

fn text_of_number(expr: &ast::Expr) -> Option<String> {
    match expr {
        ast::Expr::Value(ast::ValueWithSpan {
            value: ast::Value::Number(text, _),
            ..
        }) => Some(text.replace('_', "")),
        _ => None,
    }
}

fn with_all_digits(text: String) -> ast::Expr {
    let text = ast::Expr::value(ast::Value::SingleQuotedString(text));
    let arguments = ast::FunctionArgumentList {
        duplicate_treatment: None,
        args: vec![ast::FunctionArg::Unnamed(text.into())],
        clauses: vec![],
    };
    ast::Expr::Function(ast::Function {
        name: ast::Ident::with_quote('"', WITH_ALL_DIGITS).into(),
        uses_odbc_syntax: false,
        parameters: ast::FunctionArguments::None,
        args: ast::FunctionArguments::List(arguments),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: vec![],
    })
}

/// A DOUBLE with the text that it was written as. It is in plans until they are analysed, and never computed.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct WithAllDigits {
    signature: Signature,
}

impl WithAllDigits {
    pub(super) fn new() -> Self {
        Self {
            signature: Signature::exact(vec![DataType::Utf8], Volatility::Immutable),
        }
    }
}

impl ScalarUDFImpl for WithAllDigits {
    fn name(&self) -> &str {
        WITH_ALL_DIGITS
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        Ok(match args {
            [Expr::Literal(ScalarValue::Utf8(Some(text)), _)] => text.clone(),
            _ => WITH_ALL_DIGITS.to_owned(),
        })
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        plan_err!("`{WITH_ALL_DIGITS}` takes a number that is written out")
    }
}

/// The function by which [`keep_digits`] marks a number.
pub(super) fn function() -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::from(WithAllDigits::new()))
}
