// SPDX-License-Identifier: Apache-2.0
//! Fetching runs and tails of cuts that other processes hold for a question.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow_flight::{Action, FlightClient, Ticket};
use async_trait::async_trait;
use datafusion::logical_expr::Expr;
use dovetail_model::{Position, Problem, ViewId};
use dovetail_seam::{Account, RemoteRuns, RemoteTail};
use dovetail_view::{Run, View};
use tokio::runtime::Handle;
use tokio::time::timeout;
use tracing::debug;

use super::connections::{ANSWER_WAIT, Peer, failed, json};
use crate::filter::KeyFilter;
use crate::states::{Arriving, next_batch};
use crate::wire::{Fetch, Part, RELEASE, TakenRun};

/// Asks for parts of one cut that is held elsewhere, and lets go of it in the end.
#[derive(Debug)]
pub(super) struct Asker {
    pub(super) client: FlightClient,
    pub(super) peer: Peer,
    pub(super) cut: u64,
    pub(super) runtime: Handle,
}

impl Asker {
    fn client(&self) -> FlightClient {
        let mut client = FlightClient::new_from_inner(self.client.inner().clone());
        *client.metadata_mut() = self.client.metadata().clone();
        client
    }

    /// Hands each batch of a part to `each`, and what it takes to `account`.
    async fn fetch(
        &self,
        part: Part,
        account: &mut Account<'_>,
        mut each: impl FnMut(RecordBatch) -> Result<(), Problem> + Send,
    ) -> Result<(), Problem> {
        let asked = Fetch {
            cut: self.cut,
            part,
        };
        let said = |error| failed(error, &self.peer).problem();
        let mut client = self.client();
        let mut batches = client
            .do_get(Ticket::new(json(&asked)))
            .await
            .map_err(said)?;
        while let Some(batch) = next_batch(&mut batches).await.map_err(said)? {
            account(batch.get_array_memory_size())?;
            each(batch)?;
        }
        Ok(())
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        let (mut client, cut) = (self.client(), self.cut);
        self.runtime.spawn(async move {
            let release = Action::new(RELEASE, cut.to_string());
            // Not heard of, it goes when its time is up.
            let released = timeout(ANSWER_WAIT, client.do_action(release)).await;
            if let Ok(Err(error)) = released {
                debug!(%error, "a cut was not let go of");
            }
        });
    }
}

/// The runs of a view, of each process those over its share of the events.
#[derive(Debug)]
pub(super) struct ViewRuns {
    pub(super) id: ViewId,
    pub(super) view: Arc<View>,
    pub(super) parts: Vec<RunsOf>,
}

/// The runs of one process.
#[derive(Debug)]
pub(super) struct RunsOf {
    asker: Arc<Asker>,
    runs: Vec<TakenRun>,
}

/// The runs of all processes as adjacent ones of the whole stream: those of each follow those of the one before, whose
/// partitions stand at their end by then, while those of later ones stand at their start still.
pub(super) fn in_a_row(parts: Vec<(Arc<Asker>, Vec<TakenRun>)>) -> Vec<RunsOf> {
    let all = |at: fn(&Vec<TakenRun>) -> Option<&Position>| {
        parts
            .iter()
            .map(move |(_, runs)| at(runs).cloned().unwrap_or_default())
    };
    let starts: Vec<Position> = all(|runs| runs.first().map(|run| run.span.from())).collect();
    let ends: Vec<Position> = all(|runs| runs.last().map(|run| run.span.to())).collect();
    let parts = parts.into_iter().enumerate();
    let parts = parts.map(|(place, (asker, mut runs))| {
        let rest = ends[..place].iter().chain(&starts[place + 1..]);
        let rest = rest.fold(Position::zero(), |all, part| all.join(part));
        for run in &mut runs {
            run.span = run.span.beside(&rest);
        }
        RunsOf { asker, runs }
    });
    parts.collect()
}

#[async_trait]
impl RemoteRuns for ViewRuns {
    fn sizes(&self) -> Vec<(u64, usize)> {
        let runs = self.parts.iter().flat_map(|part| &part.runs);
        runs.map(|run| (run.rows, run.bytes)).collect()
    }

    async fn fetch(
        &self,
        filters: &[Expr],
        account: &mut Account<'_>,
    ) -> Result<Vec<Arc<Run>>, Problem> {
        let filters = KeyFilter::of(&self.view, filters);
        let mut all = vec![];
        for RunsOf { asker, runs } in &self.parts {
            all.extend(self.fetch_part(asker, runs, &filters, account).await?);
        }
        Ok(all)
    }
}

impl ViewRuns {
    async fn fetch_part(
        &self,
        asker: &Asker,
        runs: &[TakenRun],
        filters: &[KeyFilter],
        account: &mut Account<'_>,
    ) -> Result<Vec<Arc<Run>>, Problem> {
        if runs.is_empty() {
            return Ok(vec![]);
        }
        let part = Part::Runs {
            view: self.id.clone(),
            filters: filters.to_vec(),
        };
        let mut arriving = Arriving::new(&self.view, runs.len());
        asker
            .fetch(part, account, |batch| arriving.take(&batch))
            .await?;
        Ok(arriving.into_runs(&self.view, runs.iter().map(|run| &run.span)))
    }
}

/// The tails of one stream.
#[derive(Debug)]
pub(super) struct Tails(pub(super) Vec<Arc<Asker>>);

#[async_trait]
impl RemoteTail for Tails {
    async fn fetch(
        &self,
        columns: &[usize],
        account: &mut Account<'_>,
    ) -> Result<Vec<RecordBatch>, Problem> {
        let mut batches = vec![];
        for asker in &self.0 {
            let part = Part::Tail {
                columns: columns.to_vec(),
            };
            let each = |batch| {
                batches.push(batch);
                Ok(())
            };
            asker.fetch(part, account, each).await?;
        }
        Ok(batches)
    }
}
