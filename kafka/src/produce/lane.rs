// SPDX-License-Identifier: Apache-2.0
//! A thread that owns one lane: it takes all waiting requests, commits them together, and answers each.

use std::collections::HashMap;
use std::sync::Arc;

use dovetail_model::Position;
use tokio::sync::{mpsc, oneshot};
use tracing::warn;

use super::keys::{KeyHash, KeyIndex};
use super::session::{Failure, Session};
use super::{Append, Appended, ProduceError, Shared};

/// Bytes of values that one transaction carries, and records, unless a single request has more.
const MOST_BYTES: usize = 16 << 20;
const MOST_MESSAGES: usize = 200_000;

/// An append that waits for its commit.
pub(super) struct Request {
    pub(super) append: Append,
    pub(super) answer: oneshot::Sender<Result<Appended, ProduceError>>,
}

impl Request {
    fn answer(self, answer: Result<Appended, ProduceError>) {
        // A client that went away learns the outcome by its key.
        let _ = self.answer.send(answer);
    }

    fn key(&self) -> Option<(KeyHash, &[u8; 32])> {
        let key = self.append.key.as_ref()?;
        Some((KeyHash::of(&key.key), &key.body_hash))
    }
}

pub(super) struct Lane {
    shared: Arc<Shared>,
    number: u32,
    session: Option<Session>,
}

impl Lane {
    pub(super) fn new(shared: Arc<Shared>, number: u32) -> Self {
        Self {
            shared,
            number,
            session: None,
        }
    }

    /// Serves until nobody can send a request any more.
    pub(super) fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        while let Some(first) = requests.blocking_recv() {
            let (mut bytes, mut messages) = weight(&first);
            let mut group = vec![first];
            while bytes < MOST_BYTES
                && messages < MOST_MESSAGES
                && let Ok(next) = requests.try_recv()
            {
                let more = weight(&next);
                (bytes, messages) = (bytes + more.0, messages + more.1);
                group.push(next);
            }
            self.serve(group);
        }
    }

    /// Answers every request of a group.
    fn serve(&mut self, mut group: Vec<Request>) {
        let mut doubt = None;
        let mut again = true;
        while !group.is_empty() {
            let session = match self.session() {
                Ok(session) => session,
                Err(error) => return refuse(group, doubt.as_deref(), &error),
            };
            let is_keyed = |request: &Request| request.append.key.is_some();
            if group.iter().any(is_keyed) {
                if let Err(error) = session.load_keys() {
                    if !session.is_usable() {
                        self.session = None;
                    }
                    // Those without a key need none of it.
                    let (keyed, others) = group.into_iter().partition(is_keyed);
                    refuse(keyed, doubt.as_deref(), &error);
                    group = others;
                    continue;
                }
                // What was committed is known now.
                doubt = None;
            }
            let admitted = session.admit(group);
            if admitted.writes.is_empty() {
                return;
            }
            let failure = match session.transact(&admitted.writes) {
                Ok(answers) => return release(admitted, answers),
                Err(failure) => failure,
            };
            if !session.is_usable() {
                self.session = None;
            }
            let repeats = admitted.repeats.into_iter().map(|(_, request)| request);
            group = admitted.writes.into_iter().chain(repeats).collect();
            match failure {
                // Which of them it was is seen when each is alone.
                Failure::Refused(_) if group.len() > 1 => {
                    for request in group {
                        self.serve(vec![request]);
                    }
                    return;
                }
                Failure::Lost(error) if again => {
                    warn!(stream = %self.shared.name, lane = self.number, %error, "took the lane over again");
                }
                Failure::Unknown(reason) if again => {
                    // A key finds out what became of it.
                    let (keyed, others): (Vec<_>, _) = group.into_iter().partition(is_keyed);
                    doubt = Some(reason);
                    refuse(others, doubt.as_deref(), &ProduceError::Closed);
                    group = keyed;
                }
                Failure::Unknown(reason) => {
                    return refuse(group, Some(&reason), &ProduceError::Closed);
                }
                Failure::Refused(error) | Failure::Lost(error) | Failure::Failed(error) => {
                    return refuse(group, None, &error);
                }
            }
            again = false;
        }
    }

    fn session(&mut self) -> Result<&mut Session, ProduceError> {
        let session = match self.session.take() {
            Some(session) => session,
            None => Session::open(&self.shared, self.number)?,
        };
        Ok(self.session.insert(session))
    }
}

