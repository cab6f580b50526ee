// SPDX-License-Identifier: Apache-2.0
//! Position tokens: what is taken prints as it was written.

use dovetail_model::PositionToken;

pub(crate) fn token(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match text.parse::<PositionToken>() {
        Ok(token) => assert_eq!(token.to_string(), text),
        Err(error) => assert!(error.to_string().contains("is not a position token")),
    }
}
