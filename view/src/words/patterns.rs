// SPDX-License-Identifier: Apache-2.0
//! Regular expressions that are none. The engine hands on what its library says, in one of three wrappings.

use datafusion::error::DataFusionError;

const SYNTAX: &str = "regex parse error:";
const UNSAID: &str = "Regular expression did not compile: ";
const SIZES: [&str; 2] = ["CompiledTooBig", "Compiled regex exceeds size limit"];

/// Whether a statement's regular expression is at fault.
pub fn is_of_a_pattern(error: &DataFusionError) -> bool {
    let text = error.to_string();
    [SYNTAX, UNSAID].iter().any(|said| text.contains(said))
        || SIZES.iter().any(|size| text.contains(size))
}

/// What is wrong with it. The library draws the place below the pattern.
pub(super) fn broken(text: &str) -> Option<String> {
    if SIZES.iter().any(|size| text.contains(size)) {
        return Some(
            "the regular expression is too large when its repetitions are written out: repeat less"
                .to_owned(),
        );
    }
    let Some((_, drawn)) = text.split_once(SYNTAX) else {
        let (_, pattern) = text.split_once(UNSAID)?;
        return Some(format!("`{}` is no regular expression", shown(pattern)));
    };
    let (drawn, reason) = drawn.rsplit_once("error: ")?;
    let reason = reason.lines().next().unwrap_or_default();
    let pattern = drawn.lines().find(|line| !line.trim().is_empty())?;
    Some(format!(
        "`{}` is no regular expression: {reason}; a character that has a meaning is taken for itself after `\\`",
        shown(pattern)
    ))
}

fn shown(pattern: &str) -> String {
    pattern.trim().chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use datafusion::error::DataFusionError;
    use datafusion::prelude::SessionContext;

    use super::is_of_a_pattern;
    use crate::words_of;

    async fn refused(sql: &str) -> DataFusionError {
        let planned = SessionContext::new().sql(sql).await;
        match planned {
            Ok(query) => query.collect().await.unwrap_err(),
            Err(error) => error,
        }
    }

    #[tokio::test]
    async fn every_function_says_what_is_wrong_with_a_pattern() {
        for call in [
            "regexp_like(t, '(')",
            "regexp_match(t, '(')",
            "regexp_replace(t, '(', 'x')",
            "regexp_count(t, '(')",
            "regexp_instr(t, '(')",
            "t ~ '('",
            "t !~* '('",
            "t SIMILAR TO '('",
        ] {
            let error = refused(&format!(
                "SELECT {call} FROM (VALUES ('a'), ('b')) AS v (t)"
            ))
            .await;
            assert!(is_of_a_pattern(&error), "{call}: {error}");
            let words = words_of(&error);
            assert!(
                words.contains("`(` is no regular expression"),
                "{call}: {words}"
            );
        }
        let error = refused("SELECT regexp_like('a', '((a{1000}){1000}){1000}')").await;
        assert!(is_of_a_pattern(&error), "{error}");
        assert!(words_of(&error).contains("repeat less"), "{error}");
    }
}
