// SPDX-License-Identifier: Apache-2.0
//! Appends: decode, commit, answer once durable.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use dovetail_log::decode::{self, Decoded};
use dovetail_log::embedded::{Append, EmbeddedLog, IdempotencyKey, LogError};
use dovetail_log::raw::{ArchivedDeadLetter, DeadLetters};
use dovetail_log::{DeadLetter, Envelope, Place};
use dovetail_model::{Offset, PartitionId, Position, Problem, ProblemKind};
use dovetail_serving_layer::ports::{
    AppendAnswer, AppendRequest, DeadLetterId, DeadLetterInfo, DeadLetterPage, DeadLetterQuery,
    Ingest, OnError, RecordInfo, ReplayAnswer, ReplayRequest, StillBad,
};
use dovetail_serving_layer::time::iso_us;
use parking_lot::Mutex;

use super::Node;
use super::describe::token;
use super::feed::Feed;
use super::members::STOPPED;
use super::open_stream::OpenStream;

/// How long an append waits for memory before it is refused.
const ADMIT_TIMEOUT: Duration = Duration::from_secs(10);
/// When an append is worth another try: somebody has to make room on a disk first,
const FULL_DISK_RETRY_S: u64 = 10;
/// or to look at a disk that failed, and to restart the server.
const RESTART_RETRY_S: u64 = 60;
/// Bytes of a dead letter that a list shows.
const SHOWN_BYTES: usize = 4096;
/// How long a replay waits for the speed layer to know of what was replayed before.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Dead letters that one replay reads at a time.
const REPLAY_PAGE: usize = 1000;
/// Dead letters of which a replay says why they stay.
const MOST_REASONS: usize = 10;

/// What became of a dead letter that was tried again: it is an event now, or why it is none.
pub(crate) type Tried = Result<(), String>;

#[async_trait]
impl Ingest for Node {
    async fn append(&self, stream: &str, request: AppendRequest) -> Result<AppendAnswer, Problem> {
        let open = self.stream_named(stream)?;
        match open.feed() {
            Feed::Embedded(log) => self.append_here(&open, log, request).await,
            feed @ (Feed::Kafka { appender, .. } | Feed::Elsewhere { appender, .. }) => {
                let declared = open.declared().await;
                feed.takes_events(&declared.def).await?;
                let read = feed.accumulated(open.cell());
                let began = Instant::now();
                let appended = appender.append(declared, read, request).await?;
                open.cell().meters().ingest.took(began.elapsed());
                Ok(appended)
            }
        }
    }

    async fn dead_letters(
        &self,
        stream: &str,
        query: DeadLetterQuery,
    ) -> Result<DeadLetterPage, Problem> {
        let open = self.stream_named(stream)?;
        let page = pending_letters(&open, query.cursor, query.limit, &|_| true).await?;
        let last = page.letters.last().map(id);
        Ok(DeadLetterPage {
            dead_letters: page.letters.iter().map(info).collect(),
            cursor: last.filter(|_| page.more),
            total: page.total,
        })
    }

    async fn replay_dead_letters(
        &self,
        stream: &str,
        request: ReplayRequest,
    ) -> Result<ReplayAnswer, Problem> {
        let open = self.stream_named(stream)?;
        let def = open.def();
        if open.feed().appender().is_some() {
            check_reads(&open, self.0.config.clock.now().timestamp_millis())?;
            open.feed().takes_events(&def).await?;
        }
        let _one_at_a_time = open.replaying().lock().await;
        // What another replay has settled is pending no more, once the cut holds it.
        let durable = match open.feed().appender() {
            None => open.cell().durable(),
            Some(appender) => appender.end(&def).await?,
        };
        settle(&open, &durable).await?;
        // What dies while the replay goes on waits for the next one.
        let end = match open.feed() {
            Feed::Embedded(_) => open.cell().durable(),
            // A letter that is not archived is read again after a crash, perhaps as an event by now.
            Feed::Kafka { .. } => open.archive_durable().await?,
            Feed::Elsewhere { .. } => open.cell().load().raw().archived().clone(),
        };
        let ids: Option<BTreeSet<DeadLetterId>> = request.ids.map(BTreeSet::from_iter);
        if let Some(ids) = &ids {
            check_pending(&open, ids).await?;
        }
        let chosen = |letter: DeadLetterId| {
            end.is_past(letter.partition, letter.offset)
                && ids.as_ref().is_none_or(|ids| ids.contains(&letter))
        };
        let mut answer = ReplayAnswer {
            accepted: 0,
            rejected: 0,
            position: token(&open.def(), &end),
            reasons: vec![],
        };
        let mut cursor = None;
        loop {
            let page = pending_letters(&open, cursor, REPLAY_PAGE, &chosen).await?;
            let tried = self.replay_page(&open, &page.letters).await?;
            let accepted = tried.iter().filter(|tried| tried.is_ok()).count();
            answer.accepted += accepted as u64;
            answer.rejected += (tried.len() - accepted) as u64;
            let bad = page.letters.iter().zip(tried);
            let bad = bad.filter_map(|(letter, tried)| {
                let (id, reason) = (id(letter), tried.err()?);
                Some(StillBad { id, reason })
            });
            let room = MOST_REASONS - answer.reasons.len();
            answer.reasons.extend(bad.take(room));
            cursor = page.letters.last().map(id);
            if !page.more || cursor.is_none() {
                break;
            }
        }
        answer.position = token(&open.def(), &open.cell().durable());
        Ok(answer)
    }
}

