// SPDX-License-Identifier: Apache-2.0
//! The writer of one stream's raw log.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};

use arrow::array::RecordBatch;
use datafusion::scalar::ScalarValue;
use deltalake_core::kernel::{Action, Metadata};
use dovetail_model::{
    ARRIVED_AT, Clock, OFFSET, Offset, PartitionId, Span, StreamDef, StreamSchema,
};
use futures::stream;
use object_store::ObjectStore;
use object_store::path::Path;
use parking_lot::RwLock;
use serde_json::Value;
use tokio::sync::Mutex;

use super::access::Access;
use super::batches::{SegmentPlan, plan_segments};
use super::dead_letters::{DeadLetterTable, DeadLetters};
use super::delta::{Changes, CommitOutcome, DeltaCommit, DeltaLog, LoadedTable};
use super::nonce::nonce;
use super::schema::{Fit, fit, union};
use super::{MAX_TRIES, RawError, RawSnapshot, RawWriter, Segment};
use crate::CommittedBatch;
use crate::crash::crash_point;
use crate::object::Sightings;
use crate::parquet_files::{WriterOptions, WrittenFile, write_parquet};

const DAY_US: i64 = 86_400_000_000;

/// The raw log of one stream. One of them per stream and process: it assumes that in this process nobody else
/// writes to the stream's tables, and notices when another process does.
#[derive(Debug)]
pub struct RawLog {
    pub(super) access: Access,
    pub(super) events: DeltaLog,
    /// Held by whoever commits events. Taken before `dead`.
    pub(super) writer: Mutex<Writer>,
    pub(super) dead: Mutex<DeadLetterTable>,
    /// Held by compaction and vacuum, before any other lock: they never meet.
    pub(super) upkeep: Mutex<Upkeep>,
    current: RwLock<Current>,
}

/// What upkeep remembers: the files of each table that nothing names, and what its log could do without.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    pub(super) events: Sightings,
    pub(super) events_log: Sightings,
    pub(super) letters: Sightings,
    pub(super) letters_log: Sightings,
}

#[derive(Debug)]
struct Current {
    snapshot: Arc<RawSnapshot>,
    /// Earlier ones that may still be read.
    earlier: Vec<Weak<RawSnapshot>>,
}

/// What only a committer needs to know.
#[derive(Debug)]
pub(super) struct Writer {
    metadata: Metadata,
    /// Set while the outcome of a commit is not known, also when its future was dropped: look before the next.
    stale: bool,
}

impl RawLog {
    /// Opens the raw log of the stream `def` below `root` (`streams/{id}`), creating its table when there is
    /// none, and making room for what the stream's schema has grown by since. Its tables are claimed for the epoch of
    /// `writer` before the archived position is read: what an earlier epoch has on its way lands before that, or never.
    ///
    /// # Errors
    /// [`RawError::Superseded`] when a later epoch has claimed a table, [`RawError::Hole`] when the table's segments and
    /// transactions contradict each other, [`RawError::Schema`] when it cannot hold the stream's events, and the store's.
    pub async fn open(
        store: Arc<dyn ObjectStore>,
        root: Path,
        def: &StreamDef,
        writer: impl Into<RawWriter>,
        clock: Arc<dyn Clock>,
    ) -> Result<RawLog, RawError> {
        let table = |name: &str| {
            DeltaLog::new(
                Arc::clone(&store),
                root.clone().join(name),
                Arc::clone(&clock),
            )
        };
        let (events, letters) = (table("raw")?, table("dead-letters")?);
        let access = Access::new(def.id.clone(), store, writer.into(), clock);
        let letters = DeadLetterTable::new(access.clone(), letters);
        let table = claim(&access, &events, &letters, def).await?;
        let snapshot = read_snapshot(&access, events.root(), &table, def.schema.clone()).await?;
        let log = RawLog {
            dead: Mutex::new(letters),
            access,
            events,
            writer: Mutex::new(Writer {
                metadata: table.metadata().clone(),
                stale: false,
            }),
            upkeep: Mutex::default(),
            current: RwLock::new(Current {
                snapshot: Arc::new(snapshot),
                earlier: Vec::new(),
            }),
        };
        log.widen(&def.schema).await?;
        Ok(log)
    }

