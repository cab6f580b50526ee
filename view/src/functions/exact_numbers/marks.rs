// SPDX-License-Identifier: Apache-2.0
//! The marks of numbers that a DOUBLE lacks digits of, in statements: DataFusion keeps no text of a number.
//!
//! Purpose: in the syntax tree such a number becomes a call with its text, which plans carry until [`ExactNumbers`] has
//! looked at what it stands beside. Non-goals: parameters, whose marks are metadata.
//!
//! [`ExactNumbers`]: super::ExactNumbers

use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::{ScalarValue, plan_err};
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::sql::sqlparser::ast;

use super::spelled::{call, spell_out};
use super::written::lacks_digits;

/// The name under which a number with more digits than a DOUBLE has is called, with its text: no SQL has it by chance.
const WITH_ALL_DIGITS: &str = "number with all digits";

/// The text that a call of [`WithAllDigits`] has as its argument.
pub(crate) fn digits_of_call(part: &Expr) -> Option<&str> {
    match part {
        Expr::ScalarFunction(call) if call.func.name() == WITH_ALL_DIGITS => {
            match call.args.as_slice() {
                [Expr::Literal(ScalarValue::Utf8(Some(text)), _)] => Some(text),
                _ => None,
            }
        }
        _ => None,
    }
}

/// Marks the numbers of a statement that a DOUBLE lacks digits of, for [`ExactNumbers`](super::ExactNumbers), and spells
/// out what would be planned before that has looked at it.
pub fn keep_digits(statement: &mut impl ast::VisitMut) {
    struct Keeper;
    impl ast::VisitorMut for Keeper {
        type Break = ();

        fn pre_visit_expr(&mut self, expr: &mut ast::Expr) -> ControlFlow<()> {
            // Such as -18446744073709551615, which is a BIGINT without its sign.
            if let ast::Expr::UnaryOp {
                op: ast::UnaryOperator::Minus,
                expr: number,
            } = expr
                && let Some(text) = text_of_number(number)
                && format!("-{text}").parse::<i64>().is_err()
                && lacks_digits(&text)
            {
                **number = with_all_digits(text);
            }
            ControlFlow::Continue(())
        }

        fn post_visit_expr(&mut self, expr: &mut ast::Expr) -> ControlFlow<()> {
            if let Some(text) = text_of_number(expr)
                && text.parse::<u64>().is_err()
                && lacks_digits(&text)
            {
                *expr = with_all_digits(text);
            }
            spell_out(expr);
            ControlFlow::Continue(())
        }
    }
    let _ = statement.visit(&mut Keeper);
}

fn text_of_number(expr: &ast::Expr) -> Option<String> {
    match expr {
        ast::Expr::Value(ast::ValueWithSpan {
            value: ast::Value::Number(text, _),
            ..
        }) => Some(text.replace('_', "")),
        _ => None,
    }
}

fn with_all_digits(text: String) -> ast::Expr {
    let text = ast::Expr::value(ast::Value::SingleQuotedString(text));
    call(WITH_ALL_DIGITS, vec![text])
}

/// A DOUBLE with the text that it was written as. It is in plans until they are analysed, and never computed.
#[derive(Debug, PartialEq, Eq, Hash)]
struct WithAllDigits {
    signature: Signature,
}

impl WithAllDigits {
    fn new() -> Self {
        Self {
            signature: Signature::exact(vec![DataType::Utf8], Volatility::Immutable),
        }
    }
}

impl ScalarUDFImpl for WithAllDigits {
    fn name(&self) -> &str {
        WITH_ALL_DIGITS
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        Ok(match args {
            [Expr::Literal(ScalarValue::Utf8(Some(text)), _)] => text.clone(),
            _ => WITH_ALL_DIGITS.to_owned(),
        })
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        plan_err!("`{WITH_ALL_DIGITS}` takes a number that is written out")
    }
}

/// The function by which [`keep_digits`] marks a number.
pub(in crate::functions) fn function() -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::from(WithAllDigits::new()))
}
