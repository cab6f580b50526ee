// SPDX-License-Identifier: Apache-2.0
//! Content encodings, undone within a bound.

use std::io::{self, Read};
use std::str::FromStr;

use bytes::Bytes;
use flate2::bufread::GzDecoder;

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
            let begins = |part: &[u8]| begins_as(part, GZIP_MAGIC);
            each_part("gzip", &body, limit, begins, |part, out| {
                let mut reader = GzDecoder::new(part);
                read_all("gzip", &mut reader, out, limit)?;
                Ok(reader.into_inner())
            })
        }
        ContentEncoding::Zstd => each_part("zstd", &body, limit, begins_zstd, |part, out| {
            let failed = |error: io::Error| damaged("zstd", &error);
            let mut reader = zstd::stream::read::Decoder::with_buffer(part).map_err(failed)?;
            reader.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(failed)?;
            let mut reader = reader.single_frame();
            read_all("zstd", &mut reader, out, limit)?;
            Ok(reader.finish())
        }),
    }
}

fn begins_zstd(body: &[u8]) -> bool {
    let is_skippable = matches!(body, [first, rest @ ..] if first & 0xf0 == 0x50 && begins_as(rest, ZSTD_SKIPPABLE));
    begins_as(body, ZSTD_MAGIC) || is_skippable
}

/// Undoes the members or frames of a body one after the other. `undo` appends what one of them was, and answers what is
/// behind it: what does not begin as one is said to be that, and not damage of a further one.
fn each_part<'a>(
    name: &str,
    body: &'a [u8],
    limit: usize,
    begins: impl Fn(&[u8]) -> bool,
    mut undo: impl FnMut(&'a [u8], &mut Vec<u8>) -> Result<&'a [u8], DecodeError>,
) -> Result<Bytes, DecodeError> {
    check_magic(name, body, begins(body))?;
    let mut out = Vec::with_capacity(body.len().saturating_mul(4).min(limit));
    let mut rest = body;
    while !rest.is_empty() {
        if !begins(rest) {
            return Err(DecodeError::body(format!(
                "the {name} body ends after {} of its {} bytes, and what is behind it is not {name}: send nothing there",
                body.len() - rest.len(),
                body.len()
            )));
        }
        rest = undo(rest, &mut out)?;
    }
    Ok(out.into())
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
    reader: &mut impl Read,
    out: &mut Vec<u8>,
    limit: usize,
) -> Result<(), DecodeError> {
    let mut chunk = vec![0; CHUNK];
    loop {
        match reader.read(&mut chunk) {
            Ok(0) => return Ok(()),
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
    fn what_is_behind_the_end_is_said_to_be_that() {
        let text = b"{\"a\":1}\n".repeat(1000);
        for (encoding, compress) in both() {
            let body = compress(&text);
            for behind in [&b"\n"[..], b"junk", b"\0\0\0\0", &[b'x'; 10_000]] {
                let sent = [&body, behind].concat();
                let said = format!("ends after {} of its {} bytes", body.len(), sent.len());
                let error = decompress(encoding, sent.into(), 1 << 20).unwrap_err();
                assert!(error.to_string().contains(&said), "{error}");
            }
            let further = compress(&text);
            let cut = [&body, &further[..further.len() / 2]].concat();
            let error = decompress(encoding, cut.into(), 1 << 20).unwrap_err();
            assert!(error.to_string().contains("cut off"), "{error}");
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
