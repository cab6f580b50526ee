// SPDX-License-Identifier: Apache-2.0
//! Who may do what. Every route is here: one that forgets its role answers a reader.

use super::super::AuthConfig;
use super::*;

const READ: &str = "reader-0123456789";
const WRITE: &str = "writer-0123456789";
const ADMIN: &str = "admin-0123456789a";

fn guarded(fake: &Fake) -> Router {
    let tokens = [
        ("r", "read", READ),
        ("w", "write", WRITE),
        ("a", "admin", ADMIN),
    ];
    let tokens =
        tokens.map(|(name, role, secret)| format!("{name}:{role}:{secret}").parse().unwrap());
    let auth = AuthConfig {
        tokens: tokens.into(),
    };
    router(
        Served::All(fake.ports()),
        ApiConfig {
            auth,
            ..ApiConfig::default()
        },
        CancellationToken::new(),
    )
}

/// A call and the least role that may make it.
pub(super) const ROUTES: [(&str, &str, &str); 29] = [
    ("GET /v1/status", "", "read"),
    ("GET /metrics", "", "read"),
    ("GET /openapi.json", "", "read"),
    ("GET /v1/sql?q=SELECT+1", "", "read"),
    ("GET /v1/sql?q=SHOW+STREAMS", "", "read"),
    ("POST /v1/sql", r#"{"sql": "SELECT 1"}"#, "read"),
    ("POST /v1/sql", r#"{"sql": "DROP VIEW v"}"#, "admin"),
    (
        "POST /v1/sql",
        r#"{"sql": "CREATE STREAM s (x INT)"}"#,
        "admin",
    ),
    ("POST /v1/plan", r#"{"files": []}"#, "read"),
    ("POST /v1/apply", r#"{"files": []}"#, "admin"),
    ("GET /v1/streams", "", "read"),
    ("GET /v1/streams/flights", "", "read"),
    ("POST /v1/streams/flights", "[]", "write"),
    ("GET /v1/streams/flights/exclusions", "", "read"),
    (
        "POST /v1/streams/flights/exclusions",
        r#"{"where": "x", "reason": "y"}"#,
        "admin",
    ),
    ("DELETE /v1/streams/flights/exclusions/1", "", "admin"),
    ("GET /v1/streams/flights/dead-letters", "", "read"),
    ("POST /v1/streams/flights/dead-letters/replay", "", "write"),
    ("GET /v1/views", "", "read"),
    ("GET /v1/views/airport_delays", "", "read"),
    ("GET /v1/views/airport_delays/status", "", "read"),
    ("POST /v1/views/v/recompute", "", "admin"),
    ("POST /v1/views/v/rollback", "", "admin"),
    ("GET /v1/runs", "", "read"),
    ("GET /v1/runs/1", "", "read"),
    ("GET /v1/runs/1/diff", "", "read"),
    ("POST /v1/runs/1/promote", "", "admin"),
    ("POST /v1/runs/1/discard", "", "admin"),
    ("POST /v1/runs/1/cancel", "", "admin"),
];

#[tokio::test]
async fn every_route_knows_its_role() {
    let fake = Fake::default();
    let router = guarded(&fake);
    let rank = |role: &str| {
        ["none", "read", "write", "admin"]
            .iter()
            .position(|r| *r == role)
    };
    let tokens = [
        ("none", None),
        ("read", Some(READ)),
        ("write", Some(WRITE)),
        ("admin", Some(ADMIN)),
    ];
    for (line, body, least) in ROUTES {
        let (method, uri) = line.split_once(' ').unwrap();
        for (role, token) in tokens {
            let bearer = format!("Bearer {}", token.unwrap_or_default());
            let mut headers = vec![JSON];
            if token.is_some() {
                headers.push(("authorization", &bearer));
            }
            fake.calls();
            let reply = send(&router, request(method, uri, &headers, body)).await;
            let status = reply.status.as_u16();
            if rank(role) >= rank(least) {
                assert!(
                    (200..300).contains(&status),
                    "{line} as {role}: {}",
                    reply.text()
                );
            } else {
                let expected = if token.is_none() { 401 } else { 403 };
                assert_eq!(status, expected, "{line} as {role}: {}", reply.text());
                assert_eq!(fake.calls(), Vec::<String>::new(), "{line} as {role}");
            }
        }
    }
}

#[tokio::test]
async fn without_a_known_token_there_is_nothing_but_the_probes() {
    let router = guarded(&Fake::default());
    let reply = get(&router, "/v1/streams").await;
    reply.is_problem(401, "send `Authorization: Bearer TOKEN`");
    assert_eq!(
        reply.header("www-authenticate"),
        "Bearer realm=\"dovetail\""
    );
    let headers = [("authorization", "Bearer reader-012345678")];
    let reply = send(&router, request("GET", "/v1/streams", &headers, "")).await;
    reply.is_problem(401, "not known here");
    get(&router, "/v1/nope").await.is_problem(401, "Bearer");
    assert_eq!(get(&router, "/healthz").await.status, 200);
    get(&router, "/readyz").await.is_problem(503, "log");
}

#[tokio::test]
async fn with_tokens_the_server_may_have_any_name() {
    let router = guarded(&Fake::default());
    let request = Request::builder()
        .uri("/v1/streams")
        .header("host", "dovetail.example")
        .header("origin", "https://console.example")
        .header("authorization", format!("Bearer {READ}"));
    let reply = send(&router, request.body(Body::empty()).unwrap()).await;
    assert_eq!(reply.status, 200);
}
