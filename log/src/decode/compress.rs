// SPDX-License-Identifier: Apache-2.0
//! Content encodings, undone within a bound.

use std::io::{self, Read};
use std::str::FromStr;

use bytes::Bytes;

use super::DecodeError;

/// Largest window of a zstd body, as RFC 9659 asks for: 8 MiB. A frame could claim 128 and cost us that.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;
/// What every gzip member begins with.
const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];
/// What a zstd frame begins with; a skippable one has any nibble before `MAGIC_SKIPPABLE`.
const ZSTD_MAGIC: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// The last three bytes of a skippable frame's magic number.
const ZSTD_SKIPPABLE: &[u8] = &[0x2a, 0x4d, 0x18];
/// How much is read at once.
const CHUNK: usize = 64 << 10;

/// How a body is compressed: the values of `Content-Encoding` that are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum ContentEncoding {
    /// Not at all.
    #[default]
    Identity,
    /// `gzip`, of one or more members.
    Gzip,
    /// `zstd`, of one or more frames with windows of at most 8 MiB.
    Zstd,
}

impl FromStr for ContentEncoding {
    type Err = DecodeError;

    fn from_str(text: &str) -> Result<Self, DecodeError> {
        let is = |name: &str| text.trim().eq_ignore_ascii_case(name);
        if is("") || is("identity") {
            Ok(Self::Identity)
        } else if is("gzip") || is("x-gzip") {
            Ok(Self::Gzip)
        } else if is("zstd") {
            Ok(Self::Zstd)
        } else {
            let text: String = text.chars().take(100).collect();
            Err(DecodeError::UnsupportedMedia {
                reason: format!(
                    "content encoding `{text}` is not read here: send gzip, zstd or none"
                ),
            })
        }
    }
}

/// The body as it was before compression, at most `limit` bytes of it.
///
/// # Errors
/// `TooLarge` as soon as there is more than `limit`, however small the body; `Body` if it is cut off or
/// not of the encoding.
pub fn decompress(
    encoding: ContentEncoding,
    body: Bytes,
    limit: usize,
) -> Result<Bytes, DecodeError> {
    match encoding {
        ContentEncoding::Identity if body.len() > limit => Err(too_large(limit)),
        ContentEncoding::Identity => Ok(body),
        ContentEncoding::Gzip => {
            check_magic("gzip", &body, begins_as(&body, GZIP_MAGIC))?;
            let reader = flate2::bufread::MultiGzDecoder::new(&body[..]);
            read_all("gzip", reader, body.len(), limit)
        }
        ContentEncoding::Zstd => {
            let skippable = matches!(body[..], [first, ..] if first & 0xf0 == 0x50)
                && begins_as(&body[1..], ZSTD_SKIPPABLE);
            check_magic("zstd", &body, begins_as(&body, ZSTD_MAGIC) || skippable)?;
            let mut reader = zstd::stream::read::Decoder::with_buffer(&body[..])
                .map_err(|error| damaged("zstd", &error))?;
            reader
                .window_log_max(ZSTD_WINDOW_LOG_MAX)
                .map_err(|error| damaged("zstd", &error))?;
            read_all("zstd", reader, body.len(), limit)
        }
    }
}

/// How a body is compressed, told by how it begins: no body of a format that is read begins so.
pub(super) fn found_in(body: &[u8]) -> Option<&'static str> {
    if body.starts_with(GZIP_MAGIC) {
        Some("gzip")
    } else if body.starts_with(ZSTD_MAGIC) {
        Some("zstd")
    } else {
        None
    }
}

/// Whether `body`, or as much as there is of it, begins with `magic`.
fn begins_as(body: &[u8], magic: &[u8]) -> bool {
    let length = body.len().min(magic.len());
    body[..length] == magic[..length]
}

/// Tells a body that was never compressed from one that is damaged.
fn check_magic(name: &str, body: &[u8], matches: bool) -> Result<(), DecodeError> {
    if body.is_empty() {
        return Err(DecodeError::body(format!("the {name} body is empty")));
    }
    if !matches {
        return Err(DecodeError::body(format!(
            "the body is not {name}, although `Content-Encoding` says so: leave that header out, or compress the body"
        )));
    }
    Ok(())
}

