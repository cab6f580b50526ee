// SPDX-License-Identifier: Apache-2.0
//! The data directory: one process at a time, one format.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use dovetail_log::catalog::random_u64;
use dovetail_log::object::{is_full, sync_dir};
use dovetail_model::StoreEpoch;
use rustix::fs::{FlockOperation, flock};

use crate::cli::CONFIG_FILE;

/// The layout that this version reads and writes.
const FORMAT: u32 = 1;

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another process holds it.
    #[error(
        "data directory `{path}` is in use by process {holder}; stop it or choose another --data"
    )]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The process that wrote the lock, as far as it can be read.
        holder: String,
    },
    /// A newer version wrote it.
    #[error(
        "data directory `{path}` has format {found}, this version reads up to {FORMAT}; use a newer dovetail"
    )]
    Newer {
        /// The directory.
        path: PathBuf,
        /// The format that it has.
        found: u32,
    },
    /// It holds something else.
    #[error(
        "`{path}` is not a dovetail data directory: {reason}; choose an empty or new directory"
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The system refused.
    #[error("cannot {action} `{path}`: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A locked data directory. Dropping it releases the lock, and so does the end of the process.
#[derive(Debug)]
pub struct DataDir {
    root: PathBuf,
    id: String,
    _lock: File,
}

impl DataDir {
    /// Makes the directory if it is not there, and locks it.
    ///
    /// # Errors
    /// When another process holds it, or a newer version wrote it, or it cannot be written.
    pub fn open(root: &Path) -> Result<Self, DataDirError> {
        if root.is_file() {
            return Err(DataDirError::Foreign {
                path: root.to_owned(),
                reason: "it is a file".to_owned(),
            });
        }
        create_dir(root)?;
        let lock = lock(root)?;
        check_format(root)?;
        for sub in ["log", "spill"] {
            create_dir(&root.join(sub))?;
        }
        clear_spill(&root.join("spill"))?;
        Ok(Self {
            root: root.to_owned(),
            id: id(root)?,
            _lock: lock,
        })
    }

    /// Told apart by it from any other data directory. A copy has the same: use one of them.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The store that the logs here belong to, and its epoch; none before the first claim.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn claimed(&self) -> Result<Option<(String, StoreEpoch)>, DataDirError> {
        let Some(text) = read(&self.root.join(CLAIM))? else {
            return Ok(None);
        };
        let words = text.trim().split_once(' ');
        let claim = words.and_then(|(store, epoch)| {
            let epoch = epoch.parse().map(StoreEpoch).ok()?;
            Some((store.to_owned(), epoch))
        });
        let claim = claim.ok_or_else(|| DataDirError::Foreign {
            path: self.root.clone(),
            reason: format!("its file `{CLAIM}` holds no store and epoch"),
        });
        claim.map(Some)
    }

    /// Notes, durably, that the logs here belong to `epoch` of `store`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn set_claimed(&self, store: &str, epoch: StoreEpoch) -> Result<(), DataDirError> {
        write(&self.root, CLAIM, &format!("{store} {epoch}"))
    }

    /// Puts the logs of all streams aside, for people, and makes room for new ones. Answers where they are now; none
    /// if there are none.
    ///
    /// # Errors
    /// When they cannot be moved.
    pub fn put_logs_aside(&self) -> Result<Option<PathBuf>, DataDirError> {
        let logs = self.root.join("log");
        let mut entries = fs::read_dir(&logs).map_err(failed("list", &logs))?;
        if entries.next().is_none() {
            return Ok(None);
        }
        let numbered = (1..).map(|number| self.root.join(format!("log-given-up-{number}")));
        let mut free = numbered.filter(|aside| !aside.exists());
        let aside = free
            .next()
            .expect("there are more numbers than directories");
        fs::rename(&logs, &aside).map_err(failed("rename", &logs))?;
        create_dir(&logs)?;
        sync(&self.root)?;
        Ok(Some(aside))
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the object store lives, if it is not elsewhere.
    pub fn store(&self) -> PathBuf {
        self.root.join("store")
    }

    /// Where parts of a remote store's files are kept.
    pub fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }

    /// Where batch runs and queries spill.
    pub fn spill(&self) -> PathBuf {
        self.root.join("spill")
    }

    /// Where the embedded log of a stream lives.
    pub fn log(&self, stream: &dovetail_model::StreamId) -> PathBuf {
        self.root.join("log").join(stream.as_str())
    }
}

/// The file with the data directory's id.
const ID: &str = "id";
/// The file with the store that its logs belong to, and its epoch.
const CLAIM: &str = "claim";

/// The id of a data directory, made when it has none.
fn id(root: &Path) -> Result<String, DataDirError> {
    if let Some(id) = read(&root.join(ID))? {
        return Ok(id.trim().to_owned());
    }
    let id = format!("{:016x}", random_u64());
    write(root, ID, &id)?;
    Ok(id)
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DataDirError + use<> {
    let path = path.to_owned();
    move |source| DataDirError::Io {
        action,
        path,
        source,
    }
}

fn create_dir(path: &Path) -> Result<(), DataDirError> {
    fs::create_dir_all(path).map_err(failed("create", path))
}

/// What a process that was killed has spilled is nobody's any more. The directory itself stays: it may be a link to
/// another disk.
fn clear_spill(spill: &Path) -> Result<(), DataDirError> {
    for entry in fs::read_dir(spill).map_err(failed("read", spill))? {
        let entry = entry.map_err(failed("read", spill))?;
        // As the engine calls its directories.
        if entry
            .file_name()
            .to_string_lossy()
            .starts_with("datafusion-")
        {
            let path = entry.path();
            fs::remove_dir_all(&path).map_err(failed("remove", &path))?;
        }
    }
    Ok(())
}

fn lock(root: &Path) -> Result<File, DataDirError> {
    let path = root.join("lock");
    let options = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path);
    let mut file = options.map_err(failed("open", &path))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut holder = String::new();
        let known = file.read_to_string(&mut holder).is_ok() && !holder.trim().is_empty();
        let holder = if known {
            holder.trim().to_owned()
        } else {
            "unknown".to_owned()
        };
        return Err(DataDirError::InUse {
            path: root.to_owned(),
            holder,
        });
    }
    // For people; on a full disk the server starts without, and answers.
    let write = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        write!(file, "{}", std::process::id())
    };
    match write(&mut file) {
        Err(error) if is_full(&error) => {}
        written => written.map_err(failed("write", &path))?,
    }
    Ok(file)
}

