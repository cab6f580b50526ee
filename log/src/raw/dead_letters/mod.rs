// SPDX-License-Identifier: Apache-2.0
//! The second Delta table of a stream: events that could not be decoded, and which of them were replayed.
//!
//! Purpose: keep dead letters for good, beside the events. Collaborators: [`super::RawLog`], which appends a
//! span's dead letters *before* it commits the span's events. Invariants: append-only; each dead letter is in
//! the table once, because an append leaves out what lies before the table's own position; a mark (a row with
//! `replayed = true`) settles the dead letter of its offset, and settling twice changes nothing; the table
//! comes into being with the first dead letter, or when another data directory takes the store; reading takes memory for one page and for the places of the
//! pending ones, not for their bytes. Non-goals: decoding again.

mod rows;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::error::Result as DfResult;
use datafusion::execution::TaskContext;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, lit};
use datafusion::physical_expr::{PhysicalExpr, conjunction};
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::SessionConfig;
use deltalake_core::kernel::{Action, Add};
use dovetail_model::{Offset, PartitionId, Position, Span};
use futures::{TryStreamExt, stream};
use object_store::path::Path;
use serde::{Deserialize, Serialize};

use super::access::Access;
use super::delta::{Changes, CommitOutcome, DeltaCommit, DeltaLog, LoadedTable};
use super::nonce::nonce;
use super::schema::{Fit, fit, union};
use super::segment::{remove_of, tag_of, tags_with};
use super::stats::delta_stats;
use super::{MAX_TRIES, RawError};
use crate::parquet_files::{
    FileToScan, ParquetScan, WriterOptions, WrittenFile, parquet_scan, write_parquet,
};
use crate::{CommittedBatch, DeadLetter};
use rows::RowBuilder;

/// A dead letter's identity.
type Key = (PartitionId, Offset);

/// A dead letter that is archived and not replayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchivedDeadLetter {
    /// Its partition.
    pub partition: PartitionId,
    /// Its offset.
    pub offset: Offset,
    /// When it was committed, microseconds since the Unix epoch.
    pub arrived_at_us: i64,
    /// The event as it came, and what was wrong with it.
    pub letter: DeadLetter,
}

/// Some of the archived dead letters of a stream that were not replayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetters {
    /// By partition and offset.
    pub letters: Vec<ArchivedDeadLetter>,
    /// Whether more of those that were asked for lie behind the last one.
    pub more: bool,
    /// How many there are of those that were wanted, wherever the page lies.
    pub total: u64,
    /// Dead letters from here on are not archived.
    pub archived: Position,
}

/// Bytes of dead letters that one page holds at most, unless a single one is larger.
const PAGE_BYTES: usize = 8 * 1024 * 1024;
/// Rows that are read at a time.
const ROWS_AT_A_TIME: usize = 64;

/// What an `Add` of this table says besides Delta's own fields.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Tag {
    rows: u64,
    /// Every dead letter before it is in this file or in one before.
    position: Position,
}

#[derive(Debug, Clone)]
struct LetterFile {
    path: Path,
    bytes: u64,
    tag: Tag,
}

/// The table and what is known of it. Its owner lets one task at a time use it.
#[derive(Debug)]
pub(super) struct DeadLetterTable {
    access: Access,
    log: DeltaLog,
    /// Its newest version; none while there is no table.
    version: Option<u64>,
    files: Vec<LetterFile>,
    /// Gives the table the columns that it lacks: with the next commit, if an older program made it.
    widening: Option<Action>,
    /// Dead letters before it are in the table.
    position: Position,
    /// Those not replayed, a few dozen bytes for each; read when first asked for.
    pending: Option<BTreeSet<Key>>,
    /// Set until the table is loaded, and while what it gained since is not known.
    stale: bool,
}

impl DeadLetterTable {
    pub(super) fn new(access: Access, log: DeltaLog) -> Self {
        Self {
            access,
            log,
            version: None,
            files: Vec::new(),
            widening: None,
            position: Position::zero(),
            pending: None,
            stale: true,
        }
    }