fn read_all(
    name: &str,
    mut reader: impl Read,
    compressed: usize,
    limit: usize,
) -> Result<Bytes, DecodeError> {
    let mut out = Vec::with_capacity(compressed.saturating_mul(4).min(limit));
    let mut chunk = vec![0; CHUNK];
    loop {
        match reader.read(&mut chunk) {
            Ok(0) => return Ok(out.into()),
            Ok(length) if out.len() + length > limit => return Err(too_large(limit)),
            Ok(length) => out.extend_from_slice(&chunk[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(damaged(name, &error)),
        }
    }
}

fn too_large(limit: usize) -> DecodeError {
    DecodeError::too_large(format!(
        "the body is larger than {} after decompression; split it",
        match limit >> 20 {
            0 => format!("{limit} bytes"),
            mib => format!("{mib} MiB"),
        }
    ))
}

fn damaged(name: &str, error: &io::Error) -> DecodeError {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return DecodeError::body(format!("the {name} body is cut off"));
    }
    DecodeError::body(format!("the body is not valid {name}: {error}"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut writer = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
        writer.write_all(text).unwrap();
        writer.finish().unwrap()
    }

    fn zstd(text: &[u8]) -> Vec<u8> {
        zstd::encode_all(text, 3).unwrap()
    }

    type Compress = fn(&[u8]) -> Vec<u8>;

    fn both() -> [(ContentEncoding, Compress); 2] {
        [(ContentEncoding::Gzip, gzip), (ContentEncoding::Zstd, zstd)]
    }

    #[test]
    fn what_was_compressed_comes_back() {
        let text = b"{\"a\":1}\n".repeat(50_000);
        for (encoding, compress) in both() {
            let body = compress(&text);
            let out = decompress(encoding, body.into(), text.len()).unwrap();
            assert_eq!(out, text);
            // Several members, as `cat a.gz b.gz` makes them.
            let twice = [compress(b"a\n"), compress(b"b\n")].concat();
            assert_eq!(decompress(encoding, twice.into(), 100).unwrap(), "a\nb\n");
        }
    }

    #[test]
    fn a_bomb_stops_at_the_limit() {
        let bomb = vec![0; 20 << 20];
        for (encoding, compress) in both() {
            let body = compress(&bomb);
            assert!(body.len() < 1 << 20);
            let error = decompress(encoding, body.into(), 1 << 20).unwrap_err();
            assert!(matches!(error, DecodeError::TooLarge { .. }), "{error}");
        }
    }

    #[test]
    fn every_cut_and_every_garbage_is_an_error() {
        let text = b"{\"a\":1}\n{\"a\":2}\n".repeat(10);
        for (encoding, compress) in both() {
            let body = compress(&text);
            for length in 0..body.len() {
                let cut = Bytes::copy_from_slice(&body[..length]);
                let error = decompress(encoding, cut, 1 << 20).unwrap_err();
                assert!(
                    matches!(error, DecodeError::Body { .. }),
                    "{length}: {error}"
                );
            }
            let mut garbage = body.clone();
            garbage[4..].fill(0xff);
            let error = decompress(encoding, garbage.into(), 1 << 20).unwrap_err();
            assert!(error.to_string().contains("not valid"), "{error}");
            for never_compressed in ["{", "{}", "not compressed at all", "P"] {
                let plain = Bytes::from_static(never_compressed.as_bytes());
                let error = decompress(encoding, plain, 1 << 20)
                    .unwrap_err()
                    .to_string();
                let told = error.contains("although `Content-Encoding` says so");
                // One byte of a skippable frame could be the beginning of one.
                let may_be = encoding == ContentEncoding::Zstd && never_compressed == "P";
                assert_eq!(told, !may_be, "{error}");
            }
        }
    }

    #[test]
    fn encodings_have_names() {
        assert_eq!("GZIP".parse(), Ok(ContentEncoding::Gzip));
        assert_eq!("".parse(), Ok(ContentEncoding::Identity));
        let error = "br".parse::<ContentEncoding>().unwrap_err();
        assert!(matches!(error, DecodeError::UnsupportedMedia { .. }));
        assert!(error.to_string().contains("`br`"), "{error}");
    }
}
