// SPDX-License-Identifier: Apache-2.0
//! The file of tokens: who may do what.

use std::path::Path;

use dovetail_serving_layer::http::{TokenEntry, TokenError};

use crate::cli::CliError;

/// Reads a tokens file: an entry on each line, `#` for comments.
pub(super) fn read_tokens(file: &Path) -> Result<Vec<TokenEntry>, CliError> {
    let text = std::fs::read_to_string(file)
        .map_err(|e| CliError::Usage(format!("cannot read `{}`: {e}", file.display())))?;
    let tokens = parse_tokens(&text).map_err(|(line, error)| {
        CliError::Usage(format!("`{}`, line {line}: {error}", file.display()))
    })?;
    if tokens.is_empty() {
        // Without tokens everyone is admin: not what somebody wants who names a file of them.
        return Err(CliError::Usage(format!(
            "`{}` has no token",
            file.display()
        )));
    }
    Ok(tokens)
}

/// The entries of a file's text, or the line that is wrong and why. Names and secrets are given once: one secret
/// of two roles would be of the larger one.
fn parse_tokens(text: &str) -> Result<Vec<TokenEntry>, (usize, String)> {
    let lines = text.lines().map(str::trim).enumerate();
    let mut entries: Vec<TokenEntry> = vec![];
    for (index, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
        let wrong = |reason: String| (index + 1, reason);
        let entry: TokenEntry = line.parse().map_err(|e: TokenError| wrong(e.to_string()))?;
        if let Some(known) = entries.iter().find(|known| known.clashes_with(&entry)) {
            return Err(wrong(format!(
                "its name or its secret is that of `{}`: each token has its own",
                known.name()
            )));
        }
        entries.push(entry);
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tokens_file_has_an_entry_on_each_line() {
        let text = "# ours\n\nops:admin:c1b8f0d6e7a94c02\r\n a:read:9d1c2b7744aa4f10 \n";
        assert_eq!(parse_tokens(text).unwrap().len(), 2);
        let (line, error) = parse_tokens("# x\nops:root:c1b8f0d6e7a94c02").unwrap_err();
        assert_eq!(line, 2);
        assert!(!error.contains("c1b8"), "{error}");
        for twice in [
            "a:read:c1b8f0d6e7a94c02\nb:admin:c1b8f0d6e7a94c02",
            "a:read:c1b8f0d6e7a94c02\na:admin:9d1c2b7744aa4f10",
        ] {
            let (line, error) = parse_tokens(twice).unwrap_err();
            assert!(line == 2 && error.contains("that of `a`"), "{error}");
        }
    }

    #[test]
    fn a_file_without_tokens_does_not_open_the_server_to_all() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tokens");
        std::fs::write(&file, "# none yet\n").unwrap();
        assert!(
            matches!(read_tokens(&file), Err(CliError::Usage(text)) if text.contains("no token"))
        );
    }
}
