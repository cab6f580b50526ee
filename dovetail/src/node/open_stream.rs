// SPDX-License-Identifier: Apache-2.0
//! One open stream: its log, its cell, and the threads and tasks between them.

use std::sync::Arc;
use std::time::Duration;

use dovetail_log::decode::Decoder;
use dovetail_model::{Position, Problem, ProblemKind, StreamDef};
use dovetail_seam::{Archiver, LocalTargets, SeamError, StreamCell, Targets};
use dovetail_speed_layer::{Accumulator, BatchReceiver, Merger, SpeedError, SpeedMemory};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Notify, RwLock, RwLockReadGuard};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::feed::Feed;
use super::letter_count::LetterCount;

/// Batches between the log and the speed layer. A full queue makes the log wait: nothing is dropped.
pub(crate) const QUEUE: usize = 64;
/// Bytes of them, so that many large appends do not pile up in front of `--speed-memory`.
pub(crate) const QUEUE_BYTES: u32 = 32 * 1024 * 1024;
/// Archives between two upkeeps of the raw log.
const UPKEEP_EVERY: u64 = 32;
/// Files that the raw log no longer names stay this long, for other engines that still read them.
const FILE_GRACE: Duration = Duration::from_secs(3600);
/// How long what was read may take to become answers before it is archived on demand.
const ACCUMULATE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a stream that is closed waits for an archive under way. A store that does not answer keeps it for minutes.
const CLOSE_WAIT: Duration = Duration::from_secs(5);
/// After a failed archive, the next try waits this long.
const ARCHIVE_PAUSE: Duration = Duration::from_secs(1);

/// A stream that takes appends and answers.
#[derive(Debug)]
pub(crate) struct OpenStream {
    cell: Arc<StreamCell>,
    archiver: Arc<Archiver>,
    targets: Arc<dyn Targets>,
    feed: Feed,
    /// Read from decoding to acknowledging, so that the schema does not change under an append.
    decoder: RwLock<Arc<Decoder>>,
    workers: Mutex<Option<Workers>>,
    replaying: tokio::sync::Mutex<()>,
    letter_count: LetterCount,
}

/// A declaration, and what decodes its events.
#[derive(Debug, Clone)]
pub(crate) struct Declared {
    pub(crate) def: Arc<StreamDef>,
    #[cfg_attr(
        not(feature = "kafka"),
        expect(
            dead_code,
            reason = "only what is appended to a topic is decoded under it"
        )
    )]
    pub(crate) decoder: Arc<Decoder>,
}

#[derive(Debug)]
struct Workers {
    /// None where other processes have the runs.
    speed: Option<(Accumulator, Merger)>,
    archiving: JoinHandle<()>,
    stop: CancellationToken,
}

/// How often a tail is archived, and whether this process keeps the raw log: of several that archive it none does, but
/// the one that decides.
#[derive(Debug, Clone)]
pub(crate) struct ArchivePolicy {
    pub(crate) interval: Duration,
    pub(crate) bytes: usize,
    pub(crate) keeps: bool,
    /// Threads that keep it: they yield to everything else.
    pub(crate) keeping: Handle,
}

/// Keeps a raw log quick to read, beside whoever archives: to merge the segments of gigabytes takes seconds, and the tail
/// would grow meanwhile.
struct Keeper {
    archiver: Arc<Archiver>,
    threads: Handle,
    under_way: Option<JoinHandle<()>>,
}

impl Keeper {
    fn new(archiver: &Arc<Archiver>, threads: &Handle) -> Self {
        Self {
            archiver: Arc::clone(archiver),
            threads: threads.clone(),
            under_way: None,
        }
    }

    /// Begins an upkeep, unless one is under way.
    fn begin(&mut self) -> bool {
        let is_busy = self
            .under_way
            .as_ref()
            .is_some_and(|task| !task.is_finished());
        if !is_busy {
            let archiver = Arc::clone(&self.archiver);
            self.under_way = Some(self.threads.spawn(async move {
                if let Err(error) = archiver.upkeep(FILE_GRACE).await {
                    warn!(%error, "the raw log's upkeep could not finish; it is tried again");
                }
            }));
        }
        !is_busy
    }

    /// Cuts off the one that is under way. It can be cut off anywhere: what is not done is done by the next.
    async fn stop(self) {
        if let Some(task) = self.under_way {
            task.abort();
            // It ends at its next step.
            let _ = task.await;
            self.archiver.raw().released().await;
        }
    }
}