impl Node {
    /// Appends to the embedded log.
    async fn append_here(
        &self,
        open: &OpenStream,
        log: &EmbeddedLog,
        request: AppendRequest,
    ) -> Result<AppendAnswer, Problem> {
        self.admit(open).await?;
        let meter = &open.cell().meters().ingest;
        let _at_work = meter.busy();
        let began = Instant::now();
        let key = request.idempotency_key.map(|key| IdempotencyKey {
            key,
            body_hash: *blake3::hash(&request.body).as_bytes(),
        });
        let held = open.decoder().await;
        let decoder = Arc::clone(&held);
        let (format, body, origin) = (request.format, request.body, request.origin);
        let on_error = on_error(request.on_error);
        let decoding =
            tokio::task::spawn_blocking(move || decoder.decode(format, &body, on_error, &origin));
        let Decoded {
            events,
            dead_letters,
        } = decoding
            .await
            .map_err(Problem::internal)?
            .map_err(|error| error.problem())?;
        let append = Append {
            events,
            dead_letters,
            key,
            replayed: vec![],
        };
        let appended = log.append(append).await;
        let appended = appended.map_err(|error| self.log_problem(open, &error))?;
        meter.succeeds();
        drop(held);
        open.cell()
            .note_acknowledged(&Position::single(appended.next));
        meter.took(began.elapsed());
        if !appended.duplicate {
            meter.count(appended.accepted);
        }
        Ok(AppendAnswer {
            accepted: appended.accepted,
            rejected: appended.rejected,
            position: token(&open.def(), &Position::single(appended.next)),
            duplicate: appended.duplicate,
        })
    }

    pub(crate) fn stream_named(&self, name: &str) -> Result<Arc<OpenStream>, Problem> {
        let state = self.0.catalog.state();
        let stream = state
            .stream_named(name)
            .ok_or_else(|| Problem::not_found("stream", name))?;
        let closed = || {
            Problem::new(
                ProblemKind::Unavailable,
                format!("stream `{name}` is not open yet"),
            )
            .with("retry_after_s", 1)
        };
        self.0.streams.get(&stream.def.id).ok_or_else(closed)
    }

    /// Of what the log refuses; where its disk is at fault, with its directory, and noted for whoever asks how things
    /// stand.
    fn log_problem(&self, open: &OpenStream, error: &LogError) -> Problem {
        let problem = Problem::new(error.kind(), error.to_string());
        let retry_after_s = match error {
            LogError::DiskFull { .. } | LogError::NoSegment { .. } => FULL_DISK_RETRY_S,
            LogError::CommitFailed { .. } | LogError::Poisoned { .. } => RESTART_RETRY_S,
            _ => return problem,
        };
        let directory = self.0.data_dir.log(&open.def().id);
        let directory = directory.display();
        let detail = format!("the log in `{directory}`: {error}");
        open.cell().meters().ingest.fails(&detail);
        Problem { detail, ..problem }
            .with("directory", directory.to_string())
            .with("retry_after_s", retry_after_s)
    }

