// SPDX-License-Identifier: Apache-2.0
//! Runs as they travel: their states as messages of Arrow Flight, and back.
//!
//! Purpose: one place for both directions; the process that holds a cut encodes, whoever asks decodes. Invariants: what
//! arrives is what was sent, run by run; bytes that nobody sent are an error, and never a panic. Non-goals: who may ask;
//! the order of groups within a run, for which the sender answers.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array, cast::AsArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt32Type};
use arrow_flight::FlightData;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::encode::{DictionaryHandling, FlightDataEncoderBuilder};
use arrow_flight::error::FlightError;
use datafusion::common::cast::as_boolean_array;
use datafusion::error::DataFusionError;
use datafusion::physical_expr::PhysicalExpr;
use dovetail_log::decode::guarded;
use dovetail_model::{Problem, Span};
use dovetail_view::{Run, View};
use futures::Stream;
use futures::future::poll_fn;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};

use crate::fetches::pieces;
use crate::filter::KeyFilter;

/// The column before the states that says which run a row is of: its place among those that were asked for.
const RUN_COLUMN: &str = "_run";

/// Messages of Arrow Flight.
pub type Messages = BoxStream<'static, Result<FlightData, FlightError>>;

pub(crate) type Batches = BoxStream<'static, Result<RecordBatch, DataFusionError>>;

/// The states of `runs` of `view`.
///
/// # Errors
/// None where the runs are of this view.
pub fn encode_runs(view: &View, runs: &[Arc<Run>]) -> Result<Messages, DataFusionError> {
    let (schema, batches) = batches_of(view, runs, &[])?;
    Ok(encode(schema, batches))
}

/// The runs of `view` over `spans` out of what [`encode_runs`] made of them.
///
/// # Errors
/// When the messages are not of such runs.
pub async fn decode_runs(
    view: &View,
    spans: &[Span],
    messages: impl Stream<Item = Result<FlightData, FlightError>> + Send + 'static,
) -> Result<Vec<Arc<Run>>, Problem> {
    let mut batches = FlightRecordBatchStream::new_from_flight_data(messages);
    let mut arriving = Arriving::new(view, spans.len());
    while let Some(batch) = next_batch(&mut batches).await.map_err(Problem::internal)? {
        arriving.take(&batch)?;
    }
    Ok(arriving.into_runs(view, spans))
}

/// Batches, each of which is small, as messages.
pub(crate) fn encode(schema: SchemaRef, batches: Batches) -> Messages {
    let external = |error: DataFusionError| FlightError::ExternalError(Box::new(error));
    FlightDataEncoderBuilder::new()
        .with_schema(schema)
        .with_dictionary_handling(DictionaryHandling::Resend)
        // They come in pieces, of which it would not know what they were cut from.
        .with_max_flight_data_size(usize::MAX)
        .build(batches.map_err(external))
        .boxed()
}

/// The next batch of messages that are decoded. The library panics on some that no process has sent.
pub(crate) async fn next_batch(
    batches: &mut FlightRecordBatchStream,
) -> Result<Option<RecordBatch>, FlightError> {
    let next = poll_fn(|context| {
        let polled = guarded(AssertUnwindSafe(|| batches.poll_next_unpin(context)));
        let damaged = || FlightError::DecodeError("a message is damaged".to_owned());
        polled.unwrap_or_else(|| Some(Err(damaged())).into())
    });
    next.await.transpose()
}

/// The states of all `runs` of a view that pass `filters`, and before each which run it is of.
pub(crate) fn batches_of(
    view: &View,
    runs: &[Arc<Run>],
    filters: &[KeyFilter],
) -> Result<(SchemaRef, Batches), DataFusionError> {
    let schema = with_run_column(view);
    let filters = filters.iter().map(|filter| filter.predicate(view));
    let filters: Vec<_> = filters.collect::<Result<_, _>>()?;
    let runs: Vec<(u32, Arc<Run>)> = (0..).zip(runs.iter().cloned()).collect();
    let made = Arc::clone(&schema);
    let batches = stream::iter(runs).flat_map(move |(place, run)| {
        // Sorted by the first who reads it, as in this process.
        let states = run.states().to_vec().into_iter().flat_map(pieces);
        let (schema, filters) = (Arc::clone(&made), filters.clone());
        stream::iter(states).map(move |batch| of_run(&schema, place, &batch, &filters))
    });
    Ok((schema, batches.boxed()))
}

fn of_run(
    schema: &SchemaRef,
    place: u32,
    states: &RecordBatch,
    filters: &[Arc<dyn PhysicalExpr>],
) -> Result<RecordBatch, DataFusionError> {
    let mut kept = states.clone();
    for filter in filters {
        let passes = filter.evaluate(&kept)?.into_array(kept.num_rows())?;
        kept = filter_record_batch(&kept, as_boolean_array(&passes)?)?;
    }
    let places: ArrayRef = Arc::new(UInt32Array::from_value(place, kept.num_rows()));
    let columns = std::iter::once(places).chain(kept.columns().iter().cloned());
    Ok(RecordBatch::try_new(Arc::clone(schema), columns.collect())?)
}

/// The schema in which the runs of a view travel.
fn with_run_column(view: &View) -> SchemaRef {
    let states = view.state_schema();
    let place = Arc::new(Field::new(RUN_COLUMN, DataType::UInt32, false));
    let fields = std::iter::once(place).chain(states.fields().iter().cloned());
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Batches that arrive, by the runs that they are of.
pub(crate) struct Arriving {
    travels: SchemaRef,
    states: SchemaRef,
    runs: Vec<Vec<RecordBatch>>,
}

impl Arriving {
    /// For so many runs of `view`.
    pub(crate) fn new(view: &View, runs: usize) -> Self {
        Self {
            travels: with_run_column(view),
            states: view.state_schema(),
            runs: vec![vec![]; runs],
        }
    }

    /// Puts a batch to its run.
    ///
    /// # Errors
    /// When it is of none.
    pub(crate) fn take(&mut self, batch: &RecordBatch) -> Result<(), Problem> {
        if batch.schema_ref().fields() != self.travels.fields() {
            return Err(Problem::internal(
                "the states of another process are not those of this one: they must be of one version",
            ));
        }
        let places = batch.column(0).as_primitive::<UInt32Type>().values();
        let Some(place) = places.first() else {
            return Ok(());
        };
        let run = self.runs.get_mut(*place as usize);
        let run = run.ok_or_else(|| Problem::internal("a run came that was not named"))?;
        if places.iter().any(|other| other != place) {
            return Err(Problem::internal("states of several runs came as one"));
        }
        let columns = batch.columns()[1..].to_vec();
        let states = RecordBatch::try_new(Arc::clone(&self.states), columns);
        run.push(states.map_err(Problem::internal)?);
        Ok(())
    }

    /// The runs, over `spans`.
    pub(crate) fn into_runs<'a>(
        self,
        view: &View,
        spans: impl IntoIterator<Item = &'a Span>,
    ) -> Vec<Arc<Run>> {
        let runs = spans.into_iter().zip(self.runs);
        let run =
            |(span, states): (&Span, _)| Arc::new(Run::from_sorted(view, span.clone(), states));
        runs.map(run).collect()
    }
}
