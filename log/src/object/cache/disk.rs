// SPDX-License-Identifier: Apache-2.0
//! Blocks that outlive the process: a file for each.
//!
//! ```text
//! {directory}/{2 digits}/{hash of store and path}-{block}
//!   magic, length of the head, checksum of all that follows │ head: what block of which object │ the block
//! ```
//! Invariants: a file is written under another name and renamed, so a kill leaves none that is half there; nothing is
//! synced, so a power cut may: every read checks the head, the length and the checksum, and what does not fit is no
//! hit and is removed. The least useful files are removed before there are too many bytes. A disk that takes nothing
//! costs the cache, never an answer.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use moka::notification::RemovalCause;
use moka::sync::Cache;
use object_store::ObjectMeta;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::{Block, BlockId, CacheConfig, CacheCounts, count};

/// The layout that this version reads and writes.
const MAGIC: [u8; 8] = *b"dovecb01";
/// Magic, length of the head, checksum.
const PREFIX: usize = MAGIC.len() + 4 + 4;
/// Digits of a name that tell objects apart.
const OBJECT_DIGITS: usize = 32;
/// What a file is called until it is whole.
const UNFINISHED: &str = ".new";

/// Says what a file holds.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    store: String,
    path: String,
    index: u64,
    size: u64,
    e_tag: Option<String>,
    last_modified: DateTime<Utc>,
}

/// The blocks on disk.
#[derive(Debug)]
pub(super) struct Disk {
    directory: PathBuf,
    store: String,
    /// Bytes of each file by its name, which decides what goes when room is needed. None without a disk.
    index: Option<Cache<String, u32>>,
    /// Tells apart the unfinished files of two that write one block.
    writes: AtomicU64,
    evictions: Arc<AtomicU64>,
    corrupt: AtomicU64,
    write_failures: AtomicU64,
    /// Whether the last write failed, and was told.
    fails: AtomicBool,
}

impl Disk {
    /// Finds what is there, and removes what is unfinished or too much.
    pub(super) fn open(config: CacheConfig) -> io::Result<Self> {
        let evictions = Arc::new(AtomicU64::new(0));
        let index = (config.disk_bytes > 0).then(|| index(&config, Arc::clone(&evictions)));
        let disk = Self {
            directory: config.directory,
            store: config.store,
            index,
            writes: AtomicU64::new(0),
            evictions,
            corrupt: AtomicU64::new(0),
            write_failures: AtomicU64::new(0),
            fails: AtomicBool::new(false),
        };
        disk.load()?;
        Ok(disk)
    }

