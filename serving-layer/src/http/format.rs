// SPDX-License-Identifier: Apache-2.0
//! In which format an answer goes out.

use std::fmt;
use std::str::FromStr;

use axum::http::{HeaderMap, header};
use dovetail_model::{Problem, ProblemKind};
use schemars::JsonSchema;

use super::params::Params;

/// A format of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, JsonSchema)]
#[schemars(rename_all = "snake_case")]
pub enum AnswerFormat {
    /// One JSON document: columns, rows, provenance.
    Json,
    /// One JSON object per line.
    Ndjson,
    /// RFC 4180 with a header line.
    Csv,
    /// An Arrow IPC stream.
    Arrow,
    /// A Parquet file.
    Parquet,
}

impl AnswerFormat {
    /// All of them, the one we would rather give first.
    pub const ALL: [Self; 5] = [
        Self::Json,
        Self::Ndjson,
        Self::Csv,
        Self::Arrow,
        Self::Parquet,
    ];

    /// Its name in `?format=`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Ndjson => "ndjson",
            Self::Csv => "csv",
            Self::Arrow => "arrow",
            Self::Parquet => "parquet",
        }
    }

    /// Its media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Ndjson => "application/x-ndjson",
            Self::Csv => "text/csv",
            Self::Arrow => "application/vnd.apache.arrow.stream",
            Self::Parquet => "application/vnd.apache.parquet",
        }
    }

    /// What the `content-type` header says.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Csv => "text/csv; charset=utf-8; header=present",
            other => other.media_type(),
        }
    }

    /// The format that `?format=` or else `Accept` asks for.
    ///
    /// # Errors
    /// `NotAcceptable` when `Accept` allows none of ours; `Invalid` for a weight in it that is none.
    pub(super) fn negotiate(params: &mut Params, headers: &HeaderMap) -> Result<Self, Problem> {
        if let Some(format) = params.parsed("format")? {
            return Ok(format);
        }
        let (mut ranges, mut others) = (vec![], vec![]);
        for value in headers.get_all(header::ACCEPT) {
            let text = value
                .to_str()
                .map_err(|_| Problem::invalid("`Accept` is not ASCII"))?;
            for text in text.split(',').map(str::trim) {
                match Range::parse(text)? {
                    Some(range) => ranges.push(range),
                    None if text.is_empty() => {}
                    None => others.push(format!("`{text}`")),
                }
            }
        }
        if ranges.is_empty() && others.is_empty() {
            return Ok(Self::Json);
        }
        // A client's odd extra must not cost it the answer: only where nothing else is left of what it asks for.
        choose(&ranges).ok_or_else(|| {
            let known = Self::ALL.map(Self::media_type).join(", ");
            let others = match others.as_slice() {
                [] => String::new(),
                others => format!(" ({} is not a media range)", others.join(", ")),
            };
            let encoding = match ranges.iter().all(|range| range.is_utf8) {
                true => "",
                false => ", all text in UTF-8",
            };
            let detail = format!("`Accept` allows none of our formats{others}: {known}{encoding}");
            Problem::new(ProblemKind::NotAcceptable, detail)
        })
    }
}

impl fmt::Display for AnswerFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for AnswerFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|f| f.as_str() == text)
            .ok_or_else(|| {
                let known = Self::ALL.map(Self::as_str).join(", ");
                format!("`{text}` is not a format: use {known}")
            })
    }
}

/// One media range of `Accept` with its weight in thousandths.
struct Range {
    main: String,
    sub: String,
    weight: u16,
    /// Whether it takes text in the only encoding there is; its weight is 0 otherwise.
    is_utf8: bool,
}

/// What clients call it.
const UTF8: [&str; 2] = ["utf-8", "utf8"];

