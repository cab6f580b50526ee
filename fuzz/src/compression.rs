// SPDX-License-Identifier: Apache-2.0
//! Compressed bodies: never more than the limit, and what is small enough whole.

use bytes::Bytes;
use dovetail_log::decode::{ContentEncoding, DecodeError, decompress};

const LIMITS: [usize; 2] = [64, 1 << 20];

pub(crate) fn gzip(data: &[u8]) {
    bounded(ContentEncoding::Gzip, data);
}

pub(crate) fn zstd(data: &[u8]) {
    bounded(ContentEncoding::Zstd, data);
}

fn bounded(encoding: ContentEncoding, data: &[u8]) {
    let [little, much] =
        LIMITS.map(|limit| decompress(encoding, Bytes::copy_from_slice(data), limit));
    match (little, much) {
        (Ok(little), much) => {
            assert!(little.len() <= LIMITS[0]);
            assert_eq!(much.expect("there is more room"), little);
        }
        (Err(DecodeError::TooLarge { .. }), Ok(much)) => {
            assert!((LIMITS[0] + 1..=LIMITS[1]).contains(&much.len()));
        }
        (Err(_), Err(_)) => {}
        (Err(error), Ok(_)) => panic!("little room is no damage: {error}"),
    }
}
