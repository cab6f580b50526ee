// SPDX-License-Identifier: Apache-2.0
//! What becomes of values that stand beside each other, where one of them is a DECIMAL.

use arrow::datatypes::{DECIMAL256_MAX_PRECISION, DataType};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::expr::Cast;
use datafusion::logical_expr::{Expr, ExprSchemable};

use super::carried::{Numbers, Reads};
use super::marks::digits_of_call;
use super::of_doubles::decimal_of_double;
use super::parameters::digits_of_parameter;
use super::written::{Written, decimal_type};

/// What a part of an expression does with those that stand in it beside each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// They are compared, and the result has another type.
    Compare,
    /// The result is one of them.
    Choose,
    /// The same, and a text among them becomes a number.
    ChooseNumber,
}

/// What stands beside others, for the choice of a type that all of them get.
pub(super) enum Kind {
    Decimal(DataType),
    /// A DOUBLE or FLOAT that is none of a statement's numbers.
    Floating,
    /// A number or, where it is `text`, a text with the digits of one.
    Number {
        written: Written,
        of: NumberType,
    },
    /// A DOUBLE that is one of a statement's numbers, which have so many digits before and behind the point.
    Carried((usize, usize)),
    /// A text that is none of a statement's numbers.
    Text,
    Other,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum NumberType {
    Double,
    Whole,
    Text,
}

impl Kind {
    pub(super) fn of(expr: &Expr, reads: &Reads) -> Self {
        if let Some((written, of)) = number(expr) {
            return Self::Number { written, of };
        }
        if let Some(numbers) = reads.numbers(expr) {
            return Self::of_numbers(&numbers);
        }
        if let Expr::Negative(part) = expr {
            match Self::of(part, reads) {
                Self::Number {
                    written,
                    of: NumberType::Double,
                } => {
                    let (written, of) = (written.negated(), NumberType::Double);
                    return Self::Number { written, of };
                }
                carried @ Self::Carried(_) => return carried,
                _ => {}
            }
        }
        match expr.get_type(reads.schema()) {
            Ok(data_type) => Self::of_type(&data_type),
            Err(_) => Self::Other,
        }
    }

    pub(super) fn of_numbers(numbers: &Numbers) -> Self {
        match (numbers.only(), numbers.places()) {
            (Some(written), _) => Self::Number {
                written: written.clone(),
                of: NumberType::Double,
            },
            (None, Some(places)) => Self::Carried(places),
            (None, None) => Self::Floating,
        }
    }