impl Range {
    /// A range, or nothing if it is not one. Old clients of Java write `*` for `*/*`.
    ///
    /// # Errors
    /// `Invalid` for a range whose weight is none: which format its client would rather have cannot be known.
    fn parse(text: &str) -> Result<Option<Self>, Problem> {
        let mut parts = text.split(';');
        let (main, sub) = match parts.next().unwrap_or_default().trim() {
            "*" => ("*", "*"),
            range => range.split_once('/').unwrap_or_default(),
        };
        if !is_token(main) || !is_token(sub) {
            return Ok(None);
        }
        let (mut weight, mut is_utf8) = (None, true);
        for part in parts {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let (name, value) = (name.trim(), value.trim());
            if name.eq_ignore_ascii_case("q") {
                let own = weight_of(value).ok_or_else(|| {
                    Problem::invalid(format!(
                        "`Accept` has `{text}`, whose weight `{}` is none: write q=0 to q=1 with at most three decimals, such as q=0.5, or leave it out",
                        part.trim()
                    ))
                })?;
                if weight.replace(own).is_some() {
                    return Err(Problem::invalid(format!(
                        "`Accept` has `{text}`, with more than one weight: leave one of them"
                    )));
                }
            } else if name.eq_ignore_ascii_case("charset") {
                let charset = value.trim_matches('"');
                is_utf8 = UTF8.iter().any(|utf8| charset.eq_ignore_ascii_case(utf8));
            }
        }
        Ok(Some(Self {
            main: main.to_ascii_lowercase(),
            sub: sub.to_ascii_lowercase(),
            weight: match is_utf8 {
                true => weight.unwrap_or(1000),
                false => 0,
            },
            is_utf8,
        }))
    }

    /// How exactly the range names `format`; none if it does not.
    fn specificity(&self, format: AnswerFormat) -> Option<u8> {
        let (main, sub) = format.media_type().split_once('/')?;
        let ndjson = format == AnswerFormat::Ndjson
            && self.main == main
            && matches!(self.sub.as_str(), "ndjson" | "jsonl" | "x-jsonlines");
        if ndjson || (self.main == main && self.sub == sub) {
            Some(2)
        } else if self.main == main && self.sub == "*" {
            Some(1)
        } else if self.main == "*" && self.sub == "*" {
            Some(0)
        } else {
            None
        }
    }
}

/// A weight in thousandths, as RFC 9110, 12.4.2 has it: 0 to 1, with at most three decimals. The clients of Java that write
/// `*` write `.2` for `0.2`, too.
fn weight_of(text: &str) -> Option<u16> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let is_number = decimals.len() <= 3 && decimals.bytes().all(|digit| digit.is_ascii_digit());
    let thousandths: u16 = format!("{decimals:0<3}").parse().ok()?;
    match whole {
        _ if !is_number => None,
        "" if decimals.is_empty() => None,
        "" | "0" => Some(thousandths),
        "1" if thousandths == 0 => Some(1000),
        _ => None,
    }
}

/// RFC 9110, 5.6.2.
fn is_token(text: &str) -> bool {
    let is_part = |c: u8| c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c);
    !text.is_empty() && text.bytes().all(is_part)
}

