// SPDX-License-Identifier: Apache-2.0
//! The processes that take the events, as the one that decides keeps them.
//!
//! Purpose: every partition has exactly one taker that is alive. Collaborators: each process reports itself again and
//! again; who takes part is a catalog entry, so that readers and takers agree on it. Invariants: a change begins an
//! epoch, and only this process makes one. Nothing rests on clocks: whoever was silent too long and lives on is fenced
//! by the raw log, which its successor has claimed. Non-goals: what a process does with its share.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use dovetail_exchange::{Heard, Report, Reports, StreamReport};
use dovetail_log::catalog::Catalog;
use dovetail_model::{
    CatalogState, Entry, Hole, IngestMember, IngestMembers, Position, Problem, ProblemKind, Share,
    StreamDef, StreamId,
};
use dovetail_serving_layer::ports::{IngestInfo, SourceInfo};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Whoever was not heard of for so long takes events no more.
const SILENCE: Duration = Duration::from_secs(6);
/// How often it is looked whether somebody came or fell silent.
const TICK: Duration = Duration::from_millis(250);
/// How long an append waits for them to follow the catalog: longer than a dead one takes part.
const FOLLOW_WAIT: Duration = Duration::from_secs(8);
/// Between two looks at that.
const FOLLOW_PAUSE: Duration = Duration::from_millis(25);

/// The phase of a source that reads no more.
pub(super) const STOPPED: &str = "stopped";

/// What is known of the processes that take the events.
#[derive(Debug)]
pub(crate) struct Members {
    catalog: Arc<Catalog>,
    begun: Instant,
    heard: Mutex<BTreeMap<String, (Instant, Report)>>,
}

impl Members {
    pub(super) fn new(catalog: Arc<Catalog>) -> Self {
        Self {
            catalog,
            begun: Instant::now(),
            heard: Mutex::default(),
        }
    }

