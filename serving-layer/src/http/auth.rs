// SPDX-License-Identifier: Apache-2.0
//! Who is asking, and what they may do.

use std::fmt;
use std::str::FromStr;

use axum::http::{HeaderMap, header};
use dovetail_model::{Problem, ProblemKind};

/// What a caller may do; each role includes the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Ask.
    Read,
    /// Append events, too.
    Write,
    /// Define, run, promote and exclude, too.
    Admin,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        })
    }
}

/// A token entry that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not of the form of an entry.
    #[error("`{0}` is not a token entry: write `name:role:secret` with role read, write or admin")]
    Form(String),
    /// Too easily guessed.
    #[error(
        "the secret of token `{0}` is shorter than 16 characters: take one from `openssl rand -hex 24`"
    )]
    Short(String),
}

impl TokenError {
    /// What a caller can do about it.
    pub fn kind(&self) -> ProblemKind {
        ProblemKind::Invalid
    }
}

/// One token: a name for logs, a role, and the hash of a secret. The secret itself is not kept.
#[derive(Debug, Clone)]
pub struct TokenEntry {
    name: String,
    role: Role,
    hash: blake3::Hash,
}

impl TokenEntry {
    /// What logs call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it has the name or the secret of `other`.
    pub fn clashes_with(&self, other: &Self) -> bool {
        self.name == other.name || self.hash == other.hash
    }
}

/// `name:role:secret`, as a configuration gives it; `name:role:blake3=<64 hex digits>` keeps the secret out of it.
impl FromStr for TokenEntry {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let form = || TokenError::Form(text.split(':').take(2).collect::<Vec<_>>().join(":"));
        let mut parts = text.splitn(3, ':');
        let name = parts.next().filter(|n| !n.is_empty()).ok_or_else(form)?;
        let role = match parts.next() {
            Some("read") => Role::Read,
            Some("write") => Role::Write,
            Some("admin") => Role::Admin,
            _ => return Err(form()),
        };
        let secret = parts.next().ok_or_else(form)?;
        let hash = match secret.strip_prefix("blake3=") {
            Some(hex) => blake3::Hash::from_hex(hex).map_err(|_| form())?,
            None if secret.len() < 16 => return Err(TokenError::Short(name.to_owned())),
            None => blake3::hash(secret.as_bytes()),
        };
        Ok(Self {
            name: name.to_owned(),
            role,
            hash,
        })
    }
}

/// Who may ask. Without tokens every caller is admin, so the server must listen on loopback only.
#[derive(Debug, Clone, Default)]
pub struct AuthConfig {
    /// The known tokens.
    pub tokens: Vec<TokenEntry>,
}

impl AuthConfig {
    /// Whether callers need no token.
    pub fn is_open(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Whether whoever sends `headers` may do what needs this role.
    ///
    /// # Errors
    /// `Unauthenticated` without a known bearer token, `Forbidden` for one whose role does not reach.
    pub fn check(&self, headers: &HeaderMap, needed: Role) -> Result<(), Problem> {
        if self.is_open() {
            return Ok(());
        }
        self.authenticate(headers)?.require(needed)
    }

    /// The caller that `headers` speak for.
    ///
    /// # Errors
    /// `Unauthenticated` without a known bearer token.
    pub(super) fn authenticate(&self, headers: &HeaderMap) -> Result<Caller, Problem> {
        let refuse = |detail: &str| Problem::new(ProblemKind::Unauthenticated, detail);
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let Some(value) = values.next() else {
            return Err(refuse("send `Authorization: Bearer TOKEN`"));
        };
        let token = value
            .to_str()
            .ok()
            .filter(|_| values.next().is_none())
            .and_then(|text| text.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim())
            .ok_or_else(|| refuse("`Authorization` must read `Bearer TOKEN`, once"))?;
        let hash = blake3::hash(token.as_bytes());
        // Every entry is compared, each in constant time: how long it takes tells nothing.
        let mut found = None;
        for entry in &self.tokens {
            if entry.hash == hash {
                found = Some(entry);
            }
        }
        let entry = found.ok_or_else(|| refuse("the bearer token is not known here"))?;
        Ok(Caller {
            name: entry.name.clone(),
            role: entry.role,
        })
    }
}

/// An authenticated caller; a middleware puts it into the request.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    name: String,
    role: Role,
}

impl Caller {
    /// The caller when no tokens are configured.
    pub(super) fn anyone() -> Self {
        Self {
            name: "anyone".to_owned(),
            role: Role::Admin,
        }
    }

    /// Refuses callers below `role`.
    pub(super) fn require(&self, role: Role) -> Result<(), Problem> {
        if self.role >= role {
            return Ok(());
        }
        let detail = format!(
            "token `{}` has the role {}; this needs {role}",
            self.name, self.role
        );
        Err(Problem::new(ProblemKind::Forbidden, detail))
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn an_entry_reads_as_configured() {
        let hex = blake3::hash(b"0123456789abcdef").to_hex();
        let plain: TokenEntry = "ci:write:0123456789abcdef".parse().unwrap();
        let hashed: TokenEntry = format!("ci:write:blake3={hex}").parse().unwrap();
        assert_eq!(plain.hash, hashed.hash);
        assert_eq!((plain.name.as_str(), plain.role), ("ci", Role::Write));
        for (bad, part) in [
            ("ci", "`ci` is not a token entry"),
            (":read:0123456789abcdef", "is not a token entry"),
            ("ci:root:0123456789abcdef", "`ci:root` is not"),
            ("ci:read:short", "shorter than 16"),
            ("ci:read:blake3=00", "is not a token entry"),
        ] {
            let error = bad.parse::<TokenEntry>().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
            assert!(
                !error.contains("0123456789abcdef"),
                "an error must not show a secret"
            );
        }
    }

    #[test]
    fn only_a_known_bearer_token_passes() {
        let config = AuthConfig {
            tokens: vec![
                "a:read:aaaaaaaaaaaaaaaa".parse().unwrap(),
                "b:admin:bbbbbbbbbbbbbbbb".parse().unwrap(),
            ],
        };
        let ask = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
            }
            config.authenticate(&headers)
        };
        assert_eq!(ask(&["Bearer bbbbbbbbbbbbbbbb"]).unwrap().role, Role::Admin);
        assert_eq!(ask(&["bearer aaaaaaaaaaaaaaaa"]).unwrap().name, "a");
        for bad in [
            &[][..],
            &["Bearer"],
            &["Bearer "],
            &["Bearer bbbbbbbbbbbbbbb"],
            &["Basic YTpi"],
            &["bbbbbbbbbbbbbbbb"],
            &["Bearer aaaaaaaaaaaaaaaa", "Bearer bbbbbbbbbbbbbbbb"],
        ] {
            assert_eq!(
                ask(bad).unwrap_err().kind,
                ProblemKind::Unauthenticated,
                "{bad:?}"
            );
        }
    }
}
