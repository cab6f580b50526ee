// SPDX-License-Identifier: Apache-2.0
//! The catalog as its users hold it: the newest known state, and optimistic commits.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use dovetail_model::{CatalogState, Clock, Commit, Entry, StoreClaim, StoreEpoch};
use object_store::ObjectStore;
use tokio::sync::{Mutex, watch};

use super::log::{CommitLog, Settled, apply};
use super::{CatalogError, CommitError, Held, NonceSource, Superseded, file, random_u64};
use crate::crash_point;
use crate::object::is_full;

/// A snapshot is written after every so many commits.
pub(super) const SNAPSHOT_EVERY: u64 = 256;
/// How many lost races end a commit.
const MAX_RACES: usize = 100;
/// Longest pause after a lost race; the pause is random, and grows with the losses up to this.
const MAX_RACE_PAUSE_US: u64 = 20_000;

/// One process's handle of the catalog. Many handles, in many processes, may share one store.
///
/// A handle knows what it has read: [`Catalog::commit`] always ends on the newest state, [`Catalog::state`]
/// may be behind what other processes have committed since, until [`Catalog::reload`].
pub struct Catalog {
    log: CommitLog,
    clock: Arc<dyn Clock>,
    /// One writer at a time in this process; also what orders the updates of `state`.
    writer: Mutex<NonceSource>,
    state: ArcSwap<CatalogState>,
    /// The epoch that this handle writes in.
    epoch: AtomicU64,
    changes: watch::Sender<Arc<CatalogState>>,
}

impl fmt::Debug for Catalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Catalog")
            .field("sequence", &self.state.load().sequence)
            .finish_non_exhaustive()
    }
}

