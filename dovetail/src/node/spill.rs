// SPDX-License-Identifier: Apache-2.0
//! What queries and batch runs may spill, as long as there is room on the disk.
//!
//! Purpose: a query that wants 100 GB takes what the disk has to spare, and is refused then; the log and the store beside
//! it keep a reserve. Looked at every second, so the engines may overshoot by what they write in that time. Non-goals:
//! quotas of single queries.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use datafusion::execution::runtime_env::RuntimeEnv;
use rustix::fs::statvfs;
use tracing::warn;

/// How often the disk is looked at.
const EVERY: Duration = Duration::from_secs(1);
/// What is left to others of the disk: a tenth of it, and no more than this.
const RESERVE_BYTES: u64 = 1024 * 1024 * 1024;
const RESERVE_SHARE: u64 = 10;

/// The room of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    /// What may still be written.
    pub(super) free_bytes: u64,
    /// All of it.
    pub(super) all_bytes: u64,
}

impl Room {
    /// Of the disk that `directory` is on.
    pub(super) fn of(directory: &Path) -> std::io::Result<Self> {
        let disk = statvfs(directory)?;
        Ok(Self {
            free_bytes: disk.f_bavail.saturating_mul(disk.f_frsize),
            all_bytes: disk.f_blocks.saturating_mul(disk.f_frsize),
        })
    }

    /// What is free beyond the reserve.
    fn spare_bytes(self) -> u64 {
        let reserve = RESERVE_BYTES.min(self.all_bytes / RESERVE_SHARE);
        self.free_bytes.saturating_sub(reserve)
    }
}

/// Keeps what `engine` may spill into `directory` within what its disk has to spare, for as long as it is there.
pub(super) fn keep_within(engine: &Arc<RuntimeEnv>, directory: PathBuf) {
    limit(engine, &directory);
    let engine = Arc::downgrade(engine);
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(EVERY).await;
            match engine.upgrade() {
                Some(engine) => limit(&engine, &directory),
                None => return,
            }
        }
    });
}

fn limit(engine: &RuntimeEnv, directory: &Path) {
    let disk = &engine.disk_manager;
    let limited = Room::of(directory).map(|room| {
        let most = disk.used_disk_space().saturating_add(room.spare_bytes());
        disk.set_max_temp_directory_size(most)
    });
    match limited {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(%error, "what may be spilled cannot be limited"),
        Err(error) => {
            warn!(directory = %directory.display(), %error, "cannot see how much room there is to spill");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_is_left_to_others() {
        let gib = |gib: u64| gib << 30;
        let spare = |free, all| {
            let room = Room {
                free_bytes: free,
                all_bytes: all,
            };
            room.spare_bytes()
        };
        assert_eq!(spare(gib(100), gib(1000)), gib(99));
        assert_eq!(spare(gib(3), gib(10)), gib(2));
        assert_eq!(spare(50 << 20, 100 << 20), 40 << 20);
        assert_eq!(spare(9 << 20, 100 << 20), 0);
    }

    #[test]
    fn what_is_there_may_be_spilled() {
        let home = tempfile::tempdir().unwrap();
        let engine = Arc::new(RuntimeEnv::default());
        limit(&engine, home.path());
        let room = Room::of(home.path()).unwrap();
        assert!(engine.disk_manager.max_temp_directory_size() <= room.all_bytes);
        assert!(room.free_bytes <= room.all_bytes);
    }
}
