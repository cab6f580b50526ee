// SPDX-License-Identifier: Apache-2.0
//! A tree of `||` as one function.
//!
//! As of `checked`: a function for each operator would nest as deep as the tree does, and take more of the stack. Neighbours
//! are joined pair by pair, so that a tree of many terms is not copied once for each of them.

use arrow::array::ArrayRef;
use arrow::compute::kernels::concat_elements::concat_elements_dyn;
use arrow::datatypes::DataType;
use datafusion::common::{DFSchema, internal_err};
use datafusion::error::Result;
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, ExprSchemable, Operator, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility,
};

/// The tree of texts or binaries of which `root` is the root, and its leaves; `root` if it is none.
pub(super) fn joined(
    root: BinaryExpr,
    schema: &DFSchema,
) -> std::result::Result<(ScalarUDF, Vec<Expr>), BinaryExpr> {
    if root.op != Operator::StringConcat {
        return Err(root);
    }
    let types = [&root.left, &root.right].map(|side| side.get_type(schema));
    match &types {
        // Coercion has given all terms the type of the root.
        [Ok(left), Ok(right)] if left == right && is_joinable(left) => {}
        _ => return Err(root),
    }
    let (mut leaves, mut todo) = (vec![], vec![*root.right, *root.left]);
    while let Some(next) = todo.pop() {
        match next {
            Expr::BinaryExpr(BinaryExpr {
                left,
                op: Operator::StringConcat,
                right,
            }) => {
                todo.push(*right);
                todo.push(*left);
            }
            leaf => leaves.push(leaf),
        }
    }
    let signature = Signature::any(leaves.len(), Volatility::Immutable);
    Ok((ScalarUDF::from(Joined { signature }), leaves))
}

fn is_joinable(data_type: &DataType) -> bool {
    data_type.is_string()
        || matches!(
            data_type,
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView
        )
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Joined {
    signature: Signature,
}

impl ScalarUDFImpl for Joined {
    fn name(&self) -> &str {
        "||"
    }

    // As of the operators, which stand in the statement.
    fn display_name(&self, args: &[Expr]) -> Result<String> {
        let leaves = args.iter().map(|leaf| leaf.human_display().to_string());
        Ok(leaves.collect::<Vec<_>>().join(" || "))
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let leaves = args.iter().map(|leaf| leaf.schema_name().to_string());
        Ok(leaves.collect::<Vec<_>>().join(" || "))
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types.split_first() {
            Some((first, others)) if others.iter().all(|other| other == first) => Ok(first.clone()),
            _ => internal_err!("`||` takes values of one type, not {types:?}"),
        }
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let terms = args.args.into_iter().map(|term| term.into_array(rows));
        let mut terms: Vec<ArrayRef> = terms.collect::<Result<_>>()?;
        while terms.len() > 1 {
            let pairs = terms.chunks(2).map(|pair| match pair {
                [left, right] => concat_elements_dyn(left.as_ref(), right.as_ref()),
                other => Ok(other[0].clone()),
            });
            terms = pairs.collect::<std::result::Result<_, _>>()?;
        }
        match terms.pop() {
            Some(all) => Ok(ColumnarValue::Array(all)),
            None => internal_err!("`||` of nothing"),
        }
    }
}
