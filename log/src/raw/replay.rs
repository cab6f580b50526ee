// SPDX-License-Identifier: Apache-2.0
//! A view of an object store for Delta's log replay: listings are sorted, what is read is checked.
//!
//! The replay expects listings in the order of names, as object stores give them; it sorts only for
//! `file:` URLs, which ours are not. Local directories list in any order, so this sorts for every store. Only
//! Delta logs are listed through it, and those are short. A commit or a checkpoint that is not what was written fails its
//! read: the replay would take another number as it is, or panic.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;

use super::delta::damage::{check_checkpoint, check_commit, is_checkpoint, is_commit};

/// So many checkpoints are remembered as right.
const MOST_CHECKED: usize = 64;

/// Sorts listings, checks what is read, passes everything else on.
#[derive(Debug)]
pub(super) struct ReplayStore {
    store: Arc<dyn ObjectStore>,
    /// Checkpoints that are what was written: they are read in parts.
    checked: Mutex<HashSet<Path>>,
}

impl ReplayStore {
    pub(super) fn over(store: Arc<dyn ObjectStore>) -> Self {
        Self {
            store,
            checked: Mutex::default(),
        }
    }

    async fn check_checkpoint(&self, path: &Path) -> Result<()> {
        if self.checked.lock().contains(path) {
            return Ok(());
        }
        let checked = check_checkpoint(self.store.as_ref(), path).await?;
        checked.map_err(|reason| damaged(path, &reason))?;
        let mut known = self.checked.lock();
        if known.len() >= MOST_CHECKED {
            known.clear();
        }
        known.insert(path.clone());
        Ok(())
    }
}

fn damaged(path: &Path, reason: &str) -> Error {
    Error::Generic {
        store: "Delta log",
        source: format!("`{path}` is damaged: {reason}").into(),
    }
}

impl fmt::Display for ReplayStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} for replay", self.store)
    }
}

fn sorted(
    listing: BoxStream<'static, Result<ObjectMeta>>,
) -> BoxStream<'static, Result<ObjectMeta>> {
    let sorted = async {
        let mut objects: Vec<ObjectMeta> = listing.try_collect().await?;
        objects.sort_unstable_by(|a, b| a.location.cmp(&b.location));
        Ok::<_, Error>(stream::iter(objects.into_iter().map(Ok)))
    };
    stream::once(sorted).try_flatten().boxed()
}

#[async_trait]
impl ObjectStore for ReplayStore {
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
        let is_whole = options.range.is_none() && !options.head;
        if !options.head && is_checkpoint(path) {
            self.check_checkpoint(path).await?;
        }
        let read = self.store.get_opts(path, options).await?;
        if !is_whole || !is_commit(path) {
            return Ok(read);
        }
        let (meta, range, attributes) = (
            read.meta.clone(),
            read.range.clone(),
            read.attributes.clone(),
        );
        let bytes = read.bytes().await?;
        check_commit(&bytes).map_err(|reason| damaged(path, &reason))?;
        let bytes = stream::once(async { Ok(bytes) }).boxed();
        Ok(GetResult {
            payload: GetResultPayload::Stream(bytes),
            meta,
            range,
            attributes,
        })
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.store.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        sorted(self.store.list(prefix))
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        sorted(self.store.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let mut list = self.store.list_with_delimiter(prefix).await?;
        list.objects
            .sort_unstable_by(|a, b| a.location.cmp(&b.location));
        list.common_prefixes.sort_unstable();
        Ok(list)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.store.copy_opts(from, to, options).await
    }
}
