// SPDX-License-Identifier: Apache-2.0
//! One group commit on disk.
//!
//! ```text
//! 64 bytes   header   magic, link (checksum of what follows in the header), first and next offset,
//!                     arrival, link of the frame before, lengths, checksum of the content
//!            content  meta: the batches, their appends, keys and dead letters; padded to 16
//!                     the batches' events, one Arrow IPC message each, without compression
//! ```
//! A commit is exactly one frame, and the next frame is written only after this one was synced. So a
//! header that stands behind a bad frame proves that the bad frame was once whole: damage, not a torn
//! write. Links chain the frames, also across segments: none can be missing, doubled or exchanged.

use arrow::buffer::Buffer;
use bytes::Bytes;
use dovetail_model::Offset;

use super::keys::{BodyHash, KeyHash};
use super::wire::{Reader, Writer};
use crate::{DeadLetter, Format};

pub(super) const HEADER_LEN: usize = 64;
/// Frames, metas and messages start at multiples of this: the widest Arrow value is 16 bytes.
pub(super) const ALIGNMENT: usize = 16;
const MAGIC: [u8; 4] = *b"DvFr";

/// What a frame says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FrameHeader {
    /// Offset of its first event or dead letter.
    pub(super) first: Offset,
    /// Offset behind its last one.
    pub(super) next: Offset,
    pub(super) arrived_at_us: i64,
    /// Link of the frame before it.
    pub(super) previous: u32,
    pub(super) meta_len: u64,
    pub(super) content_len: u64,
    pub(super) content_crc: u32,
}

impl FrameHeader {
    /// The header's bytes, and the link that the next frame names.
    pub(super) fn encode(&self) -> ([u8; HEADER_LEN], u32) {
        let mut fields = Writer::default();
        fields.u32(self.previous);
        fields.u32(self.content_crc);
        fields.u64(self.first.0);
        fields.u64(self.next.0);
        fields.i64(self.arrived_at_us);
        fields.u64(self.meta_len);
        fields.u64(self.content_len);
        fields.u64(0); // kept for later formats
        let link = crc32fast::hash(&fields.0);
        let mut bytes = [0; HEADER_LEN];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..8].copy_from_slice(&link.to_le_bytes());
        bytes[8..].copy_from_slice(&fields.0);
        (bytes, link)
    }

    /// The header and its link, if the bytes are one.
    pub(super) fn decode(bytes: &[u8; HEADER_LEN]) -> Option<(Self, u32)> {
        let mut reader = Reader(bytes);
        if reader.array::<4>()? != MAGIC {
            return None;
        }
        let link = reader.u32()?;
        if crc32fast::hash(reader.0) != link {
            return None;
        }
        let previous = reader.u32()?;
        let content_crc = reader.u32()?;
        let header = Self {
            previous,
            content_crc,
            first: Offset(reader.u64()?),
            next: Offset(reader.u64()?),
            arrived_at_us: reader.i64()?,
            meta_len: reader.u64()?,
            content_len: reader.u64()?,
        };
        Some((header, link))
    }

    /// Whether a header of a frame at or behind `offset` starts anywhere in `bytes`.
    pub(super) fn is_anywhere_in(bytes: &[u8], offset: Offset) -> bool {
        bytes.windows(HEADER_LEN).any(|window| {
            window.starts_with(&MAGIC)
                && window
                    .try_into()
                    .ok()
                    .and_then(Self::decode)
                    .is_some_and(|(header, _)| header.first >= offset)
        })
    }
}

/// One append of a batch: its events, then its dead letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AppendMeta {
    pub(super) events: u64,
    pub(super) dead_letters: u64,
    pub(super) key: Option<(KeyHash, BodyHash)>,
}

impl AppendMeta {
    /// Offsets that it takes.
    pub(super) fn offsets(&self) -> u64 {
        self.events + self.dead_letters
    }
}

/// One batch of a frame, without its events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct BatchMeta {
    /// Bytes of the events' message; 0 when there are none.
    pub(super) message_len: u64,
    pub(super) appends: Vec<AppendMeta>,
    /// Of all appends, in order.
    pub(super) dead_letters: Vec<DeadLetter>,
    pub(super) replayed: Vec<Offset>,
}

impl BatchMeta {
    pub(super) fn offsets(&self) -> u64 {
        self.appends.iter().map(AppendMeta::offsets).sum()
    }