/// Bytes and number of its records.
fn weight(request: &Request) -> (usize, usize) {
    let messages = &request.append.messages;
    let bytes = messages.iter().map(|message| message.value.len()).sum();
    (bytes, messages.len())
}

/// A group, sorted out. Requests that need no transaction are answered and gone.
#[derive(Default)]
pub(super) struct Admitted {
    pub(super) writes: Vec<Request>,
    /// Repeat a request of the same group: wait for the answer of `writes[index]`.
    repeats: Vec<(usize, Request)>,
}

/// What becomes of one request.
enum Verdict {
    Answer(Result<Appended, ProduceError>),
    Write,
    /// It repeats a request of its group.
    Repeat(usize),
}

/// Sorts out a group. `keys` are the committed ones that live, read if any request has one; `fits` says whether the
/// topic takes what a request has.
pub(super) fn admit(
    group: Vec<Request>,
    keys: &KeyIndex,
    fits: impl Fn(&Append) -> Result<(), ProduceError>,
) -> Admitted {
    let mut admitted = Admitted::default();
    let mut in_group: HashMap<KeyHash, usize> = HashMap::new();
    for request in group {
        let verdict = match request.key() {
            None if request.append.messages.is_empty() => {
                Verdict::Answer(Ok(appended(&request.append, &Position::zero())))
            }
            None => Verdict::Write,
            Some((key, body)) => {
                let earlier = in_group.get(&key).map(|at| (*at, &admitted.writes[*at]));
                judge(key, body, keys, earlier, in_group.len())
                    .unwrap_or_else(|| Verdict::Answer(Err(reused(&request))))
            }
        };
        match verdict {
            Verdict::Answer(answer) => request.answer(answer),
            Verdict::Repeat(index) => admitted.repeats.push((index, request)),
            Verdict::Write => match fits(&request.append) {
                Err(error) => request.answer(Err(error)),
                Ok(()) => {
                    let key = request.key().map(|(key, _)| key);
                    in_group.extend(key.map(|key| (key, admitted.writes.len())));
                    admitted.writes.push(request);
                }
            },
        }
    }
    admitted
}

/// What becomes of a request with a key, of which `earlier` is in its group already. None if the key was used for
/// another body.
fn judge(
    key: KeyHash,
    body: &[u8; 32],
    keys: &KeyIndex,
    earlier: Option<(usize, &Request)>,
    in_group: usize,
) -> Option<Verdict> {
    if let Some(answer) = keys.get(key) {
        return answer
            .is_of(body)
            .then(|| Verdict::Answer(Ok(answer.again())));
    }
    if let Some((index, earlier)) = earlier {
        let same = earlier.key().is_some_and(|(_, other)| other == body);
        return same.then_some(Verdict::Repeat(index));
    }
    if !keys.has_room(in_group + 1) {
        let remembered = keys.len();
        return Some(Verdict::Answer(Err(ProduceError::TooManyKeys {
            remembered,
        })));
    }
    Some(Verdict::Write)
}

fn reused(request: &Request) -> ProduceError {
    let key = request.append.key.as_ref();
    ProduceError::KeyReused {
        key: key.map_or_else(String::new, |key| key.key.chars().take(200).collect()),
    }
}

/// What a request is answered whose records end at `ends`.
pub(super) fn appended(append: &Append, ends: &Position) -> Appended {
    Appended {
        accepted: append.messages.len() as u64 - append.rejected,
        rejected: append.rejected,
        position: append.read.join(ends),
        duplicate: false,
    }
}

