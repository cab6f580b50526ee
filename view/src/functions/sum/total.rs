// SPDX-License-Identifier: Apache-2.0
//! A total as the result of `sum`, and what to write where it does not fit.

use std::marker::PhantomData;
use std::sync::Arc;

use arrow::array::{ArrayRef, PrimitiveArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::DataType;
use datafusion::error::{DataFusionError, Result};

use crate::functions::wide::{Argument, Ends, Finish, Narrow, Wide, call};
use crate::sql_type;

/// Narrows totals of type `S` to the Arrow type of the argument, `A`.
#[derive(Debug)]
pub(in crate::functions) struct Total<A, S: Wide> {
    /// The call, for errors.
    name: String,
    result: DataType,
    ends: Ends<S>,
    argument: PhantomData<A>,
}

impl<A, S: Wide> Total<A, S> {
    pub(super) fn new(name: &str, result: &DataType) -> Self {
        Self {
            name: call(name).to_owned(),
            result: result.clone(),
            ends: Ends::of(result),
            argument: PhantomData,
        }
    }
}

impl<A: Argument<S>, S: Wide> Finish<S> for Total<A, S> {
    const COUNTS: bool = false;

    fn finish(
        &self,
        totals: Vec<S::Native>,
        _counts: &[i64],
        nulls: Option<NullBuffer>,
    ) -> Result<ArrayRef> {
        if !totals.iter().all(|total| self.ends.hold(*total)) {
            return Err(passed(&self.name, &self.result));
        }
        let results: Vec<A::Native> = totals.into_iter().map(A::Native::low_bits).collect();
        let results = PrimitiveArray::<A>::new(results.into(), nulls);
        Ok(Arc::new(results.with_data_type(self.result.clone())))
    }
}

/// An error of the data, not of the statement: `Execution`, as of an overflow in an expression.
#[cold]
fn passed(name: &str, result: &DataType) -> DataFusionError {
    let way_out = match result {
        DataType::Duration(_) => {
            "sum(CAST(CAST(… AS BIGINT) AS DECIMAL(38, 0))), or CAST(… AS DOUBLE) inside".to_owned()
        }
        DataType::Decimal128(38, scale) => wide_way_out(38, *scale),
        DataType::Decimal256(precision, scale) => wide_way_out(*precision, *scale),
        DataType::Decimal128(_, scale)
        | DataType::Decimal64(_, scale)
        | DataType::Decimal32(_, scale) => wider_way_out(*scale),
        _ => wider_way_out(0),
    };
    let result = sql_type(result);
    DataFusionError::Execution(format!("`{name}` does not fit {result}: write {way_out}"))
}

/// Where there is a wider type.
fn wider_way_out(scale: i8) -> String {
    format!("sum(CAST(… AS DECIMAL(38, {scale}))), or sum(CAST(… AS DOUBLE))")
}

/// Where there is none: fewer digits after the point, if there are any.
fn wide_way_out(precision: u8, scale: i8) -> String {
    if scale > 0 {
        format!("sum(CAST(… AS DOUBLE)), or sum(CAST(… AS DECIMAL({precision}, 0)))")
    } else {
        "sum(CAST(… AS DOUBLE))".to_owned()
    }
}
