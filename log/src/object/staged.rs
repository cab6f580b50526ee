// SPDX-License-Identifier: Apache-2.0
//! A file that is not an object yet.
//!
//! It stands beside the object's own name with `#` and a number behind it, which `LocalFileSystem` neither
//! lists nor opens, so that a rename or a link within one directory makes it the object.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// Whether `name` is one that [`Staged::create`] gives.
pub(super) fn is_staged_name(name: &str) -> bool {
    name.rsplit_once('#')
        .is_some_and(|(_, number)| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

/// A name beside `destination` that nothing has had in this process.
pub(super) fn staged_path(destination: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let mut name = destination.as_os_str().to_owned();
    name.push(format!("#{}", NEXT.fetch_add(1, Ordering::Relaxed)));
    name.into()
}

/// A file under a staged name; removed when it is dropped before it became an object.
#[derive(Debug)]
pub(super) struct Staged {
    path: PathBuf,
    file: File,
}

impl Staged {
    /// A new empty file beside `destination`, whose directory must be there.
    pub(super) fn create(destination: &Path) -> io::Result<Self> {
        loop {
            let path = staged_path(destination);
            let opened = OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .open(&path);
            match opened {
                Ok(file) => return Ok(Self { path, file }),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Makes the content durable and answers the e-tag it will have as an object.
    pub(super) fn seal(&self, stamps: &Stamps) -> io::Result<String> {
        let stamp = stamps.next(modified_us(&self.file.metadata()?));
        let modified = SystemTime::UNIX_EPOCH + Duration::from_micros(stamp.unsigned_abs());
        self.file.set_modified(modified)?;
        // Not `sync_data`: the e-tag holds the modification time, and shall outlive a crash.
        self.file.sync_all()?;
        Ok(e_tag(&self.file.metadata()?))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // Gone already when it was renamed. What cannot be removed is swept at the next open.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Modification times that never repeat.
///
/// An e-tag is inode, modification time and size, as `LocalFileSystem` reads it back. The kernel's times
/// are as coarse as its ticks and inodes are reused at once, so two equally long versions of an object
/// could share one; hence each put gets a microsecond of its own, later than any seen before.
#[derive(Debug)]
pub(super) struct Stamps(AtomicI64);

impl Stamps {
    /// Stamps later than `latest_us`.
    pub(super) fn after(latest_us: i64) -> Self {
        Self(AtomicI64::new(latest_us))
    }

    fn next(&self, now_us: i64) -> i64 {
        let later = |last: i64| now_us.max(last + 1);
        match self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| {
                Some(later(last))
            }) {
            Ok(last) | Err(last) => later(last),
        }
    }
}

/// Modification time in microseconds since the Unix epoch; 0 for what lies before it.
pub(super) fn modified_us(metadata: &Metadata) -> i64 {
    let since = metadata
        .modified()
        .ok()
        .and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok())
        .unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX / 2)
}

/// The e-tag in the form that `LocalFileSystem` answers in `get` and `list`.
pub(super) fn e_tag(metadata: &Metadata) -> String {
    let (inode, modified, size) = (metadata.ino(), modified_us(metadata), metadata.len());
    format!("{inode:x}-{modified:x}-{size:x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn staged_names_are_told_from_objects() {
        assert!(is_staged_name("a.parquet#12"));
        for name in ["a.parquet", "a#", "a#x1", "#a"] {
            assert!(!is_staged_name(name), "{name}");
        }
        let path = staged_path(Path::new("/x/a#b"));
        assert!(is_staged_name(path.file_name().unwrap().to_str().unwrap()));
    }

    #[test]
    fn stamps_never_repeat_though_the_clock_stands_or_jumps_back() {
        let stamps = Stamps::after(100);
        assert_eq!(stamps.next(50), 101);
        assert_eq!(stamps.next(50), 102);
        assert_eq!(stamps.next(500), 500);
        assert_eq!(stamps.next(500), 501);
    }
}
