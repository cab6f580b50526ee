// SPDX-License-Identifier: Apache-2.0
//! A multipart upload into one staged file.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use object_store::path::Path;
use object_store::{MultipartUpload, PutMode, PutPayload, PutResult, Result, UploadPart};

use super::local::{Shared, blocking, generic, io_error};
use super::staged::Staged;

/// Parts are written where they belong as they come, in parallel if the caller polls them so; the object
/// appears with `complete`. Dropping the upload removes what was written.
#[derive(Debug)]
pub(super) struct LocalUpload {
    store: Arc<Shared>,
    location: Path,
    destination: PathBuf,
    parts: Option<Arc<Parts>>,
    /// Where the next part starts.
    position: u64,
    begun: u64,
}

#[derive(Debug)]
struct Parts {
    staged: Staged,
    written: AtomicU64,
}

impl LocalUpload {
    pub(super) fn new(
        store: Arc<Shared>,
        location: Path,
        destination: PathBuf,
        staged: Staged,
    ) -> Self {
        let parts = Parts {
            staged,
            written: AtomicU64::new(0),
        };
        Self {
            store,
            location,
            destination,
            parts: Some(Arc::new(parts)),
            position: 0,
            begun: 0,
        }
    }

    fn take(&mut self) -> Result<Arc<Parts>> {
        self.parts.take().ok_or_else(|| {
            generic(format!(
                "the upload of `{}` has ended already",
                self.location
            ))
        })
    }
}

#[async_trait]
impl MultipartUpload for LocalUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let start = self.position;
        self.position += data.content_length() as u64;
        self.begun += 1;
        let parts = self.parts.clone();
        let location = self.location.clone();
        Box::pin(blocking(move || {
            let parts = parts
                .ok_or_else(|| generic(format!("the upload of `{location}` has ended already")))?;
            let mut position = start;
            for piece in &data {
                parts
                    .staged
                    .file()
                    .write_all_at(piece, position)
                    .map_err(|e| io_error("write", parts.staged.path(), e))?;
                position += piece.len() as u64;
            }
            parts.written.fetch_add(1, Ordering::AcqRel);
            Ok(())
        }))
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let parts = self.take()?;
        let written = parts.written.load(Ordering::Acquire);
        if written != self.begun {
            let (location, begun) = (&self.location, self.begun);
            return Err(generic(format!(
                "only {written} of the {begun} parts of `{location}` are written"
            )));
        }
        let (store, location) = (Arc::clone(&self.store), self.location.clone());
        let destination = self.destination.clone();
        blocking(move || store.install(&parts.staged, &location, &destination, &PutMode::Overwrite))
            .await
    }

    async fn abort(&mut self) -> Result<()> {
        let parts = self.take()?;
        blocking(move || {
            drop(parts);
            Ok(())
        })
        .await
    }
}

impl Drop for LocalUpload {
    fn drop(&mut self) {
        // Removing a file may block for long; not on a runtime's worker.
        if let (Some(parts), Ok(handle)) =
            (self.parts.take(), tokio::runtime::Handle::try_current())
        {
            drop(handle.spawn_blocking(move || drop(parts)));
        }
    }
}
