// SPDX-License-Identifier: Apache-2.0
//! `-n` of whole numbers, which is exact or an error: DataFusion's own wraps around for the least of its type.

use arrow::compute::kernels::numeric::neg;
use arrow::datatypes::DataType;
use datafusion::common::{ScalarValue, internal_err};
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Negated {
    signature: Signature,
}

impl Negated {
    pub(super) fn new() -> Self {
        Self {
            signature: Signature::any(1, Volatility::Immutable),
        }
    }
}

impl ScalarUDFImpl for Negated {
    fn name(&self) -> &str {
        "checked[-_]"
    }

    // As of the operator, which stands in the statement.
    fn display_name(&self, args: &[Expr]) -> Result<String> {
        Ok(format!("(- {})", args[0].human_display()))
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        Ok(format!("(- {})", args[0].schema_name()))
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        Ok(types[0].clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match args.args.as_slice() {
            [ColumnarValue::Array(numbers)] => Ok(ColumnarValue::Array(neg(numbers)?)),
            [ColumnarValue::Scalar(number)] => {
                let one = neg(&number.to_array()?)?;
                Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&one, 0)?))
            }
            _ => internal_err!("a negative is of one number"),
        }
    }
}