    /// Others may have written to the table: it is looked at before it is used.
    pub(super) fn outdated(&mut self) {
        self.stale = true;
    }

    /// Where the table is.
    pub(super) fn log(&self) -> &DeltaLog {
        &self.log
    }

    /// Claims the table for our epoch, also where there is none yet: whoever had the store before may be about to
    /// create it.
    pub(super) async fn claim(&self) -> Result<(), RawError> {
        for _ in 0..MAX_TRIES {
            if self.access.claim_table(&self.log).await?.is_some() {
                return Ok(());
            }
            self.create_table().await?;
        }
        Err(self.contended())
    }

    /// Up to where its dead letters are in the table.
    pub(super) async fn position(&mut self) -> Result<Position, RawError> {
        self.refresh().await?;
        Ok(self.position.clone())
    }

    /// Paths of its files, and its newest version; none while there is no table.
    pub(super) async fn state(&mut self) -> Result<(Option<u64>, Vec<Path>), RawError> {
        self.refresh().await?;
        let paths = self.files.iter().map(|file| file.path.clone());
        Ok((self.version, paths.collect()))
    }

    /// Appends the dead letters and marks of `batches`, which tile `span`, as far as they lie behind the
    /// table's position: a span that was appended before, whole or in part, is not appended twice.
    pub(super) async fn append(
        &mut self,
        span: &Span,
        batches: &[Arc<CommittedBatch>],
    ) -> Result<(), RawError> {
        if batches
            .iter()
            .all(|batch| batch.dead_letters.is_empty() && batch.replayed.is_empty())
        {
            return Ok(());
        }
        self.refresh().await?;
        let nonce = nonce();
        for _ in 0..MAX_TRIES {
            let mut news = News::default();
            for batch in batches {
                news.collect(batch, &self.position);
            }
            if news.keys.is_empty() {
                return Ok(());
            }
            let rows = stream::iter([Ok(news.rows.finish())]);
            let file = self.write(rows).await?;
            let position = self.position.join(span.to());
            let committed = self.commit(file, position, &[], &nonce).await?;
            if committed {
                if let Some(pending) = &mut self.pending {
                    settle(pending, news.keys);
                }
                return Ok(());
            }
        }
        Err(self.contended())
    }

    /// Some of the dead letters before `archived` that are not replayed and that `wanted` wants: the first `limit`
    /// behind `after` by partition and offset, fewer when those take more than [`PAGE_BYTES`].
    pub(super) async fn page(
        &mut self,
        archived: &Position,
        after: Option<Key>,
        limit: usize,
        wanted: &(dyn Fn(PartitionId, Offset) -> bool + Sync),
    ) -> Result<DeadLetters, RawError> {
        let mut total = 0;
        let mut page: BTreeSet<Key> = BTreeSet::new();
        let mut more = false;
        for key in self.pending().await? {
            if !archived.is_past(key.0, key.1) || !wanted(key.0, key.1) {
                continue;
            }
            total += 1;
            if after.is_some_and(|after| *key <= after) {
                continue;
            }
            if page.len() < limit {
                page.insert(*key);
            } else {
                more = true;
            }
        }
        let letters = self.letters(&page).await?;
        more |= letters.len() < page.len();
        Ok(DeadLetters {
            letters,
            more,
            total,
            archived: archived.clone(),
        })
    }