    pub(super) fn of_type(data_type: &DataType) -> Self {
        if data_type.is_decimal() {
            Self::Decimal(data_type.clone())
        } else if data_type.is_floating() {
            Self::Floating
        } else if data_type.is_string() {
            Self::Text
        } else {
            Self::Other
        }
    }
}

/// The number that a statement or a parameter writes.
pub(super) fn number(expr: &Expr) -> Option<(Written, NumberType)> {
    match expr {
        Expr::Negative(part) => {
            let (written, of) = number(part)?;
            (of != NumberType::Text).then(|| (written.negated(), of))
        }
        Expr::Literal(ScalarValue::Float64(Some(double)), metadata) => {
            let written = match digits_of_parameter(metadata.as_ref()) {
                Some(digits) => Written::parse(digits),
                None => Written::shortest(*double),
            };
            Some((written?, NumberType::Double))
        }
        Expr::Literal(ScalarValue::Int64(Some(whole)), _) => {
            Some((Written::parse(&whole.to_string())?, NumberType::Whole))
        }
        Expr::Literal(ScalarValue::UInt64(Some(whole)), _) => {
            Some((Written::parse(&whole.to_string())?, NumberType::Whole))
        }
        Expr::Literal(ScalarValue::Utf8(Some(text)), _) => {
            Some((Written::parse(text.trim())?, NumberType::Text))
        }
        part => Some((Written::parse(digits_of_call(part)?)?, NumberType::Double)),
    }
}

/// A part as a DECIMAL.
pub(super) enum Exact {
    /// The number itself.
    Number(ScalarValue),
    /// The DOUBLE that it is, as a number of this type.
    OfDouble(DataType),
    /// The text that it is, read as one.
    OfText(DataType),
}

impl Exact {
    pub(super) fn of(self, part: Expr) -> Expr {
        match self {
            Self::Number(number) => Expr::Literal(number, None),
            Self::OfDouble(data_type) => decimal_of_double(part, data_type),
            Self::OfText(data_type) => Expr::Cast(Cast::new(Box::new(part), data_type)),
        }
    }
}

/// What becomes of parts that stand beside each other.
pub(super) enum Meeting {
    /// They stay as they are.
    Unlike,
    /// For each part that becomes one, the DECIMAL that it is.
    Decimals(Vec<Option<Exact>>),
    /// The DECIMALs become DOUBLEs.
    Doubles,
}

pub(super) fn meeting(kinds: &[Kind], used: Use) -> Meeting {
    if !kinds.iter().any(|kind| matches!(kind, Kind::Decimal(_))) {
        return Meeting::Unlike;
    }
    if kinds.iter().any(|kind| matches!(kind, Kind::Floating)) {
        return Meeting::Doubles;
    }
    match decimals(kinds, used) {
        Some(decimals) => Meeting::Decimals(decimals),
        // Or a number is so large or so small that no DECIMAL has it.
        None => Meeting::Doubles,
    }
}

/// For each part that becomes one, the DECIMAL that it is; nothing if one cannot be.
fn decimals(kinds: &[Kind], used: Use) -> Option<Vec<Option<Exact>>> {
    let mut common = (0, 0);
    for kind in kinds {
        match kind {
            Kind::Decimal(data_type) => common = wider(common, places_of(data_type)?),
            Kind::Carried(places) => common = wider(common, *places),
            _ => {}
        }
    }
    // Compared with the first part alone, a number that no such DECIMAL has may as well be another that none has.
    let others = kinds.iter().skip(1);
    let others = others.filter(|kind| matches!(kind, Kind::Number { .. }));
    let is_first = matches!(kinds.first(), Some(Kind::Number { .. })) && others.count() > 0;
    let in_sight = |written: &Written| match is_first {
        true => written.clone(),
        false => written.among(common),
    };
    let numbers: Vec<Option<Written>> = kinds
        .iter()
        .map(|kind| match (kind, used) {
            (Kind::Number { written, .. }, Use::Compare) => Some(in_sight(written)),
            // Whole numbers keep the type that DataFusion gives them, as do texts where that is one of texts.
            (
                Kind::Number {
                    written,
                    of: NumberType::Double,
                },
                Use::Choose | Use::ChooseNumber,
            )
            | (
                Kind::Number {
                    written,
                    of: NumberType::Text,
                },
                Use::ChooseNumber,
            ) => Some(written.clone()),
            _ => None,
        })
        .collect();
    for number in numbers.iter().flatten() {
        common = wider(common, number.places());
    }
    let each = kinds.iter().zip(numbers).map(|(kind, number)| {
        let is_compared = used == Use::Compare;
        let exact = match (kind, number) {
            (_, Some(number)) => {
                let own = number.places();
                Exact::Number(number.decimal(if is_compared { common } else { own })?)
            }
            (Kind::Carried(own), None) => {
                Exact::OfDouble(decimal_type(if is_compared { common } else { *own })?)
            }
            // DataFusion would round it to the digits of the other one, and then compare.
            (Kind::Text, None) if is_compared => Exact::OfText(read_as(common)?),
            _ => return Some(None),
        };
        // What is larger would be the type of the result, and SQL has none as large.
        let fits = match &exact {
            Exact::Number(number) => matches!(number, ScalarValue::Decimal128(..)),
            Exact::OfDouble(data_type) | Exact::OfText(data_type) => {
                matches!(data_type, DataType::Decimal128(..))
            }
        };
        (is_compared || fits).then_some(Some(exact))
    });
    each.collect()
}

/// What a text is read as that is compared with so many digits before and behind the point: with as many of each as there
/// can be.
fn read_as((before, behind): (usize, usize)) -> Option<DataType> {
    let most = usize::from(DECIMAL256_MAX_PRECISION);
    let before = before.max(most / 2);
    decimal_type((before, most.checked_sub(before)?.max(behind)))
}

/// Digits before and behind the point that hold both.
pub(super) fn wider(one: (usize, usize), other: (usize, usize)) -> (usize, usize) {
    (one.0.max(other.0), one.1.max(other.1))
}

pub(super) fn places_of(data_type: &DataType) -> Option<(usize, usize)> {
    match data_type {
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => {
            let behind = usize::try_from(*scale).ok()?;
            Some((usize::from(*precision).saturating_sub(behind), behind))
        }
        _ => None,
    }
}

pub(super) fn double(expr: Expr) -> Expr {
    Expr::Cast(Cast::new(Box::new(expr), DataType::Float64))
}