    /// The newest version that this process knows.
    pub fn snapshot(&self) -> Arc<RawSnapshot> {
        Arc::clone(&self.current.read().snapshot)
    }

    /// Files of the current snapshot and of every earlier one that somebody holds.
    pub(super) fn held_files(&self) -> HashSet<Path> {
        let current = self.current.read();
        let earlier = current.earlier.iter().filter_map(Weak::upgrade);
        std::iter::once(Arc::clone(&current.snapshot))
            .chain(earlier)
            .flat_map(|snapshot| snapshot.segments.clone())
            .map(|segment| segment.path.clone())
            .collect()
    }

    fn publish(&self, next: Arc<RawSnapshot>) {
        let mut current = self.current.write();
        let last = std::mem::replace(&mut current.snapshot, next);
        current
            .earlier
            .retain(|snapshot| snapshot.strong_count() > 0);
        current.earlier.push(Arc::downgrade(&last));
    }

    /// The raw log as its table stands: looked at anew where the outcome of a commit is not known, because it failed or
    /// was dropped half way.
    ///
    /// # Errors
    /// The store's.
    pub async fn current(&self) -> Result<Arc<RawSnapshot>, RawError> {
        let mut writer = self.writer.lock().await;
        self.fresh(&mut writer).await
    }

    /// The raw log as its table stands, looked at anew: for a process in which nothing is archived. What others have
    /// committed since is read alone.
    ///
    /// # Errors
    /// The store's.
    pub async fn newest(&self) -> Result<Arc<RawSnapshot>, RawError> {
        let mut writer = self.writer.lock().await;
        self.look(&mut writer).await?;
        self.dead.lock().await.outdated();
        Ok(self.snapshot())
    }

    /// The snapshot to base a commit on.
    pub(super) async fn fresh(&self, writer: &mut Writer) -> Result<Arc<RawSnapshot>, RawError> {
        if writer.stale {
            self.look(writer).await?;
        }
        Ok(self.snapshot())
    }

    /// Archives the events of `span`, of our share of the partitions, which starts where they are archived up to and
    /// which `batches` tile, and first its dead letters. Exactly once: after an error, a crash or a dropped future, call it again from
    /// [`RawSnapshot::archived`] on, or with the same span; what is archived already is not archived again.
    ///
    /// # Errors
    /// [`RawError::NotAtArchived`] when the span starts elsewhere, [`RawError::Gap`] and [`RawError::Batch`] when
    /// the batches are not what they should be, and the store's.
    pub async fn archive(
        &self,
        span: &Span,
        batches: &[Arc<CommittedBatch>],
    ) -> Result<Arc<RawSnapshot>, RawError> {
        let mut writer = self.writer.lock().await;
        let base = self.fresh(&mut writer).await?;
        if is_archived(&base, span)? {
            return Ok(base);
        }
        let plans = plan_segments(span, batches, &base.events)?;
        let mut segments = Vec::with_capacity(plans.len());
        for plan in plans {
            segments.push(self.write_segment(plan, &base).await?);
        }
        crash_point("archive:written");
        self.dead.lock().await.append(span, batches).await?;
        crash_point("archive:dead-letters");
        let snapshot = self.commit_span(&mut writer, span, segments).await?;
        crash_point("archive:committed");
        Ok(snapshot)
    }

    /// Moves the archived position over what only the table of dead letters has: a writer that another data directory
    /// superseded may have been between the two. Its dead letters stay, and the offsets get no other events.
    ///
    /// # Errors
    /// The store's.
    pub async fn settle(&self) -> Result<Arc<RawSnapshot>, RawError> {
        let base = self.current().await?;
        let letters = self.dead.lock().await.position().await?;
        let to = base.archived.join(&letters);
        let span = Span::new(base.archived.clone(), to).expect("a join covers both");
        if span.is_empty() {
            return Ok(base);
        }
        let empty = CommittedBatch {
            span: span.clone(),
            arrived_at_us: self.access.clock.now_us(),
            events: RecordBatch::new_empty(Arc::clone(&base.events)),
            dead_letters: Vec::new(),
            replayed: Vec::new(),
        };
        self.archive(&span, &[Arc::new(empty)]).await
    }

