// SPDX-License-Identifier: Apache-2.0
//! The escapes of JSON strings.

use std::ops::Range;

use crate::decode::fault::{Outcome, What, fault};

/// Appends the text at `at`, its escapes resolved.
pub(super) fn unescape(text: &[u8], at: Range<usize>, out: &mut Vec<u8>) -> Outcome<()> {
    let mut pos = at.start;
    while pos < at.end {
        let rest = &text[pos..at.end];
        let plain = memchr::memchr(b'\\', rest).unwrap_or(rest.len());
        out.extend_from_slice(&rest[..plain]);
        pos += plain;
        if plain == rest.len() {
            break;
        }
        let simple = match text.get(pos + 1) {
            Some(b'u') => None,
            Some(b @ (b'"' | b'\\' | b'/')) => Some(*b),
            Some(b'b') => Some(8),
            Some(b'f') => Some(12),
            Some(b'n') => Some(b'\n'),
            Some(b'r') => Some(b'\r'),
            Some(b't') => Some(b'\t'),
            _ => return bad_escape(pos..pos + 2),
        };
        if let Some(byte) = simple {
            out.push(byte);
            pos += 2;
            continue;
        }
        let (c, length) = match unicode(&text[pos..at.end]) {
            Some(found) => found,
            None => {
                let at = pos..(pos + 6).min(at.end);
                return match unit(&text[at.clone()]) {
                    Some(_) => fault(What::Malformed(HALF), at),
                    None => bad_escape(at),
                };
            }
        };
        out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        pos += length;
    }
    Ok(())
}

/// Of a code unit that stands alone.
const HALF: &str = "is half of a surrogate pair; write both halves, or the character itself";

#[cold]
fn bad_escape(at: Range<usize>) -> Outcome<()> {
    fault(What::Malformed("is not an escape that JSON knows"), at)
}

/// The number in `\uXXXX`.
fn unit(text: &[u8]) -> Option<u32> {
    let digits = text.strip_prefix(b"\\u")?.first_chunk::<4>()?;
    digits.iter().try_fold(0, |value, digit| {
        Some(value * 16 + char::from(*digit).to_digit(16)?)
    })
}

/// Reads `\uXXXX`, or two of them where they are a surrogate pair: the character and its length in bytes.
fn unicode(text: &[u8]) -> Option<(char, usize)> {
    let first = unit(text)?;
    if let Some(c) = char::from_u32(first) {
        return Some((c, 6));
    }
    let second = unit(text.get(6..)?)?;
    let is_pair = (0xd800..0xdc00).contains(&first) && (0xdc00..0xe000).contains(&second);
    let code = 0x1_0000 + ((first & 0x3ff) << 10) + (second & 0x3ff);
    Some((char::from_u32(code).filter(|_| is_pair)?, 12))
}
