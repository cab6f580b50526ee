// SPDX-License-Identifier: Apache-2.0
//! Values that an Arrow array carries but that belong to no event: below a null struct, inside a null list,
//! between two lists. A `NOT NULL` says nothing of them, so they are taken out before it is checked.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, ListArray, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::compute::{filter, nullif};
use arrow::error::ArrowError;

/// The fields of a struct, null wherever the struct is.
pub(super) fn visible_fields(source: &StructArray) -> Result<Vec<ArrayRef>, ArrowError> {
    let Some(nulls) = source.nulls().filter(|nulls| nulls.null_count() > 0) else {
        return Ok(source.columns().to_vec());
    };
    let hidden = BooleanArray::new(!nulls.inner(), None);
    let fields = source.columns().iter();
    fields.map(|field| nullif(field, &hidden)).collect()
}

/// The same lists with no items but their own.
pub(super) fn visible_items(source: &ListArray) -> Result<ListArray, ArrowError> {
    let lengths = || {
        source.offsets().lengths().enumerate().map(
            |(list, length)| {
                if source.is_valid(list) { length } else { 0 }
            },
        )
    };
    if lengths().sum::<usize>() == source.values().len() {
        return Ok(source.clone());
    }
    let mut visible = vec![false; source.values().len()];
    for (list, length) in lengths().enumerate() {
        // Offsets are not negative and within the items: the array was validated.
        let start = usize::try_from(source.value_offsets()[list]).unwrap_or(0);
        visible[start..start + length].fill(true);
    }
    let values = filter(source.values(), &BooleanArray::from(visible))?;
    let field = Arc::new(arrow::datatypes::Field::new(
        "item",
        values.data_type().clone(),
        true,
    ));
    let offsets = OffsetBuffer::from_lengths(lengths());
    ListArray::try_new(field, offsets, values, source.nulls().cloned())
}
