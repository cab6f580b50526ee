// SPDX-License-Identifier: Apache-2.0
//! The durable store on a local directory.
//!
//! ```text
//! put        staged file -> write -> fsync -> rename (or link) -> fsync directory -> answer
//! multipart  parts into a staged file ... complete: the same from fsync on
//! ```
//! One lock orders the renames, links and removals, so that an update's check and its rename are one step.
//! No fsync happens under it.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::ops::Range;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyMode, CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions,
    RenameTargetMode, Result, UpdateVersion,
};
use parking_lot::Mutex;
use rustix::fs::{FlockOperation, flock};

use super::durable::{create_dirs, sync_dir};
use super::staged::{Staged, Stamps, e_tag, is_staged_name, modified_us, staged_path};
use super::upload::LocalUpload;

const STORE: &str = "LocalStore";
/// Deletes that share their directory's fsync.
const DELETE_BATCH: usize = 256;

/// An [`ObjectStore`] on a local directory whose writes are durable when they answer. Clones share it.
///
/// One open at a time holds a directory, in whatever process; hand out clones. The compare-and-swap of
/// `PutMode::Update` is exact among clones, and a second open would sweep the files that the first still writes.
#[derive(Debug, Clone)]
pub struct LocalStore(Arc<Shared>);

#[derive(Debug)]
pub(super) struct Shared {
    files: LocalFileSystem,
    root: PathBuf,
    /// The directory itself, locked for as long as the store is open by one that writes.
    _lock: File,
    /// Held while names change, never during an fsync.
    names: Mutex<()>,
    stamps: Stamps,
    /// Directories whose own names are known to be durable.
    durable_dirs: Mutex<HashSet<PathBuf>>,
}

impl LocalStore {
    /// Opens the store at `root`, creating it if need be; removes what unfinished puts left behind, and
    /// makes durable what is there, since a process that was killed may have left names unsynced.
    ///
    /// # Errors
    /// When the directory cannot be created, walked or synced, or another store is open on it; the message names the
    /// path.
    pub fn open(root: impl AsRef<FilePath>) -> Result<Self> {
        let root = root.as_ref();
        create_dirs(root).map_err(|e| io_error("create", root, e))?;
        let root = root
            .canonicalize()
            .map_err(|e| io_error("resolve", root, e))?;
        let lock = lock(&root)?;
        let files = LocalFileSystem::new_with_prefix(&root)?;
        let mut dirs = HashSet::new();
        let latest = sweep(root.clone(), &mut dirs)?;
        Ok(Self(Arc::new(Shared {
            files,
            root,
            _lock: lock,
            names: Mutex::new(()),
            stamps: Stamps::after(latest),
            durable_dirs: Mutex::new(dirs),
        })))
    }
}

impl LocalStore {
    /// Opens the store at `root` beside the one that has it, for one that writes nothing but files under names that
    /// nobody else gives. What it leaves unfinished, the next [`LocalStore::open`] removes.
    ///
    /// # Errors
    /// When the directory cannot be read; the message names the path.
    pub fn open_beside(root: impl AsRef<FilePath>) -> Result<Self> {
        let root = root.as_ref();
        let root = root
            .canonicalize()
            .map_err(|e| io_error("resolve", root, e))?;
        Ok(Self(Arc::new(Shared {
            files: LocalFileSystem::new_with_prefix(&root)?,
            _lock: File::open(&root).map_err(|e| io_error("open", &root, e))?,
            root,
            names: Mutex::new(()),
            stamps: Stamps::after(0),
            durable_dirs: Mutex::new(HashSet::new()),
        })))
    }
}

/// Takes the directory for this store alone, until the file is closed.
fn lock(root: &FilePath) -> Result<File> {
    let file = File::open(root).map_err(|e| io_error("open", root, e))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(generic(format!(
            "another process has the store in `{}` open",
            root.display()
        ))),
        Err(error) => Err(io_error("lock", root, error.into())),
    }
}

/// Removes staged files and syncs every directory under `root`; answers the latest modification time.
fn sweep(root: PathBuf, dirs: &mut HashSet<PathBuf>) -> Result<i64> {
    let mut latest = 0;
    let mut todo = vec![root];
    while let Some(dir) = todo.pop() {
        let listed = |e| io_error("list", &dir, e);
        for entry in std::fs::read_dir(&dir).map_err(listed)? {
            let entry = entry.map_err(listed)?;
            let metadata = entry.metadata().map_err(listed)?;
            let path = entry.path();
            if metadata.is_dir() {
                todo.push(path);
            } else if entry.file_name().to_str().is_some_and(is_staged_name) {
                std::fs::remove_file(&path).map_err(|e| io_error("remove", &path, e))?;
            } else {
                latest = latest.max(modified_us(&metadata));
            }
        }
        sync_dir(&dir).map_err(|e| io_error("sync", &dir, e))?;
        dirs.insert(dir);
    }
    Ok(latest)
}

