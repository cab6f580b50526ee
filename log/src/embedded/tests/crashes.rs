// SPDX-License-Identifier: Apache-2.0
//! Random schedules of appends, faults and power cuts against a model of what was acknowledged.
//!
//! `DOVETAIL_PROPTEST_CASES` sets how many.

use std::collections::BTreeMap;
use std::io::ErrorKind;

use futures::future::join_all;
use proptest::prelude::*;

use super::*;
use crate::embedded::batch::offsets;

#[derive(Debug, Clone)]
enum Step {
    /// Appends that wait together; each with its number of events and dead letters, and whether it has a
    /// key.
    Append(Vec<(u8, u8, bool)>),
    /// Every keyed append so far once more.
    RetryAll,
    /// Forget up to this part, of 255, of what is durable.
    Forget(u8),
    CloseAndOpen,
    /// The power fails after so many operations of the disk; the seed decides what survives.
    CutPower(u8, u64),
    FailSync(u8),
    FailWrite(u8),
    /// Room for so many more bytes, or for any.
    Capacity(Option<u16>),
}

fn step() -> impl Strategy<Value = Step> {
    let appends = prop::collection::vec((0u8..6, 0u8..3, any::<bool>()), 1..5);
    prop_oneof![
        8 => appends.prop_map(Step::Append),
        1 => Just(Step::RetryAll),
        2 => any::<u8>().prop_map(Step::Forget),
        1 => Just(Step::CloseAndOpen),
        3 => (0u8..12, any::<u64>()).prop_map(|(after, seed)| Step::CutPower(after, seed)),
        1 => (0u8..3).prop_map(Step::FailSync),
        1 => (0u8..3).prop_map(Step::FailWrite),
        1 => prop::option::of(0u16..2000).prop_map(Step::Capacity),
    ]
}

/// What the model knows of one append.
#[derive(Debug, Clone)]
struct Sent {
    events: u8,
    letters: u8,
    key: Option<String>,
    /// Where it ends, once that is known for sure.
    next: Option<u64>,
    /// Whether it may be there although nobody was told.
    maybe: bool,
}

impl Sent {
    fn offsets(&self) -> u64 {
        u64::from(self.events) + u64::from(self.letters)
    }

    fn append(&self, tag: usize) -> Append {
        let first = tag as i64 * 100;
        let letters = (0..self.letters).map(|i| letter(&format!("{tag}/{i}")));
        Append {
            dead_letters: letters.collect(),
            key: self.key.as_ref().map(|key| IdempotencyKey {
                key: key.clone(),
                body_hash: [1; 32],
            }),
            ..append(first..first + i64::from(self.events))
        }
    }
}

struct Run {
    world: World,
    log: EmbeddedLog,
    /// By tag; an append's ids and dead letters name it.
    sent: Vec<Sent>,
    forgotten: u64,
    /// Whether the log was poisoned, or the power is to fail.
    shaky: bool,
    crash_seed: Option<u64>,
}

