// SPDX-License-Identifier: Apache-2.0
//! Finding bytes in text, eight at a time.

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// The highest bit of each byte of `word` that is zero. Bits above the lowest such byte may be wrong, so
/// only the lowest one counts; the same holds for a union of such masks.
#[inline]
fn zeros(word: u64) -> u64 {
    word.wrapping_sub(ONES) & !word & HIGHS
}

/// The highest bit of each byte that is below 0x20, with the same caveat.
#[inline]
fn controls(word: u64) -> u64 {
    word.wrapping_sub(ONES * 0x20) & !word & HIGHS
}

/// The first place from `at` on that ends plain text in a JSON string: a quote, a backslash or a control
/// character. The length of `text` if there is none.
#[inline]
pub(super) fn string_stop(text: &[u8], mut at: usize) -> usize {
    while let Some(chunk) = text.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let word = u64::from_le_bytes(*chunk);
        let quote = zeros(word ^ (ONES * u64::from(b'"')));
        let escape = zeros(word ^ (ONES * u64::from(b'\\')));
        let stops = quote | escape | controls(word);
        if stops != 0 {
            return at + stops.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let stop = |b: &u8| *b == b'"' || *b == b'\\' || *b < 0x20;
    text.get(at..)
        .and_then(|rest| rest.iter().position(stop))
        .map_or(text.len(), |found| at + found)
}

/// The first place from `at` on that ends or spoils an unquoted CSV value: a comma, a line feed or a quote.
#[inline]
pub(super) fn value_stop(text: &[u8], mut at: usize) -> usize {
    while let Some(chunk) = text.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let word = u64::from_le_bytes(*chunk);
        let comma = zeros(word ^ (ONES * u64::from(b',')));
        let line = zeros(word ^ (ONES * u64::from(b'\n')));
        let quote = zeros(word ^ (ONES * u64::from(b'"')));
        let stops = comma | line | quote;
        if stops != 0 {
            return at + stops.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let stop = |b: &u8| matches!(*b, b',' | b'\n' | b'"');
    text.get(at..)
        .and_then(|rest| rest.iter().position(stop))
        .map_or(text.len(), |found| at + found)
}

/// Counts line feeds.
pub(super) fn count_lines(text: &[u8]) -> usize {
    memchr::memchr_iter(b'\n', text).count()
}

/// The text without a byte order mark.
pub(super) fn without_bom(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn stops_are_those_of_a_plain_search(
            text in proptest::collection::vec(
                prop_oneof![
                    Just(b'a'), Just(b'!'), Just(b'#'), Just(b'['), Just(0x1f), Just(0x20), Just(0x21),
                    Just(b'"'), Just(b'\\'), Just(b','), Just(b'\n'), Just(0x80), Just(0xa2), any::<u8>(),
                ],
                0..40,
            ),
            at in 0_usize..45,
        ) {
            let plain = |stop: fn(u8) -> bool| {
                (at..text.len()).find(|i| stop(text[*i])).unwrap_or(text.len())
            };
            let expected = plain(|b| b == b'"' || b == b'\\' || b < 0x20);
            prop_assert_eq!(string_stop(&text, at), expected);
            prop_assert_eq!(value_stop(&text, at), plain(|b| b",\n\"".contains(&b)));
        }
    }
}