impl Catalog {
    /// Opens the catalog below `catalog/` of `store`, empty if nothing is there, with nonces from the
    /// operating system.
    ///
    /// # Errors
    /// When a commit is damaged, missing, newer than this version or contradicts those before it (each
    /// names the file), or the store fails. A damaged snapshot only costs a longer replay.
    pub async fn open(
        store: Arc<dyn ObjectStore>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, CatalogError> {
        Self::open_with(store, clock, Box::new(random_u64)).await
    }

    /// The same with another source of nonces. Two handles must never draw the same nonce.
    ///
    /// # Errors
    /// As [`Catalog::open`].
    pub async fn open_with(
        store: Arc<dyn ObjectStore>,
        clock: Arc<dyn Clock>,
        nonces: NonceSource,
    ) -> Result<Self, CatalogError> {
        let log = CommitLog::new(store);
        let state = Arc::new(log.load().await?);
        Ok(Self {
            log,
            clock,
            writer: Mutex::new(nonces),
            epoch: AtomicU64::new(state.epoch().0),
            state: ArcSwap::new(Arc::clone(&state)),
            changes: watch::Sender::new(state),
        })
    }

    /// The newest state that this handle knows. Cheap, and never waits for a writer.
    pub fn state(&self) -> Arc<CatalogState> {
        self.state.load_full()
    }

    /// Follows the states of this handle; skips those that a slow reader misses. Do not hold a borrow of
    /// it for long: the next commit waits for it.
    pub fn subscribe(&self) -> watch::Receiver<Arc<CatalogState>> {
        self.changes.subscribe()
    }

    /// Claims the store for the data directory `owner` on `host`. Its own already, nothing is committed: one process
    /// at a time has a data directory. That of another is taken only if `takes_over`.
    ///
    /// # Errors
    /// [`CommitError::Refused`] when it belongs to another; else as [`Catalog::commit`].
    pub async fn claim(
        &self,
        owner: &str,
        host: &str,
        takes_over: bool,
    ) -> Result<StoreClaim, CommitError<Held>> {
        loop {
            // Until it has claimed, a handle is of no epoch but the newest.
            self.enter(self.reload().await?.epoch());
            let claimed = self.commit(|state| match &state.claim {
                Some(claim) if claim.owner == owner => Ok(vec![]),
                Some(claim) if !takes_over => Err(Held(claim.clone())),
                _ => Ok(vec![Entry::StoreClaimed {
                    owner: owner.to_owned(),
                    host: host.to_owned(),
                }]),
            });
            match claimed.await {
                Ok(state) => {
                    let claim = state.claim.clone().expect("it is claimed by now");
                    self.enter(claim.epoch);
                    return Ok(claim);
                }
                // A rival claimed it in between.
                Err(CommitError::Superseded(_)) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn enter(&self, epoch: StoreEpoch) {
        self.epoch.store(epoch.0, Ordering::Relaxed);
    }

    /// The claim that ended this handle's epoch, as far as the handle knows.
    pub fn superseded_by(&self) -> Option<Superseded> {
        self.check_epoch(&self.state()).err()
    }

    /// Waits until this handle knows of a claim that ended its epoch. [`Catalog::reload`] and a commit find out.
    pub async fn superseded(&self) -> Superseded {
        let mut changes = self.subscribe();
        let changed = changes.wait_for(|state| self.check_epoch(state).is_err());
        match changed.await.map(|state| self.check_epoch(&state)) {
            Ok(Err(superseded)) => superseded,
            // The sender lives as long as the handle.
            _ => std::future::pending().await,
        }
    }

    fn check_epoch(&self, state: &CatalogState) -> Result<(), Superseded> {
        match &state.claim {
            Some(claim) if claim.epoch.0 > self.epoch.load(Ordering::Relaxed) => {
                Err(Superseded(claim.clone()))
            }
            _ => Ok(()),
        }
    }

    /// Reads what other handles have committed.
    ///
    /// # Errors
    /// As [`Catalog::open`]; the state stays as it was.
    pub async fn reload(&self) -> Result<Arc<CatalogState>, CatalogError> {
        let _writer = self.writer.lock().await;
        self.catch_up().await
    }

    /// Commits what `decide` makes of the newest state, all of it or nothing. `decide` is called again
    /// whenever the state turns out to be newer than what it saw. No entries, no commit.
    ///
    /// A caller that stops waiting may find the commit done or not done.
    ///
    /// # Errors
    /// What `decide` refused and what contradicts the state, both judged on the newest state;
    /// [`CommitError::Superseded`] when the epoch of this handle is over; otherwise the catalog could not be read or
    /// written.
    pub async fn commit<E: Send>(
        &self,
        mut decide: impl FnMut(&CatalogState) -> Result<Vec<Entry>, E> + Send,
    ) -> Result<Arc<CatalogState>, CommitError<E>> {
        let mut nonces = self.writer.lock().await;
        for race in 0..MAX_RACES {
            let state = self.state();
            let prepared = match self.prepare(&state, &mut decide, &mut nonces) {
                Ok(Some(prepared)) => prepared,
                Ok(None) => return Ok(state),
                // Epochs only end.
                Err(CommitError::Superseded(superseded)) => {
                    return Err(CommitError::Superseded(superseded));
                }
                Err(error) => {
                    // The refusal may rest on an old state: it counts only if nothing is newer.
                    if self.catch_up().await?.sequence == state.sequence {
                        return Err(error);
                    }
                    continue;
                }
            };
            let Prepared {
                commit,
                bytes,
                next,
            } = prepared;
            match self.log.settle(&commit, bytes.into()).await? {
                Ok(Settled::Ours) => {
                    crash_point("catalog:committed");
                    let next = self.publish(next);
                    if next.sequence.is_multiple_of(SNAPSHOT_EVERY) {
                        self.log.write_snapshot(&next).await;
                    }
                    return Ok(next);
                }
                Ok(Settled::Theirs(rival)) => {
                    let mut newer = CatalogState::clone(&state);
                    apply(&mut newer, &rival)?;
                    self.publish(newer);
                    self.catch_up().await?;
                    pause_after(race, nonces()).await;
                }
                Err(source) => {
                    let file = file::commit_path(commit.sequence).to_string();
                    return Err(match is_full(&source) {
                        // On a disk of this machine, where nothing lands later.
                        true => CommitError::Full { file, source },
                        false => CommitError::Unknown { file, source },
                    });
                }
            }
        }
        Err(CommitError::Contended {
            attempts: MAX_RACES,
        })
    }

    /// What `decide` wants on `state`; none if it wants nothing.
    fn prepare<E>(
        &self,
        state: &CatalogState,
        decide: &mut impl FnMut(&CatalogState) -> Result<Vec<Entry>, E>,
        nonces: &mut NonceSource,
    ) -> Result<Option<Prepared>, CommitError<E>> {
        // The commit follows this state or none: whoever claims first is in it.
        self.check_epoch(state).map_err(CommitError::Superseded)?;
        let entries = decide(state).map_err(CommitError::Refused)?;
        if entries.is_empty() {
            return Ok(None);
        }
        let commit = Commit {
            sequence: state.sequence + 1,
            nonce: nonces(),
            at: self.clock.now(),
            entries,
        };
        let bytes = file::encode_commit(&commit)
            .map_err(|error| CatalogError::Unwritable(error.to_string()))?;
        // Apply what others will read, not what we meant: the two must never differ.
        let commit = file::decode_commit(commit.sequence, &bytes)
            .map_err(|error| CatalogError::Unwritable(error.to_string()))?;
        let mut next = state.clone();
        next.apply(&commit).map_err(CommitError::Conflict)?;
        Ok(Some(Prepared {
            commit,
            bytes,
            next,
        }))
    }

    /// Applies what is new on the store. Call with the writer's lock held.
    async fn catch_up(&self) -> Result<Arc<CatalogState>, CatalogError> {
        let known = self.state();
        let mut state = CatalogState::clone(&known);
        self.log.follow(&mut state).await?;
        if state.sequence == known.sequence {
            return Ok(known);
        }
        Ok(self.publish(state))
    }

    /// Makes `state` the newest. Call with the writer's lock held.
    fn publish(&self, state: CatalogState) -> Arc<CatalogState> {
        let state = Arc::new(state);
        self.state.store(Arc::clone(&state));
        self.changes.send_replace(Arc::clone(&state));
        state
    }
}

/// A commit that may follow the state, its file's bytes, and the state behind it.
struct Prepared {
    commit: Commit,
    bytes: Vec<u8>,
    next: CatalogState,
}

/// Rivals that lost together must not come back together.
async fn pause_after(race: usize, random: u64) {
    let bound = MAX_RACE_PAUSE_US.min(500 << race.min(10));
    tokio::time::sleep(Duration::from_micros(random % bound)).await;
}
