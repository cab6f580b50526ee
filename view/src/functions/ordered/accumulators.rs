// SPDX-License-Identifier: Apache-2.0
//! The lists as DataFusion's accumulators.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, LargeStringBuilder};
use arrow::datatypes::DataType;
use datafusion::common::{internal_err, plan_err};
use datafusion::error::Result;
use datafusion::logical_expr::function::AccumulatorArgs;
use datafusion::logical_expr::{Accumulator, EmitTo, GroupsAccumulator};
use datafusion::physical_expr::expressions::Literal;
use datafusion::scalar::ScalarValue;

use super::lists::{OrderedLists, Sorted};
use crate::functions::states_of_each;

/// What becomes of the list of a group.
#[derive(Debug, Clone)]
pub(super) enum Finish {
    /// A list.
    List,
    /// A VARCHAR: what is not NULL in it, with this between.
    Joined(String),
}

impl Finish {
    /// The finish of `string_agg`, whose second argument stands between.
    ///
    /// # Errors
    /// When that is not a text in quotes.
    pub(super) fn joined(args: &AccumulatorArgs) -> Result<Self> {
        let between = args.exprs[1].downcast_ref::<Literal>();
        let between =
            between.map(|literal| (literal.value().is_null(), literal.value().try_as_str()));
        match between {
            Some((true, _)) => Ok(Self::Joined(String::new())),
            Some((_, Some(text))) => Ok(Self::Joined(text.unwrap_or_default().to_owned())),
            _ => plan_err!(
                "what `string_agg` writes between the values must be a text in quotes, as in string_agg(x, ', ' ORDER BY y)"
            ),
        }
    }

    /// How many arguments come before the places.
    fn arguments(&self) -> usize {
        match self {
            Self::List => 1,
            Self::Joined(_) => 2,
        }
    }

    fn finish(&self, sorted: &Sorted) -> Result<ArrayRef> {
        match self {
            Self::List => Ok(Arc::new(sorted.lists())),
            Self::Joined(between) => joined(sorted, between),
        }
    }
}

fn joined(sorted: &Sorted, between: &str) -> Result<ArrayRef> {
    let values = &sorted.values;
    match values.data_type() {
        DataType::Utf8 => Ok(join(sorted, between, values.as_string::<i32>().iter())),
        DataType::LargeUtf8 => Ok(join(sorted, between, values.as_string::<i64>().iter())),
        DataType::Utf8View => Ok(join(sorted, between, values.as_string_view().iter())),
        other => internal_err!("string_agg of {other}"),
    }
}

fn join<'a>(
    sorted: &Sorted,
    between: &str,
    mut values: impl Iterator<Item = Option<&'a str>>,
) -> ArrayRef {
    let mut texts = LargeStringBuilder::new();
    let mut text = String::new();
    for length in sorted.offsets.lengths() {
        text.clear();
        let mut any = false;
        for value in values.by_ref().take(length).flatten() {
            if any {
                text.push_str(between);
            }
            text.push_str(value);
            any = true;
        }
        texts.append_option(any.then_some(&text));
    }
    Arc::new(texts.finish())
}

/// The lists of many groups.
#[derive(Debug)]
pub(super) struct ManyLists {
    lists: OrderedLists,
    finish: Finish,
}

impl ManyLists {
    pub(super) fn new(lists: OrderedLists, finish: Finish) -> Self {
        Self { lists, finish }
    }
}

impl GroupsAccumulator for ManyLists {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        let places = &values[self.finish.arguments()..];
        self.lists.push(
            &values[0],
            places,
            group_indices,
            opt_filter,
            total_num_groups,
        )
    }

    fn merge_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        total_num_groups: usize,
    ) -> Result<()> {
        let [lists, places] = [&values[0], &values[1]].map(|column| column.as_list());
        self.lists
            .merge(lists, places, group_indices, total_num_groups)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        self.finish.finish(&self.lists.take_sorted(emit_to)?)
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let sorted = self.lists.take_sorted(emit_to)?;
        sorted.into_states(self.lists.places())
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        opt_filter: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        let empty = Self::new(self.lists.another(), self.finish.clone());
        states_of_each(empty, values, opt_filter)
    }

    fn size(&self) -> usize {
        self.lists.bytes()
    }
}

/// The list of all rows.
#[derive(Debug)]
pub(super) struct OneList(ManyLists);

impl OneList {
    pub(super) fn new(mut lists: ManyLists) -> Self {
        // The group is there without rows, too.
        lists.lists.reach(1);
        Self(lists)
    }
}

impl Accumulator for OneList {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let groups = vec![0; values[0].len()];
        self.0.update_batch(values, &groups, None, 1)
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let groups = vec![0; states[0].len()];
        self.0.merge_batch(states, &groups, 1)
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        ScalarValue::try_from_array(&self.0.evaluate(EmitTo::All)?, 0)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let states = self.0.state(EmitTo::All)?;
        let states = states.iter();
        states
            .map(|state| ScalarValue::try_from_array(state, 0))
            .collect()
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.0.size()
    }
}
