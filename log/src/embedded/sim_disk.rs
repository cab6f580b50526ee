// SPDX-License-Identifier: Apache-2.0
//! A disk in memory that loses what was not synced, for tests and the simulation.
//!
//! The model is harsher than most file systems: at a crash every unsynced sector and every unsynced change
//! of a name is kept or lost on its own, in any combination, and a sync that failed marks its sectors
//! clean: they read back, but no later sync saves them. One seed replays a crash exactly.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::io::{self, ErrorKind};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::disk::{Disk, DiskFile};

/// Small, so that even small frames tear.
const SECTOR: usize = 32;

/// An in-memory [`Disk`] with faults on request. Clones share it.
#[derive(Clone, Default)]
pub struct SimDisk(Arc<Inner>);

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Counts crashes; a file opened before the last one is dead.
    life: u64,
    powered_off: bool,
    files: HashMap<u64, Contents>,
    next_file: u64,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    unsynced_names: Vec<NameChange>,
    /// Mutating operations so far.
    operations: u64,
    syncs: u64,
    power_off_at: Option<u64>,
    failing_write: Option<(u64, ErrorKind)>,
    failing_sync: Option<u64>,
    capacity: Option<u64>,
    syncs_paused: bool,
    syncs_waiting: usize,
}

#[derive(Default)]
struct Contents {
    current: Vec<u8>,
    durable: Vec<u8>,
    /// Numbers of the sectors written since the last sync, failed ones included.
    dirty: BTreeSet<usize>,
}

#[derive(Clone)]
enum NameChange {
    Set(String, u64),
    Move(String, String, u64),
    Remove(String),
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            Self::Set(name, file) => {
                names.insert(name.clone(), *file);
            }
            Self::Move(from, to, file) => {
                names.remove(from);
                names.insert(to.clone(), *file);
            }
            Self::Remove(name) => {
                names.remove(name);
            }
        }
    }
}

impl SimDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cuts the power and starts again: what was not synced is kept or lost as `seed` decides, open files
    /// are dead, and requested faults are forgotten.
    pub fn crash(&self, seed: u64) {
        let mut random = Random(seed);
        let mut state = self.0.state.lock();
        let state = &mut *state;
        // In order, so that a seed means the same crash each time.
        let mut files: Vec<u64> = state.files.keys().copied().collect();
        files.sort_unstable();
        for file in files {
            if let Some(contents) = state.files.get_mut(&file) {
                contents.crash(&mut random);
            }
        }
        let keep = random.chooser();
        let mut names = std::mem::take(&mut state.durable_names);
        for change in std::mem::take(&mut state.unsynced_names) {
            if keep(&mut random) {
                change.apply(&mut names);
            }
        }
        state
            .files
            .retain(|file, _| names.values().any(|f| f == file));
        state.names.clone_from(&names);
        state.durable_names = names;
        state.life += 1;
        state.powered_off = false;
        state.power_off_at = None;
        state.failing_write = None;
        state.failing_sync = None;
        state.syncs_paused = false;
        self.0.changed.notify_all();
    }

    /// Lets `operations` more mutating operations through; from then on everything fails until
    /// [`Self::crash`].
    pub fn cut_power_after(&self, operations: u64) {
        let mut state = self.0.state.lock();
        state.power_off_at = Some(state.operations + operations);
    }

    /// Lets `writes` more writes through and fails the next one with `kind`, half written.
    pub fn fail_write_after(&self, writes: u64, kind: ErrorKind) {
        self.0.state.lock().failing_write = Some((writes, kind));
    }

    /// Lets `syncs` more syncs of files through and fails the next one.
    pub fn fail_sync_after(&self, syncs: u64) {
        self.0.state.lock().failing_sync = Some(syncs);
    }

    /// Bytes that the disk holds before it is full; `None` for no limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.0.state.lock().capacity = bytes;
    }

    /// Makes syncs of files wait until [`Self::resume_syncs`].
    pub fn pause_syncs(&self) {
        self.0.state.lock().syncs_paused = true;
    }

    /// Lets waiting syncs go on.
    pub fn resume_syncs(&self) {
        self.0.state.lock().syncs_paused = false;
        self.0.changed.notify_all();
    }

    /// Blocks until a sync waits for [`Self::resume_syncs`].
    pub fn wait_for_paused_sync(&self) {
        let mut state = self.0.state.lock();
        while state.syncs_waiting == 0 {
            self.0.changed.wait(&mut state);
        }
    }

    /// Mutating operations so far.
    pub fn operations(&self) -> u64 {
        self.0.state.lock().operations
    }

    /// Syncs of files so far.
    pub fn syncs(&self) -> u64 {
        self.0.state.lock().syncs
    }

    /// The content of a file as a reader sees it.
    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.0.state.lock();
        let file = state.names.get(name)?;
        state.files.get(file).map(|c| c.current.clone())
    }

    /// Puts a file there, durably, as if it had always been so; `None` removes it.
    pub fn set_contents(&self, name: &str, bytes: Option<Vec<u8>>) {
        let mut state = self.0.state.lock();
        let Some(bytes) = bytes else {
            state.names.remove(name);
            state.durable_names.remove(name);
            return;
        };
        let file = state.next_file;
        state.next_file += 1;
        let contents = Contents {
            current: bytes.clone(),
            durable: bytes,
            dirty: BTreeSet::new(),
        };
        state.files.insert(file, contents);
        state.names.insert(name.to_owned(), file);
        state.durable_names.insert(name.to_owned(), file);
    }

    /// The state, counted as one mutating operation; an error once the power is off.
    fn mutate(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.0.state.lock();
        state.check_power()?;
        state.operations += 1;
        if state.power_off_at.is_some_and(|at| state.operations > at) {
            state.powered_off = true;
        }
        state.check_power()?;
        Ok(state)
    }

    fn handle(&self, file: u64, life: u64) -> Box<dyn DiskFile> {
        Box::new(SimFile {
            disk: self.clone(),
            file,
            life,
        })
    }
}

