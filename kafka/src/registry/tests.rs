// SPDX-License-Identifier: Apache-2.0
//! Against a server that answers as it is told; the real registry is in the tests of the program.

use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use super::*;

const WITHIN: Duration = Duration::from_secs(5);

/// A server of HTTP that keeps what it was asked.
struct Server {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

/// Answers each request with a status and a body, given its path and what it was asked before; None is no answer.
fn serve(answer: impl Fn(&str, usize) -> Option<(u16, String)> + Send + 'static) -> Server {
    serve_over("http", |stream| stream, answer)
}

/// The same over `open`, which speaks what stands below HTTP.
fn serve_over<S: Read + Write>(
    scheme: &str,
    open: impl Fn(TcpStream) -> S + Send + 'static,
    answer: impl Fn(&str, usize) -> Option<(u16, String)> + Send + 'static,
) -> Server {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let heads = Arc::clone(&asked);
    thread::spawn(move || {
        // Kept open, so that who waits for an answer waits.
        let mut silent = Vec::new();
        for stream in listener.incoming() {
            let mut stream = open(stream.expect("a connection"));
            // A client that does not like our certificate says nothing.
            let Ok(head) = head(&mut stream) else {
                continue;
            };
            let path = head.split(' ').nth(1).unwrap_or_default();
            let path = path.split('?').next().unwrap_or_default().to_owned();
            let before = heads.lock().len();
            heads.lock().push(head);
            let Some((status, body)) = answer(&path, before) else {
                silent.push(stream);
                continue;
            };
            let length = body.len();
            let _ = write!(
                stream,
                "HTTP/1.1 {status} x\r\nlocation: /elsewhere\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
            );
        }
    });
    Server {
        url: format!("{scheme}://127.0.0.1:{port}/base/"),
        asked,
    }
}

/// The head of a request.
fn head(stream: &mut impl Read) -> io::Result<String> {
    let mut head = String::new();
    for line in BufReader::new(stream).lines() {
        let line = line?;
        if line.is_empty() {
            break;
        }
        head += &(line + "\n");
    }
    Ok(head)
}

fn registry(server: &Server, access: &[(&str, &str)]) -> Registry {
    let access = access.iter();
    Registry::new(&SchemaRegistry {
        url: server.url.clone(),
        access: access
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect(),
    })
}

fn schema(text: &str, references: &[(&str, &str)]) -> String {
    let references = references
        .iter()
        .map(|(name, subject)| serde_json::json!({"name": name, "subject": subject, "version": 3}));
    serde_json::json!({"schema": text, "references": references.collect::<Vec<_>>()}).to_string()
}

#[test]
fn a_schema_is_asked_for_once_with_all_that_it_refers_to() {
    let server = serve(|path, _| {
        Some(match path {
            "/base/schemas/ids/7" => (200, schema("top", &[("b", "s b"), ("c", "c")])),
            "/base/subjects/s%20b/versions/3" => (200, schema("middle", &[("c", "c")])),
            "/base/subjects/c/versions/3" => (200, schema("bottom", &[("b", "s b")])),
            _ => (
                404,
                r#"{"error_code":40403,"message":"Schema not found"}"#.to_owned(),
            ),
        })
    });
    let registry = registry(&server, &[]);
    for _ in 0..2 {
        let found = registry
            .schema(7, WITHIN)
            .expect("it answers")
            .expect("it is there");
        assert_eq!((found.kind.as_str(), found.text.as_str()), ("AVRO", "top"));
        let order: Vec<&str> = found.references.iter().map(|r| r.text.as_str()).collect();
        assert_eq!(order, ["bottom", "middle"]);
    }
    assert_eq!(server.asked.lock().len(), 3);
    assert_eq!(registry.schema(8, WITHIN), Ok(None));
    assert_eq!(registry.schema(8, WITHIN), Ok(None));
    // What is not there may come.
    assert_eq!(server.asked.lock().len(), 5);
}

#[test]
fn a_request_says_who_we_are_and_no_message_does() {
    let file = std::env::temp_dir().join(format!("dovetail-token-{}", std::process::id()));
    std::fs::write(&file, "hunter2\n").expect("a file");
    let reference = format!("file:{}", file.display());
    let refusal = |_: &str, _| Some((401, r#"{"message":"who?"}"#.to_owned()));
    let (basic, bearer) = (serve(refusal), serve(refusal));
    let name = ("schema_registry_username", "d");
    let asked = registry(&basic, &[name, ("schema_registry_password", &reference)]);
    let error = asked
        .check(MessageFormat::Avro, WITHIN)
        .expect_err("it is refused");
    assert!(
        matches!(error, KafkaError::RegistryDenied { .. }),
        "{error}"
    );
    assert!(error.to_string().contains("who?") && !error.to_string().contains("hunter2"));
    // d:hunter2
    assert!(basic.asked.lock()[0].contains("authorization: Basic ZDpodW50ZXIy"));
    let asked = registry(&bearer, &[("schema_registry_token", &reference)]);
    assert!(asked.schema(1, WITHIN).is_err());
    assert!(bearer.asked.lock()[0].contains("authorization: Bearer hunter2"));
    std::fs::remove_file(&file).expect("it is ours");
    let error = asked.schema(1, WITHIN).expect_err("the secret is gone");
    assert!(matches!(error, KafkaError::Secret { .. }), "{error}");
}

#[test]
fn no_answer_is_tried_again_and_then_said() {
    let types = || r#"["AVRO"]"#.to_owned();
    let lame = serve(move |_, before| {
        Some(if before < 2 {
            (503, String::new())
        } else {
            (200, types())
        })
    });
    assert_eq!(
        registry(&lame, &[]).check(MessageFormat::Avro, WITHIN),
        Ok(())
    );
    let dead = serve(|_, _| Some((500, String::new())));
    let error = registry(&dead, &[])
        .schema(1, WITHIN)
        .expect_err("it is dead");
    assert!(
        matches!(error, KafkaError::RegistryUnreachable { .. }),
        "{error}"
    );
    assert_eq!(dead.asked.lock().len(), 3);
    let silent = serve(|_, _| None);
    let begin = Instant::now();
    let within = Duration::from_millis(300);
    let error = registry(&silent, &[])
        .schema(1, within)
        .expect_err("it says nothing");
    assert!(
        error.to_string().contains("no answer within 0.3 s"),
        "{error}"
    );
    assert!(begin.elapsed() < WITHIN);
}

#[test]
fn what_is_no_registry_is_told_from_one_that_is_away() {
    let cases = [
        (200, "<html>", "something else"),
        (200, r#"["JSON"]"#, "keeps schemas of [\"JSON\"] only"),
        (404, "", "no `schemas/types`"),
        (302, "", "302"),
    ];
    for (status, body, says) in cases {
        let server = serve(move |_, _| Some((status, body.to_owned())));
        let error = registry(&server, &[]).check(MessageFormat::Avro, WITHIN);
        let error = error.expect_err(body);
        assert!(matches!(error, KafkaError::NoRegistry { .. }), "{error}");
        assert!(error.to_string().contains(says), "{error}");
        assert_eq!(server.asked.lock().len(), 1, "{error}");
    }
    let endless = serve(|_, _| Some((200, " ".repeat(MOST_BYTES + 1))));
    let error = registry(&endless, &[])
        .schema(1, WITHIN)
        .expect_err("it is too long");
    assert!(
        error.to_string().contains("more than 16777216 bytes"),
        "{error}"
    );
}

#[test]
fn a_certificate_that_cannot_be_read_names_its_option() {
    let server = serve(|_, _| None);
    let option = "schema_registry_ca_location";
    let error = registry(&server, &[(option, "/no/such/file")]).schema(1, WITHIN);
    let error = error.expect_err("there is no such file").to_string();
    assert!(
        error.contains(option) && error.contains("/no/such/file"),
        "{error}"
    );
}

/// An authority, and a certificate of its for servers and clients on 127.0.0.1, good until 2120. They protect nothing.
fn pem(file: &str) -> String {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/registry/tls");
    dir.join(file).display().to_string()
}

/// TLS with that certificate; clients show one of the authority if they must.
fn tls(clients_show_theirs: bool) -> Arc<ServerConfig> {
    let read = |file| CertificateDer::from_pem_file(pem(file)).expect("a certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("there are some");
    let config = if clients_show_theirs {
        let mut authorities = RootCertStore::empty();
        authorities.add(read("ca.pem")).expect("an authority");
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), provider);
        config.with_client_cert_verifier(verifier.build().expect("a verifier"))
    } else {
        config.with_no_client_auth()
    };
    let key = PrivateKeyDer::from_pem_file(pem("key.pem")).expect("a key");
    let config = config.with_single_cert(vec![read("certificate.pem")], key);
    Arc::new(config.expect("the key is the certificate's"))
}

#[test]
fn certificates_say_who_the_registry_is_and_who_we_are() {
    let authority = ("schema_registry_ca_location", pem("ca.pem"));
    let certificate = (
        "schema_registry_certificate_location",
        pem("certificate.pem"),
    );
    let key = ("schema_registry_key_location", pem("key.pem"));
    for (clients_show_theirs, access, taken) in [
        (false, vec![], false),
        (false, vec![&authority], true),
        (true, vec![&authority], false),
        (true, vec![&authority, &certificate, &key], true),
    ] {
        let config = tls(clients_show_theirs);
        let open = move |stream| {
            let connection = ServerConnection::new(Arc::clone(&config)).expect("a connection");
            StreamOwned::new(connection, stream)
        };
        let server = serve_over("https", open, |_, _| Some((200, r#"["AVRO"]"#.to_owned())));
        let access: Vec<_> = access.iter().map(|(k, v)| (*k, v.as_str())).collect();
        let checked = registry(&server, &access).check(MessageFormat::Avro, WITHIN);
        let asked = server.asked.lock().len();
        if taken {
            assert_eq!((checked, asked), (Ok(()), 1), "{access:?}");
        } else {
            let error = checked.expect_err("one of them is a stranger");
            let away = matches!(error, KafkaError::RegistryUnreachable { .. });
            assert!(away, "{access:?}: {error}");
            assert_eq!(asked, 0, "{access:?}");
        }
    }
}