    fn load(&self) -> io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        for shelf in fs::read_dir(&self.directory)? {
            let shelf = shelf?;
            if !shelf.file_type()?.is_dir() {
                continue;
            }
            for file in fs::read_dir(shelf.path())? {
                let file = file?;
                let name = file.file_name().into_string();
                match (name, &self.index) {
                    (Ok(name), Some(index)) if is_block(&name) => {
                        index.insert(name, weight(file.metadata()?.len()));
                    }
                    _ => fs::remove_file(file.path())?,
                }
            }
        }
        if let Some(index) = &self.index {
            index.run_pending_tasks();
        }
        Ok(())
    }

    pub(super) fn is_used(&self) -> bool {
        self.index.is_some()
    }

    pub(super) fn contains(&self, id: &BlockId) -> bool {
        let index = self.index.as_ref();
        index.is_some_and(|index| index.contains_key(&self.name(id)))
    }

    /// A block as it was written; None when there is none.
    pub(super) fn read(&self, id: &BlockId) -> Option<Block> {
        let index = self.index.as_ref()?;
        let name = self.name(id);
        // Asked so, it counts as used.
        index.get(&name)?;
        let block = match fs::read(place(&self.directory, &name)) {
            Ok(bytes) => self.decode(id, bytes.into()),
            // Room was needed since.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                index.invalidate(&name);
                return None;
            }
            Err(_) => Err("it cannot be read"),
        };
        match block {
            Ok(block) => Some(block),
            Err(reason) => {
                count(&self.corrupt);
                warn!(path = %id.path, block = id.index, reason, "a cached block is not as it was written; it is fetched again");
                index.invalidate(&name);
                None
            }
        }
    }

    /// Writes a block. One that cannot be written is not kept.
    pub(super) fn write(&self, id: &BlockId, block: &Block) {
        let Some(index) = &self.index else {
            return;
        };
        let name = self.name(id);
        match self.write_file(&name, &self.encode(id, block)) {
            Ok(bytes) => {
                self.fails.store(false, Ordering::Relaxed);
                index.insert(name, weight(bytes));
                index.run_pending_tasks();
            }
            Err(error) => {
                count(&self.write_failures);
                if !self.fails.swap(true, Ordering::Relaxed) {
                    warn!(directory = %self.directory.display(), %error, "the cache cannot be written; what it lacks comes from the store");
                }
            }
        }
    }

    fn write_file(&self, name: &str, bytes: &[u8]) -> io::Result<u64> {
        let to = place(&self.directory, name);
        if let Some(shelf) = to.parent() {
            fs::create_dir_all(shelf)?;
        }
        let number = self.writes.fetch_add(1, Ordering::Relaxed);
        let unfinished = to.with_file_name(format!("{name}.{number}{UNFINISHED}"));
        let written = fs::File::create(&unfinished)
            .and_then(|mut file| file.write_all(bytes))
            .and_then(|()| fs::rename(&unfinished, &to));
        if written.is_err() {
            // What is left of it may be what fills the disk.
            let _ = fs::remove_file(&unfinished);
        }
        written.map(|()| bytes.len() as u64)
    }

    /// Removes the blocks of an object.
    pub(super) fn forget(&self, path: &Path) {
        let Some(index) = &self.index else {
            return;
        };
        let object = self.object(path);
        let shelf = place(&self.directory, &object);
        let shelf = shelf.parent().and_then(|shelf| fs::read_dir(shelf).ok());
        for file in shelf.into_iter().flatten().flatten() {
            let name = file.file_name().into_string().unwrap_or_default();
            if name.starts_with(&object) {
                index.invalidate(&name);
            }
        }
        index.run_pending_tasks();
    }

    pub(super) fn counts(&self) -> CacheCounts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CacheCounts {
            disk_evictions: get(&self.evictions),
            corrupt: get(&self.corrupt),
            write_failures: get(&self.write_failures),
            disk_bytes: self.index.as_ref().map_or(0, Cache::weighted_size),
            ..CacheCounts::default()
        }
    }

    /// The beginning of the names of an object's blocks.
    fn object(&self, path: &Path) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.store.as_bytes()).update(b"\0");
        hasher.update(path.as_ref().as_bytes());
        format!("{}-", &hasher.finalize().to_hex()[..OBJECT_DIGITS])
    }

    fn name(&self, id: &BlockId) -> String {
        format!("{}{}", self.object(&id.path), id.index)
    }

    fn encode(&self, id: &BlockId, block: &Block) -> Vec<u8> {
        let head = Head {
            store: self.store.clone(),
            path: id.path.to_string(),
            index: id.index,
            size: block.object.size,
            e_tag: block.object.e_tag.clone(),
            last_modified: block.object.last_modified,
        };
        let head = serde_json::to_vec(&head).expect("texts, numbers and a time");
        let length = u32::try_from(head.len()).expect("a path is short");
        let mut file = Vec::with_capacity(PREFIX + head.len() + block.bytes.len());
        file.extend_from_slice(&MAGIC);
        file.extend_from_slice(&length.to_le_bytes());
        file.extend_from_slice(&[0; 4]);
        file.extend_from_slice(&head);
        file.extend_from_slice(&block.bytes);
        let checksum = checksum(length, &file[PREFIX..]);
        file[PREFIX - 4..PREFIX].copy_from_slice(&checksum.to_le_bytes());
        file
    }

    /// The block that `file` holds, if it is the one that `id` means, whole and unchanged.
    fn decode(&self, id: &BlockId, file: Bytes) -> Result<Block, &'static str> {
        let word = |at: usize| {
            let bytes = file.get(at..at + 4)?;
            Some(u32::from_le_bytes(bytes.try_into().ok()?))
        };
        let length = word(MAGIC.len()).ok_or("it is too short")?;
        let written = word(MAGIC.len() + 4).ok_or("it is too short")?;
        if !file.starts_with(&MAGIC) {
            return Err("it is none of this version");
        }
        if checksum(length, file.get(PREFIX..).unwrap_or_default()) != written {
            return Err("its checksum is another");
        }
        let body = PREFIX.saturating_add(length as usize);
        let head = file.get(PREFIX..body).ok_or("it is too short")?;
        let head: Head = serde_json::from_slice(head).map_err(|_| "its head is unreadable")?;
        if (&head.store, head.path.as_str(), head.index)
            != (&self.store, id.path.as_ref(), id.index)
        {
            return Err("it is another block");
        }
        Ok(Block {
            bytes: file.slice(body..),
            object: Arc::new(ObjectMeta {
                location: id.path.clone(),
                last_modified: head.last_modified,
                size: head.size,
                e_tag: head.e_tag,
                version: None,
            }),
        })
    }
}

/// The checksum covers the head's length, too: it says where the block begins.
fn checksum(length: u32, rest: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length.to_le_bytes());
    hasher.update(rest);
    hasher.finalize()
}

fn weight(bytes: u64) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// Whether a file of this name is a whole block.
fn is_block(name: &str) -> bool {
    let parts = name.split_once('-');
    parts.is_some_and(|(object, index)| {
        object.len() == OBJECT_DIGITS
            && object.bytes().all(|byte| byte.is_ascii_hexdigit())
            && index.parse::<u64>().is_ok()
    })
}

fn place(directory: &FilePath, name: &str) -> PathBuf {
    directory.join(&name[..2]).join(name)
}

/// Files by name; one that leaves it leaves the disk.
fn index(config: &CacheConfig, evictions: Arc<AtomicU64>) -> Cache<String, u32> {
    let directory = config.directory.clone();
    Cache::builder()
        .max_capacity(config.disk_bytes)
        .weigher(|_: &String, bytes: &u32| *bytes)
        .eviction_listener(move |name: Arc<String>, _, cause| {
            // Written again, it is the new file that has the name.
            if cause == RemovalCause::Replaced {
                return;
            }
            if cause == RemovalCause::Size {
                count(&evictions);
            }
            // Should it stay, the next start counts it again.
            let _ = fs::remove_file(place(&directory, &name));
        })
        .build()
}