    /// The dead letters at `page`, or the first of them, at least one, when they take too much.
    async fn letters(&self, page: &BTreeSet<Key>) -> Result<Vec<ArchivedDeadLetter>, RawError> {
        let offsets = || page.iter().map(|(_, offset)| *offset);
        let (Some(first), Some(last)) = (offsets().min(), offsets().max()) else {
            return Ok(Vec::new());
        };
        let mut letters: BTreeMap<Key, ArchivedDeadLetter> = BTreeMap::new();
        let (mut bytes, mut found) = (0, 0);
        // The first one that had no place: none behind it may have one, in whatever order they come.
        let mut end: Option<Key> = None;
        self.read(None, Some(between(first, last)), |batch| {
            for letter in rows::letters(batch, |key| page.contains(key))? {
                found += 1;
                let key = (letter.partition, letter.offset);
                if end.is_some_and(|end| key > end) {
                    continue;
                }
                bytes += letter.letter.size();
                letters.insert(key, letter);
                while bytes > PAGE_BYTES
                    && letters.len() > 1
                    && let Some((key, dropped)) = letters.pop_last()
                {
                    bytes -= dropped.letter.size();
                    end = Some(key);
                }
            }
            Ok(())
        })
        .await?;
        if found < page.len() {
            return Err(self.hole(format!(
                "{} dead letters should be between offsets {first} and {last}, but {found} are",
                page.len(),
            )));
        }
        Ok(letters.into_values().collect())
    }

    /// Merges all files into one when there are at least `min_files`; the rows stay as they are. Answers how
    /// many files were merged.
    pub(super) async fn compact(&mut self, min_files: usize) -> Result<usize, RawError> {
        self.refresh().await?;
        if self.files.len() < min_files.max(2) {
            return Ok(0);
        }
        let rows = self
            .plan(None, None)
            .and_then(|plan| execute_stream(plan, self.reading()));
        let rows = rows.map_err(RawError::data(self.log.root()))?;
        let file = self.write(rows).await?;
        let expected: u64 = self.files.iter().map(|file| file.tag.rows).sum();
        if file.rows != expected {
            let found = file.rows;
            return Err(self.hole(format!("its files hold {found} rows, not {expected}")));
        }
        let old = self.files.clone();
        let position = self.position.clone();
        let committed = self.commit(file, position, &old, &nonce()).await?;
        Ok(if committed { old.len() } else { 0 })
    }

    async fn pending(&mut self) -> Result<&BTreeSet<Key>, RawError> {
        self.refresh().await?;
        if self.pending.is_none() {
            let mut keys = Vec::new();
            self.read(Some(rows::KEY_COLUMNS.to_vec()), None, |batch| {
                keys.extend(rows::keys(batch)?);
                Ok(())
            })
            .await?;
            // A mark settles its letter in whatever order the files were read.
            keys.sort_by_key(|(_, replayed)| *replayed);
            let mut pending = BTreeSet::new();
            settle(&mut pending, keys);
            self.pending = Some(pending);
        }
        Ok(self.pending.as_ref().expect("read just now"))
    }

    /// Looks at the table unless what we know of it is current.
    async fn refresh(&mut self) -> Result<(), RawError> {
        if !self.stale {
            return Ok(());
        }
        let changes = match self.version {
            Some(known) => self.log.changes_since(known).await?,
            None => None,
        };
        self.catch_up(changes).await
    }

    /// Takes over `changes` of what we know of the table, or loads it when they do not tell.
    async fn catch_up(&mut self, changes: Option<Changes>) -> Result<(), RawError> {
        let Some(changes) = changes else {
            return self.load().await;
        };
        self.access.stays_ours(self.log.root(), &changes)?;
        let mut files = self.files.clone();
        files.retain(|file| !changes.touches(&file.path));
        self.know(Some(changes.version()), files, changes.adds())?;
        if changes.touch_files() {
            self.pending = None;
        }
        Ok(())
    }

    async fn load(&mut self) -> Result<(), RawError> {
        let loaded = self.log.load().await?;
        if let Some(table) = &loaded {
            self.access.is_claimed(self.log.root(), table).await?;
        }
        self.widening = match &loaded {
            Some(table) => self.widening(table)?,
            None => None,
        };
        let version = loaded.as_ref().map(|table| table.version());
        let adds: Vec<Add> = loaded.iter().flat_map(|table| table.files()).collect();
        self.know(version, Vec::new(), &adds)?;
        self.pending = None;
        Ok(())
    }

