// SPDX-License-Identifier: Apache-2.0
//! What makes two attempts at one input the same, and the idempotency keys that follow from it.

use std::io::Read;

/// Length of the hash that a key is made of, in hex digits: 128 bits.
const KEY_HEX: usize = 32;
/// Bytes hashed at a time.
const HASH_CHUNK: usize = 256 << 10;

/// The identity of an input.
///
/// The server remembers a key for 24 hours and answers the same request with the first answer again. So an
/// input of the same identity is stored once in that time, however often it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity([u8; 32]);

impl Identity {
    /// Of a file: its content, under any name. A file that has grown or changed is another input.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of_content(reader: &mut impl Read) -> std::io::Result<Self> {
        let mut hasher = blake3::Hasher::new_derive_key("dovetail 2026 ingest content");
        let mut chunk = vec![0; HASH_CHUNK];
        loop {
            match reader.read(&mut chunk) {
                Ok(0) => return Ok(Self(*hasher.finalize().as_bytes())),
                Ok(read) => {
                    hasher.update(&chunk[..read]);
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Of an input that the user named with `--key`, and of which `content` is known if it is a file.
    pub fn named(name: &str, content: Option<&Identity>) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("dovetail 2026 ingest name");
        hasher.update(&(name.len() as u64).to_le_bytes());
        hasher.update(name.as_bytes());
        if let Some(content) = content {
            hasher.update(&content.0);
        }
        Self(*hasher.finalize().as_bytes())
    }

    /// Of a pipe: no other input is the same.
    pub fn unique() -> Self {
        Self(rand::random())
    }

    /// The key of the input's part number `index` for `stream`. Keys of a stream are told apart by the
    /// server; the stream is in the key all the same, so that it never depends on that.
    pub fn key(&self, stream: &str, index: u64) -> String {
        let mut hasher = blake3::Hasher::new_derive_key("dovetail 2026 ingest part");
        hasher.update(&self.0);
        hasher.update(&index.to_le_bytes());
        hasher.update(stream.as_bytes());
        let mut hex = hasher.finalize().to_hex().to_string();
        hex.truncate(KEY_HEX);
        format!("ingest-{index}-{hex}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_content_has_the_same_keys_and_nothing_else_has() {
        let of = |text: &str| Identity::of_content(&mut text.as_bytes()).unwrap();
        let key = of("a\nb\n").key("flights", 0);
        assert_eq!(key, of("a\nb\n").key("flights", 0));
        let others = [
            of("a\nb\n").key("flights", 1),
            of("a\nb\n").key("flight", 0),
            of("a\nb\nc\n").key("flights", 0),
            Identity::named("a\nb\n", None).key("flights", 0),
            Identity::named("again", Some(&of("a\nb\n"))).key("flights", 0),
            Identity::unique().key("flights", 0),
        ];
        for other in others {
            assert_ne!(key, other);
        }
        assert_ne!(Identity::unique(), Identity::unique());
    }
}