    pub(super) fn events(&self) -> u64 {
        self.appends.iter().map(|append| append.events).sum()
    }

    fn encode(&self, writer: &mut Writer) {
        writer.u64(self.message_len);
        writer.list(&self.appends, |writer, append| {
            writer.u64(append.events);
            writer.u64(append.dead_letters);
            writer.option(append.key.as_ref(), |writer, (key, body)| {
                writer.raw(&key.0);
                writer.raw(body);
            });
        });
        writer.list(&self.dead_letters, encode_dead_letter);
        writer.list(&self.replayed, |writer, offset| writer.u64(offset.0));
    }

    fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        let message_len = reader.u64()?;
        let appends = reader.list(|reader| {
            Some(AppendMeta {
                events: reader.u64()?,
                dead_letters: reader.u64()?,
                key: reader.option(|reader| Some((KeyHash(reader.array()?), reader.array()?)))?,
            })
        })?;
        let dead_letters = reader.list(decode_dead_letter)?;
        let replayed = reader.list(|reader| reader.u64().map(Offset))?;
        let meta = Self {
            message_len,
            appends,
            dead_letters,
            replayed,
        };
        let letters: u64 = meta.appends.iter().map(|a| a.dead_letters).sum();
        (letters == meta.dead_letters.len() as u64).then_some(meta)
    }
}

fn encode_dead_letter(writer: &mut Writer, letter: &DeadLetter) {
    writer.u8(match letter.format {
        Format::Ndjson => 0,
        Format::Json => 1,
        Format::Csv => 2,
        Format::Arrow => 3,
        Format::Avro => 4,
        Format::Protobuf => 5,
    });
    writer.bytes(&letter.bytes);
    writer.bytes(letter.reason.as_bytes());
    writer.option(letter.line, Writer::u64);
    writer.option(letter.column.as_ref(), |writer, column| {
        writer.bytes(column.as_bytes());
    });
    writer.bytes(letter.origin.as_bytes());
}

fn decode_dead_letter(reader: &mut Reader<'_>) -> Option<DeadLetter> {
    let format = match reader.u8()? {
        0 => Format::Ndjson,
        1 => Format::Json,
        2 => Format::Csv,
        3 => Format::Arrow,
        4 => Format::Avro,
        5 => Format::Protobuf,
        _ => return None,
    };
    Some(DeadLetter {
        format,
        bytes: Bytes::copy_from_slice(reader.bytes()?),
        reason: reader.text()?,
        line: reader.option(Reader::u64)?,
        column: reader.option(Reader::text)?,
        origin: reader.text()?,
        // Only a broker's records have one, and they are not in this log.
        envelope: None,
    })
}

/// A frame ready to be written.
#[derive(Debug)]
pub(super) struct EncodedFrame {
    head: Vec<u8>,
    messages: Vec<Buffer>,
    /// What the next frame names as the one before.
    pub(super) link: u32,
    pub(super) len: u64,
}

impl EncodedFrame {
    /// Encodes a frame. `header` has its offsets, arrival and previous link; lengths and checksums are
    /// filled in. `messages` are the events of `batches`, in order, together as long as these say.
    pub(super) fn new(
        mut header: FrameHeader,
        batches: &[BatchMeta],
        messages: Vec<Buffer>,
    ) -> Self {
        let mut writer = Writer(vec![0; HEADER_LEN]);
        writer.list(batches, |writer, batch| batch.encode(writer));
        header.meta_len = (writer.0.len() - HEADER_LEN) as u64;
        writer.pad(ALIGNMENT);
        let mut head = writer.0;
        let mut crc = crc32fast::Hasher::new();
        crc.update(&head[HEADER_LEN..]);
        let mut len = head.len();
        for message in &messages {
            crc.update(message);
            len += message.len();
        }
        header.content_len = (len - HEADER_LEN) as u64;
        header.content_crc = crc.finalize();
        let (bytes, link) = header.encode();
        head[..HEADER_LEN].copy_from_slice(&bytes);
        Self {
            head,
            messages,
            link,
            len: len as u64,
        }
    }

    /// Its bytes, for a vectored write.
    pub(super) fn parts(&self) -> Vec<&[u8]> {
        std::iter::once(self.head.as_slice())
            .chain(self.messages.iter().map(Buffer::as_slice))
            .collect()
    }
}

