// SPDX-License-Identifier: Apache-2.0
//! Query strings, strictly.

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use dovetail_model::{GenerationNumber, PositionToken, Problem, digits};
use tokio::time::Instant;

use crate::ports::{Layer, Limits};

/// Longest `timeout_ms`.
pub(super) const MAX_TIMEOUT_MS: u64 = 3_600_000;

/// The parameters of a query string, taken one by one; [`finish`](Self::finish) refuses what is left.
#[derive(Debug)]
pub(super) struct Params {
    pairs: Vec<(String, String)>,
    known: Vec<&'static str>,
}

impl Params {
    /// Reads a query string.
    pub(super) fn parse(query: Option<&str>) -> Result<Self, Problem> {
        let mut pairs = Vec::new();
        for pair in query
            .unwrap_or_default()
            .split('&')
            .filter(|p| !p.is_empty())
        {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name)?;
            if name.is_empty() {
                let detail = format!("a parameter without a name in the query string: `{pair}`");
                return Err(Problem::invalid(detail));
            }
            pairs.push((name, decode(value)?));
        }
        Ok(Self {
            pairs,
            known: Vec::new(),
        })
    }

    /// Takes the text of parameter `name`.
    pub(super) fn text(&mut self, name: &'static str) -> Result<Option<String>, Problem> {
        self.known.push(name);
        let Some(index) = self.pairs.iter().position(|(n, _)| n == name) else {
            return Ok(None);
        };
        let (_, value) = self.pairs.remove(index);
        if self.pairs.iter().any(|(n, _)| n == name) {
            return Err(parameter(name, "it is given twice"));
        }
        if value.is_empty() {
            return Err(parameter(name, "it is empty"));
        }
        Ok(Some(value))
    }

    /// Takes parameter `name` as a `T`.
    pub(super) fn parsed<T>(&mut self, name: &'static str) -> Result<Option<T>, Problem>
    where
        T: FromStr,
        T::Err: Display,
    {
        let text = self.text(name)?;
        text.map(|text| text.parse().map_err(|e: T::Err| parameter(name, e)))
            .transpose()
    }

    /// Takes parameter `name` as a number from `min` to `max`.
    pub(super) fn number(
        &mut self,
        name: &'static str,
        (min, max): (u64, u64),
    ) -> Result<Option<u64>, Problem> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        let number = digits(&text).filter(|n| (min..=max).contains(n));
        let why = || {
            parameter(
                name,
                format!("`{text}` is not a number from {min} to {max}"),
            )
        };
        number.ok_or_else(why).map(Some)
    }

    /// Takes `after`, `layer`, `generation` and `timeout_ms`.
    pub(super) fn query_options(&mut self) -> Result<QueryOptions, Problem> {
        Ok(QueryOptions {
            after: self.text("after")?,
            layer: self.parsed("layer")?,
            generation: self.number("generation", (1, u64::MAX))?,
            timeout_ms: self.number("timeout_ms", (1, MAX_TIMEOUT_MS))?,
        })
    }

    /// What no one has taken: column filters, for the rows of a view.
    pub(super) fn rest(self) -> Vec<(String, String)> {
        self.pairs
    }

    /// Refuses what no one has taken.
    pub(super) fn finish(self) -> Result<(), Problem> {
        let Some((name, _)) = self.pairs.first() else {
            return Ok(());
        };
        let known = if self.known.is_empty() {
            "there are none here".to_owned()
        } else {
            format!("there are {}", self.known.join(", "))
        };
        let detail = format!("there is no parameter `{name}`; {known}");
        Err(Problem::invalid(detail).with("parameter", name.as_str()))
    }
}

/// A problem with parameter `name`.
pub(super) fn parameter(name: &str, why: impl Display) -> Problem {
    Problem::invalid(format!("parameter `{name}`: {why}")).with("parameter", name)
}

/// Percent-decoding that refuses what it cannot decode. `+` is a space.
fn decode(text: &str) -> Result<String, Problem> {
    let refuse = || {
        let shown: String = text.chars().take(100).collect();
        Problem::invalid(format!(
            "`{shown}` in the query string is not percent-encoded UTF-8"
        ))
    };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || rest.next().and_then(|b| char::from(b).to_digit(16));
                let (high, low) = digit().zip(digit()).ok_or_else(refuse)?;
                u8::try_from(high * 16 + low).map_err(|_| refuse())?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).map_err(|_| refuse())
}

/// What a question says besides itself, before it is checked as a whole.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct QueryOptions {
    pub(super) after: Option<String>,
    pub(super) layer: Option<Layer>,
    pub(super) generation: Option<u64>,
    pub(super) timeout_ms: Option<u64>,
}

impl QueryOptions {
    /// These options and `other`'s; an option may stand in one of them only.
    pub(super) fn join(self, other: Self) -> Result<Self, Problem> {
        fn one<T>(name: &str, a: Option<T>, b: Option<T>) -> Result<Option<T>, Problem> {
            match (a, b) {
                (Some(_), Some(_)) => Err(parameter(
                    name,
                    "it stands in the query string and in the body: keep one",
                )),
                (a, b) => Ok(a.or(b)),
            }
        }
        Ok(Self {
            after: one("after", self.after, other.after)?,
            layer: one("layer", self.layer, other.layer)?,
            generation: one("generation", self.generation, other.generation)?,
            timeout_ms: one("timeout_ms", self.timeout_ms, other.timeout_ms)?,
        })
    }

