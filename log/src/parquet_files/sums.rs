// SPDX-License-Identifier: Apache-2.0
//! Checksums of a Parquet file, in the file itself.
//!
//! ```text
//! data       row groups, from the magic on; a CRC-32 for each block of it
//! tail       page indexes and footer, with the checksums in its key-value metadata; one CRC-32 of its own
//! ```
//! Parquet's readers trust what decompresses, and many a flipped bit does: it would be another number. The tail's own
//! checksum is computed with zeros in its place. Other engines pass the metadata by. Files of builds that wrote none are
//! read as they are.

use bytes::Bytes;
use crc32fast::Hasher;
use memchr::memmem;
use parquet::file::metadata::KeyValue;

/// The least that is checked at once.
const BLOCK_BYTES: usize = 16 * 1024;
/// Past so many blocks each is twice as long, so that the footer stays small.
const MOST_BLOCKS: usize = 2048;
/// What the value of the metadata begins with. Behind it stands the tail's checksum.
const MARK: &str = "dovetail.sums/1 ";
/// What the name of the writer ends in where a file has checksums.
pub(super) const SUMMED: &str = "(with checksums)";
/// Characters of a checksum.
const HEX: usize = 8;
/// Length of the footer, and the magic.
const END_BYTES: usize = 8;

/// Sums up a file while it is written.
#[derive(Debug, Default)]
pub(super) struct Summing {
    block: Hasher,
    filled: usize,
    blocks: Vec<Block>,
    /// Set when the data is complete: what comes is the tail.
    is_closed: bool,
}

#[derive(Debug, Clone, Copy)]
struct Block {
    crc: u32,
    bytes: u64,
}

impl Summing {
    /// Takes the next bytes of the file; answers what is to be written in their place.
    pub(super) fn pass(&mut self, bytes: Bytes) -> Bytes {
        if self.is_closed {
            return seal(bytes);
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(BLOCK_BYTES - self.filled));
            self.block.update(now);
            self.filled += now.len();
            if self.filled == BLOCK_BYTES {
                self.end_block();
            }
            rest = later;
        }
        bytes
    }

    /// Ends the data; answers what goes into the footer. The tail must come as a whole.
    pub(super) fn close(&mut self) -> KeyValue {
        self.end_block();
        self.is_closed = true;
        let mut blocks = std::mem::take(&mut self.blocks);
        let data_end: u64 = blocks.iter().map(|block| block.bytes).sum();
        let mut block_bytes = BLOCK_BYTES as u64;
        while blocks.len() > MOST_BLOCKS {
            blocks = blocks.chunks(2).map(joined).collect();
            block_bytes *= 2;
        }
        let sums: String = blocks
            .iter()
            .map(|block| format!("{:08x}", block.crc))
            .collect();
        let value = format!("{MARK}{:08x} {data_end} {block_bytes} {sums}", 0);
        KeyValue::new("dovetail.sums".to_owned(), value)
    }

    fn end_block(&mut self) {
        if self.filled > 0 {
            let crc = std::mem::take(&mut self.block).finalize();
            let bytes = self.filled as u64;
            self.blocks.push(Block { crc, bytes });
            self.filled = 0;
        }
    }
}

fn joined(pair: &[Block]) -> Block {
    let of = |block: &Block| Hasher::new_with_initial_len(block.crc, block.bytes);
    let mut all = of(&pair[0]);
    for next in &pair[1..] {
        all.combine(&of(next));
    }
    Block {
        crc: all.finalize(),
        bytes: pair.iter().map(|block| block.bytes).sum(),
    }
}

/// Puts its own checksum into a tail.
fn seal(tail: Bytes) -> Bytes {
    let at = place_of_own_sum(&tail).expect("the metadata is in the tail");
    let crc = format!("{:08x}", crc32fast::hash(&tail));
    let mut tail = Vec::from(tail);
    tail[at..at + HEX].copy_from_slice(crc.as_bytes());
    tail.into()
}

