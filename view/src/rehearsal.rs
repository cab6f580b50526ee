// SPDX-License-Identifier: Apache-2.0
//! A run through everything when a view is declared.
//!
//! An engine that does not keep its word about types shall say so then, not when the first event arrives.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, ListArray, RecordBatch, StructArray, new_empty_array, new_null_array,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::scalar::ScalarValue;
use dovetail_model::ProblemKind;

use crate::ViewError;
use crate::compile::Parts;
use crate::ops::Operators;
use crate::plans::Plans;
use crate::state::{Layout, expect_schema};

/// Runs the operations over one event of NULLs (or of defaults), and builds the plans over no rows.
pub(crate) fn rehearse(
    parts: &Parts,
    layout: &Layout,
    operators: &Operators,
    plans: &Plans,
) -> Result<(), ViewError> {
    match rehearse_in_memory(parts, layout, operators) {
        // Of that one event: a division by zero, say. Other events may fare better.
        Err(error) if error.kind() == ProblemKind::Unprocessable => {}
        other => other?,
    }
    let events: Arc<dyn ExecutionPlan> = Arc::new(EmptyExec::new(Arc::clone(&parts.events_schema)));
    let plan = plans.states(events)?;
    expect_schema("states", &layout.state, &plan.schema())
}

fn rehearse_in_memory(
    parts: &Parts,
    layout: &Layout,
    operators: &Operators,
) -> Result<(), ViewError> {
    let fields = parts.events_schema.fields().iter();
    let columns: Result<Vec<ArrayRef>, ViewError> = fields.map(|f| any_value(f)).collect();
    let event = RecordBatch::try_new(Arc::clone(&parts.events_schema), columns?)?;
    let states = operators.accumulate(event.project(&parts.event_columns)?)?;
    let states = operators.reduce([&states, &states])?;
    let output = operators.finish_unique(&states)?;
    let file = layout.to_file(&states, &output)?;
    layout.states_of_file(&file)?;
    Ok(())
}

/// One row: NULL if it may be.
fn any_value(field: &Field) -> Result<ArrayRef, ViewError> {
    if field.is_nullable() {
        return Ok(new_null_array(field.data_type(), 1));
    }
    Ok(match field.data_type() {
        DataType::List(item) => {
            let nothing = new_empty_array(item.data_type());
            let offsets = OffsetBuffer::from_lengths([0]);
            Arc::new(ListArray::try_new(
                Arc::clone(item),
                offsets,
                nothing,
                None,
            )?)
        }
        DataType::Struct(fields) => {
            let columns: Result<Vec<ArrayRef>, ViewError> =
                fields.iter().map(|f| any_value(f)).collect();
            Arc::new(StructArray::try_new(fields.clone(), columns?, None)?)
        }
        other => ScalarValue::new_default(other)?.to_array()?,
    })
}
