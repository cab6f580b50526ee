// SPDX-License-Identifier: Apache-2.0
//! Calls whose result may be much larger than what they are given, measured before they are made.
//!
//! Purpose: a few bytes of SQL that nest `replace` or `||` ask for terabytes, outside of any account, and an allocation that
//! fails ends the process. So in the analysed plan each such call is put into a [`Bounded`], which computes the most bytes
//! that its result may have ([`growth`]) from its arguments ([`sizes`]), goes through the batch in slices of rows
//! that it has room for, and refuses what it has none for. Invariants: values, types and names are those of the call; a
//! large result stays on the account of the queries for as long as it is there. Non-goals: what operators hold.

mod growth;
mod joined;
mod sizes;

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray as _, GenericByteArray, GenericListArray, OffsetSizeTrait,
};
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{ByteArrayType, DataType, FieldRef};
use bytes::Bytes;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, DataFusionError, ScalarValue, plan_err};
use datafusion::error::Result;
use datafusion::execution::memory_pool::{
    MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation, human_readable_size,
};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, LogicalPlan, ReturnFieldArgs, ScalarFunctionArgs,
    ScalarUDF, ScalarUDFImpl, Signature,
};
use datafusion::optimizer::AnalyzerRule;

use super::rewriting::rewritten;
use growth::{Bound, bound_of};
use sizes::Sizes;

/// The most that a call of a view makes of one batch of events, and of a query whose account has no limit.
const LIMIT_BYTES: usize = 64 << 20;

/// The most that any call makes: the offsets of a text count to 2 GiB.
const MOST_BYTES: usize = 512 << 20;

/// Of the memory of all queries, a call may make one in so many bytes.
const SHARE: usize = 4;

/// The most that a call of nothing but constants makes: its result may stand in every row.
const CONSTANT_BYTES: usize = 1 << 20;

/// Rows are computed together as long as their results may take so much.
const SLICE_BYTES: usize = 8 << 20;

/// Smaller results are on no account, as the batches that they are part of.
const ACCOUNTED_BYTES: usize = 1 << 20;

/// The widest value of a type of fixed size that a cast may ask for. A NULL of it takes as much.
const WIDEST_BYTES: usize = 1024;

/// Puts the calls into a function that bounds them. It comes behind the coercion of types.
#[derive(Debug, Default)]
pub struct BoundedCalls {
    account: Account,
}

impl BoundedCalls {
    /// For queries: what calls make is on the account of `pool`, and what does not fit is refused as the pool does.
    pub fn of_queries(pool: Arc<dyn MemoryPool>) -> Self {
        Self {
            account: Account(Some(pool)),
        }
    }

    /// `expr` with its calls bounded.
    pub(crate) fn bounded(&self, expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
        expr.transform_down(|part| self.bounded_part(part, schema))
    }

    fn bounded_part(&self, part: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
        let (function, bound, args) = match part {
            Expr::BinaryExpr(binary) => match joined::joined(binary, schema) {
                Ok((function, leaves)) => (Arc::new(function), growth::JOINED, leaves),
                Err(binary) => return Ok(Transformed::no(Expr::BinaryExpr(binary))),
            },
            Expr::ScalarFunction(call) if call.func.inner().downcast_ref::<Bounded>().is_none() => {
                match bound_of(call.func.name()) {
                    Some(bound) => (call.func, bound, call.args),
                    None => {
                        let part = Expr::ScalarFunction(call);
                        refuse_wide(&part, schema)?;
                        return Ok(Transformed::no(part));
                    }
                }
            }
            part => return Ok(Transformed::no(part)),
        };
        let function = Bounded {
            inner: function,
            bound,
            account: self.account.clone(),
        };
        let function = Arc::new(ScalarUDF::from(function));
        let call = ScalarFunction::new_udf(function, args);
        Ok(Transformed::yes(Expr::ScalarFunction(call)))
    }
}

impl AnalyzerRule for BoundedCalls {
    fn name(&self) -> &'static str {
        "bounded_calls"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        rewritten(plan, |expr, schema| self.bounded(expr, schema))
    }
}

/// `arrow_cast` and its kind make values of any width out of the name of a type.
fn refuse_wide(call: &Expr, schema: &DFSchema) -> Result<()> {
    let Expr::ScalarFunction(function) = call else {
        return Ok(());
    };
    if !growth::CASTS.contains(&function.func.name()) {
        return Ok(());
    }
    let data_type = call.get_type(schema)?;
    if sizes::width(&data_type) > WIDEST_BYTES {
        let name = function.func.name();
        return plan_err!(
            "`{name}` to `{data_type}` makes values of any size: {WIDEST_BYTES} bytes are the most for a type of fixed size"
        );
    }
    Ok(())
}

