// SPDX-License-Identifier: Apache-2.0
//! The data directory: one process at a time, one format.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

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
        for sub in ["log", "store", "spill"] {
            create_dir(&root.join(sub))?;
        }
        Ok(Self {
            root: root.to_owned(),
            _lock: lock,
        })
    }

    /// Where the object store lives.
    pub fn store(&self) -> PathBuf {
        self.root.join("store")
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
    let write = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        write!(file, "{}", std::process::id())
    };
    write(&mut file).map_err(failed("write", &path))?;
    Ok(file)
}

fn check_format(root: &Path) -> Result<(), DataDirError> {
    let path = root.join("format");
    match fs::read_to_string(&path) {
        Ok(text) => match text.trim().parse::<u32>() {
            Ok(found) if found <= FORMAT => Ok(()),
            Ok(found) => Err(DataDirError::Newer {
                path: root.to_owned(),
                found,
            }),
            Err(_) => {
                let reason = "its file `format` holds no number".to_owned();
                Err(DataDirError::Foreign {
                    path: root.to_owned(),
                    reason,
                })
            }
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let others = fs::read_dir(root).map_err(failed("list", root))?;
            let foreign = others.flatten().find(|entry| entry.file_name() != "lock");
            if let Some(entry) = foreign {
                let reason = format!(
                    "it holds `{}` and no file `format`",
                    entry.file_name().display()
                );
                return Err(DataDirError::Foreign {
                    path: root.to_owned(),
                    reason,
                });
            }
            let temporary = root.join("format.new");
            let write = || -> io::Result<()> {
                let mut file = File::create(&temporary)?;
                writeln!(file, "{FORMAT}")?;
                file.sync_all()?;
                fs::rename(&temporary, &path)?;
                File::open(root)?.sync_all()
            };
            write().map_err(failed("write", &path))
        }
        Err(error) => Err(failed("read", &path)(error)),
    }
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
