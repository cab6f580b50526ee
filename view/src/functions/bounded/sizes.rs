// SPDX-License-Identifier: Apache-2.0
//! How large values are, row by row.

use arrow::array::{Array, AsArray as _, OffsetSizeTrait};
use arrow::datatypes::{ArrowNativeType as _, ByteArrayType, ByteViewType, DataType};
use datafusion::error::Result;
use datafusion::logical_expr::ColumnarValue;

use super::growth::Bound;

/// What an offset, or a length with it, takes beside the value. So a value of no bytes counts too.
pub(super) const OFFSET: usize = 8;

/// What a value takes in memory, and how many values without parts it is made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) bytes: usize,
    pub(super) values: usize,
}

impl Size {
    fn and(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            values: self.values.saturating_add(other.values),
        }
    }
}

/// The sizes of the arguments of a call.
pub(super) struct Sizes(Vec<Argument>);

enum Argument {
    Each(Vec<Size>),
    Same(Size),
}

impl Sizes {
    pub(super) fn of(args: &[ColumnarValue]) -> Result<Self> {
        let size = |arg: &ColumnarValue| {
            Ok(match arg {
                ColumnarValue::Array(array) => {
                    let rows = 0..array.len();
                    Argument::Each(rows.map(|row| size(array.as_ref(), row, row + 1)).collect())
                }
                ColumnarValue::Scalar(scalar) => {
                    let one = scalar.to_array_of_size(1)?;
                    Argument::Same(size(one.as_ref(), 0, 1))
                }
            })
        };
        Ok(Self(args.iter().map(size).collect::<Result<_>>()?))
    }

    fn row<'a>(&self, row: usize, sizes: &'a mut Vec<Size>) -> &'a [Size] {
        sizes.clear();
        sizes.extend(self.0.iter().map(|argument| match argument {
            Argument::Each(each) => each.get(row).copied().unwrap_or_default(),
            Argument::Same(same) => *same,
        }));
        sizes
    }

    /// The most bytes that the result of `row` has.
    pub(super) fn bound(&self, row: usize, bound: Bound) -> usize {
        bound(self.row(row, &mut vec![]))
    }

    /// The end of the rows from `from` on, of `rows`, whose results have `bytes` at most, and how many they have at most. One
    /// row at least.
    pub(super) fn slice(
        &self,
        from: usize,
        rows: usize,
        bound: Bound,
        bytes: usize,
    ) -> (usize, usize) {
        let (mut scratch, mut most) = (Vec::with_capacity(self.0.len()), 0_usize);
        for row in from..rows {
            let with = most.saturating_add(bound(self.row(row, &mut scratch)));
            if with > bytes && row > from {
                return (row, most);
            }
            most = with;
        }
        (rows, most)
    }
}

/// What all of `array` takes.
pub(super) fn bytes(array: &dyn Array) -> usize {
    size(array, 0, array.len()).bytes
}

/// What the values from `from` to `to` take.
pub(super) fn size(array: &dyn Array, from: usize, to: usize) -> Size {
    use arrow::datatypes::{
        BinaryType, BinaryViewType, LargeBinaryType, LargeUtf8Type, StringViewType, Utf8Type,
    };
    let rows = to - from;
    match array.data_type() {
        DataType::Utf8 => of_bytes::<Utf8Type>(array, from, to),
        DataType::LargeUtf8 => of_bytes::<LargeUtf8Type>(array, from, to),
        DataType::Binary => of_bytes::<BinaryType>(array, from, to),
        DataType::LargeBinary => of_bytes::<LargeBinaryType>(array, from, to),
        DataType::Utf8View => of_views::<StringViewType>(array, from, to),
        DataType::BinaryView => of_views::<BinaryViewType>(array, from, to),
        DataType::List(_) => of_list::<i32>(array, from, to),
        DataType::LargeList(_) => of_list::<i64>(array, from, to),
        DataType::Map(_, _) => {
            let map = array.as_map();
            let offsets = map.value_offsets();
            let (first, last) = (offsets[from].as_usize(), offsets[to].as_usize());
            size(map.entries(), first, last).and(of_offsets(rows))
        }
        DataType::FixedSizeList(_, _) => {
            let list = array.as_fixed_size_list();
            let length = list.value_length() as usize;
            let values = list.values().as_ref();
            // Sliced as the list is.
            size(values, from * length, to * length).and(of_offsets(rows))
        }
        DataType::Struct(_) => {
            let columns = array.as_struct().columns().iter();
            let sizes = columns.map(|column| size(column.as_ref(), from, to));
            sizes.fold(of_offsets(rows), Size::and)
        }
        DataType::Dictionary(_, _) => {
            let dictionary = array.as_any_dictionary();
            let (keys, values) = (dictionary.normalized_keys(), dictionary.values());
            let valid = (from..to).filter(|row| array.is_valid(*row));
            let sizes = valid.map(|row| size(values.as_ref(), keys[row], keys[row] + 1));
            sizes.fold(plain(rows, OFFSET), Size::and)
        }
        // All of it for each row, which is too much and never too little.
        DataType::Union(_, _)
        | DataType::RunEndEncoded(_, _)
        | DataType::ListView(_)
        | DataType::LargeListView(_) => {
            let all = array.get_array_memory_size();
            plain(rows, all)
        }
        other => plain(rows, width(other)),
    }
}

fn plain(rows: usize, width: usize) -> Size {
    Size {
        bytes: rows.saturating_mul(width),
        values: rows,
    }
}

fn of_offsets(rows: usize) -> Size {
    Size {
        bytes: rows * OFFSET,
        values: 0,
    }
}

fn of_bytes<T: ByteArrayType>(array: &dyn Array, from: usize, to: usize) -> Size {
    let offsets = array.as_bytes::<T>().value_offsets();
    let text = offsets[to].as_usize() - offsets[from].as_usize();
    Size {
        bytes: text + (to - from) * OFFSET,
        values: to - from,
    }
}

fn of_views<T: ByteViewType>(array: &dyn Array, from: usize, to: usize) -> Size {
    let views = &array.as_byte_view::<T>().views()[from..to];
    // The low half of a view is the length.
    let text = views.iter().map(|view| (*view as u32) as usize + OFFSET);
    Size {
        bytes: text.sum(),
        values: to - from,
    }
}

fn of_list<O: OffsetSizeTrait>(array: &dyn Array, from: usize, to: usize) -> Size {
    let list = array.as_list::<O>();
    let offsets = list.value_offsets();
    let (first, last) = (offsets[from].as_usize(), offsets[to].as_usize());
    size(list.values().as_ref(), first, last).and(of_offsets(to - from))
}

/// The bytes that each value of a type takes, NULL too; of texts and lists, beside what is in them.
pub(super) fn width(data_type: &DataType) -> usize {
    match data_type {
        DataType::FixedSizeBinary(bytes) => usize::try_from(*bytes).unwrap_or_default().max(1),
        DataType::FixedSizeList(item, length) => {
            let length = usize::try_from(*length).unwrap_or_default();
            width(item.data_type()).saturating_mul(length).max(OFFSET)
        }
        DataType::Struct(fields) => {
            let widths = fields.iter().map(|field| width(field.data_type()));
            widths.fold(OFFSET, usize::saturating_add)
        }
        DataType::List(item) | DataType::LargeList(item) => width(item.data_type()).max(OFFSET),
        other => other.primitive_width().unwrap_or(OFFSET),
    }
}