/// The memory of all queries. Views have none: what they compute is bounded by itself.
#[derive(Debug, Clone, Default)]
struct Account(Option<Arc<dyn MemoryPool>>);

impl Account {
    /// The most bytes that a call may make of one batch.
    fn limit(&self) -> usize {
        match self.0.as_ref().map(|pool| pool.memory_limit()) {
            Some(MemoryLimit::Finite(bytes)) => (bytes / SHARE).min(MOST_BYTES),
            _ => LIMIT_BYTES,
        }
    }

    fn reservation(&self, name: &str) -> Option<MemoryReservation> {
        let pool = self.0.as_ref()?;
        Some(MemoryConsumer::new(name).register(pool))
    }

    fn refusal(&self, name: &str, rows: usize, bytes: usize, limit: usize) -> DataFusionError {
        let (bytes, most) = (human_readable_size(bytes), human_readable_size(limit));
        let rows = match rows {
            1 => "1 row".to_owned(),
            rows => format!("{rows} rows"),
        };
        let makes = format!("`{name}` may make {bytes} of {rows}, and {most} are the most");
        match &self.0 {
            Some(_) => DataFusionError::ResourcesExhausted(format!(
                "{makes} for one call and one batch of rows: shorten the texts or lists that it is given"
            )),
            None => DataFusionError::Execution(format!("{makes} for the events of one batch")),
        }
    }
}

/// A call that is measured before it is made.
#[derive(Debug)]
struct Bounded {
    inner: Arc<ScalarUDF>,
    bound: Bound,
    account: Account,
}

// The name of a function tells its bound, and the account is the same in all of a plan.
impl PartialEq for Bounded {
    fn eq(&self, other: &Self) -> bool {
        self.inner == other.inner
    }
}

impl Eq for Bounded {}

impl Hash for Bounded {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.inner.hash(state);
    }
}

impl Bounded {
    fn is_constant(args: &[ColumnarValue]) -> bool {
        args.iter()
            .all(|arg| matches!(arg, ColumnarValue::Scalar(_)))
    }

    /// One value, whatever the number of rows.
    fn constant(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let limit = self.account.limit();
        let most = Sizes::of(&args.args)?.bound(0, self.bound);
        if most > limit {
            return Err(self.account.refusal(self.name(), 1, most, limit));
        }
        let mut account = self.account.reservation(self.name());
        if let Some(account) = &mut account {
            account.try_grow(most)?;
        }
        let args = ScalarFunctionArgs {
            number_rows: 1,
            ..args
        };
        let value = self.inner.invoke_with_args(args)?.into_array(1)?;
        let (bytes, limit) = (sizes::bytes(value.as_ref()), limit.min(CONSTANT_BYTES));
        if bytes > limit {
            return Err(self.account.refusal(self.name(), 1, bytes, limit));
        }
        Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(
            &value, 0,
        )?))
    }

    /// A value for each row of the batch.
    fn rows(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let (rows, limit) = (args.number_rows, self.account.limit());
        let sizes = Sizes::of(&args.args)?;
        let mut parts: Vec<ArrayRef> = vec![];
        let mut account = self.account.reservation(self.name());
        let (mut from, mut made) = (0, 0_usize);
        while from < rows {
            let room = limit.saturating_sub(made);
            let (to, most) = sizes.slice(from, rows, self.bound, SLICE_BYTES.min(room));
            if most > room {
                let bytes = made.saturating_add(most);
                return Err(self.account.refusal(self.name(), to, bytes, limit));
            }
            if most <= ACCOUNTED_BYTES && from == 0 && to == rows {
                break;
            }
            if let Some(account) = &mut account {
                account.try_grow(most)?;
            }
            let part = self.inner.invoke_with_args(slice(&args, from, to))?;
            let part = part.into_array(to - from)?;
            let bytes = sizes::bytes(part.as_ref());
            if let Some(account) = &mut account {
                account.shrink(most.saturating_sub(bytes));
            }
            made += bytes;
            parts.push(part);
            from = to;
        }
        let whole = match &parts[..] {
            // All rows at once, or none.
            [] => return self.inner.invoke_with_args(args),
            [one] => Arc::clone(one),
            parts => {
                // It is there twice for a moment.
                let _copy = match self.account.reservation(self.name()) {
                    Some(copy) => {
                        copy.try_grow(made)?;
                        Some(copy)
                    }
                    None => None,
                };
                let parts: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
                arrow::compute::concat(&parts)?
            }
        };
        Ok(ColumnarValue::Array(match account {
            Some(account) if made > ACCOUNTED_BYTES => on_account(whole, account)?,
            _ => whole,
        }))
    }
}

