// SPDX-License-Identifier: Apache-2.0
//! Statements that other databases have and we do not, and what to use instead.

use super::source::Tokens;

/// Why the statement that begins here is refused, if it is one of these.
pub(super) fn instead(tokens: &Tokens<'_>) -> Option<String> {
    let first = tokens.peek_word()?;
    let second = tokens.word_at(1).unwrap_or_default();
    let (statement, instead) = match (first.as_str(), second.as_str()) {
        ("INSERT" | "REPLACE", _) => (
            first.clone(),
            "append events with `POST /v1/streams/{stream}` or `dovetail ingest`",
        ),
        ("UPDATE" | "DELETE" | "MERGE" | "TRUNCATE", _) => (
            first.clone(),
            "events never change: mark wrong ones with `POST /v1/streams/{stream}/exclusions`, then replay the view",
        ),
        ("CREATE", "MATERIALIZED") => (
            "CREATE MATERIALIZED VIEW".to_owned(),
            "every view is kept up to date: write `CREATE VIEW`",
        ),
        ("CREATE" | "ALTER" | "DROP" | "UNDROP", _) => (
            format!("{first} {second}").trim().to_owned(),
            "there are streams and views: use CREATE, ALTER, DROP or UNDROP with STREAM or VIEW",
        ),
        ("SET" | "RESET", _) => (
            first.clone(),
            "settings belong to a request: send `timeout_ms`, `after`, `layer` or `generation` with the statement",
        ),
        ("COPY" | "UNLOAD" | "EXPORT", _) => (
            first.clone(),
            "name the answer's format with `Accept` or `?format=`, such as `?format=parquet`",
        ),
        ("LOAD" | "IMPORT", _) => (
            first.clone(),
            "append events with `POST /v1/streams/{stream}` or `dovetail ingest`",
        ),
        ("ROLLBACK", _) => (
            first.clone(),
            "there are no transactions; to move a view back use `POST /v1/views/{view}/rollback` or `dovetail rollback`",
        ),
        ("BEGIN" | "START" | "COMMIT" | "END" | "SAVEPOINT" | "RELEASE", _) => (
            first.clone(),
            "there are no transactions: every query reads one snapshot, every append is atomic",
        ),
        ("PREPARE" | "EXECUTE" | "DEALLOCATE", _) => (
            first.clone(),
            "send `parameters` with the statement and write `$1`",
        ),
        ("REFRESH" | "RECOMPUTE" | "REPLAY", _) => (
            first.clone(),
            "use `POST /v1/views/{view}/recompute` or `dovetail recompute`",
        ),
        (
            "USE" | "GRANT" | "REVOKE" | "ANALYZE" | "VACUUM" | "OPTIMIZE" | "CALL" | "DO" | "LOCK"
            | "KILL" | "ATTACH" | "DETACH" | "CACHE" | "UNCACHE" | "COMMENT" | "DECLARE" | "FETCH"
            | "CLOSE" | "LISTEN" | "NOTIFY" | "PRAGMA" | "INSTALL" | "MSCK" | "DISCARD",
            _,
        ) => (
            first.clone(),
            "use SELECT, EXPLAIN, SHOW, DESCRIBE, or CREATE, ALTER, DROP, UNDROP of a STREAM or VIEW",
        ),
        _ => return None,
    };
    Some(format!("`{statement}` is not supported: {instead}"))
}