impl State {
    fn check_power(&self) -> io::Result<()> {
        if self.powered_off {
            return Err(io::Error::other("the power is off"));
        }
        Ok(())
    }

    fn change_name(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.unsynced_names.push(change);
    }

    fn find(&self, name: &str) -> io::Result<u64> {
        self.names.get(name).copied().ok_or_else(|| {
            let message = format!("there is no file `{name}`");
            io::Error::new(ErrorKind::NotFound, message)
        })
    }

    fn used(&self) -> u64 {
        let sizes = self.names.values().filter_map(|f| self.files.get(f));
        sizes.map(|c| c.current.len() as u64).sum()
    }
}

impl Contents {
    fn write(&mut self, position: usize, bytes: &[u8]) {
        let end = position + bytes.len();
        if self.current.len() < end {
            self.current.resize(end, 0);
        }
        self.current[position..end].copy_from_slice(bytes);
        self.dirty.extend(position / SECTOR..end.div_ceil(SECTOR));
    }

    /// Copies sector `number` to what is durable, as far as that reaches.
    fn save(&mut self, number: usize) {
        let start = number * SECTOR;
        let end = (start + SECTOR)
            .min(self.current.len())
            .min(self.durable.len());
        if start < end {
            self.durable[start..end].copy_from_slice(&self.current[start..end]);
        }
    }

    fn sync(&mut self) {
        self.durable.resize(self.current.len(), 0);
        for number in std::mem::take(&mut self.dirty) {
            self.save(number);
        }
    }

    fn crash(&mut self, random: &mut Random) {
        let (least, most) = (
            self.durable.len().min(self.current.len()),
            self.durable.len().max(self.current.len()),
        );
        let keep = random.chooser();
        let len = match random.below(3) {
            0 => least,
            1 => most,
            _ => least + random.below(most - least + 1),
        };
        self.durable.resize(len, 0);
        for number in std::mem::take(&mut self.dirty) {
            if keep(random) {
                self.save(number);
            }
        }
        self.current.clone_from(&self.durable);
    }
}

impl Disk for SimDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let state = self.0.state.lock();
        state.check_power()?;
        Ok(state.names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.mutate()?;
        let file = state.next_file;
        state.next_file += 1;
        state.files.insert(file, Contents::default());
        state.change_name(NameChange::Set(name.to_owned(), file));
        Ok(self.handle(file, state.life))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let state = self.0.state.lock();
        state.check_power()?;
        Ok(self.handle(state.find(name)?, state.life))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.mutate()?;
        let file = state.find(from)?;
        state.change_name(NameChange::Move(from.to_owned(), to.to_owned(), file));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.mutate()?;
        state.find(name)?;
        state.change_name(NameChange::Remove(name.to_owned()));
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.mutate()?;
        state.unsynced_names.clear();
        state.durable_names = state.names.clone();
        Ok(())
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDisk").finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    file: u64,
    life: u64,
}

