// SPDX-License-Identifier: Apache-2.0
//! Which idempotency keys were used, and what they were answered.
//!
//! A key is kept as a hash, so that each costs the same memory however long it is. Keys are committed in
//! the frame of their append. When a segment is forgotten, those of its keys that still live move to the
//! `keys` file, which also is the record of how far the log was forgotten.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use dovetail_model::{Moment, Offset};

use super::Appended;
use super::wire::{Reader, Writer};

/// Hash of a request's body.
pub(super) type BodyHash = [u8; 32];

/// The first half of a key's BLAKE3 hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct KeyHash(pub(super) [u8; 16]);

impl KeyHash {
    pub(super) fn of(key: &str) -> Self {
        let mut hash = [0; 16];
        hash.copy_from_slice(&blake3::hash(key.as_bytes()).as_bytes()[..16]);
        Self(hash)
    }
}

/// What an append with a key was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) body: BodyHash,
    pub(super) accepted: u64,
    pub(super) rejected: u64,
    pub(super) next: Offset,
    pub(super) arrived_at_us: i64,
}

impl Answer {
    pub(super) fn again(&self) -> Appended {
        Appended {
            accepted: self.accepted,
            rejected: self.rejected,
            next: self.next,
            duplicate: true,
        }
    }
}

/// The keys that live. How long they do is measured by a clock that does not jump, so that one which is set forward
/// makes no retry count twice.
#[derive(Debug)]
pub(super) struct KeyIndex {
    ttl_us: i64,
    max: usize,
    answers: HashMap<KeyHash, Remembered>,
    /// In the order of their commits, so oldest first.
    order: VecDeque<KeyHash>,
}

#[derive(Debug, Clone, Copy)]
struct Remembered {
    answer: Answer,
    /// Since when it lives, as [`Moment::steady_us`].
    since_us: i64,
}

impl KeyIndex {
    pub(super) fn new(ttl: Duration, max: usize) -> Self {
        Self {
            ttl_us: i64::try_from(ttl.as_micros()).unwrap_or(i64::MAX),
            max,
            answers: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    /// Forgets the keys that have lived their time `at` a moment.
    pub(super) fn expire(&mut self, at: Moment) {
        while let Some(key) = self.order.front() {
            let lives = self
                .answers
                .get(key)
                .is_some_and(|a| at.steady_us.saturating_sub(a.since_us) < self.ttl_us);
            if lives {
                return;
            }
            self.answers.remove(key);
            self.order.pop_front();
        }
    }

    pub(super) fn get(&self, key: &KeyHash) -> Option<&Answer> {
        self.answers.get(key).map(|remembered| &remembered.answer)
    }

    pub(super) fn len(&self) -> usize {
        self.answers.len()
    }

    /// Whether `more` keys may be remembered beside those that are.
    pub(super) fn has_room(&self, more: usize) -> bool {
        self.len() + more <= self.max
    }

    /// Remembers, `at` a moment, a committed key; one of an earlier process is as old as the wall clock says. One that
    /// is remembered already stands in the `keys` file and in a segment, after a crash between the two; or it was used
    /// again after its time, by the clock of then.
    pub(super) fn remember(&mut self, key: KeyHash, answer: Answer, at: Moment) {
        if self
            .get(&key)
            .is_some_and(|earlier| earlier.next < answer.next)
        {
            self.answers.remove(&key);
            self.order.retain(|other| *other != key);
        }
        if let std::collections::hash_map::Entry::Vacant(vacant) = self.answers.entry(key) {
            let age_us = at.now_us.saturating_sub(answer.arrived_at_us).max(0);
            let since_us = at.steady_us.saturating_sub(age_us);
            vacant.insert(Remembered { answer, since_us });
            self.order.push_back(key);
        }
    }

    /// The keys committed at or below `offset`, oldest first.
    pub(super) fn up_to(&self, offset: Offset) -> Vec<(KeyHash, Answer)> {
        self.order
            .iter()
            .map(|key| (*key, self.answers[key].answer))
            .take_while(|(_, answer)| answer.next <= offset)
            .collect()
    }
}

const MAGIC: [u8; 8] = *b"DvtlKeys";
/// The newest version of the `keys` file that this build reads, and the one it writes.
const VERSION: u32 = 1;

/// The content of the `keys` file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeysFile {
    /// Sequence of the first segment that is retained; those before it may be deleted.
    pub(super) first_segment: u64,
    pub(super) keys: Vec<(KeyHash, Answer)>,
}

/// Why a `keys` file cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum KeysFileError {
    Newer { found: u32, known: u32 },
    Damaged,
}

