// SPDX-License-Identifier: Apache-2.0
//! `array_has`, and with it `= ANY (list)`, where the list or what is looked for is of DECIMALs.
//!
//! Purpose: DataFusion 55.2 refuses `array_has(prices, 4.48)` while it plans the call, before any rule has seen it. Here a
//! function of that name is planned that takes them, too, and becomes DataFusion's own once the rule has given both one type.
//! Invariants: what DataFusion takes is planned as ever, and what can be compared with no DECIMAL is refused as ever.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::plan_datafusion_err;
use datafusion::common::tree_node::Transformed;
use datafusion::error::Result;
use datafusion::functions_nested::array_has::array_has_udf;
use datafusion::logical_expr::expr::{Cast, ScalarFunction};
use datafusion::logical_expr::type_coercion::functions::fields_with_udf;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    TypeSignature, Volatility,
};

use super::carried::Reads;
use super::meeting::{Kind, Meeting, Use, double, meeting, places_of, wider};
use super::together::together;
use super::written::decimal_type;

pub(super) const NAME: &str = "array_has";

/// A call of the function with two arguments, once they have one type.
pub(super) fn searched(call: ScalarFunction, reads: &Reads) -> Transformed<Expr> {
    let is_ours = call.func.inner().is::<ListSearch>();
    let before = call.args.clone();
    let arguments = match <[Expr; 2]>::try_from(call.args) {
        Ok(arguments) => beside(arguments, reads).to_vec(),
        Err(arguments) => arguments,
    };
    let changed = is_ours || arguments != before;
    let call = ScalarFunction::new_udf(array_has_udf(), arguments);
    Transformed::new_transformed(Expr::ScalarFunction(call), changed)
}

/// A list and what is looked for in it, as one type where a DECIMAL is among them.
fn beside([mut list, mut element]: [Expr; 2], reads: &Reads) -> [Expr; 2] {
    if let Expr::ScalarFunction(written) = &mut list
        && written.func.name() == "make_array"
    {
        let mut parts = vec![element];
        parts.append(&mut written.args);
        let mut parts = together(parts, Use::Compare, reads).data.into_iter();
        element = parts.next().unwrap_or_default();
        written.args = parts.collect();
    }
    let schema = reads.schema();
    let list_type = list.get_type(schema).unwrap_or(DataType::Null);
    let Some(item) = item_of(&list_type).map(|item| item.data_type().clone()) else {
        return [list, element];
    };
    let kinds = [Kind::of_type(&item), Kind::of(&element, reads)];
    match meeting(&kinds, Use::Compare) {
        Meeting::Unlike => {}
        Meeting::Doubles => {
            if item.is_decimal() {
                list = as_list_of(list, &list_type, DataType::Float64);
            }
            if matches!(kinds[1], Kind::Decimal(_)) {
                element = double(element);
            }
        }
        Meeting::Decimals(decimals) => {
            if let Some(decimal) = decimals.into_iter().nth(1).flatten() {
                element = decimal.of(element);
            }
        }
    }
    let sought = element.get_type(schema).unwrap_or(DataType::Null);
    let is_decimal = item.is_decimal() || sought.is_decimal();
    if is_decimal
        && item != sought
        && let (Some(of_item), Some(of_sought)) = (digits_of(&item), digits_of(&sought))
        && let Some(common) = decimal_type(wider(of_item, of_sought))
    {
        if item != common {
            list = as_list_of(list, &list_type, common.clone());
        }
        if sought != common {
            element = Expr::Cast(Cast::new(Box::new(element), common));
        }
    }
    [list, element]
}

fn item_of(list: &DataType) -> Option<&FieldRef> {
    match list {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            Some(item)
        }
        _ => None,
    }
}

fn as_list_of(list: Expr, list_type: &DataType, data_type: DataType) -> Expr {
    let of = |item: &FieldRef| Arc::new(item.as_ref().clone().with_data_type(data_type));
    let list_type = match list_type {
        DataType::LargeList(item) => DataType::LargeList(of(item)),
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(of(item), *size),
        DataType::List(item) => DataType::List(of(item)),
        _ => return list,
    };
    Expr::Cast(Cast::new(Box::new(list), list_type))
}

/// Digits before and behind the point of whole numbers and DECIMALs.
fn digits_of(data_type: &DataType) -> Option<(usize, usize)> {
    match data_type {
        DataType::Int8 | DataType::UInt8 => Some((3, 0)),
        DataType::Int16 | DataType::UInt16 => Some((5, 0)),
        DataType::Int32 | DataType::UInt32 => Some((10, 0)),
        DataType::Int64 | DataType::UInt64 => Some((20, 0)),
        other => places_of(other),
    }
}

/// The function that is planned.
#[derive(Debug, PartialEq, Eq, Hash)]
struct ListSearch {
    signature: Signature,
    aliases: Vec<String>,
}

impl ListSearch {
    fn new() -> Self {
        let own = array_has_udf();
        let of_any = TypeSignature::Any(2);
        let signatures = vec![own.signature().type_signature.clone(), of_any];
        Self {
            signature: Signature::one_of(signatures, Volatility::Immutable),
            aliases: own.aliases().to_vec(),
        }
    }
}

impl ScalarUDFImpl for ListSearch {
    fn name(&self) -> &str {
        NAME
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        let field = |t: &DataType| Arc::new(Field::new("argument", t.clone(), true));
        let fields: Vec<FieldRef> = types.iter().map(field).collect();
        if meets_decimals(types) || fields_with_udf(&fields, array_has_udf().as_ref()).is_ok() {
            return Ok(DataType::Boolean);
        }
        let given: Vec<String> = types.iter().map(DataType::to_string).collect();
        Err(plan_datafusion_err!(
            "No function matches the given name and argument types '{NAME}({})'. You might need to add explicit type casts.\n\tCandidate functions:\n\t{NAME}(array, element)",
            given.join(", ")
        ))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        array_has_udf().invoke_with_args(args)
    }
}

/// Whether a DECIMAL is compared with a number or a text.
fn meets_decimals(types: &[DataType]) -> bool {
    let [list, sought] = types else {
        return false;
    };
    item_of(list).is_some_and(|item| {
        let item = item.data_type();
        let compares = |other: &DataType| other.is_numeric() || other.is_string();
        item.is_decimal() && compares(sought) || sought.is_decimal() && item.is_numeric()
    })
}

/// The function, in place of DataFusion's.
pub(in crate::functions) fn function() -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::from(ListSearch::new()))
}
