// SPDX-License-Identifier: Apache-2.0
//! Targets on a stream whose runs other processes hold.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use dovetail_log::raw::RawLog;
use dovetail_model::{Position, Problem, StreamId};
use dovetail_seam::{SeamError, StreamCell, Target, Targets};
use futures::future::join_all;
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use super::connections::{ANSWER_WAIT, Failed, Peer, json};
use super::peers::Peers;
use super::{Inner, RemoteCuts};
use crate::wire::{Joining, RELEASE_TARGET, TARGET, TakeTarget, TakenTarget};

/// How long a process may take: it accumulates what it has read, and archives it.
const TARGET_WAIT: Duration = Duration::from_secs(60);
/// How long a target is asked for again while who takes the events is changing, or is not there.
const CHANGE_WAIT: Duration = Duration::from_secs(60);
/// Between two tries of that.
const CHANGE_PAUSE: Duration = Duration::from_millis(500);

/// Takes targets on one stream of the processes that take its events: each on its share of the partitions.
#[derive(Debug)]
pub struct RemoteTargets {
    cuts: RemoteCuts,
    cell: Arc<StreamCell>,
    raw: Arc<RawLog>,
}

/// A target that another process keeps as an edge.
struct Kept {
    inner: Arc<Inner>,
    peer: Peer,
    target: u64,
}

impl Drop for Kept {
    fn drop(&mut self) {
        let Ok(mut client) = self.inner.connections.client(&self.peer.url) else {
            return;
        };
        let body = json(&self.target);
        self.inner.config.runtime.spawn(async move {
            let release = arrow_flight::Action::new(RELEASE_TARGET, body);
            // Not heard of, it goes when its time is up.
            let released = timeout(ANSWER_WAIT, client.do_action(release)).await;
            if let Ok(Err(error)) = released {
                debug!(%error, "a target was not released");
            }
        });
    }
}

impl RemoteTargets {
    /// Targets on the stream of `cell`, whose raw log is `raw`.
    pub fn new(cuts: RemoteCuts, cell: Arc<StreamCell>, raw: Arc<RawLog>) -> Self {
        Self { cuts, cell, raw }
    }

    async fn try_take(&self, stream: &StreamId) -> Result<(Position, Vec<Kept>), Failed> {
        let inner = &self.cuts.0;
        let catalog = inner.config.catalog.state();
        let peers = Peers::of(&catalog).map_err(Failed::Silent)?;
        if !peers.is_divided {
            return Err(Failed::Silent(super::unavailable(
                "no process takes the events: start one with --roles ingest".to_owned(),
            )));
        }
        let candidates = self.cell.load();
        let candidates = candidates.candidates();
        let request = TakeTarget {
            stream: stream.clone(),
            ingest: peers.epoch,
            sequence: catalog.sequence,
            joining: candidates
                .map(|(view, cut)| Joining {
                    view: view.clone(),
                    name: cut.name.clone(),
                    version: cut.version,
                    sql: cut.view.sql().to_owned(),
                })
                .collect(),
        };
        let asked = peers.all.iter().map(|peer| async {
            let act = inner
                .connections
                .act::<TakenTarget>(peer, TARGET, &request, TARGET_WAIT);
            let taken = act.await?;
            let kept = Kept {
                inner: Arc::clone(inner),
                peer: peer.clone(),
                target: taken.target,
            };
            Ok((peer.share.part(&taken.position), kept))
        });
        let parts: Result<Vec<_>, Failed> = join_all(asked).await.into_iter().collect();
        let (positions, kept): (Vec<Position>, Vec<Kept>) = parts?.into_iter().unzip();
        let position = positions.iter();
        let position = position.fold(Position::zero(), |all, part| all.join(part));
        Ok((position, kept))
    }
}

#[async_trait]
impl Targets for RemoteTargets {
    async fn take(&self) -> Result<Target, SeamError> {
        let stream = self.cell.load().stream().id.clone();
        let begun = Instant::now();
        let (position, kept) = loop {
            let failed = match self.try_take(&stream).await {
                Ok(taken) => break taken,
                Err(Failed::Refused(problem) | Failed::NotLetIn(problem)) => {
                    return Err(SeamError::NoTarget(problem));
                }
                Err(failed) => failed.problem(),
            };
            if begun.elapsed() > CHANGE_WAIT {
                return Err(SeamError::NoTarget(failed));
            }
            sleep(CHANGE_PAUSE).await;
            // Whoever decides commits who takes the events, so its catalog is the newest already.
        };
        let raw = self.raw.newest().await?;
        if !raw.archived().covers(&position) {
            return Err(SeamError::NoTarget(Problem::internal(format!(
                "the raw log ends at `{}`, before the target `{position}` that its writers archived",
                raw.archived()
            ))));
        }
        self.cell.follow(raw)?;
        Ok(Target::new(position, kept))
    }
}
