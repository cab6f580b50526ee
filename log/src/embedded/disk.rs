// SPDX-License-Identifier: Apache-2.0
//! The few file operations that the log rests on, so that tests can lose what was not synced.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::object::{create_dirs, sync_dir};

/// One directory of files.
///
/// What it promises after a crash: a file keeps what was synced, and of the rest any part; the directory
/// keeps the entries that were synced, and of later changes any.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Names of the files, in any order.
    ///
    /// # Errors
    /// When the directory cannot be read.
    fn list(&self) -> io::Result<Vec<String>>;

    /// A new, empty file; replaces one of that name.
    ///
    /// # Errors
    /// When it cannot be created.
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;

    /// The file `name`, for reading and writing.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;

    /// Gives a file another name, in place of the file that had it.
    ///
    /// # Errors
    /// When there is no such file.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a name.
    ///
    /// # Errors
    /// When there is no such file.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes created, renamed and removed names durable.
    ///
    /// # Errors
    /// When the disk fails; nothing is known of the names then.
    fn sync_dir(&self) -> io::Result<()>;
}

/// One open file.
#[expect(clippy::len_without_is_empty, reason = "a file, not a collection")]
pub trait DiskFile: Send + Sync + fmt::Debug {
    /// Bytes in the file.
    ///
    /// # Errors
    /// When the disk fails.
    fn len(&self) -> io::Result<u64>;

    /// Fills `buffer` from `position` on.
    ///
    /// # Errors
    /// `UnexpectedEof` when the file ends before.
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Writes the parts behind one another from `position` on.
    ///
    /// # Errors
    /// When the disk fails or is full; any part may be written then.
    fn write_at(&mut self, position: u64, parts: &[&[u8]]) -> io::Result<()>;

    /// Cuts the file.
    ///
    /// # Errors
    /// When the disk fails.
    fn truncate(&mut self, len: u64) -> io::Result<()>;

    /// Makes content and length durable.
    ///
    /// # Errors
    /// When the disk fails. What was written since the last sync may be lost then though it still reads
    /// back, and a second sync that succeeds would prove nothing.
    fn sync(&mut self) -> io::Result<()>;

    /// Syncs, then makes reads come from the disk itself: what an earlier process wrote may stand in
    /// memory only, marked clean by a sync that failed.
    ///
    /// # Errors
    /// When the disk fails.
    fn settle(&mut self) -> io::Result<()>;
}

/// A directory of the machine's file system.
#[derive(Debug)]
pub struct FsDisk {
    dir: PathBuf,
}

impl FsDisk {
    /// The directory `dir`, created durably if need be.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn open(dir: impl Into<PathBuf>) -> io::Result<Self> {
        let dir = dir.into();
        create_dirs(&dir)?;
        Ok(Self { dir })
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Disk for FsDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            // A name that is not UTF-8 is none of ours.
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        Ok(Box::new(FsFile(options.open(self.dir.join(name))?)))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        Ok(Box::new(FsFile(options.open(self.dir.join(name))?)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.dir.join(from), self.dir.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.dir.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        sync_dir(&self.dir)
    }
}

#[derive(Debug)]
struct FsFile(File);

impl DiskFile for FsFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buffer, position)
    }

    fn write_at(&mut self, position: u64, parts: &[&[u8]]) -> io::Result<()> {
        self.0.seek(SeekFrom::Start(position))?;
        let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let mut rest = &mut slices[..];
        // Drops leading empty slices: a write of nothing but those would read as a full disk.
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            match self.0.write_vectored(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => IoSlice::advance_slices(&mut rest, written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn settle(&mut self) -> io::Result<()> {
        self.0.sync_data()?;
        #[cfg(target_os = "linux")]
        rustix::fs::fadvise(&self.0, 0, None, rustix::fs::Advice::DontNeed)?;
        Ok(())
    }
}