impl KeysFile {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.u32(VERSION);
        writer.u64(self.first_segment);
        writer.list(&self.keys, |writer, (key, answer)| {
            writer.raw(&key.0);
            writer.raw(&answer.body);
            writer.u64(answer.accepted);
            writer.u64(answer.rejected);
            writer.u64(answer.next.0);
            writer.i64(answer.arrived_at_us);
        });
        let crc = crc32fast::hash(&writer.0);
        [&MAGIC[..], &crc.to_le_bytes(), &writer.0].concat()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, KeysFileError> {
        let mut reader = Reader(bytes);
        let (magic, crc) = (reader.array(), reader.u32());
        if magic != Some(MAGIC) || crc != Some(crc32fast::hash(reader.0)) {
            return Err(KeysFileError::Damaged);
        }
        match reader.u32() {
            Some(found) if found > VERSION => Err(KeysFileError::Newer {
                found,
                known: VERSION,
            }),
            Some(_) => Self::decode_fields(&mut reader).ok_or(KeysFileError::Damaged),
            None => Err(KeysFileError::Damaged),
        }
    }

    fn decode_fields(reader: &mut Reader<'_>) -> Option<Self> {
        let first_segment = reader.u64()?;
        let keys = reader.list(|reader| {
            let key = KeyHash(reader.array()?);
            let answer = Answer {
                body: reader.array()?,
                accepted: reader.u64()?,
                rejected: reader.u64()?,
                next: Offset(reader.u64()?),
                arrived_at_us: reader.i64()?,
            };
            Some((key, answer))
        })?;
        Some(Self {
            first_segment,
            keys,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(next: u64, arrived_at_us: i64) -> Answer {
        Answer {
            body: [3; 32],
            accepted: 1,
            rejected: 0,
            next: Offset(next),
            arrived_at_us,
        }
    }

    /// By the wall clock, and 1000 later by the other.
    fn at(now_us: i64) -> Moment {
        Moment {
            now_us,
            steady_us: now_us + 1000,
        }
    }

    #[test]
    fn keys_live_exactly_their_time() {
        let mut index = KeyIndex::new(Duration::from_micros(10), 2);
        let (a, b) = (KeyHash::of("a"), KeyHash::of("b"));
        index.remember(a, answer(1, 100), at(100));
        index.remember(b, answer(2, 105), at(105));
        assert!(!index.has_room(1));
        index.expire(at(109));
        assert!(index.get(&a).is_some());
        index.expire(at(110));
        assert!(index.get(&a).is_none() && index.get(&b).is_some() && index.has_room(1));
        assert_eq!(index.order.len(), index.len());
    }

    #[test]
    fn a_clock_that_jumps_neither_ends_a_key_nor_keeps_it() {
        let mut index = KeyIndex::new(Duration::from_micros(10), 9);
        let [old, before, ahead] = ["old", "before", "ahead"].map(KeyHash::of);
        index.remember(old, answer(1, 94), at(100));
        index.remember(before, answer(2, 100), at(100));
        let moment = |now_us, steady_us| Moment { now_us, steady_us };
        // A day forward, and back again; what is committed meanwhile arrived by the day that it was.
        index.expire(moment(86_400, 1103));
        index.remember(ahead, answer(3, 86_400), moment(86_400, 1103));
        assert_eq!(index.len(), 3);
        index.expire(moment(104, 1104));
        assert!(index.get(&old).is_none() && index.get(&before).is_some());
        index.expire(moment(110, 1110));
        assert!(index.get(&before).is_none() && index.get(&ahead).is_some());
        index.expire(moment(113, 1113));
        assert_eq!(index.len(), 0);
    }

    #[test]
    fn a_key_that_is_there_twice_counts_once_and_one_that_was_used_again_by_its_last_use() {
        let mut index = KeyIndex::new(Duration::from_secs(1), 2);
        index.remember(KeyHash::of("a"), answer(1, 100), at(100));
        index.remember(KeyHash::of("a"), answer(1, 100), at(105));
        assert_eq!(index.up_to(Offset(9)), [(KeyHash::of("a"), answer(1, 100))]);
        assert!(index.up_to(Offset(0)).is_empty());
        index.remember(KeyHash::of("a"), answer(9, 200), at(150));
        assert_eq!(index.up_to(Offset(9)), [(KeyHash::of("a"), answer(9, 200))]);
        assert_eq!(index.order.len(), index.len());
    }

    #[test]
    fn the_file_reads_back_and_no_flipped_bit_goes_unnoticed() {
        let file = KeysFile {
            first_segment: 7,
            keys: vec![(KeyHash::of("a"), answer(1, -5))],
        };
        let bytes = file.encode();
        assert_eq!(KeysFile::decode(&bytes), Ok(file));
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(KeysFile::decode(&bytes), Err(KeysFileError::Damaged));
        }
    }

    #[test]
    fn a_newer_file_is_named_as_such() {
        let mut fields = 2u32.to_le_bytes().to_vec();
        fields.extend_from_slice(b"whatever comes then");
        let crc = crc32fast::hash(&fields).to_le_bytes();
        let bytes = [&MAGIC[..], &crc, &fields].concat();
        let newer = KeysFileError::Newer { found: 2, known: 1 };
        assert_eq!(KeysFile::decode(&bytes), Err(newer));
    }
}
