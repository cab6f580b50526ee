// SPDX-License-Identifier: Apache-2.0
//! The engine with a meter: the time in which it plans, and in which somebody waits for rows. A client that is slow to
//! read keeps nothing busy, and neither does a query that waits for the position it asked for with `after=`.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::error::Result;
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream};
use dovetail_model::Problem;
use dovetail_seam::{Busy, Meter};
use dovetail_serving_layer::engine::Engine;
use dovetail_serving_layer::ports::{Answer, Queries, QueryRequest, RowsAnswer, RowsRequest};
use futures::{Stream, StreamExt};

use super::Node;

/// Reads that are measured.
#[derive(Debug)]
pub(super) struct MeteredQueries {
    engine: Engine,
    meter: Arc<Meter>,
}

impl Node {
    /// The engine as the HTTP API asks it.
    pub(super) fn metered_queries(&self) -> MeteredQueries {
        MeteredQueries::new(&self.0.engine, &self.0.queries)
    }
}

#[async_trait]
impl Queries for MeteredQueries {
    async fn query(&self, request: QueryRequest) -> Result<Answer, Problem> {
        let began = Instant::now();
        let answer = self.engine.query(request).await?;
        Ok(self.metered(answer, began))
    }

    async fn rows(&self, request: RowsRequest) -> Result<RowsAnswer, Problem> {
        let began = Instant::now();
        let rows = self.engine.rows(request).await?;
        Ok(RowsAnswer {
            answer: self.metered(rows.answer, began),
            page: rows.page,
        })
    }
}

impl MeteredQueries {
    /// The queries of `engine`, on `meter`.
    pub(super) fn new(engine: &Engine, meter: &Arc<Meter>) -> Self {
        Self {
            engine: engine.clone().metered(Arc::clone(meter)),
            meter: Arc::clone(meter),
        }
    }

    fn metered(&self, answer: Answer, began: Instant) -> Answer {
        self.meter.count(1);
        Answer {
            batches: Box::pin(MeteredRows {
                rows: answer.batches,
                meter: Arc::clone(&self.meter),
                at_work: None,
                began,
            }),
            provenance: answer.provenance,
            memory: answer.memory,
        }
    }
}

struct MeteredRows {
    rows: SendableRecordBatchStream,
    meter: Arc<Meter>,
    /// While a batch is waited for.
    at_work: Option<Busy>,
    /// When it was asked for.
    began: Instant,
}

impl Stream for MeteredRows {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.at_work.is_none() {
            self.at_work = Some(self.meter.busy());
        }
        let polled = self.rows.poll_next_unpin(context);
        if polled.is_ready() {
            self.at_work = None;
        }
        if matches!(polled, Poll::Ready(None)) {
            self.meter.took(self.began.elapsed());
        }
        polled
    }
}

impl RecordBatchStream for MeteredRows {
    fn schema(&self) -> SchemaRef {
        self.rows.schema()
    }
}
