// SPDX-License-Identifier: Apache-2.0
//! A store in memory whose answers cannot be trusted, and that lists in an unusual order as directories do.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// What happens to one put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is done and reported as failed.
    FailAfterPut,
    /// It is not done and reported as failed.
    FailBeforePut,
    /// It is done and reported as `AlreadyExists`, as when the store retries by itself.
    ExistsAfterPut,
    /// It is done and reported as failed, and the next read fails.
    FailAfterPutAndRead,
    /// It is not done and reported as failed, and the next read fails.
    FailBeforePutAndRead,
    /// It is reported as failed and done just before the next put of that path.
    PutLater,
}

#[derive(Debug, Default)]
struct State {
    armed: Option<(String, Fault)>,
    fired: bool,
    fail_read: bool,
    held: Option<(usize, Held)>,
    late: Option<(Path, PutPayload, PutOptions)>,
}

/// A read that is held up.
#[derive(Debug, Clone, Default)]
pub(crate) struct Held {
    /// Told when it is there.
    pub(crate) is_there: Arc<Notify>,
    /// Lets it go on.
    pub(crate) goes_on: Arc<Notify>,
}

/// Passes everything on, but for one put at a time.
#[derive(Debug, Clone)]
pub(crate) struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    state: Arc<Mutex<State>>,
}

impl FaultyStore {
    pub(crate) fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self {
            inner,
            state: Arc::default(),
        }
    }

    /// Makes the next put of a file directly in the directory that `part` ends with suffer `fault`.
    pub(crate) fn arm(&self, part: &str, fault: Fault) {
        *self.state.lock() = State {
            armed: Some((part.to_owned(), fault)),
            ..State::default()
        };
    }

    /// Makes the next read fail.
    pub(crate) fn fail_read(&self) {
        self.state.lock().fail_read = true;
    }

    /// Holds up the read that comes behind so many others.
    pub(crate) fn hold_read(&self, behind: usize) -> Held {
        let held = Held::default();
        self.state.lock().held = Some((behind, held.clone()));
        held
    }

    /// The read that is to be held up, if it is its turn.
    fn is_held(&self) -> Option<Held> {
        let mut state = self.state.lock();
        let (behind, _) = state.held.as_mut()?;
        match behind.checked_sub(1) {
            Some(left) => *behind = left,
            None => return state.held.take().map(|(_, held)| held),
        }
        None
    }

    /// Ends all faults.
    pub(crate) fn disarm(&self) {
        self.state.lock().fail_read = false;
    }

    /// Whether the armed fault has happened.
    pub(crate) fn fired(&self) -> bool {
        self.state.lock().fired
    }

    fn fault_for(&self, path: &Path) -> Option<Fault> {
        let mut state = self.state.lock();
        let directory = path
            .as_ref()
            .rsplit_once('/')
            .map(|(directory, _)| directory);
        let (part, fault) = state.armed.as_ref()?;
        if !directory?.ends_with(part) {
            return None;
        }
        let fault = *fault;
        state.armed = None;
        state.fired = true;
        Some(fault)
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faulty {}", self.inner)
    }
}

fn failed() -> Error {
    Error::Generic {
        store: "faulty",
        source: "connection reset".into(),
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(
        &self,
        path: &Path,
        data: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let late = self.state.lock().late.take();
        if let Some((path, data, options)) = late {
            let _ = self.inner.put_opts(&path, data, options).await;
        }
        let Some(fault) = self.fault_for(path) else {
            return self.inner.put_opts(path, data, options).await;
        };
        match fault {
            Fault::FailAfterPut | Fault::ExistsAfterPut | Fault::FailAfterPutAndRead => {
                self.inner.put_opts(path, data, options).await?;
            }
            Fault::PutLater => self.state.lock().late = Some((path.clone(), data, options)),
            Fault::FailBeforePut | Fault::FailBeforePutAndRead => {}
        }
        self.state.lock().fail_read = matches!(
            fault,
            Fault::FailAfterPutAndRead | Fault::FailBeforePutAndRead
        );
        Err(match fault {
            Fault::ExistsAfterPut => Error::AlreadyExists {
                path: path.to_string(),
                source: "412".into(),
            },
            _ => failed(),
        })
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        if std::mem::take(&mut self.state.lock().fail_read) {
            return Err(failed());
        }
        if let Some(held) = self.is_held() {
            held.is_there.notify_one();
            held.goes_on.notified().await;
        }
        self.inner.get_opts(path, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let listing: Vec<_> = self
            .inner
            .list(prefix)
            .collect()
            .now_or_never()
            .expect("in memory");
        stream::iter(listing.into_iter().rev()).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
