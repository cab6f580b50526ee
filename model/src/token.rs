// SPDX-License-Identifier: Apache-2.0
//! The readable form of a position that clients hold: `flights~k3f:0@1234,1@980`.

use std::fmt;
use std::str::FromStr;

use crate::{Offset, PartitionId, Position, StreamId, check_name};

/// A position of a named stream. The id decides which stream is meant, among those that had the name one after the other;
/// a stream keeps its name, so a token with another one is of no stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PositionToken {
    /// The stream's name.
    pub name: String,
    /// The stream's identity.
    pub stream: StreamId,
    /// Where the holder stands.
    pub position: Position,
}

/// A text that is not a position token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{token}` is not a position token: {reason}; a token reads `stream~id:partition@offset,…`, as an append answers it"
)]
pub struct TokenError {
    token: String,
    reason: String,
}

impl FromStr for PositionToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        parse(text).map_err(|reason| TokenError {
            token: text.chars().take(200).collect(),
            reason,
        })
    }
}

fn parse(text: &str) -> Result<PositionToken, String> {
    let (label, offsets) = text.rsplit_once(':').ok_or("it has no `:`")?;
    let (name, id) = label
        .rsplit_once('~')
        .ok_or("it has no `~` before the stream's id")?;
    check_name(name).map_err(|e| e.to_string())?;
    let stream = id.parse::<StreamId>().map_err(|e| e.to_string())?;
    let mut position = Position::zero();
    let mut last: Option<PartitionId> = None;
    for part in offsets.split(',') {
        let (partition, offset) = part
            .split_once('@')
            .ok_or_else(|| format!("`{part}` has no `@`"))?;
        let partition: PartitionId = partition
            .parse()
            .map_err(|_| format!("`{partition}` is not a partition"))?;
        let offset: Offset = offset
            .parse()
            .map_err(|_| format!("`{offset}` is not an offset"))?;
        if last.is_some_and(|last| last >= partition) {
            return Err(format!("partition {partition} is out of order"));
        }
        last = Some(partition);
        position = position.with(partition, offset);
    }
    let token = PositionToken {
        name: name.to_owned(),
        stream,
        position,
    };
    // Leading zeros, and partitions that stand at 0 beside others: two tokens of one position would differ.
    if token.to_string() != text {
        return Err(format!("this position reads `{token}`"));
    }
    Ok(token)
}

impl fmt::Display for PositionToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}~{}:{}", self.name, self.stream, self.position)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_it_writes() {
        for text in ["flights~k3f:0@1234,1@980", "flights~k3f:0@0", "a_b~0:7@1"] {
            assert_eq!(text.parse::<PositionToken>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn says_what_is_wrong() {
        for (text, reason) in [
            ("", "has no `:`"),
            ("flights:0@1", "has no `~`"),
            ("flights~K:0@1", "is not an id"),
            ("flights~k:0", "has no `@`"),
            ("flights~k:x@1", "not a partition"),
            ("flights~k:0@-1", "not an offset"),
            ("flights~k:1@1,0@1", "out of order"),
            ("flights~k:+0@7", "`+0` is not a partition"),
            ("flights~k:0@007", "this position reads `flights~k:0@7`"),
            ("flights~k:0@0,1@5", "this position reads `flights~k:1@5`"),
            ("flights~k:3@0", "this position reads `flights~k:0@0`"),
        ] {
            let error = text.parse::<PositionToken>().unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_taken_prints_as_it_was_written(
            text in prop_oneof![".{0,60}", "[a-z]{1,2}~[a-z0-9]{1,2}:([+0-3]{1,2}@[+0-9]{1,3},?){1,3}"],
        ) {
            if let Ok(token) = text.parse::<PositionToken>() {
                prop_assert_eq!(token.to_string(), text);
            }
        }
    }
}
