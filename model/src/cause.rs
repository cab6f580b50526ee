// SPDX-License-Identifier: Apache-2.0
//! What an error comes from.

use std::error::Error;

/// The text of the cause at the bottom of an error, which is the one that tells people something.
pub fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
