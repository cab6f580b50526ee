// SPDX-License-Identifier: Apache-2.0
use std::io::Write;

use axum::http::HeaderValue;
use futures::{StreamExt, stream};

use super::*;

fn reader() -> BodyReader {
    BodyReader::new(10_000, Duration::from_millis(50))
}

fn encoded(encoding: &'static str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
    headers
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

fn chunks(chunks: Vec<Result<&'static [u8], std::io::Error>>) -> Body {
    Body::from_stream(stream::iter(chunks))
}

#[tokio::test]
async fn bodies_come_whole() {
    let none = HeaderMap::new();
    let body = chunks(vec![Ok(b"ab"), Ok(b""), Ok(b"c")]);
    assert_eq!(reader().read(&none, body, 3).await.unwrap().bytes, "abc");
    assert_eq!(
        reader().read(&none, Body::empty(), 3).await.unwrap().bytes,
        ""
    );
    let twice = [gzip(b"ab"), gzip(b"c")].concat();
    let body = reader().read(&encoded("gzip"), twice.into(), 100).await;
    assert_eq!(body.unwrap().bytes, "abc");
    let twice = [zstd(b"ab"), zstd(b"c")].concat();
    let body = reader().read(&encoded("ZSTD"), twice.into(), 100).await;
    assert_eq!(body.unwrap().bytes, "abc");
    let body = reader().read(&encoded("identity"), "abc".into(), 3).await;
    assert_eq!(body.unwrap().bytes, "abc");
}

#[tokio::test]
async fn limits_hold_before_and_after_decompression() {
    let too_large = async |headers: &HeaderMap, body: Body, limit| {
        let problem = reader().read(headers, body, limit).await.unwrap_err();
        assert_eq!(problem.kind, ProblemKind::TooLarge, "{problem}");
        assert!(problem.detail.contains("`dovetail ingest`"), "{problem}");
        assert_eq!(problem.members["limit_bytes"], limit, "{problem}");
        let after = problem.detail.contains("after decompression");
        assert_eq!(
            after,
            headers.contains_key(header::CONTENT_ENCODING),
            "{problem}"
        );
    };
    too_large(&HeaderMap::new(), chunks(vec![Ok(b"ab"), Ok(b"cd")]), 3).await;
    let mut announced = HeaderMap::new();
    announced.insert(header::CONTENT_LENGTH, HeaderValue::from_static("4"));
    too_large(
        &announced,
        Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>()),
        3,
    )
    .await;
    // Small enough that what is sent is within the limit.
    let bomb = vec![0; 100_000];
    assert!(gzip(&bomb).len() < 9000 && zstd(&bomb).len() < 9000);
    too_large(&encoded("gzip"), gzip(&bomb).into(), 9000).await;
    too_large(&encoded("zstd"), zstd(&bomb).into(), 9000).await;
    let exact = reader()
        .read(&encoded("gzip"), gzip(&bomb[..9000]).into(), 9000)
        .await;
    assert_eq!(exact.unwrap().bytes.len(), 9000);
}

#[tokio::test]
async fn a_broken_body_is_named() {
    let invalid = async |headers: &HeaderMap, body: Body, part: &str| {
        let problem = reader().read(headers, body, 9000).await.unwrap_err();
        assert_eq!(problem.kind, ProblemKind::Invalid, "{problem}");
        assert!(problem.detail.contains(part), "{problem}");
    };
    let cut = chunks(vec![Ok(b"ab"), Err(std::io::Error::other("reset"))]);
    invalid(&HeaderMap::new(), cut, "cut off after 2 bytes").await;
    let whole = gzip(b"some text that is long enough");
    for bytes in [
        &b"plain"[..],
        &whole[..whole.len() - 9],
        &[&whole[..], b"tail"].concat(),
        b"",
    ] {
        let bytes = Bytes::copy_from_slice(bytes);
        invalid(&encoded("gzip"), bytes.into(), "gzip").await;
    }
    let whole = zstd(b"some text that is long enough");
    for bytes in [
        &b"plain"[..],
        &whole[..whole.len() - 4],
        &[&whole[..], b"tail"].concat(),
    ] {
        let bytes = Bytes::copy_from_slice(bytes);
        invalid(&encoded("zstd"), bytes.into(), "zstd").await;
    }
}

#[tokio::test]
async fn a_pausing_client_and_a_full_server_are_refused() {
    let pausing =
        stream::iter([Ok::<_, std::io::Error>(Bytes::from("ab"))]).chain(stream::pending());
    let problem = reader()
        .read(&HeaderMap::new(), Body::from_stream(pausing), 10)
        .await
        .unwrap_err();
    assert_eq!(problem.kind, ProblemKind::Timeout);
    assert!(problem.detail.contains("after 2 bytes"), "{problem}");

    let reader = reader();
    let none = HeaderMap::new();
    let held = reader
        .read(&none, vec![0; 6000].into(), 9000)
        .await
        .unwrap();
    let problem = reader
        .read(&none, vec![0; 6000].into(), 9000)
        .await
        .unwrap_err();
    assert_eq!(problem.kind, ProblemKind::Busy);
    drop(held);
    assert!(reader.read(&none, vec![0; 6000].into(), 9000).await.is_ok());
}

#[test]
fn media_types_are_read_with_their_charset() {
    let read = |text: &'static str| {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(text));
        declared_type(&headers)
    };
    assert_eq!(
        read("Text/CSV; Charset=\"UTF-8\"; header=present").unwrap(),
        Some("text/csv".to_owned())
    );
    assert!(
        read("text/csv; charset=latin1")
            .unwrap_err()
            .detail
            .contains("send UTF-8")
    );
    // What curl sends by itself says nothing.
    assert_eq!(read("application/x-www-form-urlencoded").unwrap(), None);
    assert_eq!(declared_type(&HeaderMap::new()).unwrap(), None);
}

#[test]
fn other_encodings_are_refused() {
    for text in ["br", "deflate", "gzip, zstd"] {
        let problem = content_encoding(&encoded(text)).unwrap_err();
        assert_eq!(problem.kind, ProblemKind::UnsupportedMedia, "{text}");
    }
}
