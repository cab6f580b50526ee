// SPDX-License-Identifier: Apache-2.0
//! Groups while they are built: which group each row belongs to, and the accumulators of all groups.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray};
use datafusion::error::Result;
use datafusion::logical_expr::{Accumulator, EmitTo, GroupsAccumulator};
use datafusion::physical_expr::GroupsAccumulatorAdapter;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_plan::aggregates::group_values::GroupValues;

/// How rows are told apart.
pub(super) enum Groups {
    /// By their keys.
    ByKey(Box<dyn GroupValues>),
    /// Not at all: each of so many rows is a group of its own.
    EachRow(usize),
    /// No GROUP BY: all rows are one group, which is there without rows too.
    All,
}

/// The accumulators of one aggregate.
pub(super) enum Accumulators {
    /// One for each group.
    Many(Box<dyn GroupsAccumulator>),
    /// One for all rows.
    One(Box<dyn Accumulator>),
}

/// Groups and their accumulators, one entry for each aggregate.
pub(super) struct Table {
    groups: Groups,
    group_of_row: Vec<usize>,
    accumulators: Vec<Accumulators>,
}

impl Table {
    pub(super) fn new<'a>(
        groups: Groups,
        functions: impl Iterator<Item = &'a Arc<AggregateFunctionExpr>>,
    ) -> Result<Self> {
        let one = matches!(groups, Groups::All);
        let accumulators: Result<_> = functions
            .map(|function| {
                Ok(if one {
                    Accumulators::One(function.create_accumulator()?)
                } else {
                    Accumulators::Many(groups_accumulator(function)?)
                })
            })
            .collect();
        let group_of_row = match groups {
            Groups::EachRow(rows) => (0..rows).collect(),
            Groups::ByKey(_) | Groups::All => Vec::new(),
        };
        Ok(Self {
            groups,
            group_of_row,
            accumulators: accumulators?,
        })
    }

    /// Finds the groups of the rows that the next updates or merges are about.
    pub(super) fn intern(&mut self, keys: &[ArrayRef]) -> Result<()> {
        match &mut self.groups {
            Groups::ByKey(groups) => groups.intern(keys, &mut self.group_of_row),
            Groups::EachRow(_) | Groups::All => Ok(()),
        }
    }

    /// How many groups there are.
    pub(super) fn rows(&self) -> usize {
        match &self.groups {
            Groups::ByKey(groups) => groups.len(),
            Groups::EachRow(rows) => *rows,
            Groups::All => 1,
        }
    }

    /// Gives rows of events to aggregate `index`. Of a table without keys, `filter` must have been
    /// applied to `values`.
    pub(super) fn update(
        &mut self,
        index: usize,
        values: &[ArrayRef],
        filter: Option<&BooleanArray>,
    ) -> Result<()> {
        let rows = self.rows();
        match &mut self.accumulators[index] {
            Accumulators::Many(many) => many.update_batch(values, &self.group_of_row, filter, rows),
            Accumulators::One(one) => one.update_batch(values),
        }
    }

    /// Gives rows of states to aggregate `index`.
    pub(super) fn merge(&mut self, index: usize, states: &[ArrayRef]) -> Result<()> {
        let rows = self.rows();
        match &mut self.accumulators[index] {
            Accumulators::Many(many) => many.merge_batch(states, &self.group_of_row, rows),
            Accumulators::One(one) => one.merge_batch(states),
        }
    }

    /// Takes the keys of all groups; to be called before the accumulators are taken. None if there are no
    /// groups, or if rows are not told apart by keys.
    pub(super) fn take_keys(&mut self) -> Result<Vec<ArrayRef>> {
        match &mut self.groups {
            Groups::ByKey(groups) if !groups.is_empty() => groups.emit(EmitTo::All),
            _ => Ok(Vec::new()),
        }
    }

    /// The states of all groups, aggregate by aggregate.
    pub(super) fn into_states(self) -> Result<Vec<ArrayRef>> {
        let mut columns = Vec::new();
        for accumulator in self.accumulators {
            match accumulator {
                Accumulators::Many(mut many) => columns.extend(many.state(EmitTo::All)?),
                Accumulators::One(mut one) => {
                    for value in one.state()? {
                        columns.push(value.to_array()?);
                    }
                }
            }
        }
        Ok(columns)
    }

    /// The finished values of all groups, one array for each aggregate.
    pub(super) fn into_values(self) -> Result<Vec<ArrayRef>> {
        self.accumulators
            .into_iter()
            .map(|accumulator| match accumulator {
                Accumulators::Many(mut many) => many.evaluate(EmitTo::All),
                Accumulators::One(mut one) => one.evaluate()?.to_array(),
            })
            .collect()
    }
}

/// As DataFusion makes them: the vectorised accumulator where there is one, else one for each group.
fn groups_accumulator(function: &Arc<AggregateFunctionExpr>) -> Result<Box<dyn GroupsAccumulator>> {
    if function.groups_accumulator_supported() {
        return function.create_groups_accumulator();
    }
    let function = Arc::clone(function);
    Ok(Box::new(GroupsAccumulatorAdapter::new(move || {
        function.create_accumulator()
    })))
}
