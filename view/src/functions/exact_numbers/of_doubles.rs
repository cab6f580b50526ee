// SPDX-License-Identifier: Apache-2.0
//! DOUBLEs that are numbers of a statement, as the DECIMALs that are written.

use arrow::array::{ArrayRef, AsArray};
use arrow::datatypes::{DataType, Float64Type};
use datafusion::common::{ScalarValue, exec_datafusion_err};
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::meeting::places_of;
use super::written::Written;

/// The DECIMAL of this type that is written where `expr`, a DOUBLE, comes from.
pub(super) fn decimal_of_double(expr: Expr, data_type: DataType) -> Expr {
    ScalarUDF::from(DecimalOfDouble::new(data_type)).call(vec![expr])
}

/// To the DECIMAL with the digits of the shortest number that is nearest to a DOUBLE.
#[derive(Debug, PartialEq, Eq, Hash)]
struct DecimalOfDouble {
    data_type: DataType,
    signature: Signature,
}

impl DecimalOfDouble {
    fn new(data_type: DataType) -> Self {
        Self {
            data_type,
            signature: Signature::exact(vec![DataType::Float64], Volatility::Immutable),
        }
    }

    fn decimal(&self, double: Option<f64>) -> Result<ScalarValue> {
        let Some(double) = double else {
            return ScalarValue::try_from(&self.data_type);
        };
        let places = places_of(&self.data_type);
        let written = places.zip(Written::shortest(double));
        let decimal = written.and_then(|(places, written)| written.decimal(places));
        decimal.ok_or_else(|| exec_datafusion_err!("{double} is no {}", self.data_type))
    }
}

impl ScalarUDFImpl for DecimalOfDouble {
    fn name(&self) -> &str {
        "decimal of double"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.data_type.clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match &args.args[0] {
            ColumnarValue::Scalar(ScalarValue::Float64(double)) => {
                self.decimal(*double).map(ColumnarValue::Scalar)
            }
            doubles => {
                let doubles: ArrayRef = doubles.to_array(args.number_rows)?;
                if doubles.is_empty() {
                    return Ok(ColumnarValue::Array(arrow::array::new_empty_array(
                        &self.data_type,
                    )));
                }
                let doubles = doubles.as_primitive::<Float64Type>();
                let decimals = doubles.iter().map(|double| self.decimal(double));
                let decimals = decimals.collect::<Result<Vec<_>>>()?;
                ScalarValue::iter_to_array(decimals).map(ColumnarValue::Array)
            }
        }
    }
}