impl Run {
    fn new(segment_max_bytes: u64) -> Self {
        let mut world = World::new();
        world.options.segment_max_bytes = segment_max_bytes;
        let log = world.open();
        Self {
            world,
            log,
            sent: Vec::new(),
            forgotten: 0,
            shaky: false,
            crash_seed: None,
        }
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Append(shapes) => {
                let first = self.sent.len();
                self.sent
                    .extend(shapes.iter().enumerate().map(|(i, shape)| Sent {
                        events: shape.0,
                        letters: shape.1,
                        key: shape.2.then(|| format!("key {}", first + i)),
                        next: None,
                        maybe: false,
                    }));
                self.send(&(first..self.sent.len()).collect::<Vec<_>>())
                    .await;
            }
            Step::RetryAll => self.retry_all().await,
            Step::Forget(part) => {
                let archived = self.log.durable().0 * u64::from(part) / 255;
                if let Ok(oldest) = self.log.forget(Offset(archived)) {
                    assert!(oldest.0 <= archived.max(self.forgotten));
                }
                // Also when it failed: the decision may be durable.
                self.forgotten = self.forgotten.max(archived);
            }
            Step::CloseAndOpen => self.reopen().await,
            Step::CutPower(after, seed) => {
                self.world.disk.cut_power_after(u64::from(after));
                self.crash_seed = Some(seed);
                self.shaky = true;
            }
            Step::FailSync(after) => {
                self.world.disk.fail_sync_after(u64::from(after));
                self.shaky = true;
            }
            Step::FailWrite(after) => {
                let kind = ErrorKind::Other;
                self.world.disk.fail_write_after(u64::from(after), kind);
                self.shaky = true;
            }
            Step::Capacity(room) => {
                let names = self.world.disk.list().unwrap_or_default();
                let sizes = names
                    .iter()
                    .filter_map(|name| self.world.disk.contents(name));
                let used: usize = sizes.map(|bytes| bytes.len()).sum();
                let capacity = room.map(|room| used as u64 + u64::from(room));
                self.world.disk.set_capacity(capacity);
            }
        }
    }

    /// Sends the appends with these tags at once and takes note of the answers.
    async fn send(&mut self, tags: &[usize]) {
        let appends = tags
            .iter()
            .map(|tag| self.log.append(self.sent[*tag].append(*tag)));
        let answers = join_all(appends).await;
        for (tag, answer) in tags.iter().zip(answers) {
            let shaky = self.shaky;
            let sent = &mut self.sent[*tag];
            match answer {
                Ok(appended) => {
                    let counts = (appended.accepted, appended.rejected);
                    assert_eq!(counts, (sent.events.into(), sent.letters.into()));
                    let known = sent.next.is_some();
                    assert!(!known || sent.next == Some(appended.next.0), "{sent:?}");
                    assert!(!appended.duplicate || known || sent.maybe, "{sent:?}");
                    assert!(appended.duplicate || !known, "doubled: {sent:?}");
                    sent.next = Some(appended.next.0);
                    sent.maybe = false;
                }
                // Nothing was kept; or was kept before.
                Err(LogError::DiskFull { .. } | LogError::Poisoned { .. } | LogError::Closed) => {}
                Err(LogError::CommitFailed { .. }) => {
                    assert!(shaky, "a sound disk fails nothing");
                    sent.maybe |= sent.next.is_none();
                }
                Err(other) => panic!("{other}"),
            }
        }
    }

    async fn retry_all(&mut self) {
        let keyed = |tag: &usize| self.sent[*tag].key.is_some();
        let tags: Vec<usize> = (0..self.sent.len()).filter(keyed).collect();
        for tags in tags.chunks(7) {
            self.send(tags).await;
        }
    }

    /// Ends this life of the log, by a crash if one is due, and checks the next one.
    async fn reopen(&mut self) {
        self.log.close().await;
        if let Some(seed) = self.crash_seed.take() {
            self.world.disk.crash(seed);
        }
        self.shaky = false;
        self.world.disk.set_capacity(None);
        // A fault that did not come to pass.
        self.world.disk.fail_sync_after(u64::MAX);
        self.world.disk.fail_write_after(u64::MAX, ErrorKind::Other);
        let (log, recovered) = self.world.try_open().unwrap();
        self.log = log;
        assert!(
            recovered.oldest.0 <= self.forgotten,
            "forgot what is not archived"
        );
        self.check();
    }

    /// Compares what the log holds with what was acknowledged.
    fn check(&mut self) {
        let oldest = self.log.oldest_retained().0;
        let mut found: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
        let mut at = oldest;
        for batch in read(&self.log, oldest, u64::MAX) {
            let (first, next) = offsets(&batch);
            assert_eq!(first.0, at, "a gap");
            at = next.0;
            for (offset, id) in pairs(&batch) {
                found.entry(id as usize / 100).or_default().push(offset);
            }
            for ((_, offset), letter) in batch.dead_letters {
                let text = String::from_utf8(letter.bytes.to_vec()).unwrap();
                let tag = text.split_once('/').unwrap().0.parse().unwrap();
                found.entry(tag).or_default().push(offset.0);
            }
        }
        assert_eq!(at, self.log.durable().0);
        for (tag, sent) in self.sent.iter_mut().enumerate() {
            let count = sent.offsets();
            let offsets = found.remove(&tag).unwrap_or_default();
            match sent.next {
                Some(next) if next - count >= oldest => {
                    let expected: Vec<u64> = (next - count..next).collect();
                    assert_eq!(offsets, expected, "append {tag}");
                }
                Some(next) => {
                    assert!(next <= oldest, "half of append {tag} is forgotten");
                    assert!(offsets.is_empty());
                }
                None if offsets.is_empty() => {
                    // An append of nothing but its key cannot be seen here; its retry will tell.
                    sent.maybe &= count == 0;
                }
                None => {
                    assert!(sent.maybe, "append {tag} was refused, and is there");
                    let expected: Vec<u64> = (offsets[0]..offsets[0] + count).collect();
                    assert_eq!(offsets, expected, "half of append {tag}");
                    sent.next = Some(offsets[0] + count);
                }
            }
        }
        assert!(found.is_empty(), "never sent: {found:?}");
    }
}

fn cases() -> u32 {
    let cases = std::env::var("DOVETAIL_PROPTEST_CASES").ok();
    cases.and_then(|cases| cases.parse().ok()).unwrap_or(48)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Law 4 and the log's part of law 2: every acknowledged append is there exactly once at its offsets,
    /// none is there by half, and each key is remembered with its answer, whatever fails.
    #[test]
    fn acknowledged_appends_survive_whatever_fails(
        steps in prop::collection::vec(step(), 1..40),
        segment_max_bytes in prop_oneof![Just(1u64), Just(2000), Just(1 << 20)],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut run = Run::new(segment_max_bytes);
            for step in steps {
                run.step(step).await;
            }
            run.reopen().await;
            run.retry_all().await;
            run.check();
            run.log.close().await;
        });
    }
}