impl OpenStream {
    /// Starts the workers of a stream whose cell holds everything that the log had when it was opened;
    /// `batches` brings what is committed from now on.
    pub(crate) fn start(
        cell: Arc<StreamCell>,
        archiver: Archiver,
        feed: Feed,
        batches: BatchReceiver,
        memory: Arc<SpeedMemory>,
        policy: ArchivePolicy,
    ) -> Result<Self, SpeedError> {
        let archiver = Arc::new(archiver);
        let stop = CancellationToken::new();
        let full = Arc::new(Notify::new());
        let merger = Merger::start(Arc::clone(&cell), Arc::clone(&memory))?;
        let after = {
            let (wake, full, cell) = (merger.handle(), Arc::clone(&full), Arc::clone(&cell));
            let enough = policy.bytes;
            move || {
                wake.wake();
                if cell.load().tail().bytes() >= enough {
                    full.notify_one();
                }
            }
        };
        let accumulator = Accumulator::start(
            Arc::clone(&cell),
            Arc::clone(&memory),
            batches,
            stop.clone(),
            after,
        )?;
        let archiving = tokio::spawn(archive_loop(
            Arc::clone(&archiver),
            Arc::clone(&cell),
            memory,
            full,
            policy,
            stop.clone(),
        ));
        let workers = Workers {
            speed: Some((accumulator, merger)),
            archiving,
            stop,
        };
        let targets = Arc::new(LocalTargets::new(Arc::clone(&cell), Arc::clone(&archiver)));
        Ok(Self::with(cell, archiver, targets, feed, workers))
    }

    /// A stream whose events other processes take: its cell follows the raw log, which they write and this one keeps;
    /// `targets` are theirs.
    pub(crate) fn elsewhere(
        cell: Arc<StreamCell>,
        archiver: Archiver,
        feed: Feed,
        targets: Arc<dyn Targets>,
        policy: ArchivePolicy,
    ) -> Self {
        let archiver = Arc::new(archiver);
        let stop = CancellationToken::new();
        let following = follow_loop(
            Arc::clone(&archiver),
            Arc::clone(&cell),
            policy,
            stop.clone(),
        );
        let workers = Workers {
            speed: None,
            archiving: tokio::spawn(following),
            stop,
        };
        Self::with(cell, archiver, targets, feed, workers)
    }

    fn with(
        cell: Arc<StreamCell>,
        archiver: Arc<Archiver>,
        targets: Arc<dyn Targets>,
        feed: Feed,
        workers: Workers,
    ) -> Self {
        let decoder = decoder_of(cell.load().stream());
        Self {
            cell,
            archiver,
            targets,
            feed,
            decoder: RwLock::new(decoder),
            workers: Mutex::new(Some(workers)),
            replaying: tokio::sync::Mutex::new(()),
            letter_count: LetterCount::default(),
        }
    }

    /// The declaration that its cut has.
    pub(crate) fn def(&self) -> Arc<StreamDef> {
        Arc::clone(self.cell.load().stream())
    }

    pub(crate) fn cell(&self) -> &Arc<StreamCell> {
        &self.cell
    }

    pub(crate) fn archiver(&self) -> &Arc<Archiver> {
        &self.archiver
    }

    /// How targets are taken on it.
    pub(crate) fn targets(&self) -> Arc<dyn Targets> {
        Arc::clone(&self.targets)
    }

    pub(crate) fn feed(&self) -> &Feed {
        &self.feed
    }

