// SPDX-License-Identifier: Apache-2.0
//! Rebuilds a view's runs after a restart: from its generation's horizon through the raw log.

use std::sync::Arc;

use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::execute_stream;
use dovetail_log::parquet_files::Dictionaries;
use dovetail_log::raw::{RawScan, RawSnapshot};
use dovetail_model::{Position, ProblemKind, Span};
use dovetail_seam::SeamError;
use dovetail_view::{Run, View, bytes_of, engine_error_kind};
use futures::TryStreamExt;

use crate::SpeedError;

/// The events between `horizon` and the archived position as one run of `view`, or None when there are
/// none. The log's tail behind the archived position is pushed like new events. The run may take `most_bytes` of
/// memory.
///
/// # Errors
/// When the raw log has a hole or the engine fails; [`SpeedError::RunTooLarge`]; [`dovetail_model::ProblemKind::Unprocessable`] when an
/// expression of the view fails on an event, which concerns this view alone.
pub async fn rebuild_runs(
    name: &str,
    view: &Arc<View>,
    raw: &RawSnapshot,
    horizon: &Position,
    task: &Arc<TaskContext>,
    partitions: usize,
    most_bytes: usize,
) -> Result<Option<Run>, SpeedError> {
    let span = Span::new(horizon.clone(), raw.archived().clone()).map_err(SeamError::from)?;
    if span.is_empty() {
        return Ok(None);
    }
    let failed = |source| SpeedError::Rebuild {
        view: name.to_owned(),
        source,
    };
    let columns = view
        .event_columns_in(raw.events())
        .map_err(SeamError::from)?;
    let coded = view
        .coded_columns_in(raw.events())
        .map_err(SeamError::from)?;
    let dictionaries = Dictionaries::new(coded, task).map_err(failed)?;
    let events = raw
        .scan(RawScan {
            columns: Some(columns),
            dictionaries: Some(dictionaries),
            target_partitions: partitions,
            ..RawScan::of(span.clone())
        })
        .map_err(SeamError::from)?;
    let states = view.states_plan(events).map_err(SeamError::from)?;
    let mut states = execute_stream(states, Arc::clone(task)).map_err(failed)?;
    let (mut batches, mut bytes) = (Vec::new(), 0);
    loop {
        let batch = match states.try_next().await {
            Ok(Some(batch)) => batch,
            Ok(None) => break,
            Err(error) => return Err(failed(located(error, view, raw, &span, task).await)),
        };
        bytes += bytes_of(&batch);
        if bytes > most_bytes {
            return Err(SpeedError::RunTooLarge {
                view: name.to_owned(),
                most_bytes,
            });
        }
        batches.push(batch);
    }
    Ok(Some(Run::from_sorted(view, span, batches)))
}

/// `error`, where an expression of the view failed on some event, with that event. Nothing but another pass tells which it
/// is: states are made of many at once.
async fn located(
    error: DataFusionError,
    view: &View,
    raw: &RawSnapshot,
    span: &Span,
    task: &Arc<TaskContext>,
) -> DataFusionError {
    if engine_error_kind(&error) != ProblemKind::Unprocessable {
        return error;
    }
    let Ok(events) = raw.scan(RawScan::of(span.clone())) else {
        return error;
    };
    let Ok(mut events) = execute_stream(events, Arc::clone(task)) else {
        return error;
    };
    // It stands without one, too.
    while let Ok(Some(batch)) = events.try_next().await {
        if let Some(failed) = view.failing_event(&batch) {
            return DataFusionError::Execution(failed.to_string());
        }
    }
    error
}