/// The batches of a frame's content with the places of their messages, or what is wrong with it.
pub(super) fn decode_content(
    header: &FrameHeader,
    content: &[u8],
) -> Result<Vec<(BatchMeta, std::ops::Range<usize>)>, &'static str> {
    let meta_len = usize::try_from(header.meta_len).map_err(|_| "its meta is too long")?;
    let meta = content
        .get(..meta_len)
        .ok_or("its meta is longer than it")?;
    let mut reader = Reader(meta);
    let batches = reader
        .list(BatchMeta::decode)
        .filter(|_| reader.0.is_empty())
        .ok_or("its meta cannot be read")?;
    let mut start = meta_len.next_multiple_of(ALIGNMENT);
    let mut placed = Vec::with_capacity(batches.len());
    let mut offset = header.first.0;
    for batch in batches {
        let end = usize::try_from(batch.message_len)
            .ok()
            .and_then(|len| start.checked_add(len))
            .filter(|end| *end <= content.len())
            .ok_or("its events are longer than it")?;
        offset += batch.offsets();
        placed.push((batch, start..end));
        start = end;
    }
    if start != content.len() || offset != header.next.0 {
        return Err("its parts do not add up");
    }
    Ok(placed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(reason: &str) -> DeadLetter {
        DeadLetter {
            bytes: Bytes::from_static(b"\xff{"),
            format: Format::Csv,
            reason: reason.to_owned(),
            line: Some(7),
            column: None,
            origin: "http".to_owned(),
            envelope: None,
        }
    }

    fn frame() -> (Vec<u8>, Vec<BatchMeta>) {
        let batches = vec![
            BatchMeta {
                message_len: 32,
                appends: vec![
                    AppendMeta {
                        events: 3,
                        dead_letters: 1,
                        key: Some((KeyHash([1; 16]), [2; 32])),
                    },
                    AppendMeta {
                        events: 0,
                        dead_letters: 1,
                        key: None,
                    },
                ],
                dead_letters: vec![letter("a"), letter("b")],
                replayed: vec![Offset(2)],
            },
            BatchMeta::default(),
        ];
        let header = FrameHeader {
            first: Offset(10),
            next: Offset(15),
            arrived_at_us: -5,
            previous: 99,
            meta_len: 0,
            content_len: 0,
            content_crc: 0,
        };
        let messages = vec![
            Buffer::from_vec(vec![5u8; 20]),
            Buffer::from_vec(vec![6u8; 12]),
        ];
        let frame = EncodedFrame::new(header, &batches, messages);
        let bytes = frame.parts().concat();
        assert_eq!(bytes.len() as u64, frame.len);
        (bytes, batches)
    }

    fn open(bytes: &[u8]) -> Result<Vec<BatchMeta>, &'static str> {
        let (head, content) = bytes.split_first_chunk().ok_or("short")?;
        let (header, _) = FrameHeader::decode(head).ok_or("header")?;
        if header.content_len != content.len() as u64
            || header.content_crc != crc32fast::hash(content)
        {
            return Err("content");
        }
        let placed = decode_content(&header, content)?;
        Ok(placed.into_iter().map(|(batch, _)| batch).collect())
    }

    #[test]
    fn a_frame_reads_back() {
        let (bytes, batches) = frame();
        assert_eq!(bytes.len() % ALIGNMENT, 0);
        assert_eq!(open(&bytes).unwrap(), batches);
        let (header, _) = FrameHeader::decode(bytes.first_chunk().unwrap()).unwrap();
        assert_eq!((header.first, header.next), (Offset(10), Offset(15)));
        assert_eq!((header.arrived_at_us, header.previous), (-5, 99));
    }

    #[test]
    fn no_flipped_bit_goes_unnoticed() {
        let (bytes, _) = frame();
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&bytes).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_header_is_found_anywhere_but_an_older_one_is_not() {
        let (frame, _) = frame();
        let mut bytes = vec![0; 37];
        bytes.extend_from_slice(&frame[..HEADER_LEN]);
        assert!(FrameHeader::is_anywhere_in(&bytes, Offset(10)));
        assert!(!FrameHeader::is_anywhere_in(&bytes, Offset(11)));
        bytes.pop();
        assert!(!FrameHeader::is_anywhere_in(&bytes, Offset(10)));
    }
}
