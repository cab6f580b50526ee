// SPDX-License-Identifier: Apache-2.0
//! `approx_distinct(x)`: how many different values, by an HLL sketch (Apache DataSketches).
//!
//! Purpose: DataFusion's own keeps 16 kB a group; this one keeps 4 bytes a value up to 384 values and at
//! most about 2 kB. Invariants: the sketch, and with it the answer, is a function of the *set* of values
//! alone (registers are maxima, the estimator reads nothing else), so any cut, order or repetition gives
//! the same number. Collaborators: the `datasketches` crate; its serialized form, which other
//! languages read, is the state. Non-goals: distinct counts that are exact (`count(distinct x)`).

use std::hash::Hash;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryBuilder, BooleanArray, Int64Array};
use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use arrow::datatypes::{
    Date32Type, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, TimestampMicrosecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow::row::{RowConverter, SortField};
use datafusion::common::utils::normalize_float_zero;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDFImpl, EmitTo, GroupsAccumulator, Signature, Volatility,
};
use datafusion::scalar::ScalarValue;
use datasketches::hash::value::{canonical_float, raw_bytes};
use datasketches::hll::{Coupon, HllSketch, HllType, HllUnion};

use super::states_of_each;

/// Base-2 logarithm of the number of registers.
const LG_K: u8 = 12;
/// One standard deviation of the relative error, `1.04 / sqrt(2^12)`; below some hundred values the
/// count is practically exact.
pub const APPROX_DISTINCT_RELATIVE_ERROR: f64 = 0.01625;

/// The aggregate `approx_distinct(x)`: a BIGINT, never NULL. NULLs do not count; `-0.0` is `0.0`; all
/// NaNs are one value.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct ApproxDistinct {
    signature: Signature,
}

impl ApproxDistinct {
    /// The function.
    pub fn new() -> Self {
        Self {
            signature: Signature::any(1, Volatility::Immutable),
        }
    }
}

impl Default for ApproxDistinct {
    fn default() -> Self {
        Self::new()
    }
}

impl AggregateUDFImpl for ApproxDistinct {
    fn name(&self) -> &str {
        "approx_distinct"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Int64)
    }

    fn is_nullable(&self) -> bool {
        false
    }

    fn default_value(&self, _data_type: &DataType) -> Result<ScalarValue> {
        Ok(ScalarValue::Int64(Some(0)))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let name = format!("{}[hll]", args.name);
        Ok(vec![Arc::new(Field::new(name, DataType::Binary, true))])
    }

    fn accumulator(&self, _args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(OneSketch::default()))
    }

    fn groups_accumulator_supported(&self, _args: AccumulatorArgs) -> bool {
        true
    }

    fn create_groups_accumulator(
        &self,
        _args: AccumulatorArgs,
    ) -> Result<Box<dyn GroupsAccumulator>> {
        Ok(Box::new(Sketches::default()))
    }
}

/// The sketch of one group.
#[derive(Debug, Default)]
enum Sketch {
    /// The group has no value yet.
    #[default]
    Empty,
    /// Made of values, or read from one state.
    One(HllSketch),
    /// Merged from several. A union keeps its registers unpacked, so merging many does not repack
    /// them each time.
    Union(HllUnion),
}

impl Sketch {
    fn add(&mut self, coupon: Coupon) {
        if let Self::One(sketch) = self {
            sketch.update_with_coupon(coupon);
            return;
        }
        let mut sketch = match self {
            Self::Union(union) => union.to_sketch(HllType::Hll4),
            Self::Empty | Self::One(_) => new_sketch(),
        };
        sketch.update_with_coupon(coupon);
        *self = Self::One(sketch);
    }

    fn merge(&mut self, image: &[u8]) -> Result<()> {
        let other = HllSketch::deserialize(image)
            .map_err(|error| DataFusionError::External(Box::new(error)))?;
        *self = match std::mem::take(self) {
            Self::Empty => Self::One(other),
            Self::One(sketch) => {
                let mut union = new_union();
                union.update(&sketch);
                union.update(&other);
                Self::Union(union)
            }
            Self::Union(mut union) => {
                union.update(&other);
                Self::Union(union)
            }
        };
        Ok(())
    }

    /// The estimate that depends on the registers alone, not on the order in which they were filled.
    fn estimate(&self) -> i64 {
        let estimate = match self {
            Self::Empty => 0.0,
            Self::One(sketch) => sketch.composite_estimate(),
            Self::Union(union) => union.composite_estimate(),
        };
        estimate.round() as i64
    }

    /// Its serialized form; none of a group without values.
    fn image(&self) -> Option<Vec<u8>> {
        match self {
            Self::Empty => None,
            Self::One(sketch) => Some(sketch.serialize()),
            Self::Union(union) => Some(union.to_sketch(HllType::Hll4).serialize()),
        }
    }

    /// Memory on the heap.
    fn bytes(&self) -> usize {
        match self {
            Self::Empty => 0,
            Self::One(sketch) => sketch.estimated_size(),
            Self::Union(union) => union.estimated_size(),
        }
    }
}

/// The sketches of many groups.
#[derive(Debug, Default)]
struct Sketches {
    sketches: Vec<Sketch>,
    /// Memory on the heap of all sketches.
    bytes: usize,
}

impl Sketches {
    fn grow(&mut self, groups: usize) {
        self.sketches.resize_with(groups, Sketch::default);
    }

