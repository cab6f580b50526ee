// SPDX-License-Identifier: Apache-2.0
//! Secrets by reference: the options of a stream say where one is, never what it is.

use crate::KafkaError;

/// The secret that `option` refers to by `env:NAME` or `file:/path`; a line end at the end of a file is not part of it.
pub(crate) fn secret(option: &str, reference: &str) -> Result<String, KafkaError> {
    let found = match reference.split_once(':') {
        Some(("env", name)) => std::env::var(name).map_err(|error| error.to_string()),
        Some(("file", path)) => std::fs::read_to_string(path)
            .map(|text| text.trim_end_matches(['\r', '\n']).to_owned())
            .map_err(|error| error.to_string()),
        _ => Err("it is neither `env:NAME` nor `file:/path`".to_owned()),
    };
    found.map_err(|reason| KafkaError::Secret {
        option: option.to_owned(),
        reference: reference.to_owned(),
        reason,
    })
}