    /// Waits below the hard memory limit.
    async fn admit(&self, open: &OpenStream) -> Result<(), Problem> {
        let memory = &self.0.memory;
        tokio::time::timeout(ADMIT_TIMEOUT, memory.admit()).await.map_err(|_| {
            Problem::new(
                ProblemKind::Busy,
                format!(
                    "the speed layer holds {} MiB, its limit is {}{}; try stream `{}` again, or start the server with more --speed-memory",
                    memory.used_bytes() >> 20,
                    memory.hard_bytes() >> 20,
                    self.memory_holder().map(|holder| format!(": {holder}")).unwrap_or_default(),
                    open.def().name
                ),
            )
            .with("limited_by", "speed-layer memory")
            .with("retry_after_s", 5)
        })
    }

    /// Decodes dead letters under the present schema; what decodes becomes events, and settles them. What became of each.
    async fn replay_page(
        &self,
        open: &OpenStream,
        page: &[ArchivedDeadLetter],
    ) -> Result<Vec<Tried>, Problem> {
        match open.feed() {
            Feed::Embedded(log) => self.replay_here(open, log, page).await,
            feed @ (Feed::Kafka { appender, .. } | Feed::Elsewhere { appender, .. }) => {
                let declared = open.declared().await;
                // Under an older declaration it would be a dead letter once more, and its key be used up.
                feed.takes_events(&declared.def).await?;
                let (tried, end) = appender.replay(declared, page.to_vec()).await?;
                settle(open, &end).await?;
                Ok(tried)
            }
        }
    }

    /// The same for the embedded log: the events are one append, which also settles the letters.
    async fn replay_here(
        &self,
        open: &OpenStream,
        log: &EmbeddedLog,
        page: &[ArchivedDeadLetter],
    ) -> Result<Vec<Tried>, Problem> {
        let held = open.decoder().await;
        let decoder = Arc::clone(&held);
        let letters: Vec<(Offset, DeadLetter)> =
            page.iter().map(|l| (l.offset, l.letter.clone())).collect();
        let decoding = tokio::task::spawn_blocking(move || {
            let mut events = vec![];
            let mut settled = vec![];
            let mut tried: Vec<Tried> = vec![];
            for (offset, letter) in letters {
                tried.push(decoder.decode_letter(&letter).map(|event| {
                    events.push(event);
                    settled.push(offset);
                }));
            }
            (events, settled, tried)
        });
        let (events, settled, tried) = decoding.await.map_err(Problem::internal)?;
        if settled.is_empty() {
            return Ok(tried);
        }
        let schema = open.def().schema.declared();
        let events = arrow::compute::concat_batches(&schema, &events).map_err(Problem::internal)?;
        let append = Append {
            events,
            dead_letters: vec![],
            key: None,
            replayed: settled,
        };
        let appended = log.append(append).await;
        let appended = appended.map_err(|error| self.log_problem(open, &error))?;
        open.cell()
            .note_acknowledged(&Position::single(appended.next));
        Ok(tried)
    }
}

/// That the stream reads its topic: what goes to it comes back to settle letters.
///
/// # Errors
/// Why it does not.
fn check_reads(open: &OpenStream, now_ms: i64) -> Result<(), Problem> {
    let def = open.def();
    let Some(source) = open.feed().info(&def, now_ms) else {
        return Ok(());
    };
    let (kind, goes_on) = match source.phase.as_str() {
        STOPPED => (ProblemKind::Conflict, "once that is settled"),
        "retrying" => (ProblemKind::Unavailable, "when it reads again"),
        _ => return Ok(()),
    };
    let reason = source.reason.unwrap_or_default();
    let detail = format!(
        "dead letters of stream `{}` can be replayed {goes_on}, it is {}: {reason}",
        def.name, source.phase
    );
    Err(Problem::new(kind, detail).with("phase", source.phase))
}

/// Waits until the cut of a stream covers `position`: then it holds what was settled up to there.
async fn settle(open: &OpenStream, position: &Position) -> Result<(), Problem> {
    let cell = open.cell();
    if cell.is_elsewhere() {
        // The marks that other processes read are seen here once they are archived.
        open.archive_durable().await?;
    } else {
        let settled = tokio::time::timeout(SETTLE_TIMEOUT, cell.wait_for(position));
        // Whether it did is seen below.
        let _ = settled.await;
    }
    if cell.load().position().covers(position) {
        return Ok(());
    }
    let name = &open.def().name;
    Err(Problem::new(
        ProblemKind::Unavailable,
        format!("the speed layer of stream `{name}` is behind: try the replay again"),
    )
    .with("retry_after_s", 5))
}