    async fn write_segment(
        &self,
        plan: SegmentPlan,
        base: &RawSnapshot,
    ) -> Result<(Segment, WrittenFile), RawError> {
        let path = self.events.data_path(&format!("{}.parquet", nonce()));
        let file = write_parquet(
            Arc::clone(&self.access.store),
            path,
            Arc::clone(&base.events),
            &writer_options(),
            stream::iter(plan.events.into_iter().map(Ok)),
        )
        .await
        .map_err(RawError::data(self.events.root()))?;
        Ok((segment_of(&file, plan.span, &base.schema), file))
    }

    async fn commit_span(
        &self,
        writer: &mut Writer,
        span: &Span,
        segments: Vec<(Segment, WrittenFile)>,
    ) -> Result<Arc<RawSnapshot>, RawError> {
        let nonce = nonce();
        for _ in 0..MAX_TRIES {
            let base = self.snapshot();
            if is_archived(&base, span)? {
                return Ok(base);
            }
            let now_ms = self.access.clock.now().timestamp_millis();
            // Others may have moved on in their partitions since the files were written: each segment follows the last.
            let rest = self.access.writer.share().rest(&base.archived_of_all);
            let segments: Vec<_> = segments
                .iter()
                .map(|(segment, file)| (segment.beside(&rest), file))
                .collect();
            let adds = segments.iter().map(|(segment, file)| {
                Action::Add(segment.to_add(file, &base.events, true, now_ms))
            });
            let commit = DeltaCommit {
                operation: "WRITE",
                actions: adds.collect(),
                transactions: self.access.transactions(span.from(), span.to()),
                info: HashMap::from([("dovetailSpan".to_owned(), Value::from(span.to_string()))]),
                nonce: nonce.clone(),
            };
            let mut all = base.segments.clone();
            all.extend(
                segments
                    .iter()
                    .map(|(segment, _)| Arc::new(segment.clone())),
            );
            if let Some(snapshot) = self
                .commit(writer, &base, commit, base.schema.clone(), all)
                .await?
            {
                return Ok(snapshot);
            }
        }
        Err(self.contended())
    }

    /// Commits on top of `base` and makes the result current. None when another writer took the version: then
    /// the newest version is current, and the caller must check again whether it still wants to commit.
    pub(super) async fn commit(
        &self,
        writer: &mut Writer,
        base: &RawSnapshot,
        commit: DeltaCommit,
        schema: StreamSchema,
        segments: Vec<Arc<Segment>>,
    ) -> Result<Option<Arc<RawSnapshot>>, RawError> {
        // Made before the commit, so that nothing can fail between the commit and its being current.
        let root = self.events.root().clone();
        let next = Arc::new(RawSnapshot::new(
            root,
            base.version + 1,
            schema,
            segments,
            base.share,
        )?);
        writer.stale = true;
        match self.events.commit(base.version, commit).await? {
            CommitOutcome::Committed(version) => {
                assert_eq!(version, next.version, "a commit is based on one version");
                self.publish(Arc::clone(&next));
                writer.stale = false;
                Ok(Some(next))
            }
            CommitOutcome::Taken(by) => {
                let changes = self.events.changes_with(base.version, &by).await?;
                self.catch_up(writer, changes).await?;
                Ok(None)
            }
        }
    }

    async fn look(&self, writer: &mut Writer) -> Result<(), RawError> {
        let known = self.snapshot().version;
        let changes = self.events.changes_since(known).await?;
        self.catch_up(writer, changes).await
    }

