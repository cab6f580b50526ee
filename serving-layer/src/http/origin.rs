// SPDX-License-Identifier: Apache-2.0
//! Without tokens every caller is admin, so a web page in someone's browser must not be one: neither by a
//! request across origins nor by a name that it made resolve to loopback. A form of any page may post to any
//! host, with a body that is taken for SQL or events: the headers that browsers add are what gives it away.

use std::net::{Ipv4Addr, Ipv6Addr};

use axum::http::{HeaderMap, Uri, header};
use dovetail_model::{Problem, ProblemKind};

/// Says where a browser's request comes from; other programs do not send it, and no page can change it.
const SEC_FETCH_SITE: &str = "sec-fetch-site";

/// Refuses a request whose `Host` is not loopback, whose `Origin` is not the same host, or that a browser makes
/// for a page of another site.
///
/// # Errors
/// `Forbidden` naming the header.
pub(super) fn check(uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
    let refuse = |detail: String| Err(Problem::new(ProblemKind::Forbidden, detail));
    let mut hosts = headers.get_all(header::HOST).iter();
    let from_header = hosts.next().and_then(|h| h.to_str().ok());
    // A request line with a whole URI names the host there; both must be loopback.
    let from_line = uri.authority().map(|a| a.as_str());
    let named: Vec<&str> = from_header.into_iter().chain(from_line).collect();
    if hosts.next().is_some() || named.is_empty() || !named.iter().all(|h| is_loopback(h)) {
        return refuse(format!(
            "`Host` is `{}`; without tokens this server answers to loopback names only, such as `localhost`",
            named.first().copied().unwrap_or_default()
        ));
    }
    for origin in headers.get_all(header::ORIGIN) {
        let ours = origin.to_str().ok().is_some_and(|origin| {
            named
                .iter()
                .any(|host| origin.eq_ignore_ascii_case(&format!("http://{host}")))
        });
        if !ours {
            return refuse(format!(
                "`Origin` is `{}`; without tokens only pages of this server may call it",
                origin.to_str().unwrap_or("not text")
            ));
        }
    }
    for site in headers.get_all(SEC_FETCH_SITE) {
        // `none`: the user's own, such as an address typed in.
        if !["same-origin", "none"].iter().any(|ours| site == ours) {
            return refuse(format!(
                "`Sec-Fetch-Site` is `{}`; without tokens only pages of this server may call it",
                site.to_str().unwrap_or("not text")
            ));
        }
    }
    Ok(())
}

/// Whether `host`, with or without a port, is a loopback address or `localhost`.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if is_port(port) => {
                return address.parse::<Ipv6Addr>().is_ok_and(|a| a.is_loopback());
            }
            _ => return false,
        },
        None => match host.split_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
            Some(_) => return false,
            None => host,
        },
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<Ipv4Addr>().is_ok_and(|a| a.is_loopback())
}

fn is_port(text: &str) -> bool {
    text.is_empty()
        || text
            .strip_prefix(':')
            .is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn ask(host: &str, origin: Option<&str>) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_str(host).unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, HeaderValue::from_str(origin).unwrap());
        }
        check(&Uri::from_static("/v1/sql"), &headers).is_ok()
    }

    #[test]
    fn only_loopback_hosts() {
        for host in [
            "localhost",
            "LOCALHOST:8080",
            "127.0.0.1:8080",
            "127.9.9.9",
            "[::1]:8080",
            "[::1]",
        ] {
            assert!(ask(host, None), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8080",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.1:8080",
            "0.0.0.0:8080",
            "[::]:8080",
            "[::1]evil",
            "localhost:80@evil",
            "localhost:x",
            "",
        ] {
            assert!(!ask(host, None), "{host}");
        }
    }

    #[test]
    fn only_our_own_origin() {
        assert!(ask("localhost:8080", Some("http://localhost:8080")));
        for origin in [
            "null",
            "http://evil.example",
            "http://localhost:3000",
            "http://127.0.0.1:8080",
            "https://localhost:8080",
            "http://localhost:8080.evil.example",
        ] {
            assert!(!ask("localhost:8080", Some(origin)), "{origin}");
        }
    }

    #[test]
    fn no_other_site() {
        let ask = |site: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static("localhost:8080"));
            headers.insert(SEC_FETCH_SITE, HeaderValue::from_static(site));
            check(&Uri::from_static("/v1/sql"), &headers).is_ok()
        };
        assert!(ask("same-origin"));
        assert!(ask("none"));
        for site in [
            "cross-site",
            "same-site",
            "",
            "None",
            "same-origin, cross-site",
        ] {
            assert!(!ask(site), "{site}");
        }
    }

    #[test]
    fn a_whole_uri_does_not_hide_the_host() {
        let mut headers = HeaderMap::new();
        assert!(
            check(&Uri::from_static("/"), &headers).is_err(),
            "no host at all"
        );
        headers.insert(header::HOST, HeaderValue::from_static("localhost"));
        assert!(check(&Uri::from_static("http://evil.example/v1/sql"), &headers).is_err());
        headers.append(header::HOST, HeaderValue::from_static("localhost"));
        assert!(
            check(&Uri::from_static("/"), &headers).is_err(),
            "two hosts"
        );
    }
}