    /// Commits each change of who takes part, until `stop`.
    pub(super) async fn keep(&self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(TICK) => {}
            }
            if self.next(&self.catalog.state()).is_none() {
                continue;
            }
            let committed = self.catalog.commit(|state| {
                let next = self.next(state).map(|members| Entry::IngestChanged {
                    members: IngestMembers {
                        epoch: state.ingest.epoch.next(),
                        members,
                    },
                });
                Ok::<_, Infallible>(next.into_iter().collect())
            });
            match committed.await {
                Ok(state) => {
                    for (member, share) in state.ingest.shares() {
                        info!(epoch = %state.ingest.epoch, member = %member.id, host = %member.host, %share, "takes events");
                    }
                }
                Err(error) => {
                    warn!(%error, "who takes the events cannot be written down; it is tried again")
                }
            }
        }
    }

    /// Who is to take part from now on, if that changes: those that do and are alive keep their order, new ones come
    /// behind them. While nobody is alive, those that did are kept: their partitions are named as missing.
    fn next(&self, state: &CatalogState) -> Option<Vec<IngestMember>> {
        let heard = self.heard.lock();
        let alive = |id: &str| {
            let (at, report) = heard.get(id)?;
            (at.elapsed() < SILENCE && !report.leaves).then_some(&report.member)
        };
        // After a start, they have had no time to report yet.
        let is_early = self.begun.elapsed() < SILENCE;
        let members = &state.ingest.members;
        let kept = members.iter().filter_map(|member| {
            let unheard = is_early && !heard.contains_key(&member.id);
            alive(&member.id).or(unheard.then_some(member))
        });
        let mut next: Vec<IngestMember> = kept.cloned().collect();
        for member in heard.keys().filter_map(|id| alive(id)) {
            if next.iter().all(|known| known.id != member.id) {
                next.push(member.clone());
            }
        }
        (!next.is_empty() && next != *members).then_some(next)
    }

    /// The stream whose runs are to make room in some process.
    pub(super) fn pressed(&self) -> Option<StreamId> {
        let heard = self.heard.lock();
        let fresh = heard.values().filter(|(at, _)| at.elapsed() < SILENCE);
        fresh
            .filter_map(|(_, report)| report.pressed.clone())
            .next()
    }

    /// Each of those that `state` names, as the API shows it.
    pub(super) fn infos(&self, state: &CatalogState) -> Vec<IngestInfo> {
        let heard = self.heard.lock();
        let shares = state.ingest.shares();
        let info = |(member, share): (&IngestMember, Share)| {
            let known = heard.get(&member.id);
            let streams = known.into_iter().flat_map(|(_, report)| &report.streams);
            IngestInfo {
                id: member.id.clone(),
                host: member.host.clone(),
                url: member.endpoints.http.clone(),
                share: share.to_string(),
                silent_ms: known
                    .map(|(at, _)| u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX)),
                bytes: streams.map(|stream| stream.bytes).sum(),
            }
        };
        shares.map(info).collect()
    }

    /// Up to where a stream is accumulated, as far as was heard.
    pub(super) fn position(&self, stream: &StreamId) -> Position {
        let parts = self.of_stream(stream).into_iter();
        parts.fold(Position::zero(), |all, part| all.join(&part.position))
    }

    /// What each process says of a stream.
    fn of_stream(&self, stream: &StreamId) -> Vec<StreamReport> {
        let heard = self.heard.lock();
        let fresh = heard.values().filter(|(at, _)| at.elapsed() < SILENCE);
        let streams = fresh.flat_map(|(_, report)| &report.streams);
        streams.filter(|of| of.stream == *stream).cloned().collect()
    }

    /// The sequence of the catalog that is known here.
    pub(crate) fn sequence(&self) -> u64 {
        self.catalog.state().sequence
    }

    /// Waits until every process that takes events has its streams as the catalog says at `sequence`: what it reads from
    /// then on, it reads under no older declaration.
    ///
    /// # Errors
    /// `Unavailable`, when one does not say so in time.
    pub(crate) async fn followed(&self, sequence: u64) -> Result<(), Problem> {
        let begun = Instant::now();
        loop {
            let Some(behind) = self.behind(&self.catalog.state(), sequence) else {
                return Ok(());
            };
            if begun.elapsed() > FOLLOW_WAIT {
                return Err(Problem::new(
                    ProblemKind::Unavailable,
                    format!(
                        "the process at `{}` takes events of the topic and has not said that it knows the stream's newest declaration; nothing of the append was kept; try again",
                        behind.endpoints.http
                    ),
                )
                .with("retry_after_s", 2));
            }
            tokio::time::sleep(FOLLOW_PAUSE).await;
        }
    }

    /// One of those that `state` names that has not said that it follows the catalog up to `sequence`.
    fn behind(&self, state: &CatalogState, sequence: u64) -> Option<IngestMember> {
        let heard = self.heard.lock();
        let follows = |member: &&IngestMember| {
            let said = heard.get(&member.id);
            said.is_some_and(|(_, report)| report.applied >= sequence)
        };
        let mut members = state.ingest.members.iter();
        members.find(|member| !follows(member)).cloned()
    }

    /// Whether what is appended to the topic of `def` would be read: a process that is stopped by anything but a hole
    /// reads another topic, or ahead of where this one ends.
    ///
    /// # Errors
    /// When it would be lost.
    pub(crate) fn check_same_topic(&self, def: &StreamDef) -> Result<(), Problem> {
        let reports = self.of_stream(&def.id).into_iter();
        let sources = reports.filter(|of| of.hole.is_none()).filter_map(source_of);
        let mut stopped = sources.filter(|source| source.phase == STOPPED);
        stopped.next().map_or(Ok(()), |source| {
            let reason = source.reason.unwrap_or_default();
            Err(takes_no_events(&reason))
        })
    }

    /// The hole that stops `def` in some process, as of `now`.
    ///
    /// # Errors
    /// When none does.
    pub(crate) fn hole(&self, def: &StreamDef, now: DateTime<Utc>) -> Result<Hole, Problem> {
        let hole = self.of_stream(&def.id).into_iter().find_map(|of| of.hole);
        let hole = hole.map(|hole| Hole {
            skipped_at: now,
            ..hole
        });
        hole.ok_or_else(|| {
            Problem::conflict(format!(
                "stream `{}` is not stopped by a hole in its topic, as far as the processes say that read it",
                def.name
            ))
        })
    }

    /// How the stream stands to its topic in all processes.
    pub(crate) fn source(&self, def: &StreamDef) -> Option<SourceInfo> {
        let reports = self.of_stream(&def.id).into_iter();
        let sources = reports.filter_map(source_of);
        let mut all: Option<SourceInfo> = sources.reduce(both);
        if let Some(source) = &mut all {
            source.partitions.sort_by_key(|lag| lag.partition);
        }
        all
    }
}

/// How a process that reads the topic stands to it.
fn source_of(report: StreamReport) -> Option<SourceInfo> {
    serde_json::from_value(report.source?).ok()
}

/// Why a stream takes no appends, whoever reads its topic.
pub(crate) fn takes_no_events(reason: &str) -> Problem {
    Problem::conflict(format!("the stream takes no events: {reason}"))
}

/// One word for two processes: that of the one that is worse off.
fn both(one: SourceInfo, other: SourceInfo) -> SourceInfo {
    let rank = |source: &SourceInfo| {
        let phases = ["reading", "connecting", "retrying", STOPPED];
        phases.iter().position(|phase| *phase == source.phase)
    };
    let (better, mut worse) = match rank(&one) > rank(&other) {
        true => (other, one),
        false => (one, other),
    };
    worse.lag += better.lag;
    worse.lag_seconds = worse.lag_seconds.max(better.lag_seconds);
    worse.partitions.extend(better.partitions);
    worse.skipped_tombstones += better.skipped_tombstones;
    worse.skipped_replays += better.skipped_replays;
    worse
}

impl Reports for Members {
    fn heard(&self, report: Report) -> Heard {
        let mut heard = self.heard.lock();
        heard.retain(|_, (at, _)| at.elapsed() < 10 * SILENCE);
        heard.insert(report.member.id.clone(), (Instant::now(), report));
        Heard {
            sequence: self.catalog.state().sequence,
        }
    }
}

#[cfg(test)]
#[path = "members/tests.rs"]
mod tests;
