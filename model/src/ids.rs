// SPDX-License-Identifier: Apache-2.0
//! Identities. Names are labels that may be reused; ids are given once and never again, so paths, tokens
//! and transactions carry ids.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An id that is not of the form the catalog gives out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an id: ids are 1 to 16 characters from a-z and 0-9")]
pub struct IdError(pub String);

fn check_id(text: &str) -> Result<(), IdError> {
    let ok = (1..=16).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if ok {
        Ok(())
    } else {
        Err(IdError(text.to_owned()))
    }
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The id as text; safe in a path and in a URL.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// An id from random bits: seven base-36 digits, about 36 bits.
            pub fn from_random(mut bits: u64) -> Self {
                const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
                let text = (0..7)
                    .map(|_| {
                        let digit = DIGITS[(bits % 36) as usize];
                        bits /= 36;
                        char::from(digit)
                    })
                    .collect();
                Self(text)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                check_id(text)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                check_id(&text)?;
                Ok(Self(text))
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id! {
    /// The immutable identity of a stream.
    StreamId
}
text_id! {
    /// The immutable identity of a view.
    ViewId
}

/// A number in digits alone.
pub fn digits<T: FromStr>(text: &str) -> Option<T> {
    unsigned(text).parse().ok()
}

/// `text`, or what is no number if it has a plus sign, which the standard library reads over: one thing would have two
/// names.
fn unsigned(text: &str) -> &str {
    match text.strip_prefix('+') {
        Some(_) => "+",
        None => text,
    }
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = std::num::ParseIntError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                unsigned(text).parse().map(Self)
            }
        }
    };
}

number_id! {
    /// One partition of a stream. The embedded log has only partition 0.
    PartitionId(u32)
}
number_id! {
    /// Where an event stands in its partition. Offsets grow, may have holes, and are never counted.
    Offset(u64)
}
number_id! {
    /// A batch run, numbered by the catalog across all views.
    RunId(u64)
}
number_id! {
    /// A generation of one view, numbered from 1 in the order in which manifests were made.
    GenerationNumber(u64)
}
number_id! {
    /// An exclusion, numbered by the catalog within its stream.
    ExclusionId(u64)
}

impl Offset {
    /// The offset just behind this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_never_a_path() {
        for bad in ["", "..", "a/b", "A", "a b", "0123456789abcdefg"] {
            assert!(bad.parse::<StreamId>().is_err(), "{bad}");
        }
        assert_eq!("k3f".parse::<StreamId>().unwrap().as_str(), "k3f");
    }

    #[test]
    fn a_number_is_digits_and_nothing_else() {
        for bad in [
            "+1",
            "-1",
            " 1",
            "1 ",
            "1_0",
            "0x1",
            "1e3",
            "1.0",
            "١",
            "",
            "+",
            "18446744073709551616",
        ] {
            assert!(bad.parse::<RunId>().is_err(), "{bad}");
            assert_eq!(digits::<u64>(bad), None, "{bad}");
        }
        assert_eq!("10".parse(), Ok(RunId(10)));
    }

    #[test]
    fn random_ids_are_valid() {
        for bits in [0, 1, 35, 36, u64::MAX] {
            let id = ViewId::from_random(bits);
            assert_eq!(id.as_str().parse::<ViewId>().unwrap(), id);
        }
    }
}
