// SPDX-License-Identifier: Apache-2.0
//! Answers that come compressed: the same bytes, as early.

use std::io::Read as _;

use super::*;

async fn answered(uri: &str, encoding: &str) -> Reply {
    let router = open(&Fake::default());
    let headers = [("accept-encoding", encoding)];
    send(&router, request("GET", uri, &headers, "")).await
}

/// What comes out before the end, or before the input is cut off.
fn decoded(mut reader: impl std::io::Read) -> Vec<u8> {
    let mut out = vec![];
    let _ = reader.read_to_end(&mut out);
    out
}

fn decompressed(encoding: &str, bytes: &[u8]) -> Vec<u8> {
    match encoding {
        "gzip" => decoded(flate2::bufread::GzDecoder::new(bytes)),
        "zstd" => decoded(zstd::stream::read::Decoder::with_buffer(bytes).unwrap()),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn what_is_decompressed_equals_the_plain_answer() {
    for format in ["json", "ndjson", "csv", "arrow"] {
        let uri = format!("/v1/sql?q=SELECT+*+FROM+large&format={format}");
        let plain = answered(&uri, "identity").await;
        assert_eq!(plain.header("content-encoding"), "");
        let plain = plain.body.unwrap();
        for encoding in ["gzip", "zstd"] {
            let reply = answered(&uri, encoding).await;
            assert_eq!(reply.header("content-encoding"), encoding);
            let vary: Vec<_> = reply.headers.get_all("vary").iter().collect();
            assert_eq!(vary, ["accept", "accept-encoding"]);
            assert_eq!(reply.header("content-length"), "");
            let body = reply.body.unwrap();
            assert!(body.len() < plain.len() / 2, "{format}, {encoding}");
            assert!(
                decompressed(encoding, &body) == plain,
                "{format}, {encoding}"
            );
            // Nothing is missing at the end of either format.
            let whole = match encoding {
                "gzip" => flate2::bufread::GzDecoder::new(&body[..]).read_to_end(&mut vec![]),
                _ => zstd::stream::copy_decode(&body[..], std::io::sink()).map(|()| 0),
            };
            assert!(whole.is_ok(), "{format}, {encoding}");
        }
    }
}

#[tokio::test]
async fn what_is_small_or_compressed_already_stays_as_it_is() {
    for uri in [
        "/healthz",
        "/v1/nothing",
        "/v1/sql?q=SELECT+*+FROM+large&format=parquet",
    ] {
        let reply = answered(uri, "gzip, zstd").await;
        assert_eq!(reply.header("content-encoding"), "", "{uri}");
        // A cache must not take what is small today for what anyone accepts.
        let mut vary = reply.headers.get_all("vary").iter();
        let varies = vary.any(|by| by == "accept-encoding");
        assert_eq!(varies, !uri.ends_with("parquet"), "{uri}");
    }
    let unknown = answered("/v1/sql?q=SELECT+*+FROM+large", "br").await;
    assert_eq!(unknown.header("content-encoding"), "");
    assert!(unknown.text().ends_with("}\n"));
}

/// The rows that are there come before those that are not.
#[tokio::test]
async fn rows_are_flushed_as_they_come() {
    let first = async |encoding: &str| {
        let uri = "/v1/sql?q=SELECT+*+FROM+stuck_late&format=ndjson&timeout_ms=60000";
        let headers = [("accept-encoding", encoding)];
        let router = open(&Fake::default());
        let response = router.oneshot(request("GET", uri, &headers, "")).await;
        let mut body = response.unwrap().into_body();
        let frame = body.frame().await.unwrap().unwrap();
        frame.into_data().unwrap()
    };
    let plain = first("identity").await;
    assert!(plain.ends_with(b"\n") && plain.len() > 60_000);
    for encoding in ["gzip", "zstd"] {
        let bytes = first(encoding).await;
        assert!(bytes.len() < plain.len() / 2);
        assert!(decompressed(encoding, &bytes) == plain, "{encoding}");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_has_no_end() {
    for encoding in ["gzip", "zstd"] {
        let reply = answered("/v1/sql?q=SELECT+*+FROM+fails_late", encoding).await;
        assert_eq!(reply.status, 200);
        assert!(reply.body.is_err(), "{encoding}");
    }
}