impl Shared {
    /// A staged file for `destination`, in a directory that exists and is durable.
    fn stage(&self, destination: &FilePath) -> Result<Staged> {
        let dir = parent(destination);
        if !self.durable_dirs.lock().contains(dir) {
            self.make_dirs(dir)?;
        }
        match Staged::create(destination) {
            // Someone removed the directory behind our back.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.make_dirs(dir)?;
                Staged::create(destination)
            }
            other => other,
        }
        .map_err(|e| io_error("create a file beside", destination, e))
    }

    /// Creates `dir` with its parents. Syncs every one of them, those found there too: another task may
    /// have created them and not synced them yet.
    fn make_dirs(&self, dir: &FilePath) -> Result<()> {
        std::fs::create_dir_all(dir).map_err(|e| io_error("create", dir, e))?;
        let mut at = dir;
        while at != self.root {
            at = parent(at);
            sync_dir(at).map_err(|e| io_error("sync", at, e))?;
        }
        self.durable_dirs.lock().insert(dir.to_owned());
        Ok(())
    }

    /// Makes the staged file the object at `destination`, durably, as `mode` allows.
    pub(super) fn install(
        &self,
        staged: &Staged,
        location: &Path,
        destination: &FilePath,
        mode: &PutMode,
    ) -> Result<PutResult> {
        let e_tag = staged
            .seal(&self.stamps)
            .map_err(|e| io_error("sync", staged.path(), e))?;
        let named = {
            let _names = self.names.lock();
            match mode {
                PutMode::Overwrite => rename(staged.path(), destination),
                PutMode::Create => link(staged.path(), destination),
                PutMode::Update(version) => check_version(version, location, destination)
                    .and_then(|()| rename(staged.path(), destination)),
            }
        };
        let lost = matches!(
            named,
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. })
        );
        if named.is_ok() || lost {
            // A loser is told of the winner's object, which must not vanish after that.
            self.sync_parent(destination)?;
        }
        named?;
        Ok(PutResult {
            e_tag: Some(e_tag),
            version: None,
        })
    }

    fn put(&self, location: &Path, payload: &PutPayload, mode: &PutMode) -> Result<PutResult> {
        let destination = self.files.path_to_filesystem(location)?;
        let staged = self.stage(&destination)?;
        let mut file = staged.file();
        for piece in payload {
            file.write_all(piece)
                .map_err(|e| io_error("write", staged.path(), e))?;
        }
        self.install(&staged, location, &destination, mode)
    }

    fn copy(&self, from: &Path, to: &Path, mode: CopyMode) -> Result<()> {
        let source = self.files.path_to_filesystem(from)?;
        let destination = self.files.path_to_filesystem(to)?;
        self.ensure_parent(&destination)?;
        // Objects are never changed in place, so two names may share one file.
        let named = match mode {
            CopyMode::Create => {
                let _names = self.names.lock();
                link(&source, &destination)
            }
            CopyMode::Overwrite => self.copy_over(&source, &destination),
        };
        if matches!(named, Ok(()) | Err(Error::AlreadyExists { .. })) {
            self.sync_parent(&destination)?;
        }
        named
    }

    fn copy_over(&self, source: &FilePath, destination: &FilePath) -> Result<()> {
        let staged = staged_path(destination);
        let _names = self.names.lock();
        link(source, &staged)?;
        let renamed = rename(&staged, destination);
        // `rename` does nothing when both names are one file already, and leaves both.
        let _ = std::fs::remove_file(&staged);
        renamed
    }

    fn rename(&self, from: &Path, to: &Path, mode: RenameTargetMode) -> Result<()> {
        let source = self.files.path_to_filesystem(from)?;
        let destination = self.files.path_to_filesystem(to)?;
        self.ensure_parent(&destination)?;
        {
            let _names = self.names.lock();
            match mode {
                RenameTargetMode::Create => {
                    link(&source, &destination)?;
                    remove(&source)?;
                }
                RenameTargetMode::Overwrite => {
                    rename(&source, &destination)?;
                    if source != destination {
                        // Left where it was when both names were one file.
                        let _ = std::fs::remove_file(&source);
                    }
                }
            }
        }
        self.sync_parent(&destination)?;
        if parent(&source) != parent(&destination) {
            self.sync_parent(&source)?;
        }
        Ok(())
    }

    /// Removes the objects, then syncs each of their directories once. Answers one result per location.
    fn delete(&self, locations: Vec<Result<Path>>) -> Vec<Result<Path>> {
        let mut synced: HashMap<PathBuf, io::Result<()>> = HashMap::new();
        let removed: Vec<Result<(Path, PathBuf)>> = locations
            .into_iter()
            .map(|location| {
                let location = location?;
                let path = self.files.path_to_filesystem(&location)?;
                let _names = self.names.lock();
                remove(&path)?;
                Ok((location, parent(&path).to_owned()))
            })
            .collect();
        removed
            .into_iter()
            .map(|result| {
                let (location, dir) = result?;
                let synced = synced.entry(dir).or_insert_with_key(|dir| sync_dir(dir));
                match synced {
                    Ok(()) => Ok(location),
                    Err(error) => Err(generic(format!(
                        "`{location}` is removed, but its directory cannot be synced: {error}"
                    ))),
                }
            })
            .collect()
    }

    fn ensure_parent(&self, destination: &FilePath) -> Result<()> {
        let dir = parent(destination);
        if self.durable_dirs.lock().contains(dir) && dir.is_dir() {
            return Ok(());
        }
        self.make_dirs(dir)
    }

    fn sync_parent(&self, path: &FilePath) -> Result<()> {
        let dir = parent(path);
        sync_dir(dir).map_err(|e| io_error("sync", dir, e))
    }
}

