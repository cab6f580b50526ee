// SPDX-License-Identifier: Apache-2.0
//! A store whose Parquet files are checked as they are read.
//!
//! Purpose: a bit that flipped on a disk is an error that names the file, never another number. Whatever is read of a
//! file that has checksums ([`super::sums`]) is read in whole blocks, each of which must be what was written; tails are
//! checked once and kept. Non-goals: files without checksums, whole-file reads, and anything but Parquet.

use std::error::Error as StdError;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream};
use futures::{FutureExt as _, StreamExt as _};
use moka::future::Cache;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult,
    MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMultipartOptions, PutOptions,
    PutPayload, PutResult, RenameOptions, Result,
};

use super::sums::{Found, Sums, find, place};

/// Memory for tails and checksums of files that were read. Those of a file of 64 MiB take about 50 KiB.
const KEPT_BYTES: u64 = 16 * 1024 * 1024;

/// Bytes of a file are not what was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{path}` is damaged: its bytes {from} to {to} are not what was written; restore the file from a copy, or, where it is one of a view, recompute that"
)]
pub struct Damaged {
    /// The file.
    pub path: Path,
    /// The first byte of the part that does not fit its checksum.
    pub from: u64,
    /// The byte behind it.
    pub to: u64,
}

/// Whether what failed is that a file is not what was written: asking again does not help.
pub fn is_damage(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(cause) = next {
        if cause.is::<Damaged>() {
            return true;
        }
        next = cause.source();
    }
    // The engine makes text of what kept it from reading a footer.
    let text = error.to_string();
    text.contains("` is damaged: its bytes ") && text.contains(" are not what was written")
}

/// Reads through it are checked; all else is passed on.
#[derive(Debug)]
pub(super) struct Checked {
    store: Arc<dyn ObjectStore>,
    files: Cache<Path, Known>,
}

/// What is known of a file.
#[derive(Debug, Clone)]
enum Known {
    Summed(Arc<Summed>),
    Plain,
}

/// A file with checksums.
#[derive(Debug)]
struct Summed {
    sums: Sums,
    tail: Bytes,
    meta: ObjectMeta,
}

impl Checked {
    pub(super) fn over(store: Arc<dyn ObjectStore>) -> Self {
        let weigh = |path: &Path, known: &Known| {
            let bytes = match known {
                Known::Summed(file) => file.tail.len() + 4 * file.sums.blocks.len(),
                Known::Plain => 0,
            };
            u32::try_from(bytes + path.as_ref().len() + size_of::<Summed>()).unwrap_or(u32::MAX)
        };
        let files = Cache::builder().max_capacity(KEPT_BYTES).weigher(weigh);
        Self {
            store,
            files: files.build(),
        }
    }

    /// What the file says of itself; `end` are the last bytes of it, as far as they are read.
    async fn known(&self, meta: &ObjectMeta, mut end: Bytes) -> Result<Known> {
        let (path, size) = (&meta.location, meta.size);
        let known = loop {
            match find(&end, size) {
                Found::More(bytes) => {
                    end = self.store.get_range(path, size - bytes..size).await?;
                    if end.len() as u64 != bytes {
                        return Err(damaged(path, size - bytes..size));
                    }
                }
                Found::None => break Known::Plain,
                Found::Damaged => return Err(damaged(path, size - end.len() as u64..size)),
                Found::Sums(sums) => {
                    let tail = place(size - sums.data_end).unwrap_or(end.len());
                    let tail = Bytes::copy_from_slice(&end[end.len() - tail..]);
                    let meta = meta.clone();
                    break Known::Summed(Arc::new(Summed { sums, tail, meta }));
                }
            }
        };
        self.files.insert(path.clone(), known.clone()).await;
        Ok(known)
    }

    /// The same of a file of which nothing is read yet.
    async fn known_at(&self, path: &Path) -> Result<Known> {
        match self.files.get(path).await {
            Some(known) => Ok(known),
            None => {
                let meta = self.store.head(path).await?;
                self.known(&meta, Bytes::new()).await
            }
        }
    }

    /// Reads `ranges` of a file, none of them empty or beyond its end.
    async fn read(&self, file: &Summed, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let runs = file.runs(ranges);
        let path = &file.meta.location;
        let read = match runs.is_empty() {
            true => vec![],
            false => self.store.get_ranges(path, &runs).await?,
        };
        for (run, bytes) in runs.iter().zip(&read) {
            file.check(run, bytes)?;
        }
        let of = |range: &Range<u64>| file.cut(range, &runs, &read);
        Ok(ranges.iter().map(of).collect())
    }
}