/// Answers all whose transaction is committed.
fn release(admitted: Admitted, answers: Vec<Appended>) {
    for (index, request) in admitted.repeats {
        request.answer(Ok(Appended {
            duplicate: true,
            ..answers[index].clone()
        }));
    }
    for (request, appended) in admitted.writes.into_iter().zip(answers) {
        request.answer(Ok(appended));
    }
}

/// Refuses all of them for `error`; or, if a commit of them was not answered for that reason, says so.
fn refuse(group: Vec<Request>, doubt: Option<&str>, error: &ProduceError) {
    for request in group {
        let error = match doubt {
            None => error.clone(),
            Some(reason) => ProduceError::Unknown {
                reason: reason.to_owned(),
                keyed: request.append.key.is_some(),
            },
        };
        request.answer(Err(error));
    }
}

#[cfg(test)]
mod tests {
    use super::super::IdempotencyKey;
    use super::super::keys::Answer;
    use super::*;

    type Answered = oneshot::Receiver<Result<Appended, ProduceError>>;

    fn request(key: &str, body: u8) -> (Request, Answered) {
        let (answer, answered) = oneshot::channel();
        let key = IdempotencyKey {
            key: key.to_owned(),
            body_hash: [body; 32],
        };
        let append = Append {
            messages: vec![super::super::Message::default()],
            key: Some(key),
            ..Append::default()
        };
        (Request { append, answer }, answered)
    }

    #[test]
    fn a_group_is_sorted_out_by_its_keys() {
        let mut keys = KeyIndex::default();
        let before = Appended {
            accepted: 7,
            rejected: 0,
            position: Position::zero(),
            duplicate: false,
        };
        keys.remember(KeyHash::of("old"), Answer::new(&[1; 32], &before, 0));
        let (requests, mut answers): (Vec<_>, Vec<_>) = [
            request("old", 1),
            request("old", 2),
            request("new", 1),
            request("new", 1),
            request("new", 2),
        ]
        .into_iter()
        .unzip();
        let admitted = admit(requests, &keys, |_| Ok(()));
        assert_eq!(admitted.writes.len(), 1);
        assert_eq!(admitted.repeats.len(), 1);
        assert_eq!(admitted.repeats[0].0, 0);
        let answer = |answered: &mut Answered| answered.try_recv().ok();
        let old = answer(&mut answers[0]).unwrap().unwrap();
        assert_eq!((old.accepted, old.duplicate), (7, true));
        for other_body in [1, 4] {
            let refused = answer(&mut answers[other_body]).unwrap();
            assert!(matches!(refused, Err(ProduceError::KeyReused { .. })));
        }
        assert!(answer(&mut answers[2]).is_none() && answer(&mut answers[3]).is_none());
        release(admitted, vec![before]);
        let first = answer(&mut answers[2]).unwrap().unwrap();
        let repeat = answer(&mut answers[3]).unwrap().unwrap();
        assert!(!first.duplicate && repeat.duplicate);
        assert_eq!(repeat.accepted, 7);
    }

    #[test]
    fn what_does_not_fit_is_refused_and_does_not_stand_for_its_key() {
        let (large, mut refused) = request("k", 1);
        let (small, _waits) = request("k", 1);
        let first = std::cell::Cell::new(true);
        let admitted = admit(vec![large, small], &KeyIndex::default(), |_| {
            match first.replace(false) {
                true => Err(ProduceError::Closed),
                false => Ok(()),
            }
        });
        assert_eq!(refused.try_recv(), Ok(Err(ProduceError::Closed)));
        assert_eq!((admitted.writes.len(), admitted.repeats.len()), (1, 0));
    }

    #[test]
    fn a_refusal_in_doubt_says_so() {
        let (request, mut refused) = request("k", 1);
        refuse(vec![request], Some("no answer"), &ProduceError::Closed);
        let error = refused.try_recv().unwrap().unwrap_err();
        assert!(matches!(error, ProduceError::Unknown { keyed: true, .. }));
    }
}
