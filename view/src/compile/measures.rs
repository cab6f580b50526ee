// SPDX-License-Identifier: Apache-2.0
//! What is added up, and what is finished from it.
//!
//! ```text
//!   sum(x)   avg(x)   count(x)      calls: of the select list
//!     │     ╱      ╲     │
//!    total          count           measures: their states are accumulated, merged, and kept in files
//! ```
//!
//! Purpose: an `avg` has a total and a count for its state. Where the definition asks for one of the two by itself as
//! well, adding it up once is enough. An `avg` alone stays one measure, which goes over its values once.
//! Invariants: a call is finished by its own accumulator, which merges the states of its measures in their order.
//! Non-goals: floats, which are DataFusion's to add up, in its order.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::SchemaRef;
use datafusion::functions_aggregate::count::count_udaf;
use datafusion::logical_expr::AggregateUDF;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::{AggregateExprBuilder, AggregateFunctionExpr};

use crate::ViewError;
use crate::functions::{Sum, is_added_up_exactly};

static SUM: LazyLock<Arc<AggregateUDF>> =
    LazyLock::new(|| Arc::new(AggregateUDF::from(Sum::new())));

/// An aggregate function over the rows that its FILTER clause leaves.
#[derive(Debug, Clone)]
pub(crate) struct Measure {
    pub(crate) function: Arc<AggregateFunctionExpr>,
    pub(crate) filter: Option<Arc<dyn PhysicalExpr>>,
}

/// An aggregate function of the select list.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) function: Arc<AggregateFunctionExpr>,
    /// Whose states, one after the other, are its state.
    pub(crate) measures: Vec<usize>,
}

/// The measures that `asked` are made of. All are over rows of `input`.
pub(super) fn measures(
    asked: &[Measure],
    input: &SchemaRef,
) -> Result<(Vec<Measure>, Vec<Call>), ViewError> {
    let mut measures: Vec<Measure> = Vec::new();
    let mut calls = Vec::new();
    for call in asked {
        let parts = call.parts(input)?;
        let is_there = |part: &Measure| asked.iter().any(|other| other.is_as(part, input));
        let made_of = match parts {
            Some(parts) if parts.iter().any(is_there) => parts.to_vec(),
            _ => vec![call.clone()],
        };
        let made_of = made_of.into_iter().map(|part| {
            let known = measures.iter().position(|known| known.is_as(&part, input));
            known.unwrap_or_else(|| {
                measures.push(part);
                measures.len() - 1
            })
        });
        calls.push(Call {
            measures: made_of.collect(),
            function: Arc::clone(&call.function),
        });
    }
    Ok((measures, calls))
}

impl Measure {
    /// The total and the count that an `avg` has for its state.
    fn parts(&self, input: &SchemaRef) -> Result<Option<[Self; 2]>, ViewError> {
        let arguments = self.function.expressions();
        let is_average = self.function.fun().name() == "avg" && !self.function.is_distinct();
        if !is_average || !is_added_up_exactly(&arguments[0].data_type(input)?) {
            return Ok(None);
        }
        let part = |function: Arc<AggregateUDF>| -> Result<Self, ViewError> {
            let name = format!("{} of {}", function.name(), self.function.name());
            let built = AggregateExprBuilder::new(function, arguments.clone())
                .schema(Arc::clone(input))
                .alias(name)
                .build()?;
            Ok(Self {
                function: Arc::new(built),
                filter: self.filter.clone(),
            })
        };
        Ok(Some([part(Arc::clone(&SUM))?, part(count_udaf())?]))
    }

    /// Whether it is a total or a count that always has the state of `other`.
    fn is_as(&self, other: &Self, input: &SchemaRef) -> bool {
        let name = self.function.fun().name();
        matches!(name, "sum" | "count")
            && name == other.function.fun().name()
            && ![self, other].iter().any(|m| m.function.is_distinct())
            && self.filter == other.filter
            && self.decisive(input) == other.decisive(input)
    }

    /// Whether it counts all events, as `count(*)` does.
    pub(crate) fn counts_events(&self, input: &SchemaRef) -> bool {
        let is_count = self.function.fun().name() == "count" && !self.function.is_distinct();
        is_count && self.filter.is_none() && self.decisive(input).is_empty()
    }

    /// The arguments that decide its state: a `count` counts whatever cannot be NULL alike.
    fn decisive(&self, input: &SchemaRef) -> Vec<Arc<dyn PhysicalExpr>> {
        let mut arguments = self.function.expressions();
        if self.function.fun().name() == "count" {
            arguments.retain(|argument| argument.nullable(input).unwrap_or(true));
        }
        arguments
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use dovetail_model::{Column, ColumnType, StreamSchema, UnknownColumns};

    use super::super::compile;

    /// The measures and what each call is made of. `n` is NOT NULL.
    fn of(select: &str) -> (Vec<String>, Vec<Vec<usize>>) {
        let column = |name: &str, column_type, nullable| Column {
            name: name.to_owned(),
            column_type,
            nullable,
        };
        let schema = StreamSchema {
            columns: vec![
                column("k", ColumnType::Varchar, true),
                column("n", ColumnType::BigInt, false),
                column("x", ColumnType::BigInt, true),
                column("f", ColumnType::Double, true),
            ],
            event_time: None,
            unknown_columns: UnknownColumns::Ignore,
        };
        let streams = BTreeMap::from([("events".to_owned(), schema)]);
        let sql = format!("SELECT k, {select} FROM events GROUP BY k");
        let parts = compile(&sql, &streams).unwrap();
        let measures = parts.measures.iter();
        let names = measures.map(|measure| measure.function.fun().name().to_owned());
        let made_of = parts.calls.iter().map(|call| call.measures.clone());
        (names.collect(), made_of.collect())
    }

    #[test]
    fn an_average_shares_what_is_asked_for_beside_it() {
        for (select, measures, calls) in [
            ("avg(x) AS a", vec!["avg"], vec![vec![0]]),
            (
                "sum(x) AS s, avg(x) AS a",
                vec!["sum", "count"],
                vec![vec![0], vec![0, 1]],
            ),
            (
                "avg(x) AS a, count(x) AS c",
                vec!["sum", "count"],
                vec![vec![0, 1], vec![1]],
            ),
            // Of all events, not of the values.
            (
                "avg(x) AS a, count(*) AS c",
                vec!["avg", "count"],
                vec![vec![0], vec![1]],
            ),
            (
                "avg(n) AS a, count(*) AS c, count(n) AS d",
                vec!["sum", "count"],
                vec![vec![0, 1], vec![1], vec![1]],
            ),
        ] {
            let expected = measures.into_iter().map(str::to_owned).collect();
            assert_eq!(of(select), (expected, calls), "{select}");
        }
    }

    #[test]
    fn what_is_added_up_otherwise_is_not_shared() {
        for select in [
            "sum(x) AS s, avg(n) AS a",
            "sum(x) FILTER (WHERE n > 1) AS s, avg(x) AS a",
            "sum(DISTINCT x) AS s, avg(x) AS a",
            "sum(x) AS s, avg(DISTINCT x) AS a",
            "sum(f) AS s, avg(f) AS a",
            "sum(CAST(x AS DECIMAL(10, 2))) AS s, avg(x) AS a",
            "min(x) AS s, max(x) AS a",
        ] {
            let (measures, calls) = of(select);
            assert_eq!(
                (measures.len(), calls),
                (2, vec![vec![0], vec![1]]),
                "{select}"
            );
        }
    }
}