    fn add(&mut self, group: usize, coupon: Coupon) {
        let sketch = &mut self.sketches[group];
        let before = sketch.bytes();
        sketch.add(coupon);
        self.bytes = self.bytes + sketch.bytes() - before;
    }

    fn merge(&mut self, group: usize, image: &[u8]) -> Result<()> {
        let sketch = &mut self.sketches[group];
        let before = sketch.bytes();
        sketch.merge(image)?;
        self.bytes = self.bytes + sketch.bytes() - before;
        Ok(())
    }

    fn take(&mut self, emit_to: EmitTo) -> Vec<Sketch> {
        let taken = emit_to.take_needed(&mut self.sketches);
        let freed: usize = taken.iter().map(Sketch::bytes).sum();
        self.bytes = self.bytes.saturating_sub(freed);
        taken
    }
}

impl GroupsAccumulator for Sketches {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.grow(total_num_groups);
        for_each_coupon(&values[0], |row, coupon| {
            let passes = opt_filter.is_none_or(|f| f.is_valid(row) && f.value(row));
            if passes {
                self.add(group_indices[row], coupon);
            }
        })
    }

    fn merge_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        total_num_groups: usize,
    ) -> Result<()> {
        self.grow(total_num_groups);
        let images = values[0].as_binary::<i32>();
        for (row, image) in images.iter().enumerate() {
            if let Some(image) = image {
                self.merge(group_indices[row], image)?;
            }
        }
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let counts: Int64Array = self
            .take(emit_to)
            .iter()
            .map(|sketch| Some(sketch.estimate()))
            .collect();
        Ok(Arc::new(counts))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let taken = self.take(emit_to);
        let mut images = BinaryBuilder::with_capacity(taken.len(), taken.len() * 48);
        for sketch in &taken {
            images.append_option(sketch.image());
        }
        Ok(vec![Arc::new(images.finish())])
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        opt_filter: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        states_of_each(Self::default(), values, opt_filter)
    }

    fn size(&self) -> usize {
        self.bytes + self.sketches.capacity() * size_of::<Sketch>()
    }
}

/// The sketch of a view without GROUP BY.
#[derive(Debug, Default)]
struct OneSketch(Sketch);

impl Accumulator for OneSketch {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for_each_coupon(&values[0], |_, coupon| self.0.add(coupon))
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let mut images = states[0].as_binary::<i32>().iter().flatten();
        images.try_for_each(|image| self.0.merge(image))
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(ScalarValue::Int64(Some(self.0.estimate())))
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![ScalarValue::Binary(self.0.image())])
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.0.bytes()
    }
}

fn new_sketch() -> HllSketch {
    HllSketch::new(LG_K, HllType::Hll4).expect("LG_K lies in the range that a sketch allows")
}

fn new_union() -> HllUnion {
    HllUnion::new(LG_K).expect("LG_K lies in the range that a union allows")
}

/// Calls `each` with the row and the hash of every value that is not NULL.
fn for_each_coupon(values: &ArrayRef, mut each: impl FnMut(usize, Coupon)) -> Result<()> {
    macro_rules! primitive {
        ($type:ty, $to_hashable:expr) => {{
            let values = values.as_primitive::<$type>();
            hash_rows(values.iter().map(|v| v.map($to_hashable)), each)
        }};
    }
    match values.data_type() {
        DataType::Boolean => {
            let values = values.as_boolean();
            hash_rows(values.iter().map(|v| v.map(i64::from)), each);
        }
        DataType::Int8 => primitive!(Int8Type, i64::from),
        DataType::Int16 => primitive!(Int16Type, i64::from),
        DataType::Int32 => primitive!(Int32Type, i64::from),
        DataType::Int64 => primitive!(Int64Type, |v| v),
        DataType::UInt8 => primitive!(UInt8Type, i64::from),
        DataType::UInt16 => primitive!(UInt16Type, i64::from),
        DataType::UInt32 => primitive!(UInt32Type, i64::from),
        DataType::UInt64 => primitive!(UInt64Type, |v| v),
        DataType::Float32 => primitive!(Float32Type, canonical_float::from_f32),
        DataType::Float64 => primitive!(Float64Type, canonical_float::from_f64),
        DataType::Decimal128(_, _) => primitive!(Decimal128Type, |v| v),
        DataType::Date32 => primitive!(Date32Type, i64::from),
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            primitive!(TimestampMicrosecondType, |v| v)
        }
        DataType::Utf8 => {
            let values = values.as_string::<i32>();
            hash_rows(values.iter().map(|v| v.map(raw_bytes::from_str)), each);
        }
        DataType::Binary => {
            let values = values.as_binary::<i32>();
            hash_rows(values.iter().map(|v| v.map(raw_bytes::from_slice)), each);
        }
        DataType::Null => {}
        other => {
            let values = normalize_float_zero(values);
            let converter = RowConverter::new(vec![SortField::new(other.clone())])?;
            let rows = converter.convert_columns(&[Arc::clone(&values)])?;
            for (row, bytes) in rows.iter().enumerate() {
                if values.is_valid(row) {
                    each(
                        row,
                        Coupon::from_value(raw_bytes::from_slice(bytes.as_ref())),
                    );
                }
            }
        }
    }
    Ok(())
}

fn hash_rows<T: Hash>(
    values: impl Iterator<Item = Option<T>>,
    mut each: impl FnMut(usize, Coupon),
) {
    for (row, value) in values.enumerate() {
        if let Some(value) = value {
            each(row, Coupon::from_value(value));
        }
    }
}

#[cfg(test)]
mod tests;