fn check_version(version: &UpdateVersion, location: &Path, destination: &FilePath) -> Result<()> {
    let Some(expected) = &version.e_tag else {
        return Err(generic(format!("an update of `{location}` needs an e-tag")));
    };
    let found = match std::fs::metadata(destination) {
        Ok(metadata) => e_tag(&metadata),
        Err(error) if error.kind() == ErrorKind::NotFound => "no object".to_owned(),
        Err(error) => return Err(io_error("read", destination, error)),
    };
    if found == *expected {
        return Ok(());
    }
    Err(Error::Precondition {
        path: location.to_string(),
        source: format!("expected e-tag `{expected}`, found `{found}`").into(),
    })
}

fn parent(path: &FilePath) -> &FilePath {
    path.parent()
        .expect("an object's path lies below the root of its store")
}

fn rename(from: &FilePath, to: &FilePath) -> Result<()> {
    std::fs::rename(from, to).map_err(|e| io_error("rename", from, e))
}

fn link(from: &FilePath, to: &FilePath) -> Result<()> {
    std::fs::hard_link(from, to).map_err(|e| {
        let path = if e.kind() == ErrorKind::AlreadyExists {
            to
        } else {
            from
        };
        io_error("link", path, e)
    })
}

fn remove(path: &FilePath) -> Result<()> {
    std::fs::remove_file(path).map_err(|e| io_error("remove", path, e))
}

/// A failed file operation, for people.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} `{}`: {cause}", path.display())]
struct FileError {
    action: &'static str,
    path: PathBuf,
    #[source]
    cause: io::Error,
}

pub(super) fn io_error(action: &'static str, path: &FilePath, cause: io::Error) -> Error {
    let kind = cause.kind();
    let text = path.display().to_string();
    let path = path.to_owned();
    let source = Box::new(FileError {
        action,
        path,
        cause,
    });
    match kind {
        ErrorKind::NotFound => Error::NotFound { path: text, source },
        ErrorKind::AlreadyExists => Error::AlreadyExists { path: text, source },
        ErrorKind::PermissionDenied => Error::PermissionDenied { path: text, source },
        _ => Error::Generic {
            store: STORE,
            source,
        },
    }
}

pub(super) fn generic(message: String) -> Error {
    Error::Generic {
        store: STORE,
        source: message.into(),
    }
}

/// Runs file work where it may block; right here when there is no runtime.
pub(super) async fn blocking<T, F>(work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T> + Send + 'static,
{
    match tokio::runtime::Handle::try_current() {
        Ok(handle) => handle.spawn_blocking(work).await?,
        Err(_) => work(),
    }
}

fn refuse_attributes(any: bool) -> Result<()> {
    if any {
        return Err(Error::NotImplemented {
            operation: "a put with attributes".to_owned(),
            implementer: STORE.to_owned(),
        });
    }
    Ok(())
}

impl fmt::Display for LocalStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{STORE}({})", self.0.root.display())
    }
}

#[async_trait]
impl ObjectStore for LocalStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        refuse_attributes(!opts.attributes.is_empty())?;
        let (store, location) = (Arc::clone(&self.0), location.clone());
        blocking(move || store.put(&location, &payload, &opts.mode)).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        refuse_attributes(!opts.attributes.is_empty())?;
        let (store, location) = (Arc::clone(&self.0), location.clone());
        blocking(move || {
            let destination = store.files.path_to_filesystem(&location)?;
            let staged = store.stage(&destination)?;
            let upload = LocalUpload::new(store, location, destination, staged);
            Ok(Box::new(upload) as Box<dyn MultipartUpload>)
        })
        .await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.0.files.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.0.files.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let store = Arc::clone(&self.0);
        locations
            .ready_chunks(DELETE_BATCH)
            .then(move |locations| {
                let store = Arc::clone(&store);
                async move {
                    match blocking(move || Ok(store.delete(locations))).await {
                        Ok(results) => results,
                        Err(error) => vec![Err(error)],
                    }
                }
            })
            .flat_map(futures::stream::iter)
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.files.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.files.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.files.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let (store, from, to) = (Arc::clone(&self.0), from.clone(), to.clone());
        blocking(move || store.copy(&from, &to, options.mode)).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        let (store, from, to) = (Arc::clone(&self.0), from.clone(), to.clone());
        blocking(move || store.rename(&from, &to, options.target_mode)).await
    }
}