    /// Makes current what lies behind `changes` of the current snapshot, or what is loaded when they do not tell.
    async fn catch_up(
        &self,
        writer: &mut Writer,
        changes: Option<Changes>,
    ) -> Result<(), RawError> {
        let base = self.snapshot();
        let next = match changes {
            Some(changes) => {
                self.access.stays_ours(self.events.root(), &changes)?;
                base.behind(&self.access, &changes)
            }
            None => None,
        };
        match next {
            Some(next) if Arc::ptr_eq(&next, &base) => {}
            Some(next) => self.publish(next),
            None => return self.load(writer).await,
        }
        writer.stale = false;
        Ok(())
    }

    async fn load(&self, writer: &mut Writer) -> Result<(), RawError> {
        let root = self.events.root();
        let table = self.events.load().await?.ok_or_else(|| RawError::Hole {
            table: root.clone(),
            reason: "the table is gone".to_owned(),
        })?;
        let schema = self.snapshot().schema.clone();
        let snapshot = read_snapshot(&self.access, root, &table, schema).await?;
        writer.metadata = table.metadata().clone();
        self.publish(Arc::new(snapshot));
        writer.stale = false;
        Ok(())
    }

    /// Archived dead letters that were not replayed and that `wanted` wants: at most `limit` of them, the first ones
    /// behind `after`, and fewer when they are large; none of their bytes are read for a limit of 0. In bounded
    /// memory however many there are: only their places are kept.
    ///
    /// # Errors
    /// The store's.
    pub async fn dead_letters(
        &self,
        after: Option<(PartitionId, Offset)>,
        limit: usize,
        wanted: &(dyn Fn(PartitionId, Offset) -> bool + Sync),
    ) -> Result<DeadLetters, RawError> {
        let archived = self.snapshot().archived.clone();
        let mut dead = self.dead.lock().await;
        dead.page(&archived, after, limit, wanted).await
    }

    /// Makes the table hold what `schema` may: adds the nullable columns that it lacks, and lets columns be null
    /// that `schema` lets. Snapshots read and write as before until [`RawLog::adopt`]; should that never come, no
    /// harm is done.
    ///
    /// # Errors
    /// [`RawError::Schema`] when more has changed than that, and the store's.
    pub async fn widen(&self, schema: &StreamSchema) -> Result<(), RawError> {
        let mut writer = self.writer.lock().await;
        let events = schema.events();
        for _ in 0..MAX_TRIES {
            let base = self.fresh(&mut writer).await?;
            let table = self.events.arrow_schema(&writer.metadata)?;
            let fit = fit(&table, &events).map_err(|reason| RawError::Schema {
                table: self.events.root().clone(),
                reason,
            })?;
            if fit == Fit::Fits {
                return Ok(());
            }
            let metadata = self
                .events
                .with_schema(&writer.metadata, &union(&table, &events))?;
            let commit = DeltaCommit {
                operation: "CHANGE COLUMNS",
                actions: vec![metadata.clone()],
                transactions: Vec::new(),
                info: HashMap::new(),
                nonce: nonce(),
            };
            let (now, segments) = (base.schema.clone(), base.segments.clone());
            let done = self.commit(&mut writer, &base, commit, now, segments);
            if done.await?.is_some() {
                if let Action::Metadata(metadata) = metadata {
                    writer.metadata = metadata;
                }
                return Ok(());
            }
        }
        Err(self.contended())
    }

    /// Reads and writes events as `schema`, which [`RawLog::widen`] has made room for, from now on: older events
    /// read as null where they have no value. Snapshots taken before keep the schema they have. Writes nothing.
    ///
    /// # Errors
    /// [`RawError::Hole`] when the current snapshot is not sound.
    pub async fn adopt(&self, schema: &StreamSchema) -> Result<Arc<RawSnapshot>, RawError> {
        // A commit on its way carries on the schema of its base.
        let _writer = self.writer.lock().await;
        let base = self.snapshot();
        let next = base.read_as(schema)?;
        if !Arc::ptr_eq(&next, &base) {
            self.publish(Arc::clone(&next));
        }
        Ok(next)
    }

    pub(super) fn contended(&self) -> RawError {
        RawError::Contended {
            table: self.events.root().clone(),
            tries: MAX_TRIES,
        }
    }
}

