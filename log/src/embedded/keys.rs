// SPDX-License-Identifier: Apache-2.0
//! Which idempotency keys were used, and what they were answered.
//!
//! A key is kept as a hash, so that each costs the same memory however long it is. Keys are committed in
//! the frame of their append. When a segment is forgotten, those of its keys that still live move to the
//! `keys` file, which also is the record of how far the log was forgotten.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use dovetail_model::Offset;

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

/// The keys that live.
#[derive(Debug)]
pub(super) struct KeyIndex {
    ttl_us: i64,
    max: usize,
    answers: HashMap<KeyHash, Answer>,
    /// In the order of their commits, so oldest first.
    order: VecDeque<KeyHash>,
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

    /// Forgets the keys that have lived their time.
    pub(super) fn expire(&mut self, now_us: i64) {
        while let Some(key) = self.order.front() {
            let lives = self
                .answers
                .get(key)
                .is_some_and(|a| now_us.saturating_sub(a.arrived_at_us) < self.ttl_us);
            if lives {
                return;
            }
            self.answers.remove(key);
            self.order.pop_front();
        }
    }

    pub(super) fn get(&self, key: &KeyHash) -> Option<&Answer> {
        self.answers.get(key)
    }

    pub(super) fn len(&self) -> usize {
        self.answers.len()
    }

    /// Whether `more` keys may be remembered beside those that are.
    pub(super) fn has_room(&self, more: usize) -> bool {
        self.len() + more <= self.max
    }

    /// Remembers a committed key. Of one that is remembered already (it stands in the `keys` file and in a
    /// segment, after a crash between the two) the first answer stays.
    pub(super) fn remember(&mut self, key: KeyHash, answer: Answer) {
        if let std::collections::hash_map::Entry::Vacant(vacant) = self.answers.entry(key) {
            vacant.insert(answer);
            self.order.push_back(key);
        }
    }

    /// The keys committed at or below `offset`, oldest first.
    pub(super) fn up_to(&self, offset: Offset) -> Vec<(KeyHash, Answer)> {
        self.order
            .iter()
            .map(|key| (*key, self.answers[key]))
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

    #[test]
    fn keys_live_exactly_their_time() {
        let mut index = KeyIndex::new(Duration::from_micros(10), 2);
        let (a, b) = (KeyHash::of("a"), KeyHash::of("b"));
        index.remember(a, answer(1, 100));
        index.remember(b, answer(2, 105));
        assert!(!index.has_room(1));
        index.expire(109);
        assert!(index.get(&a).is_some());
        index.expire(110);
        assert!(index.get(&a).is_none() && index.get(&b).is_some() && index.has_room(1));
        assert_eq!(index.order.len(), index.len());
    }

    #[test]
    fn the_first_answer_stays() {
        let mut index = KeyIndex::new(Duration::from_secs(1), 2);
        index.remember(KeyHash::of("a"), answer(1, 100));
        index.remember(KeyHash::of("a"), answer(9, 100));
        assert_eq!(index.up_to(Offset(9)), [(KeyHash::of("a"), answer(1, 100))]);
        assert!(index.up_to(Offset(0)).is_empty());
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
