// SPDX-License-Identifier: Apache-2.0
//! Groups while they are built: which group each row belongs to, and the accumulators of all groups.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray};
use datafusion::error::Result;
use datafusion::logical_expr::{Accumulator, EmitTo, GroupsAccumulator};
use datafusion::physical_expr::GroupsAccumulatorAdapter;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_plan::aggregates::group_values::GroupValues;
use datafusion::scalar::ScalarValue;

/// Tells rows apart by their keys. Groups are numbered from 0 in the order in which they come.
pub(super) trait GroupTable: Send {
    /// The group of each row of `keys`, which may be new.
    fn intern(&mut self, keys: &[ArrayRef], group_of_row: &mut Vec<usize>) -> Result<()>;

    /// How many groups there are.
    fn len(&self) -> usize;

    /// Memory that it takes.
    fn bytes(&self) -> usize;

    /// The keys of all groups, which it forgets.
    fn take_keys(&mut self) -> Result<Vec<ArrayRef>>;
}

impl GroupTable for Box<dyn GroupValues> {
    fn intern(&mut self, keys: &[ArrayRef], group_of_row: &mut Vec<usize>) -> Result<()> {
        self.as_mut().intern(keys, group_of_row)
    }

    fn len(&self) -> usize {
        self.as_ref().len()
    }

    fn bytes(&self) -> usize {
        self.size()
    }

    fn take_keys(&mut self) -> Result<Vec<ArrayRef>> {
        self.emit(EmitTo::All)
    }
}

/// How rows are told apart.
pub(super) enum Groups {
    /// By their keys.
    ByKey(Box<dyn GroupTable>),
    /// Whoever gives the rows tells; of so many groups until now.
    Told(usize),
    /// No GROUP BY: all rows are one group, which is there without rows too.
    All,
}

/// The accumulators of one aggregate function.
pub(super) enum Accumulators {
    /// One for each group.
    Many(Box<dyn GroupsAccumulator>),
    /// One for all rows.
    One(Box<dyn Accumulator>),
}

/// Groups and their accumulators, one entry for each measure.
pub(crate) struct Table {
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
                if one {
                    Accumulators::of_all(function)
                } else {
                    Accumulators::of_each(function)
                }
            })
            .collect();
        Ok(Self {
            groups,
            group_of_row: Vec::new(),
            accumulators: accumulators?,
        })
    }

    /// Finds the groups of the rows that the next updates or merges are about.
    pub(super) fn intern(&mut self, keys: &[ArrayRef]) -> Result<()> {
        match &mut self.groups {
            Groups::ByKey(groups) => groups.intern(keys, &mut self.group_of_row),
            Groups::Told(_) | Groups::All => Ok(()),
        }
    }

    /// Tells the groups of the rows that the next merges are about, and how many groups there are with them. Each of
    /// them must have had a row behind these.
    pub(super) fn tell(&mut self, group_of_row: Vec<usize>, groups: usize) {
        self.group_of_row = group_of_row;
        self.groups = Groups::Told(groups);
    }

    /// Tells that each of so many rows is a group of its own.
    pub(super) fn tell_each(&mut self, rows: usize) {
        self.tell((0..rows).collect(), rows);
    }

    /// How many groups there are.
    pub(crate) fn rows(&self) -> usize {
        match &self.groups {
            Groups::ByKey(groups) => groups.len(),
            Groups::Told(groups) => *groups,
            Groups::All => 1,
        }
    }

    /// Memory that it takes.
    pub(crate) fn bytes(&self) -> usize {
        let groups = match &self.groups {
            Groups::ByKey(groups) => groups.bytes(),
            Groups::Told(_) | Groups::All => 0,
        };
        let accumulators = self.accumulators.iter().map(Accumulators::bytes);
        groups + size_of_val(self.group_of_row.as_slice()) + accumulators.sum::<usize>()
    }

    /// Gives rows of events to measure `index`. Of a table without keys, `filter` must have been
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

    /// Gives rows of states to measure `index`.
    pub(super) fn merge(&mut self, index: usize, states: &[ArrayRef]) -> Result<()> {
        let rows = self.rows();
        self.accumulators[index].merge(states, &self.group_of_row, rows)
    }

    /// Takes the keys of all groups; to be called before the accumulators are taken. None if there are no
    /// groups, or if rows are not told apart by keys.
    pub(super) fn take_keys(&mut self) -> Result<Vec<ArrayRef>> {
        match &mut self.groups {
            Groups::ByKey(groups) if groups.len() > 0 => groups.take_keys(),
            _ => Ok(Vec::new()),
        }
    }

    /// The states of all groups, measure by measure.
    pub(super) fn into_states(self) -> Result<Vec<ArrayRef>> {
        let mut columns = Vec::new();
        for accumulators in self.accumulators {
            columns.extend(accumulators.into_states()?);
        }
        Ok(columns)
    }

    /// What each measure has added up.
    pub(super) fn into_accumulators(self) -> Vec<Accumulators> {
        self.accumulators
    }
}

impl Accumulators {
    /// One for all rows.
    pub(super) fn of_all(function: &Arc<AggregateFunctionExpr>) -> Result<Self> {
        Ok(Self::One(function.create_accumulator()?))
    }

    /// One for each group.
    pub(super) fn of_each(function: &Arc<AggregateFunctionExpr>) -> Result<Self> {
        Ok(Self::Many(groups_accumulator(function)?))
    }

    /// Takes in rows of states. Of each it is told the group, and how many there are.
    pub(super) fn merge(
        &mut self,
        states: &[ArrayRef],
        group_of_row: &[usize],
        groups: usize,
    ) -> Result<()> {
        match self {
            Self::Many(many) => many.merge_batch(states, group_of_row, groups),
            Self::One(one) => one.merge_batch(states),
        }
    }

    /// The states of all groups.
    pub(super) fn into_states(self) -> Result<Vec<ArrayRef>> {
        match self {
            Self::Many(mut many) => many.state(EmitTo::All),
            Self::One(mut one) => one.state()?.iter().map(ScalarValue::to_array).collect(),
        }
    }

    /// The finished values of all groups.
    pub(super) fn into_value(self) -> Result<ArrayRef> {
        match self {
            Self::Many(mut many) => many.evaluate(EmitTo::All),
            Self::One(mut one) => one.evaluate()?.to_array(),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Many(many) => many.size(),
            Self::One(one) => one.size(),
        }
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
