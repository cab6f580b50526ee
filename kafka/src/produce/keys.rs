// SPDX-License-Identifier: Apache-2.0
//! Which idempotency keys were used, and what they were answered.
//!
//! A key is kept as a hash, so that each costs the same memory however long it is.

use std::collections::{HashMap, VecDeque};

use dovetail_model::Position;
use serde::{Deserialize, Serialize};

use super::{Appended, LANES};

/// How long a key lives, in microseconds.
pub(super) const TTL_US: i64 = 24 * 3600 * 1_000_000;
/// Keys that one lane remembers at most.
const MOST: usize = 250_000;
/// The newest version of a key's record that this build reads, and the one it writes.
const VERSION: u32 = 1;

/// Names a request, so that a second attempt at it counts once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// What the client calls it.
    pub key: String,
    /// The hash of the request's body.
    pub body_hash: [u8; 32],
}

/// The first half of a key's BLAKE3 hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct KeyHash([u8; 16]);

impl KeyHash {
    pub(super) fn of(key: &str) -> Self {
        let mut hash = [0; 16];
        hash.copy_from_slice(&blake3::hash(key.as_bytes()).as_bytes()[..16]);
        Self(hash)
    }

    /// The lane that decides about it, and its partition in the keys' topic.
    pub(super) fn lane(self) -> u32 {
        u32::from(self.0[0]) % LANES
    }

    /// As the key of its record.
    pub(super) fn hex(self) -> String {
        blake3::Hash::from_bytes(doubled(self.0)).to_hex()[..32].to_owned()
    }

    fn from_hex(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok().filter(|t| t.len() == 32)?;
        let hash = blake3::Hash::from_hex(text.repeat(2)).ok()?;
        let (first, _) = hash.as_bytes().split_first_chunk::<16>()?;
        Some(Self(*first))
    }
}

fn doubled(half: [u8; 16]) -> [u8; 32] {
    let mut whole = [0; 32];
    whole[..16].copy_from_slice(&half);
    whole[16..].copy_from_slice(&half);
    whole
}

/// What an append with a key was answered: the value of the key's record, in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Answer {
    version: u32,
    /// The hash of the body, in hex.
    body: String,
    accepted: u64,
    rejected: u64,
    position: Position,
    at_us: i64,
}

impl Answer {
    pub(super) fn new(body_hash: &[u8; 32], appended: &Appended, at_us: i64) -> Self {
        Self {
            version: VERSION,
            body: blake3::Hash::from_bytes(*body_hash).to_hex().to_string(),
            accepted: appended.accepted,
            rejected: appended.rejected,
            position: appended.position.clone(),
            at_us,
        }
    }

    pub(super) fn again(&self) -> Appended {
        Appended {
            accepted: self.accepted,
            rejected: self.rejected,
            position: self.position.clone(),
            duplicate: true,
        }
    }

    pub(super) fn is_of(&self, body_hash: &[u8; 32]) -> bool {
        *self.body == *blake3::Hash::from_bytes(*body_hash).to_hex()
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("it has a form in JSON")
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let versioned: Versioned = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        if versioned.version > VERSION {
            return Err(format!(
                "it has version {}, and this build reads versions up to {VERSION}",
                versioned.version
            ));
        }
        serde_json::from_slice(bytes).map_err(|e| e.to_string())
    }
}

/// The keys of one lane that live.
#[derive(Debug, Default)]
pub(super) struct KeyIndex {
    answers: HashMap<KeyHash, Answer>,
    /// In the order of their commits, so oldest first.
    order: VecDeque<KeyHash>,
}

impl KeyIndex {
    /// Takes a record of the keys' topic. A tombstone is none of ours and says nothing.
    ///
    /// # Errors
    /// When it is no key that this version reads.
    pub(super) fn take(
        &mut self,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        now_us: i64,
    ) -> Result<(), String> {
        let Some(value) = value else { return Ok(()) };
        let hash = key.and_then(KeyHash::from_hex);
        let hash = hash.ok_or("its key is not a hash of 32 hex digits")?;
        let answer = Answer::decode(value)?;
        if lives(&answer, now_us) {
            self.remember(hash, answer);
        }
        Ok(())
    }