    /// The table consists of `files` and `adds` at `version`.
    fn know<'a>(
        &mut self,
        version: Option<u64>,
        mut files: Vec<LetterFile>,
        adds: impl IntoIterator<Item = &'a Add>,
    ) -> Result<(), RawError> {
        for add in adds {
            files.push(LetterFile {
                path: self.log.data_path(&add.path),
                bytes: add.size.unsigned_abs(),
                tag: tag_of(add).map_err(|reason| self.hole(reason))?,
            });
        }
        let positions = files.iter().map(|file| &file.tag.position);
        self.position = positions.fold(Position::zero(), |all, one| all.join(one));
        self.files = files;
        self.version = version;
        self.stale = false;
        Ok(())
    }

    fn widening(&self, table: &LoadedTable) -> Result<Option<Action>, RawError> {
        let (held, rows) = (self.log.arrow_schema(table.metadata())?, rows::schema());
        let fit = fit(&held, &rows).map_err(|reason| RawError::Schema {
            table: self.log.root().clone(),
            reason,
        })?;
        if fit == Fit::Fits {
            return Ok(None);
        }
        let schema = union(&held, &rows);
        Ok(Some(self.log.with_schema(table.metadata(), &schema)?))
    }

    async fn write<S>(&self, rows: S) -> Result<WrittenFile, RawError>
    where
        S: futures::Stream<Item = DfResult<RecordBatch>> + Send,
    {
        let store = Arc::clone(&self.access.store);
        let path = self.log.data_path(&format!("{}.parquet", nonce()));
        write_parquet(store, path, rows::schema(), &WriterOptions::default(), rows)
            .await
            .map_err(RawError::data(self.log.root()))
    }

    /// Puts `file`, behind which the table stands at `position`, in the place of `old`. False when another
    /// writer was faster: what it did is known then.
    async fn commit(
        &mut self,
        file: WrittenFile,
        position: Position,
        old: &[LetterFile],
        nonce: &str,
    ) -> Result<bool, RawError> {
        let base = match self.version {
            Some(version) => version,
            None => match self.create().await? {
                Some(version) => version,
                None => return Ok(false),
            },
        };
        let now_ms = self.access.clock.now().timestamp_millis();
        let tag = Tag {
            rows: file.rows,
            position: position.clone(),
        };
        let add = Add {
            path: file.path.filename().unwrap_or_default().to_owned(),
            size: file.bytes.cast_signed(),
            modification_time: now_ms,
            data_change: old.is_empty(),
            stats: Some(delta_stats(&file, &rows::schema())),
            tags: Some(tags_with(&tag)),
            ..Add::default()
        };
        let removes = old
            .iter()
            .map(|file| Action::Remove(remove_of(&file.path, file.bytes, now_ms)));
        let commit = DeltaCommit {
            operation: if old.is_empty() { "WRITE" } else { "OPTIMIZE" },
            actions: self
                .widening
                .clone()
                .into_iter()
                .chain(removes)
                .chain([Action::Add(add)])
                .collect(),
            transactions: self.access.transactions(&self.position, &position),
            info: HashMap::new(),
            nonce: nonce.to_owned(),
        };
        self.stale = true;
        match self.log.commit(base, commit).await? {
            CommitOutcome::Taken(by) => {
                let changes = match self.version {
                    Some(known) => self.log.changes_with(known, &by).await?,
                    None => None,
                };
                self.catch_up(changes).await?;
                Ok(false)
            }
            CommitOutcome::Committed(version) => {
                if !old.is_empty() {
                    self.files.clear();
                }
                self.files.push(LetterFile {
                    path: file.path,
                    bytes: file.bytes,
                    tag,
                });
                self.version = Some(version);
                self.widening = None;
                self.position = position;
                self.stale = false;
                Ok(true)
            }
        }
    }

    /// Creates the table. None when another writer was faster: the table is loaded again then.
    async fn create(&mut self) -> Result<Option<u64>, RawError> {
        self.stale = true;
        match self.create_table().await? {
            CommitOutcome::Committed(version) => Ok(Some(version)),
            CommitOutcome::Taken(_) => {
                self.load().await?;
                Ok(None)
            }
        }
    }

    async fn create_table(&self) -> Result<CommitOutcome, RawError> {
        let name = format!("dead letters of {}", self.access.stream);
        let (schema, claim) = (rows::schema(), self.access.claim());
        let created = self.log.create(&name, &schema, true, claim, nonce());
        Ok(created.await?)
    }

    async fn read(
        &self,
        columns: Option<Vec<usize>>,
        predicate: Option<Arc<dyn PhysicalExpr>>,
        mut each: impl FnMut(&RecordBatch) -> Result<(), arrow::error::ArrowError>,
    ) -> Result<(), RawError> {
        let failed = RawError::data(self.log.root());
        let plan = self.plan(columns, predicate).map_err(&failed)?;
        let mut batches = execute_stream(plan, self.reading()).map_err(&failed)?;
        while let Some(batch) = batches.try_next().await.map_err(&failed)? {
            each(&batch).map_err(|error| failed(error.into()))?;
        }
        Ok(())
    }

    /// Where dead letters are read: few rows at a time, because each may be large.
    fn reading(&self) -> Arc<TaskContext> {
        let config = SessionConfig::new().with_batch_size(ROWS_AT_A_TIME);
        let context = TaskContext::default()
            .with_session_config(config)
            .with_runtime(self.access.context.runtime_env());
        Arc::new(context)
    }

    fn plan(
        &self,
        columns: Option<Vec<usize>>,
        predicate: Option<Arc<dyn PhysicalExpr>>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let files = self
            .files
            .iter()
            .map(|file| FileToScan::whole(file.path.clone(), file.bytes))
            .collect::<Vec<_>>();
        parquet_scan(ParquetScan {
            files: &files,
            file_schema: rows::schema(),
            projection: columns,
            dictionaries: None,
            predicate,
            exact: true,
            target_partitions: 1,
        })
    }

    fn hole(&self, reason: String) -> RawError {
        RawError::Hole {
            table: self.log.root().clone(),
            reason,
        }
    }

    fn contended(&self) -> RawError {
        RawError::Contended {
            table: self.log.root().clone(),
            tries: MAX_TRIES,
        }
    }
}