/// The last one: names and values of the file's owner may say the same.
fn place_of_own_sum(tail: &[u8]) -> Option<usize> {
    let at = memmem::rfind(tail, MARK.as_bytes())? + MARK.len();
    (at + HEX <= tail.len()).then_some(at)
}

/// The checksums of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sums {
    /// Where the data ends and the tail begins.
    pub(super) data_end: u64,
    /// Bytes of a block; the last may have fewer.
    pub(super) block_bytes: u64,
    /// Of each block of the data.
    pub(super) blocks: Vec<u32>,
}

/// What the end of a file tells.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// So many bytes of the end are needed.
    More(u64),
    /// Whoever wrote the file has left no checksums.
    None,
    /// The tail is as it was written, and has these.
    Sums(Sums),
    /// The tail is not as it was written, or not one of a Parquet file.
    Damaged,
}

/// Looks for checksums in the last bytes of a file of `size`.
pub(super) fn find(end: &[u8], size: u64) -> Found {
    let Some(rest) = end.len().checked_sub(END_BYTES) else {
        return match size < END_BYTES as u64 {
            true => Found::Damaged,
            false => Found::More(END_BYTES as u64),
        };
    };
    // Whoever reads footers takes both for granted.
    let [a, b, c, d, b'P', b'A', b'R', b'1'] = end[rest..] else {
        return Found::Damaged;
    };
    let footer = u64::from(u32::from_le_bytes([a, b, c, d]));
    let needed = footer + END_BYTES as u64;
    if needed > size {
        return Found::Damaged;
    }
    let Some(from) = place(needed).and_then(|needed| end.len().checked_sub(needed)) else {
        return Found::More(needed);
    };
    let footer = &end[from..rest];
    let Some(at) = place_of_own_sum(footer) else {
        return match memmem::rfind(footer, SUMMED.as_bytes()) {
            Some(_) => Found::Damaged,
            None => Found::None,
        };
    };
    let Some(sums) = parse(&footer[at + HEX..]).filter(|sums| sums.data_end <= size) else {
        return Found::Damaged;
    };
    let Some(from) = place(size - sums.data_end).and_then(|tail| end.len().checked_sub(tail))
    else {
        return Found::More(size - sums.data_end);
    };
    match is_sealed(&end[from..]) {
        true => Found::Sums(sums),
        false => Found::Damaged,
    }
}

fn is_sealed(tail: &[u8]) -> bool {
    let Some(at) = place_of_own_sum(tail) else {
        return false;
    };
    let mut crc = Hasher::new();
    crc.update(&tail[..at]);
    crc.update(&[b'0'; HEX]);
    crc.update(&tail[at + HEX..]);
    let own = std::str::from_utf8(&tail[at..at + HEX]);
    own.is_ok_and(|own| own == format!("{:08x}", crc.finalize()))
}

/// Reads what stands behind the tail's checksum.
fn parse(text: &[u8]) -> Option<Sums> {
    let text = text.strip_prefix(b" ")?;
    let (data_end, text) = number(text)?;
    let (block_bytes, text) = number(text)?;
    if block_bytes == 0 {
        return None;
    }
    let count = place(data_end.div_ceil(block_bytes))?;
    let hex = text.get(..count.checked_mul(HEX)?)?;
    let sums = hex
        .chunks(HEX)
        .map(|hex| u32::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
    Some(Sums {
        data_end,
        block_bytes,
        blocks: sums.collect::<Option<_>>()?,
    })
}

/// A number and the space behind it.
fn number(text: &[u8]) -> Option<(u64, &[u8])> {
    let end = memchr::memchr(b' ', text)?;
    let number = std::str::from_utf8(&text[..end]).ok()?.parse().ok()?;
    Some((number, &text[end + 1..]))
}

/// As a place in memory.
pub(super) fn place(bytes: u64) -> Option<usize> {
    usize::try_from(bytes).ok()
}
