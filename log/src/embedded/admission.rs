// SPDX-License-Identifier: Apache-2.0
//! Which of the waiting requests are to be written, and which have their answer already.

use std::collections::HashMap;

use dovetail_model::Offset;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::error::{LogError, in_words};
use super::keys::{BodyHash, KeyHash, KeyIndex};
use super::{Append, Appended, LogOptions};

/// What a request waits for.
pub(super) type Answer = Result<Appended, LogError>;

/// An append that waits for its commit.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) append: Append,
    /// Hash of its key; the key itself is in the append.
    pub(super) key: Option<(KeyHash, BodyHash)>,
    /// About how much memory it takes.
    pub(super) bytes: usize,
    pub(super) answer: oneshot::Sender<Answer>,
    /// Its room in the queue, given back when it is dropped.
    pub(super) room: Option<OwnedSemaphorePermit>,
}

/// A group of requests, sorted out. Requests that needed no write are answered and gone.
#[derive(Debug, Default)]
pub(super) struct Admitted {
    /// To be written, in order.
    pub(super) writes: Vec<Request>,
    /// Repeat a request of the same group: wait for the answer of `writes[index]`.
    pub(super) repeats: Vec<(usize, oneshot::Sender<Answer>)>,
}

/// Sorts out `group`. `keys` are the committed ones, without expired ones; the log ends at `next`.
pub(super) fn admit(
    group: Vec<Request>,
    keys: &KeyIndex,
    next: Offset,
    options: &LogOptions,
) -> Admitted {
    let mut admitted = Admitted::default();
    let mut in_group: HashMap<KeyHash, (usize, BodyHash)> = HashMap::new();
    for request in group {
        let Some((key, body)) = request.key else {
            if request.append.events.num_rows() == 0 && request.append.dead_letters.is_empty() {
                let nothing = Appended {
                    accepted: 0,
                    rejected: 0,
                    next,
                    duplicate: false,
                };
                answer(request.answer, Ok(nothing));
            } else {
                admitted.writes.push(request);
            }
            continue;
        };
        let earlier = keys.get(&key);
        if let Some(earlier) = earlier.filter(|earlier| earlier.body == body) {
            answer(request.answer, Ok(earlier.again()));
        } else if let Some((index, _)) = in_group.get(&key).filter(|(_, other)| *other == body) {
            admitted.repeats.push((*index, request.answer));
        } else if earlier.is_some() || in_group.contains_key(&key) {
            let error = reused(&request, options);
            answer(request.answer, Err(error));
        } else if !keys.has_room(in_group.len() + 1) {
            let error = LogError::TooManyKeys {
                remembered: keys.len(),
                ttl: in_words(options.key_ttl),
            };
            answer(request.answer, Err(error));
        } else {
            in_group.insert(key, (admitted.writes.len(), body));
            admitted.writes.push(request);
        }
    }
    admitted
}

fn reused(request: &Request, options: &LogOptions) -> LogError {
    let key = request.append.key.as_ref();
    LogError::KeyReused {
        key: key.map_or_else(String::new, |key| key.key.chars().take(200).collect()),
        ttl: in_words(options.key_ttl),
    }
}

/// Answers a request, if anybody still waits.
pub(super) fn answer(to: oneshot::Sender<Answer>, answer: Answer) {
    // A client that went away learns the outcome by its key.
    let _ = to.send(answer);
}