    /// The decoder of the present schema. Held until what it decoded is committed: meanwhile the schema does not
    /// change.
    pub(crate) async fn decoder(&self) -> RwLockReadGuard<'_, Arc<Decoder>> {
        self.decoder.read().await
    }

    /// The present declaration, where events come back under that of the time when they do.
    pub(crate) async fn declared(&self) -> Declared {
        let decoder = self.decoder.read().await;
        Declared {
            def: self.def(),
            decoder: Arc::clone(&decoder),
        }
    }

    /// Grows the schema to that of `def` if `commit` puts it into the catalog. What can fail comes before the
    /// commit; appends that are under way end under the old schema, later ones wait for the new one; queries go
    /// on.
    ///
    /// # Errors
    /// Those of the raw log and of `commit`: nothing has changed then. When the stream is closed meanwhile: it
    /// opens with the new schema.
    pub(crate) async fn evolve(
        &self,
        def: StreamDef,
        commit: impl Future<Output = Result<(), Problem>>,
    ) -> Result<(), Problem> {
        let def = Arc::new(def);
        let seam = |error: SeamError| Problem::new(error.kind(), error.to_string());
        let prepared = self.archiver.prepare(Arc::clone(&def));
        let prepared = Box::pin(prepared).await.map_err(seam)?;
        let mut decoder = self.decoder.write().await;
        dovetail_log::crash_point("schema:prepared");
        commit.await?;
        dovetail_log::crash_point("schema:committed");
        prepared.finish().await.map_err(seam)?;
        self.feed.evolve(&def.schema).await?;
        *decoder = decoder_of(&def);
        Ok(())
    }

    /// Archives all that was read or appended so far: up to where.
    ///
    /// # Errors
    /// When the speed layer does not take it, or it cannot be archived.
    pub(crate) async fn archive_durable(&self) -> Result<Position, Problem> {
        if self.cell.is_elsewhere() {
            let target = self.targets.take().await;
            let target = target.map_err(|error| Problem::new(error.kind(), error.to_string()))?;
            return Ok(target.position().clone());
        }
        let durable = self.cell.durable();
        let accumulated =
            tokio::time::timeout(ACCUMULATE_TIMEOUT, self.cell.wait_for(&durable)).await;
        accumulated.map_err(|_| {
            Problem::new(
                ProblemKind::Unavailable,
                format!(
                    "the speed layer does not take what stream `{}` has read; try again",
                    self.def().name
                ),
            )
        })?;
        let archived = self.archiver.archive_through(&durable).await;
        let raw = archived.map_err(|error| Problem::new(error.kind(), error.to_string()))?;
        Ok(raw.archived().clone())
    }

    /// Waits until what its source holds now is durable here: what is bounded by that covers it.
    ///
    /// # Errors
    /// When other processes read the source, and do not answer.
    pub(crate) async fn catch_up(&self) -> Result<(), Problem> {
        if self.cell.is_elsewhere() {
            self.archive_durable().await?;
        }
        self.feed.catch_up(&self.cell).await;
        Ok(())
    }

    /// How many dead letters it has, as counted last.
    pub(crate) fn letter_count(&self) -> &LetterCount {
        &self.letter_count
    }

    /// Held while dead letters are replayed, so that none is replayed twice.
    pub(crate) fn replaying(&self) -> &tokio::sync::Mutex<()> {
        &self.replaying
    }

    /// Stops taking appends, makes what was acknowledged durable, and ends the workers. What waits for the speed
    /// layer stays in the log.
    pub(crate) async fn close(&self) {
        let Some(workers) = self.workers.lock().take() else {
            return self.feed.close().await;
        };
        workers.stop.cancel();
        // Before the log, which forgets what was archived last. One that is left behind does no harm: the log has its
        // events, and the next start finds how far it came.
        match tokio::time::timeout(CLOSE_WAIT, workers.archiving).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                warn!(stream = %self.def().name, %error, "the archiver did not end well");
            }
            Err(_) => {
                warn!(stream = %self.def().name, "an archive did not end in time; the events stay in the log");
            }
        }
        self.feed.close().await;
        // The feed has dropped its end of the queue, so the accumulator ends when the queue is empty.
        let Some((accumulator, merger)) = workers.speed else {
            return;
        };
        let joining = tokio::task::spawn_blocking(move || {
            accumulator.join();
            merger.join();
        });
        if let Err(error) = joining.await {
            warn!(stream = %self.def().name, %error, "the speed layer did not end well");
        }
    }
}

fn decoder_of(def: &StreamDef) -> Arc<Decoder> {
    Arc::new(Decoder::new(&def.schema))
}

async fn archive_loop(
    archiver: Arc<Archiver>,
    cell: Arc<StreamCell>,
    memory: Arc<SpeedMemory>,
    full: Arc<Notify>,
    policy: ArchivePolicy,
    stop: CancellationToken,
) {
    // Counted on from the start before: a process that never lives long has upkeep, too.
    let mut archives = cell.load().raw().version() % UPKEEP_EVERY;
    let mut keeper = Keeper::new(&archiver, &policy.keeping);
    loop {
        tokio::select! {
            () = stop.cancelled() => return keeper.stop().await,
            () = full.notified() => {}
            () = tokio::time::sleep(policy.interval) => {}
        }
        // Batch runs take runs out of memory, too.
        let cut = cell.load();
        memory.set(&cut.stream().id, cut.bytes());
        if cut.tail().is_empty() {
            continue;
        }
        let meter = &cell.meters().archive;
        if let Err(error) = archiver.archive_all().await {
            meter.fails(&error);
            warn!(%error, "archiving failed; the events stay in the log and it is tried again");
            tokio::time::sleep(ARCHIVE_PAUSE).await;
            continue;
        }
        meter.succeeds();
        let cut = cell.load();
        memory.set(&cut.stream().id, cut.bytes());
        archives += 1;
        if policy.keeps && archives >= UPKEEP_EVERY && keeper.begin() {
            archives = 0;
        }
    }
}

/// Follows the raw log that other processes write, and keeps it quick to read.
async fn follow_loop(
    archiver: Arc<Archiver>,
    cell: Arc<StreamCell>,
    policy: ArchivePolicy,
    stop: CancellationToken,
) {
    let version = cell.load().raw().version();
    let mut kept_at = version - version % UPKEEP_EVERY;
    let mut keeper = Keeper::new(&archiver, &policy.keeping);
    loop {
        tokio::select! {
            () = stop.cancelled() => return keeper.stop().await,
            () = tokio::time::sleep(policy.interval) => {}
        }
        let followed = async {
            cell.follow(archiver.raw().newest().await?)?;
            Ok::<_, SeamError>(cell.load().raw().version())
        };
        match followed.await {
            Ok(version) if version >= kept_at + UPKEEP_EVERY => {
                if keeper.begin() {
                    kept_at = version;
                }
            }
            Ok(_) => {}
            Err(error) => warn!(%error, "the raw log cannot be followed; it is tried again"),
        }
    }
}