/// A small file; none if it is not there.
fn read(path: &Path) -> Result<Option<String>, DataDirError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path)(error)),
    }
}

/// Writes a small file of one line, whole or not at all, and durably.
fn write(root: &Path, name: &str, line: &str) -> Result<(), DataDirError> {
    let (path, temporary) = (root.join(name), root.join(format!("{name}.new")));
    let write = || -> io::Result<()> {
        let mut file = File::create(&temporary)?;
        writeln!(file, "{line}")?;
        file.sync_all()?;
        fs::rename(&temporary, &path)
    };
    write().map_err(failed("write", &path))?;
    sync(root)
}

fn sync(directory: &Path) -> Result<(), DataDirError> {
    sync_dir(directory).map_err(failed("sync", directory))
}

fn check_format(root: &Path) -> Result<(), DataDirError> {
    let foreign = |reason: String| DataDirError::Foreign {
        path: root.to_owned(),
        reason,
    };
    if let Some(text) = read(&root.join("format"))? {
        return match text.trim().parse::<u32>() {
            Ok(found) if found <= FORMAT => Ok(()),
            Ok(found) => Err(DataDirError::Newer {
                path: root.to_owned(),
                found,
            }),
            Err(_) => Err(foreign("its file `format` holds no number".to_owned())),
        };
    }
    let others = fs::read_dir(root).map_err(failed("list", root))?;
    // A start that was cut off leaves the lock, and perhaps the unfinished file; the settings were there before.
    let ours = |name: &std::ffi::OsStr| {
        ["lock", "format.new", CONFIG_FILE]
            .iter()
            .any(|ours| name == *ours)
    };
    let other = others.flatten().find(|entry| !ours(&entry.file_name()));
    if let Some(entry) = other {
        return Err(foreign(format!(
            "it holds `{}` and no file `format`",
            entry.file_name().display()
        )));
    }
    write(root, "format", &FORMAT.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let held = DataDir::open(dir.path()).unwrap();
        let error = DataDir::open(dir.path()).unwrap_err();
        assert!(
            error.to_string().contains(&std::process::id().to_string()),
            "{error}"
        );
        drop(held);
        DataDir::open(dir.path()).unwrap();
    }

    #[test]
    fn what_was_spilled_before_is_gone_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        drop(DataDir::open(dir.path()).unwrap());
        let spill = dir.path().join("spill");
        fs::create_dir(spill.join("datafusion-a1")).unwrap();
        fs::write(spill.join("datafusion-a1/states"), "states").unwrap();
        fs::write(spill.join("notes"), "mine").unwrap();
        drop(DataDir::open(dir.path()).unwrap());
        let left = fs::read_dir(&spill).unwrap();
        let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["notes"]);
    }

    #[test]
    fn it_keeps_its_id_and_whose_its_logs_are() {
        let dir = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        let opened = DataDir::open(dir.path()).unwrap();
        let id = opened.id().to_owned();
        assert_ne!(id, DataDir::open(other.path()).unwrap().id());
        assert_eq!(opened.claimed().unwrap(), None);
        opened.set_claimed("k3f", StoreEpoch(7)).unwrap();
        drop(opened);
        let opened = DataDir::open(dir.path()).unwrap();
        let claimed = Some(("k3f".to_owned(), StoreEpoch(7)));
        assert_eq!(
            (opened.id(), opened.claimed().unwrap()),
            (id.as_str(), claimed)
        );
        fs::write(dir.path().join("claim"), "x").unwrap();
        assert!(matches!(
            opened.claimed(),
            Err(DataDirError::Foreign { .. })
        ));
    }

    #[test]
    fn logs_that_are_given_up_are_kept_aside() {
        let dir = tempfile::tempdir().unwrap();
        let opened = DataDir::open(dir.path()).unwrap();
        assert_eq!(opened.put_logs_aside().unwrap(), None);
        for number in 1..3 {
            fs::create_dir(dir.path().join("log/k3f")).unwrap();
            let aside = opened.put_logs_aside().unwrap().unwrap();
            assert_eq!(aside, dir.path().join(format!("log-given-up-{number}")));
            assert!(aside.join("k3f").is_dir());
            assert_eq!(fs::read_dir(dir.path().join("log")).unwrap().count(), 0);
        }
    }

    #[test]
    fn a_newer_format_and_a_foreign_directory_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        drop(DataDir::open(dir.path()).unwrap());
        fs::write(dir.path().join("format"), "2\n").unwrap();
        assert!(matches!(
            DataDir::open(dir.path()),
            Err(DataDirError::Newer { found: 2, .. })
        ));

        let other = tempfile::tempdir().unwrap();
        fs::write(other.path().join("thesis.txt"), "x").unwrap();
        assert!(matches!(
            DataDir::open(other.path()),
            Err(DataDirError::Foreign { .. })
        ));
        assert!(matches!(
            DataDir::open(&other.path().join("thesis.txt")),
            Err(DataDirError::Foreign { .. })
        ));
    }
}