impl SimFile {
    fn contents<'a>(&self, state: &'a mut State) -> io::Result<&'a mut Contents> {
        if state.life != self.life {
            return Err(io::Error::other("the file was opened before the crash"));
        }
        let gone = || io::Error::other("the file is gone");
        state.files.get_mut(&self.file).ok_or_else(gone)
    }
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        let mut state = self.disk.0.state.lock();
        state.check_power()?;
        Ok(self.contents(&mut state)?.current.len() as u64)
    }

    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut state = self.disk.0.state.lock();
        state.check_power()?;
        let contents = self.contents(&mut state)?;
        let start = usize::try_from(position).map_err(io::Error::other)?;
        let bytes = contents
            .current
            .get(start..start + buffer.len())
            .ok_or(ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }

    fn write_at(&mut self, position: u64, parts: &[&[u8]]) -> io::Result<()> {
        let mut bytes = parts.concat();
        let mut state = self.disk.mutate()?;
        let position = usize::try_from(position).map_err(io::Error::other)?;
        let mut failure = None;
        match &mut state.failing_write {
            Some((0, kind)) => {
                failure = Some(*kind);
                bytes.truncate(bytes.len() / 2);
                state.failing_write = None;
            }
            Some((left, _)) => *left -= 1,
            None => {}
        }
        let used = state.used();
        let capacity = state.capacity;
        let contents = self.contents(&mut state)?;
        if let Some(capacity) = capacity {
            let others = used - contents.current.len() as u64;
            let room = usize::try_from(capacity.saturating_sub(others))
                .unwrap_or(usize::MAX)
                .saturating_sub(position);
            if room < bytes.len() {
                bytes.truncate(room);
                failure = Some(ErrorKind::StorageFull);
            }
        }
        contents.write(position, &bytes);
        failure.map_or(Ok(()), |kind| Err(kind.into()))
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        let mut state = self.disk.mutate()?;
        let len = usize::try_from(len).map_err(io::Error::other)?;
        self.contents(&mut state)?.current.resize(len, 0);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.disk.mutate()?;
        state.syncs += 1;
        while state.syncs_paused {
            state.syncs_waiting += 1;
            self.disk.0.changed.notify_all();
            self.disk.0.changed.wait(&mut state);
            state.syncs_waiting -= 1;
        }
        let mut failing = false;
        match &mut state.failing_sync {
            Some(0) => {
                failing = true;
                state.failing_sync = None;
            }
            Some(left) => *left -= 1,
            None => {}
        }
        let contents = self.contents(&mut state)?;
        if failing {
            contents.dirty.clear();
            return Err(io::Error::other("the sync failed"));
        }
        contents.sync();
        Ok(())
    }

    fn settle(&mut self) -> io::Result<()> {
        self.sync()?;
        let mut state = self.disk.0.state.lock();
        let contents = self.contents(&mut state)?;
        contents.current.clone_from(&contents.durable);
        Ok(())
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap_or(0)
    }

    /// Whether unsynced things are kept: all of them, none, or each by the toss of a coin.
    fn chooser(&mut self) -> fn(&mut Random) -> bool {
        match self.below(4) {
            0 => |_| true,
            1 => |_| false,
            _ => |random| random.next() & 1 == 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(disk: &SimDisk, name: &str, bytes: &[u8]) -> Box<dyn DiskFile> {
        let mut file = disk.create(name).unwrap();
        file.write_at(0, &[bytes]).unwrap();
        file
    }

    #[test]
    fn what_was_synced_survives_every_crash() {
        for seed in 0..64 {
            let disk = SimDisk::new();
            let mut file = written(&disk, "a", &[7; 100]);
            file.sync().unwrap();
            disk.sync_dir().unwrap();
            file.write_at(100, &[&[8; 100]]).unwrap();
            disk.crash(seed);
            let found = disk.contents("a").unwrap();
            assert_eq!(found[..100], [7; 100]);
            assert!(found.len() <= 200 && found[100..].iter().all(|b| [0, 8].contains(b)));
            assert!(file.sync().is_err(), "the old handle is dead");
        }
    }

    #[test]
    fn what_was_not_synced_is_sometimes_lost_and_sometimes_torn() {
        let outcomes: BTreeSet<Option<usize>> = (0..64)
            .map(|seed| {
                let disk = SimDisk::new();
                written(&disk, "a", &[7; 100]);
                disk.crash(seed);
                disk.contents("a")
                    .map(|c| c.iter().filter(|b| **b == 7).count())
            })
            .collect();
        let torn = outcomes.iter().flatten().any(|n| (1..100).contains(n));
        assert!(outcomes.contains(&None) && outcomes.contains(&Some(100)) && torn);
    }

    #[test]
    fn a_failed_sync_is_never_made_good() {
        let disk = SimDisk::new();
        let mut file = written(&disk, "a", &[7; 100]);
        disk.sync_dir().unwrap();
        disk.fail_sync_after(0);
        file.sync().unwrap_err();
        file.sync().unwrap();
        assert_eq!(disk.contents("a").unwrap(), [7; 100], "it reads back");
        file.settle().unwrap();
        assert_eq!(disk.contents("a").unwrap(), [0; 100]);
    }

    #[test]
    fn a_full_disk_takes_what_fits() {
        let disk = SimDisk::new();
        disk.set_capacity(Some(10));
        let mut file = written(&disk, "a", &[7; 8]);
        let error = file.write_at(8, &[&[7; 8]]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StorageFull);
        assert_eq!(file.len().unwrap(), 10);
    }
}
