// SPDX-License-Identifier: Apache-2.0
//! The mark of a record that is another try at a dead letter.
//!
//! Whoever reads an event with the mark of its stream settles the letter with the same batch: event and settlement are
//! one record, so there is no moment between them.
//!
//! Taking the headers of a record apart costs a fifth of reading it, even where it has none. So a record with a mark ends in
//! a line end, which means nothing in JSON or CSV, and the headers of others are not looked at.

use dovetail_log::Place;
use dovetail_model::{Offset, PartitionId, StreamId};

use crate::native::Record;
use crate::produce::Message;

/// The header that names the letter, as `stream:partition@offset`.
const HEADER: &str = "dovetail-replays";

/// White space behind a JSON object, the end of a CSV record.
const SIGN: u8 = b'\n';

/// `message`, which holds JSON or CSV, as another try at the letter at `place`.
pub fn mark(stream: &StreamId, (partition, offset): Place, message: Message) -> Message {
    let letter = format!("{stream}:{partition}@{offset}");
    let mut value = Vec::from(message.value);
    if value.last() != Some(&SIGN) {
        value.push(SIGN);
    }
    Message {
        value: value.into(),
        headers: vec![(HEADER.to_owned(), Some(letter.into()))],
        ..message
    }
}

/// The letter of `stream` that a record replays.
pub(crate) fn of(stream: &StreamId, record: &Record<'_>) -> Option<Place> {
    if record.value()?.last() != Some(&SIGN) {
        return None;
    }
    let mut headers = record.headers().into_iter();
    let (_, value) = headers.find(|(name, _)| *name == HEADER.as_bytes())?;
    read(stream, value?)
}

fn read(stream: &StreamId, value: &[u8]) -> Option<Place> {
    let (of, place) = std::str::from_utf8(value).ok()?.split_once(':')?;
    let (partition, offset) = place.split_once('@')?;
    let place = (
        PartitionId(partition.parse().ok()?),
        Offset(offset.parse().ok()?),
    );
    (*of == *stream.to_string()).then_some(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_of_its_stream_alone() {
        let (mine, other): (StreamId, StreamId) = ("k1".parse().unwrap(), "k2".parse().unwrap());
        let place = (PartitionId(3), Offset(17));
        let message = mark(&mine, place, Message::default());
        let value = message.headers[0].1.clone().unwrap();
        assert_eq!(read(&mine, &value), Some(place));
        assert_eq!(read(&other, &value), None);
        assert_eq!(message.value, "\n");
        assert_eq!(mark(&mine, place, message.clone()).value, message.value);
        for broken in ["k1", "k1:3", "k1:x@1", "k1:3@", "k1:3@1:2"] {
            assert_eq!(read(&mine, broken.as_bytes()), None, "{broken}");
        }
    }
}
