// SPDX-License-Identifier: Apache-2.0
//! A file system of its own, so small that a test can fill it.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted disk, and a home whose data directory lies on it. Gone with it.
pub(crate) struct SmallDisk {
    home: tempfile::TempDir,
    mount: PathBuf,
    is_ext4: bool,
}

impl SmallDisk {
    /// A disk of so many MiB, or none where none can be mounted: that takes root.
    pub(crate) fn new(mib: u64) -> Option<Self> {
        let home = tempfile::tempdir().unwrap();
        let mount = home.path().join("disk");
        fs::create_dir(&mount).unwrap();
        let image = home.path().join("image");
        File::create(&image).unwrap().set_len(mib << 20).unwrap();
        let (image, at) = (image.to_str().unwrap(), mount.to_str().unwrap());
        let size = format!("size={mib}m");
        let is_ext4 =
            does("mkfs.ext4", &["-q", "-F", image]) && does("mount", &["-o", "loop", image, at]);
        if !is_ext4 && !does("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", at]) {
            println!("no disk can be mounted here: this needs root");
            return None;
        }
        let disk = Self {
            home,
            mount,
            is_ext4,
        };
        let data = disk.mount.join("data");
        fs::create_dir(&data).unwrap();
        std::os::unix::fs::symlink(data, disk.home().join("data")).unwrap();
        Some(disk)
    }

    /// Where servers are started.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// Whether files of it can be made immutable.
    pub(crate) fn has_immutable_files(&self) -> bool {
        self.is_ext4
    }

    /// Writes until only about so many bytes are left.
    pub(crate) fn fill_up_to(&self, left: u64) {
        self.free();
        let mut filler = File::create(self.filler()).unwrap();
        let spared = self.mount.join("spared");
        let mut room = File::create(&spared).unwrap();
        room.write_all(&vec![0; usize::try_from(left).unwrap()])
            .unwrap();
        room.sync_all().unwrap();
        // Ever smaller, to the last block.
        for step in [1 << 20, 64 << 10, 4 << 10, 512] {
            let zeros = vec![0; step];
            loop {
                match filler.write_all(&zeros).and_then(|()| filler.sync_data()) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
        drop(room);
        fs::remove_file(spared).unwrap();
        sync(&self.mount);
    }

    /// Makes room again.
    pub(crate) fn free(&self) {
        match fs::remove_file(self.filler()) {
            Err(error) if error.kind() != ErrorKind::NotFound => panic!("{error}"),
            _ => sync(&self.mount),
        }
    }

    /// Lets nobody write to it, or everybody again. Nobody may have a file open to write.
    pub(crate) fn set_read_only(&self, read_only: bool) {
        let how = if read_only {
            "remount,ro"
        } else {
            "remount,rw"
        };
        let at = self.mount.to_str().unwrap();
        assert!(does("mount", &["-o", how, at]), "{how}");
    }

    fn filler(&self) -> PathBuf {
        self.mount.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a server that is being killed may still have files open.
        does("umount", &["-l", self.mount.to_str().unwrap()]);
    }
}

fn sync(directory: &Path) {
    File::open(directory).unwrap().sync_all().unwrap();
}

fn does(program: &str, arguments: &[&str]) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    let ran = Command::new(program)
        .args(arguments)
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .output();
    ran.is_ok_and(|ran| ran.status.success())
}
