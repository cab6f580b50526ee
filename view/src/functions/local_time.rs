// SPDX-License-Identifier: Apache-2.0
//! `to_local_time` of times that have a date in every zone: DataFusion's own panics for those at the ends of the calendar.

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use datafusion::common::{Result, exec_err};
use datafusion::functions::datetime::to_local_time::ToLocalTimeFunc;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature};
use dovetail_model::calendar_years;

use crate::calendar::first_unwritable;

/// DataFusion's function, for times that it can compute.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct LocalTime {
    inner: ToLocalTimeFunc,
}

impl LocalTime {
    pub(super) fn new() -> Self {
        Self {
            inner: ToLocalTimeFunc::new(),
        }
    }
}

impl ScalarUDFImpl for LocalTime {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arguments)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        if let [times] = args.args.as_slice()
            && let DataType::Timestamp(_, Some(_)) = times.data_type()
        {
            check(&times.to_array(args.number_rows)?)?;
        }
        self.inner.invoke_with_args(args)
    }
}

fn check(times: &ArrayRef) -> Result<()> {
    let Some((instant, _)) = first_unwritable(times) else {
        return Ok(());
    };
    let (first, last) = calendar_years();
    exec_err!(
        "`to_local_time` takes times of the years {first} to {last}, a day from their ends: {instant} is none; leave such rows out with a filter, or take the time without its zone"
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{RecordBatch, TimestampSecondArray};
    use datafusion::prelude::SessionContext;

    use crate::register_functions;

    async fn local(seconds: Vec<Option<i64>>) -> datafusion::error::Result<Vec<RecordBatch>> {
        let mut context = SessionContext::new();
        register_functions(&mut context)?;
        let times = TimestampSecondArray::from(seconds).with_timezone("+12:00");
        let events = RecordBatch::try_from_iter([("at", Arc::new(times) as _)])?;
        context.register_batch("events", events)?;
        let sql = "SELECT to_local_time(at) FROM events";
        context.sql(sql).await?.collect().await
    }

    #[tokio::test]
    async fn of_a_time_at_the_end_of_the_calendar_is_refused() {
        let last = dovetail_model::calendar_instants(1).into_inner().1;
        let error = local(vec![Some(0), None, Some(last)]).await.unwrap_err();
        assert!(
            error
                .to_string()
                .contains(&format!("{last} is none; leave")),
            "{error}"
        );
        for fine in [vec![Some(0), None], vec![None], vec![Some(last - 86_400)]] {
            local(fine).await.unwrap();
        }
    }
}