fn id(letter: &ArchivedDeadLetter) -> DeadLetterId {
    DeadLetterId {
        partition: letter.partition,
        offset: letter.offset,
    }
}

fn info(letter: &ArchivedDeadLetter) -> DeadLetterInfo {
    let bytes = &letter.letter.bytes;
    let is_whole = bytes.len() <= SHOWN_BYTES && str::from_utf8(bytes).is_ok();
    DeadLetterInfo {
        id: id(letter),
        reason: letter.letter.reason.clone(),
        line: letter.letter.line,
        column: letter.letter.column.clone(),
        format: letter.letter.format,
        origin: letter.letter.origin.clone(),
        arrived_at: iso_us(letter.arrived_at_us),
        text: String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN_BYTES)]).into_owned(),
        base64: (!is_whole).then(|| BASE64_STANDARD.encode(bytes)),
        record: letter.letter.envelope.as_ref().map(record),
        bytes: bytes.len() as u64,
    }
}

fn record(envelope: &Envelope) -> RecordInfo {
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    let headers = envelope.headers.iter();
    RecordInfo {
        key: envelope.key.as_ref().map(text),
        timestamp: envelope
            .timestamp_ms
            .and_then(|millis| millis.checked_mul(1000))
            .map(iso_us),
        headers: headers
            .map(|(name, value)| (name.clone(), value.as_ref().map(text)))
            .collect(),
    }
}

/// Refuses a replay that names what does not wait for one.
async fn check_pending(open: &OpenStream, ids: &BTreeSet<DeadLetterId>) -> Result<(), Problem> {
    let found = Mutex::new(BTreeSet::new());
    let wanted = |letter: DeadLetterId| {
        let wanted = ids.contains(&letter);
        if wanted {
            found.lock().insert(letter);
        }
        wanted
    };
    pending_letters(open, None, 0, &wanted).await?;
    let found = found.into_inner();
    match ids.difference(&found).next() {
        Some(missing) => Err(Problem::not_found("dead letter", missing)),
        None => Ok(()),
    }
}

/// Bytes of dead letters from the tail that one page holds at most, unless a single one is larger.
const TAIL_PAGE_BYTES: usize = 8 * 1024 * 1024;

/// Some of the dead letters that wait for a replay and are wanted, oldest first: those in the archive and those
/// still in the tail. At most `limit` of them behind `after`, and fewer when they are large.
pub(crate) async fn pending_letters(
    open: &OpenStream,
    after: Option<DeadLetterId>,
    limit: usize,
    wanted: &(dyn Fn(DeadLetterId) -> bool + Sync),
) -> Result<DeadLetters, Problem> {
    // The cut first: what is archived meanwhile is seen twice, and told apart by its place.
    let cut = open.cell().load();
    let replayed = cut.tail().iter().flat_map(|batch| &batch.replayed);
    let replayed: HashSet<Place> = replayed.copied().collect();
    let waits = |partition: PartitionId, offset: Offset| {
        !replayed.contains(&(partition, offset)) && wanted(DeadLetterId { partition, offset })
    };
    let place = after.map(|after| (after.partition, after.offset));
    let page = open
        .archiver()
        .raw()
        .dead_letters(place, limit, &waits)
        .await;
    let mut page = page.map_err(|error| Problem::new(error.kind(), error.to_string()))?;
    let mut bytes: usize = page.letters.iter().map(|l| l.letter.size()).sum();
    for batch in cut.tail().iter() {
        for ((partition, offset), letter) in &batch.dead_letters {
            let (partition, offset) = (*partition, *offset);
            if page.archived.is_past(partition, offset) || !waits(partition, offset) {
                continue;
            }
            page.total += 1;
            if place.is_some_and(|after| (partition, offset) <= after) {
                continue;
            }
            bytes += letter.size();
            let fits = page.letters.is_empty() || bytes <= TAIL_PAGE_BYTES;
            page.more |= page.letters.len() >= limit || !fits;
            if !page.more {
                page.letters.push(ArchivedDeadLetter {
                    partition,
                    offset,
                    arrived_at_us: batch.arrived_at_us,
                    letter: letter.clone(),
                });
            }
        }
    }
    Ok(page)
}

/// In the words of the decoder.
pub(crate) fn on_error(on_error: OnError) -> decode::OnError {
    match on_error {
        OnError::Reject => decode::OnError::Reject,
        OnError::DeadLetter => decode::OnError::DeadLetter,
    }
}