    /// Forgets the keys that have lived their time.
    pub(super) fn expire(&mut self, now_us: i64) {
        while let Some(key) = self.order.front() {
            if self.answers.get(key).is_some_and(|a| lives(a, now_us)) {
                return;
            }
            self.answers.remove(key);
            self.order.pop_front();
        }
    }

    pub(super) fn get(&self, key: KeyHash) -> Option<&Answer> {
        self.answers.get(&key)
    }

    pub(super) fn len(&self) -> usize {
        self.answers.len()
    }

    /// Whether `more` keys may be remembered beside those that are.
    pub(super) fn has_room(&self, more: usize) -> bool {
        self.len() + more <= MOST
    }

    /// Remembers a committed key. It was free, or its time was over: a later record of it stands for it.
    pub(super) fn remember(&mut self, key: KeyHash, answer: Answer) {
        if self.answers.insert(key, answer).is_some() {
            self.order.retain(|other| *other != key);
        }
        self.order.push_back(key);
    }
}

fn lives(answer: &Answer, now_us: i64) -> bool {
    now_us.saturating_sub(answer.at_us) < TTL_US
}

#[cfg(test)]
mod tests {
    use dovetail_model::{Offset, PartitionId};

    use super::*;

    fn answer(at_us: i64) -> Answer {
        let appended = Appended {
            accepted: 2,
            rejected: 1,
            position: [(PartitionId(3), Offset(7))].into_iter().collect(),
            duplicate: false,
        };
        Answer::new(&[9; 32], &appended, at_us)
    }

    #[test]
    fn a_record_reads_back_and_says_what_was_answered() {
        let hash = KeyHash::of("a");
        let mut index = KeyIndex::default();
        let value = answer(5).encode();
        let taken = index.take(Some(hash.hex().as_bytes()), Some(&value), 5);
        assert_eq!(taken, Ok(()));
        let found = index.get(hash).unwrap();
        assert_eq!(*found, answer(5));
        assert!(found.is_of(&[9; 32]) && !found.is_of(&[8; 32]));
        assert!(found.again().duplicate);
        assert!(index.get(KeyHash::of("b")).is_none());
    }

    #[test]
    fn what_is_no_key_is_named() {
        let mut index = KeyIndex::default();
        let value = answer(0).encode();
        assert_eq!(index.take(None, None, 0), Ok(()));
        let nameless = index.take(Some(b"short"), Some(&value), 0).unwrap_err();
        assert!(nameless.contains("32 hex digits"), "{nameless}");
        let hex = KeyHash::of("a").hex();
        let newer = br#"{"version": 2, "more": true}"#;
        let newer = index.take(Some(hex.as_bytes()), Some(newer), 0);
        assert!(newer.unwrap_err().contains("version 2"));
        let broken = index.take(Some(hex.as_bytes()), Some(b"{"), 0);
        assert!(broken.is_err());
    }

    #[test]
    fn keys_live_exactly_their_time() {
        let mut index = KeyIndex::default();
        let (a, b) = (KeyHash::of("a"), KeyHash::of("b"));
        index.remember(a, answer(100));
        index.remember(b, answer(105));
        index.expire(99 + TTL_US);
        assert!(index.get(a).is_some());
        index.expire(100 + TTL_US);
        assert!(index.get(a).is_none() && index.get(b).is_some());
        assert_eq!(index.order.len(), index.len());
        // One that has died before it is read is not read.
        let value = answer(100).encode();
        let hex = a.hex();
        index
            .take(Some(hex.as_bytes()), Some(&value), 100 + TTL_US)
            .unwrap();
        assert!(index.get(a).is_none());
    }

    #[test]
    fn a_key_that_is_used_again_after_its_time_is_as_young_as_its_last_use() {
        let mut index = KeyIndex::default();
        let a = KeyHash::of("a");
        index.remember(a, answer(0));
        index.remember(a, answer(50));
        index.expire(TTL_US + 1);
        assert_eq!(index.get(a), Some(&answer(50)));
        assert_eq!(index.order.len(), 1);
    }

    #[test]
    fn keys_spread_over_all_lanes() {
        let lanes: std::collections::BTreeSet<u32> = (0..100)
            .map(|n| KeyHash::of(&n.to_string()).lane())
            .collect();
        assert_eq!(lanes.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3]);
    }
}