/// The format of the largest weight; among equals the one named most exactly, then first by the client, then by us.
fn choose(ranges: &[Range]) -> Option<AnswerFormat> {
    let mut best: Option<(u16, u8, usize, AnswerFormat)> = None;
    for format in AnswerFormat::ALL {
        // The most exact range decides a format's weight, as RFC 9110 says.
        let named = ranges
            .iter()
            .enumerate()
            .filter_map(|(place, r)| Some((r.specificity(format)?, place, r.weight)))
            .max_by_key(|(specificity, place, _)| (*specificity, std::cmp::Reverse(*place)));
        let Some((specificity, place, weight @ 1..)) = named else {
            continue;
        };
        let better = best.is_none_or(|(w, s, p, _)| {
            (weight, specificity, std::cmp::Reverse(place)) > (w, s, std::cmp::Reverse(p))
        });
        if better {
            best = Some((weight, specificity, place, format));
        }
    }
    best.map(|(_, _, _, format)| format)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn accept(text: &str) -> Result<AnswerFormat, Problem> {
        let mut headers = HeaderMap::new();
        if !text.is_empty() {
            headers.insert(header::ACCEPT, HeaderValue::from_str(text).unwrap());
        }
        AnswerFormat::negotiate(&mut Params::parse(None).unwrap(), &headers)
    }

    #[test]
    fn accept_is_weighed() {
        use AnswerFormat::{Arrow, Csv, Json, Ndjson, Parquet};
        for (text, format) in [
            ("", Json),
            ("*/*", Json),
            ("text/csv", Csv),
            ("TEXT/CSV; charset=utf-8", Csv),
            ("application/ndjson", Ndjson),
            (
                "application/vnd.apache.parquet, application/json;q=0.5",
                Parquet,
            ),
            (
                "application/json;q=0.5, application/vnd.apache.arrow.stream;q=0.9",
                Arrow,
            ),
            (
                "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
                Json,
            ),
            ("text/*, application/json;q=0.9", Csv),
            ("text/csv, application/json", Csv),
            ("application/json, text/csv", Json),
            ("*/*, text/csv", Csv),
            ("application/json;q=0, */*;q=0.1", Ndjson),
            ("nonsense, text/csv", Csv),
            ("text/html, *; q=.2, */*; q=.2", Json),
            ("text/html, *", Json),
            (" , ", Json),
        ] {
            assert_eq!(accept(text).unwrap(), format, "{text}");
        }
        for text in ["text/html", "application/json;q=0", "image/*"] {
            let problem = accept(text).unwrap_err();
            assert_eq!(problem.kind, ProblemKind::NotAcceptable, "{text}");
        }
        for text in ["bogus", "json", "text/", "/", "text/c sv"] {
            let problem = accept(&format!("image/png, {text}")).unwrap_err();
            assert_eq!(problem.kind, ProblemKind::NotAcceptable, "{text}");
            let named = format!("(`{text}` is not a media range): application/json, ");
            assert!(problem.detail.contains(&named), "{problem}");
        }
    }

    #[test]
    fn a_weight_that_is_none_is_refused_whatever_stands_beside_it() {
        for weight in [
            "q=2", "q=abc", "q=-1", "q=", "q", "q=NaN", "q=1.001", "q=0.1234", "q=1e0", "q=.",
            "q=+1", "Q=0.5.5", "q=\"1\"", "q=01",
        ] {
            let text = format!("application/json, text/csv; {weight}");
            let problem = accept(&text).unwrap_err();
            assert_eq!(problem.kind, ProblemKind::Invalid, "{text}");
            let said =
                format!("`text/csv; {weight}`, whose weight `{weight}` is none: write q=0 to q=1");
            assert!(problem.detail.contains(&said), "{problem}");
        }
        for (weight, thousandths) in [
            ("0", 0),
            ("0.", 0),
            ("0.5", 500),
            ("0.001", 1),
            ("1", 1000),
            ("1.", 1000),
            ("1.000", 1000),
            (".2", 200),
        ] {
            assert_eq!(weight_of(weight), Some(thousandths), "{weight}");
        }
    }

    #[test]
    fn text_is_utf8_or_another_format() {
        for text in [
            "text/csv;charset=latin1",
            "text/csv; charset=\"iso-8859-1\"; q=0.5",
            "application/json;charset=utf-16, text/html",
            "*/*; charset=latin1",
        ] {
            let problem = accept(text).unwrap_err();
            assert_eq!(problem.kind, ProblemKind::NotAcceptable, "{text}");
            assert!(problem.detail.ends_with(", all text in UTF-8"), "{problem}");
        }
        for (text, format) in [
            ("text/csv;charset=latin1, */*;q=0.1", AnswerFormat::Json),
            ("text/csv; Charset=\"UTF-8\"", AnswerFormat::Csv),
            (
                "text/csv;charset=utf8;header=present;q=0.3",
                AnswerFormat::Csv,
            ),
        ] {
            assert_eq!(accept(text).unwrap(), format, "{text}");
        }
        let problem = accept("text/csv;q=0.5;q=0.7").unwrap_err();
        assert_eq!(problem.kind, ProblemKind::Invalid);
        assert!(problem.detail.contains("more than one weight"), "{problem}");
    }

    #[test]
    fn the_parameter_wins() {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("text/html"));
        let mut params = Params::parse(Some("format=arrow")).unwrap();
        assert_eq!(
            AnswerFormat::negotiate(&mut params, &headers).unwrap(),
            AnswerFormat::Arrow
        );
        let mut params = Params::parse(Some("format=xml")).unwrap();
        let problem = AnswerFormat::negotiate(&mut params, &headers).unwrap_err();
        assert!(
            problem
                .detail
                .contains("use json, ndjson, csv, arrow, parquet"),
            "{problem}"
        );
    }
}