impl Summed {
    /// The whole blocks that `ranges` lie in, adjacent ones together, in order.
    fn runs(&self, ranges: &[Range<u64>]) -> Vec<Range<u64>> {
        let Sums {
            data_end,
            block_bytes,
            ..
        } = self.sums;
        let in_data = ranges.iter().filter(|range| range.start < data_end);
        let mut whole: Vec<Range<u64>> = in_data
            .map(|range| {
                let end = range.end.next_multiple_of(block_bytes).min(data_end);
                range.start / block_bytes * block_bytes..end
            })
            .collect();
        whole.sort_unstable_by_key(|range| range.start);
        let mut runs: Vec<Range<u64>> = vec![];
        for range in whole {
            match runs.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => runs.push(range),
            }
        }
        runs
    }

    fn check(&self, run: &Range<u64>, bytes: &[u8]) -> Result<()> {
        let path = &self.meta.location;
        if bytes.len() as u64 != run.end - run.start {
            return Err(damaged(path, run.clone()));
        }
        let block_bytes = self.sums.block_bytes;
        let first = place(run.start / block_bytes).unwrap_or(usize::MAX);
        let length = place(block_bytes).unwrap_or(usize::MAX);
        for (index, block) in bytes.chunks(length).enumerate() {
            if self.sums.blocks.get(first + index) != Some(&crc32fast::hash(block)) {
                let from = run.start + index as u64 * block_bytes;
                return Err(damaged(path, from..from + block.len() as u64));
            }
        }
        Ok(())
    }

    /// One of the ranges out of what was read for all of them.
    fn cut(&self, range: &Range<u64>, runs: &[Range<u64>], read: &[Bytes]) -> Bytes {
        let data_end = self.sums.data_end;
        let within = |from: u64, to: u64, bytes: &Bytes| {
            let [from, to] = [from, to].map(|at| place(at).expect("what is in memory has a place"));
            bytes.slice(from..to)
        };
        let data = (range.start < data_end).then(|| {
            let index = runs.partition_point(|run| run.end <= range.start);
            let start = runs[index].start;
            within(
                range.start - start,
                range.end.min(data_end) - start,
                &read[index],
            )
        });
        let tail = (range.end > data_end).then(|| {
            let start = range.start.max(data_end) - data_end;
            within(start, range.end - data_end, &self.tail)
        });
        match (data, tail) {
            (Some(data), Some(tail)) => {
                let mut both = BytesMut::with_capacity(data.len() + tail.len());
                both.extend_from_slice(&data);
                both.extend_from_slice(&tail);
                both.freeze()
            }
            (data, tail) => data.or(tail).unwrap_or_default(),
        }
    }

    /// Readers know how long a file is: one that is shorter was cut off.
    fn check_length(&self, range: &Range<u64>) -> Result<()> {
        match range.end > self.meta.size {
            true => Err(damaged(&self.meta.location, self.meta.size..range.end)),
            false => Ok(()),
        }
    }
}

fn damaged(path: &Path, range: Range<u64>) -> Error {
    Error::Generic {
        store: "checksums",
        source: Box::new(Damaged {
            path: path.clone(),
            from: range.start,
            to: range.end,
        }),
    }
}

/// A data file of ours. Those in a Delta log are written by others.
fn may_have_sums(path: &Path) -> bool {
    path.extension() == Some("parquet") && path.parts().all(|part| part.as_ref() != "_delta_log")
}

/// The range that `options` ask for, if they ask for no more than that.
fn plain_range(options: &GetOptions) -> Option<&GetRange> {
    let conditions = [&options.if_match, &options.if_none_match, &options.version];
    let times = [&options.if_modified_since, &options.if_unmodified_since];
    let is_plain = conditions.iter().all(|condition| condition.is_none())
        && times.iter().all(|time| time.is_none())
        && !options.head;
    options.range.as_ref().filter(|_| is_plain)
}

#[async_trait]
impl ObjectStore for Checked {
    async fn put_opts(
        &self,
        path: &Path,
        data: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.store.put_opts(path, data, options).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.store.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let range = plain_range(&options).filter(|_| may_have_sums(path));
        let Some(range) = range.cloned() else {
            return self.store.get_opts(path, options).await;
        };
        let known = match self.files.get(path).await {
            Some(known) => known,
            // The first to be read of a file is mostly its end.
            None => {
                let got = self.store.get_opts(path, options.clone()).await?;
                let (meta, at_end) = (got.meta.clone(), got.range.end == got.meta.size);
                let end = if at_end {
                    got.bytes().await?
                } else {
                    Bytes::new()
                };
                self.known(&meta, end).await?
            }
        };
        if let (Known::Summed(file), GetRange::Bounded(asked)) = (&known, &range) {
            file.check_length(asked)?;
        }
        let Known::Summed(file) = known else {
            return self.store.get_opts(path, options).await;
        };
        let asked = range.as_range(file.meta.size);
        let Some(asked) = asked.ok().filter(|asked| !asked.is_empty()) else {
            return self.store.get_opts(path, options).await;
        };
        let read = self.read(&file, std::slice::from_ref(&asked)).await?;
        let payload = stream::iter(read.into_iter().map(Ok)).boxed();
        Ok(GetResult {
            payload: GetResultPayload::Stream(payload),
            meta: file.meta.clone(),
            range: asked,
            attributes: Default::default(),
        })
    }

    async fn get_ranges(&self, path: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        if !may_have_sums(path) || ranges.iter().any(Range::is_empty) {
            return self.store.get_ranges(path, ranges).await;
        }
        match self.known_at(path).boxed().await? {
            Known::Plain => self.store.get_ranges(path, ranges).await,
            Known::Summed(file) => {
                ranges
                    .iter()
                    .try_for_each(|range| file.check_length(range))?;
                self.read(&file, ranges).await
            }
        }
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.store.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.store.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.store.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.store.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.store.rename_opts(from, to, options).await
    }
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.store)
    }
}