/// Rows to append, and what they are about: a dead letter, or with `true` a mark.
#[derive(Default)]
struct News {
    rows: RowBuilder,
    keys: Vec<(Key, bool)>,
}

impl News {
    /// Adds what `batch` tells that lies behind `known`.
    fn collect(&mut self, batch: &CommittedBatch, known: &Position) {
        for (key, letter) in &batch.dead_letters {
            if !known.is_past(key.0, key.1) {
                self.rows.letter(*key, batch.arrived_at_us, letter);
                self.keys.push((*key, false));
            }
        }
        // Marks lie before their batch; the batch's own place says whether they are in the table.
        if !known.covers(batch.span.to()) {
            for key in &batch.replayed {
                self.rows.mark(*key, batch.arrived_at_us);
                self.keys.push((*key, true));
            }
        }
    }
}

fn settle(pending: &mut BTreeSet<Key>, keys: Vec<(Key, bool)>) {
    for (key, replayed) in keys {
        if replayed {
            pending.remove(&key);
        } else {
            pending.insert(key);
        }
    }
}

/// Rows whose offset is in `[first, last]`.
fn between(first: Offset, last: Offset) -> Arc<dyn PhysicalExpr> {
    let bound = |operator, offset: Offset| -> Arc<dyn PhysicalExpr> {
        let schema = rows::schema();
        let name = schema.field(rows::OFFSET_COLUMN).name();
        let column = Arc::new(Column::new(name, rows::OFFSET_COLUMN));
        Arc::new(BinaryExpr::new(
            column,
            operator,
            lit(offset.0.cast_signed()),
        ))
    };
    conjunction([bound(Operator::GtEq, first), bound(Operator::LtEq, last)])
}