fn slice(args: &ScalarFunctionArgs, from: usize, to: usize) -> ScalarFunctionArgs {
    let part = |arg: &ColumnarValue| match arg {
        ColumnarValue::Array(array) => ColumnarValue::Array(array.slice(from, to - from)),
        ColumnarValue::Scalar(scalar) => ColumnarValue::Scalar(scalar.clone()),
    };
    ScalarFunctionArgs {
        args: args.args.iter().map(part).collect(),
        number_rows: to - from,
        arg_fields: args.arg_fields.clone(),
        return_field: Arc::clone(&args.return_field),
        config_options: Arc::clone(&args.config_options),
    }
}

/// A buffer, and what it holds of the account for as long as somebody holds it.
struct Held {
    buffer: Buffer,
    _account: MemoryReservation,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        self.buffer.as_slice()
    }
}

/// `array`, whose offsets hold `account`. Other types than texts, binaries and lists keep nothing on it.
fn on_account(array: ArrayRef, account: MemoryReservation) -> Result<ArrayRef> {
    use arrow::datatypes::{BinaryType, LargeBinaryType, LargeUtf8Type, Utf8Type};
    Ok(match array.data_type() {
        DataType::Utf8 => bytes_on_account::<Utf8Type>(&array, account)?,
        DataType::LargeUtf8 => bytes_on_account::<LargeUtf8Type>(&array, account)?,
        DataType::Binary => bytes_on_account::<BinaryType>(&array, account)?,
        DataType::LargeBinary => bytes_on_account::<LargeBinaryType>(&array, account)?,
        DataType::List(field) => list_on_account::<i32>(&array, field, account)?,
        DataType::LargeList(field) => list_on_account::<i64>(&array, field, account)?,
        _ => array,
    })
}

fn bytes_on_account<T: ByteArrayType>(
    array: &ArrayRef,
    account: MemoryReservation,
) -> Result<ArrayRef> {
    let (offsets, values, nulls) = array.as_bytes::<T>().clone().into_parts();
    let offsets = offsets_on_account(offsets, account);
    Ok(Arc::new(GenericByteArray::<T>::try_new(
        offsets, values, nulls,
    )?))
}

fn list_on_account<O: OffsetSizeTrait>(
    array: &ArrayRef,
    field: &FieldRef,
    account: MemoryReservation,
) -> Result<ArrayRef> {
    let (_, offsets, values, nulls) = array.as_list::<O>().clone().into_parts();
    let offsets = offsets_on_account(offsets, account);
    let field = Arc::clone(field);
    Ok(Arc::new(GenericListArray::<O>::try_new(
        field, offsets, values, nulls,
    )?))
}

fn offsets_on_account<O: OffsetSizeTrait>(
    offsets: OffsetBuffer<O>,
    account: MemoryReservation,
) -> OffsetBuffer<O> {
    let held = Held {
        buffer: offsets.into_inner().into_inner(),
        _account: account,
    };
    let held = Buffer::from(Bytes::from_owner(held));
    OffsetBuffer::new(ScalarBuffer::from(held))
}

impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn display_name(&self, args: &[Expr]) -> Result<String> {
        #[expect(deprecated, reason = "plans still show it")]
        self.inner.inner().display_name(args)
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        self.inner.schema_name(args)
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        self.inner.return_field_from_args(args)
    }

    fn is_strict(&self) -> bool {
        self.inner.is_strict()
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(types)
    }

    fn struct_field_mapping(
        &self,
        literals: &[Option<ScalarValue>],
    ) -> Option<datafusion::logical_expr::StructFieldMapping> {
        self.inner.struct_field_mapping(literals)
    }

    // Not `simplify`: what a call is simplified to would be bounded no more.
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match Self::is_constant(&args.args) {
            true => self.constant(args),
            false => self.rows(args),
        }
    }
}

#[cfg(test)]
mod tests;