    /// The first option that is given and that only a query takes.
    pub(super) fn only_for_queries(&self) -> Option<&'static str> {
        let given = [
            ("after", self.after.is_some()),
            ("layer", self.layer.is_some()),
            ("generation", self.generation.is_some()),
        ];
        given
            .into_iter()
            .find(|(_, given)| *given)
            .map(|(name, _)| name)
    }

    /// The limits they come to, from now on; `query_timeout` where they say no time.
    pub(super) fn limits(self, query_timeout: Duration) -> Result<Limits, Problem> {
        let timeout = match self.timeout_ms {
            None => query_timeout,
            Some(ms @ 1..=MAX_TIMEOUT_MS) => Duration::from_millis(ms),
            Some(ms) => {
                let why = format!("`{ms}` is not a number from 1 to {MAX_TIMEOUT_MS}");
                return Err(parameter("timeout_ms", why));
            }
        };
        let layer = match (self.layer, self.generation) {
            (Some(Layer::Merged), Some(_)) => {
                return Err(parameter(
                    "generation",
                    "a named generation answers alone: leave out `layer=merged`",
                ));
            }
            (None, Some(_)) => Layer::Batch,
            (layer, _) => layer.unwrap_or_default(),
        };
        Ok(Limits {
            after: self.after.map_or(Ok(Vec::new()), |text| positions(&text))?,
            layer,
            generation: self.generation.map(GenerationNumber),
            timeout,
            deadline: Instant::now() + timeout,
        })
    }
}

/// Position tokens joined by `;`, at most one per stream.
fn positions(text: &str) -> Result<Vec<PositionToken>, Problem> {
    let mut tokens: Vec<PositionToken> = Vec::new();
    for part in text.split(';') {
        let token: PositionToken = part.trim().parse().map_err(|e| parameter("after", e))?;
        if tokens.iter().any(|t| t.stream == token.stream) {
            let why = format!("stream `{}` has two tokens: give the later one", token.name);
            return Err(parameter("after", why));
        }
        tokens.push(token);
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(query: &str) -> Params {
        Params::parse(Some(query)).unwrap()
    }

    #[test]
    fn a_query_string_is_read_strictly() {
        let mut p = params("a=1&b=x+y%20z&c=%C3%A4&&d");
        assert_eq!(p.text("a").unwrap().as_deref(), Some("1"));
        assert_eq!(p.text("b").unwrap().as_deref(), Some("x y z"));
        assert_eq!(p.text("c").unwrap().as_deref(), Some("ä"));
        assert!(p.text("d").unwrap_err().detail.contains("it is empty"));
        for bad in ["a=%", "a=%4", "a=%zz", "a=%ff", "%c3=1", "=1"] {
            assert!(Params::parse(Some(bad)).is_err(), "{bad}");
        }
        assert!(
            params("a=1&a=2")
                .text("a")
                .unwrap_err()
                .detail
                .contains("twice")
        );
    }

    #[test]
    fn what_is_left_is_refused_and_the_known_ones_are_named() {
        let mut p = params("limt=5");
        assert_eq!(p.number("limit", (1, 9)).unwrap(), None);
        p.text("order").unwrap();
        let problem = p.finish().unwrap_err();
        assert_eq!(
            problem.detail,
            "there is no parameter `limt`; there are limit, order"
        );
        assert_eq!(
            params("x").finish().unwrap_err().detail,
            "there is no parameter `x`; there are none here"
        );
    }

    #[test]
    fn options_that_contradict_each_other_are_refused() {
        let limits = |query: &str| {
            let options = params(query).query_options()?;
            options.limits(Duration::from_secs(7))
        };
        let ok = limits("after=a~k1:0@5;b~k2:0@1,1@2&layer=batch&timeout_ms=5").unwrap();
        assert_eq!((ok.after.len(), ok.layer), (2, Layer::Batch));
        assert_eq!(limits("generation=3").unwrap().layer, Layer::Batch);
        assert_eq!(limits("").unwrap().timeout, Duration::from_secs(7));
        for (query, part) in [
            ("after=a~k1:0@5;a~k1:0@6", "two tokens"),
            ("after=nonsense", "not a position token"),
            ("layer=speed", "is not a layer"),
            ("layer=merged&generation=1", "answers alone"),
            ("generation=0", "not a number from 1"),
            ("generation=-1", "not a number from 1"),
            ("timeout_ms=0", "from 1 to 3600000"),
            ("timeout_ms=1e3", "from 1 to 3600000"),
            ("timeout_ms=%2B5", "`+5` is not a number from 1 to 3600000"),
            ("timeout_ms=+5", "` 5` is not a number"),
            ("timeout_ms=1_0", "from 1 to 3600000"),
            ("timeout_ms=0x1", "from 1 to 3600000"),
            ("timeout_ms=%D9%A1", "from 1 to 3600000"),
            ("generation=%2B1", "not a number from 1"),
        ] {
            let problem = limits(query).unwrap_err();
            assert!(problem.detail.contains(part), "{query}: {problem}");
        }
        let both = params("layer=batch").query_options().unwrap();
        assert!(
            both.join(params("layer=batch").query_options().unwrap())
                .is_err()
        );
    }
}