/// Whether `base` holds `span` already.
///
/// # Errors
/// [`RawError::NotAtArchived`] when it does not and the span does not start where it ends either.
fn is_archived(base: &RawSnapshot, span: &Span) -> Result<bool, RawError> {
    if base.archived.covers(span.to()) {
        return Ok(true);
    }
    if &base.archived == span.from() {
        return Ok(false);
    }
    Err(RawError::NotAtArchived {
        span: Box::new(span.clone()),
        archived: Box::new(base.archived.clone()),
    })
}

pub(super) fn writer_options() -> WriterOptions {
    WriterOptions {
        delta_encoded: vec![OFFSET.to_owned()],
        ..WriterOptions::default()
    }
}

/// Claims the tables of a stream for our epoch, creating that of its events when there is none.
async fn claim(
    access: &Access,
    events: &DeltaLog,
    letters: &DeadLetterTable,
    def: &StreamDef,
) -> Result<LoadedTable, RawError> {
    for _ in 0..MAX_TRIES {
        let Some(table) = events.load().await? else {
            let schema = def.schema.events();
            events
                .create(&def.name, &schema, true, access.claim(), nonce())
                .await?;
            continue;
        };
        if access.is_claimed(events.root(), &table).await? {
            return Ok(table);
        }
        // Dead letters first: cut off in between, this claim is found undone by the table of the events.
        letters.claim().await?;
        if let Some(table) = access.claim_table(events).await? {
            return Ok(table);
        }
    }
    Err(RawError::Contended {
        table: events.root().clone(),
        tries: MAX_TRIES,
    })
}

/// The snapshot that `table` is, to base a commit on: not of a later epoch than ours.
async fn read_snapshot(
    access: &Access,
    root: &Path,
    table: &LoadedTable,
    schema: StreamSchema,
) -> Result<RawSnapshot, RawError> {
    access.is_claimed(root, table).await?;
    snapshot_of(access, root, table, schema).await
}

/// The snapshot that `table` is, its segments checked against its transactions, whoever has written it.
pub(super) async fn snapshot_of(
    access: &Access,
    root: &Path,
    table: &LoadedTable,
    schema: StreamSchema,
) -> Result<RawSnapshot, RawError> {
    let hole = |reason: String| RawError::Hole {
        table: root.clone(),
        reason,
    };
    let segments = table
        .files()
        .map(|add| Segment::from_add(root, &add).map(Arc::new))
        .collect::<Result<Vec<_>, _>>()
        .map_err(hole)?;
    let share = access.writer.share();
    let snapshot = RawSnapshot::new(root.clone(), table.version(), schema, segments, share)?;
    for (partition, offset) in snapshot.archived_of_all.iter() {
        let committed = table.transaction(&access.transaction_id(partition)).await?;
        if committed.and_then(|c| u64::try_from(c).ok()) != Some(offset.0) {
            return Err(hole(format!(
                "its segments of partition {partition} end at offset {offset}, its transaction says {committed:?}"
            )));
        }
    }
    Ok(snapshot)
}

/// What a written file is as a segment.
pub(super) fn segment_of(file: &WrittenFile, span: Span, schema: &StreamSchema) -> Segment {
    let events = schema.events();
    let bounds = |name: &str| {
        let (index, _) = events.column_with_name(name)?;
        let column = &file.columns[index];
        Some((micros(column.min.as_ref()?)?, micros(column.max.as_ref()?)?))
    };
    Segment {
        path: file.path.clone(),
        rows: file.rows,
        bytes: file.bytes,
        decoded_bytes: Some(file.decoded_bytes),
        span,
        event_time: schema.event_time.as_ref().and_then(|t| bounds(&t.column)),
        arrived: bounds(ARRIVED_AT),
    }
}

fn micros(value: &ScalarValue) -> Option<i64> {
    match value {
        ScalarValue::TimestampMicrosecond(us, _) => *us,
        ScalarValue::Date32(days) => days.map(|days| i64::from(days) * DAY_US),
        _ => None,
    }
}
