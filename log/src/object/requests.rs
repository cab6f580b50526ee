// SPDX-License-Identifier: Apache-2.0
//! What a remote store is asked, counted where its bill is made: each try of each HTTP request.
//!
//! Purpose: requests, bytes and latencies by operation and purpose, for metrics. Below `object_store`'s client and not
//! around it, since there one call is many requests (pages of a listing, parts of an upload, tries after a 503) or a
//! part of one (a delete of a thousand objects). Collaborators: [`super::open_store`] puts it under each client;
//! `/metrics` reads it. Invariants: a request counts once its answer began or failed; nothing here changes a request
//! or an answer. Non-goals: stores on this machine, which ask nobody for money.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService,
};
use parking_lot::Mutex;

/// Upper bounds of the latency buckets, in seconds: from one in the same rack to the time-out of a try.
pub const LATENCY_BOUNDS_S: [f64; 12] = [
    0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0,
];

/// What is asked of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// The whole of an object.
    Get,
    /// A range of one.
    GetRange,
    /// What is known of an object, without it.
    Head,
    /// A page of a listing.
    List,
    /// An object, over what is there.
    Put,
    /// An object, where nothing is there.
    PutIfAbsent,
    /// A copy within the store.
    Copy,
    /// One object or many at once.
    Delete,
    /// The begin of an upload in parts.
    MultipartCreate,
    /// A part of it.
    MultipartPart,
    /// Its end.
    MultipartComplete,
    /// Its end without an object.
    MultipartAbort,
    /// Anything else, such as a request for keys.
    Other,
}

impl Operation {
    /// Its name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::GetRange => "get_range",
            Self::Head => "head",
            Self::List => "list",
            Self::Put => "put",
            Self::PutIfAbsent => "put_if_absent",
            Self::Copy => "copy",
            Self::Delete => "delete",
            Self::MultipartCreate => "multipart_create",
            Self::MultipartPart => "multipart_part",
            Self::MultipartComplete => "multipart_complete",
            Self::MultipartAbort => "multipart_abort",
            Self::Other => "other",
        }
    }

    /// As S3, Google's XML interface and Azure spell it.
    fn of(request: &HttpRequest) -> Self {
        let query = Query::of(request);
        let has = |header: &str| request.headers().contains_key(header);
        let is_copy = [
            "x-amz-copy-source",
            "x-goog-copy-source",
            "x-ms-copy-source",
        ];
        // Google says by the generation 0 what others say by `If-None-Match: *`.
        let is_create = has("if-none-match") || has("x-goog-if-generation-match");
        match request.method().as_str() {
            "HEAD" => Self::Head,
            "GET" if query.has("list-type") || query.is("comp", "list") => Self::List,
            "GET" if has("range") || has("x-ms-range") => Self::GetRange,
            "GET" => Self::Get,
            "PUT" if query.has("partNumber") || query.is("comp", "block") => Self::MultipartPart,
            "PUT" if query.is("comp", "blocklist") => Self::MultipartComplete,
            "PUT" if is_copy.into_iter().any(has) => Self::Copy,
            "PUT" if is_create => Self::PutIfAbsent,
            "PUT" => Self::Put,
            "POST" if query.has("uploads") => Self::MultipartCreate,
            "POST" if query.has("uploadId") => Self::MultipartComplete,
            "POST" if query.has("delete") || query.is("comp", "batch") => Self::Delete,
            "DELETE" if query.has("uploadId") => Self::MultipartAbort,
            "DELETE" => Self::Delete,
            _ => Self::Other,
        }
    }
}

/// What it is for, by where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// Commits of the catalog.
    Catalog,
    /// Archived events.
    Raw,
    /// The Delta log of the archived events.
    RawCommits,
    /// Dead letters and their Delta log.
    DeadLetters,
    /// Files of generations.
    Generations,
    /// The Delta logs that show generations to other engines.
    Projections,
    /// What names no object: deletes of many at once, the probe of a start, requests for keys.
    Other,
}

impl Purpose {
    /// Its name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Catalog => "catalog",
            Self::Raw => "raw",
            Self::RawCommits => "raw_commits",
            Self::DeadLetters => "dead_letters",
            Self::Generations => "generations",
            Self::Projections => "projections",
            Self::Other => "other",
        }
    }

    /// Of the object at `key` from the store's root, or of a listing below it.
    fn of(key: &str) -> Self {
        let parts: Vec<&str> = key.split('/').collect();
        let commits = parts.contains(&"_delta_log");
        match parts[..] {
            ["catalog", ..] => Self::Catalog,
            ["streams", _, "dead-letters", ..] => Self::DeadLetters,
            ["streams", ..] if commits => Self::RawCommits,
            ["streams", ..] => Self::Raw,
            ["views", ..] if commits => Self::Projections,
            ["views", ..] => Self::Generations,
            _ => Self::Other,
        }
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RequestOutcome {
    /// As it was asked.
    Done,
    /// It is not there, or is there already: 404, 409, 412.
    Unmet,
    /// Too many at once: 429, 503.
    Throttled,
    /// Any other refusal, or no answer.
    Failed,
}

impl RequestOutcome {
    /// Its name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Unmet => "unmet",
            Self::Throttled => "throttled",
            Self::Failed => "failed",
        }
    }

    fn of(answered: &Result<HttpResponse, HttpError>) -> Self {
        match answered.as_ref().map(|answer| answer.status().as_u16()) {
            Ok(200..=399) => Self::Done,
            Ok(404 | 409 | 412) => Self::Unmet,
            Ok(429 | 503) => Self::Throttled,
            _ => Self::Failed,
        }
    }
}

/// Requests of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestKind {
    /// What was asked.
    pub operation: Operation,
    /// What for.
    pub purpose: Purpose,
    /// With which end.
    pub outcome: RequestOutcome,
}

/// How many, and how large.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RequestCount {
    /// Tries.
    pub requests: u64,
    /// Bytes of their bodies.
    pub sent_bytes: u64,
    /// Bytes of the bodies of their answers, as the answers announce them.
    pub received_bytes: u64,
}

/// Time until answers began.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Latencies {
    /// Answers within each of [`LATENCY_BOUNDS_S`] and above the one before; the last of those above all.
    pub buckets: [u64; LATENCY_BOUNDS_S.len() + 1],
    /// Of all, in seconds.
    pub sum_s: f64,
}

impl Latencies {
    fn add(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = LATENCY_BOUNDS_S.partition_point(|bound| *bound < seconds);
        self.buckets[bucket] += 1;
        self.sum_s += seconds;
    }
}

/// Everything asked of one store since the start of the process.
#[derive(Debug, Default)]
pub struct StoreRequests(Mutex<Counts>);

/// A reading of [`StoreRequests`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Counts {
    /// By kind.
    pub kinds: BTreeMap<RequestKind, RequestCount>,
    /// By operation, whatever the end.
    pub latencies: BTreeMap<Operation, Latencies>,
}

impl StoreRequests {
    /// The counts now.
    pub fn read(&self) -> Counts {
        self.0.lock().clone()
    }

    fn add(&self, kind: RequestKind, sent_bytes: u64, received_bytes: u64, took: Duration) {
        let mut counts = self.0.lock();
        let count = counts.kinds.entry(kind).or_default();
        count.requests += 1;
        count.sent_bytes += sent_bytes;
        count.received_bytes += received_bytes;
        counts
            .latencies
            .entry(kind.operation)
            .or_default()
            .add(took);
    }
}

/// Where a store's objects lie in the URLs of its requests.
#[derive(Debug, Clone)]
pub(super) struct Root {
    pub(super) bucket: String,
    /// Without slashes around it; empty for the bucket itself.
    pub(super) prefix: String,
}

impl Root {
    /// The key, from the store's root, that `request` is about; for a listing, what it is below.
    fn key(&self, request: &HttpRequest) -> String {
        let listed = Query::of(request).get("prefix").unwrap_or_default();
        let bucket = format!("/{}/", self.bucket);
        let path = request.uri().path();
        let key = match Operation::of(request) {
            Operation::List => &listed,
            // The host may name the bucket, and the path an account before it.
            _ => path.split_once(&bucket).map_or(path, |(_, key)| key),
        };
        let key = key.trim_start_matches('/');
        let below = key.strip_prefix(self.prefix.as_str()).unwrap_or(key);
        below.trim_start_matches('/').to_owned()
    }
}

/// The query of a request's URL.
struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    fn of(request: &'a HttpRequest) -> Self {
        Self(request.uri().query().unwrap_or_default())
    }

    fn get(&self, name: &str) -> Option<String> {
        let mut pairs = url::form_urlencoded::parse(self.0.as_bytes());
        pairs.find_map(|(key, value)| (key == name).then(|| value.into_owned()))
    }

    fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    fn is(&self, name: &str, value: &str) -> bool {
        self.get(name).is_some_and(|found| found == value)
    }
}

/// A connector whose clients count.
#[derive(Debug)]
pub(super) struct CountingConnector<C> {
    pub(super) inner: C,
    pub(super) root: Root,
    pub(super) requests: Arc<StoreRequests>,
}

impl<C: HttpConnector> HttpConnector for CountingConnector<C> {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(CountingService {
            client: self.inner.connect(options)?,
            root: self.root.clone(),
            requests: Arc::clone(&self.requests),
        }))
    }
}

#[derive(Debug)]
struct CountingService {
    client: HttpClient,
    root: Root,
    requests: Arc<StoreRequests>,
}

#[async_trait]
impl HttpService for CountingService {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let operation = Operation::of(&request);
        let purpose = Purpose::of(&self.root.key(&request));
        let sent_bytes = request.body().content_length() as u64;
        let begun = Instant::now();
        let answered = self.client.execute(request).await;
        let kind = RequestKind {
            operation,
            purpose,
            outcome: RequestOutcome::of(&answered),
        };
        // The answer to a HEAD announces the body that a GET would have.
        let received_bytes = match (&answered, operation) {
            (Ok(answer), operation) if operation != Operation::Head => announced(answer),
            _ => 0,
        };
        self.requests
            .add(kind, sent_bytes, received_bytes, begun.elapsed());
        answered
    }
}

fn announced(answer: &HttpResponse) -> u64 {
    let length = answer.headers().get("content-length");
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    length.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use object_store::client::HttpRequestBody;

    use super::*;

    fn request(line: &str, headers: &[&'static str]) -> HttpRequest {
        let (method, uri) = line.split_once(' ').unwrap();
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.method_mut() = method.parse().unwrap();
        *request.uri_mut() = format!("http://host{uri}").parse().unwrap();
        for header in headers {
            let value = "x".parse().unwrap();
            request.headers_mut().insert(*header, value);
        }
        request
    }

    #[test]
    fn operations_are_told_by_what_each_cloud_asks() {
        use Operation::*;
        for (line, headers, expected) in [
            ("GET /b/k", &[][..], Get),
            ("GET /b/k", &["range"], GetRange),
            ("GET /b/k", &["x-ms-range"], GetRange),
            ("HEAD /b/k", &[], Head),
            ("GET /b?list-type=2&prefix=x%2F", &[], List),
            ("GET /c?restype=container&comp=list", &[], List),
            ("PUT /b/k", &[], Put),
            ("PUT /b/k", &["if-none-match"], PutIfAbsent),
            ("PUT /b/k", &["x-goog-if-generation-match"], PutIfAbsent),
            ("PUT /b/k", &["x-amz-copy-source"], Copy),
            ("POST /b/k?uploads=", &[], MultipartCreate),
            ("PUT /b/k?partNumber=1&uploadId=u", &[], MultipartPart),
            ("PUT /c/k?comp=block&blockid=x", &[], MultipartPart),
            ("POST /b/k?uploadId=u", &[], MultipartComplete),
            ("PUT /c/k?comp=blocklist", &[], MultipartComplete),
            ("DELETE /b/k?uploadId=u", &[], MultipartAbort),
            ("DELETE /b/k", &[], Delete),
            ("POST /b?delete", &[], Delete),
            ("POST /c?restype=container&comp=batch", &[], Delete),
            ("POST /token", &[], Other),
        ] {
            assert_eq!(Operation::of(&request(line, headers)), expected, "{line}");
        }
    }

    #[test]
    fn purposes_are_told_by_where_things_lie() {
        use Purpose::*;
        let roots = [
            ("", "/b/", ""),
            ("", "/", ""),
            ("some/where", "/b/", "some/where/"),
            ("some/where", "/", "some/where/"),
            ("catalog", "/account/b/", "catalog/"),
        ];
        for (prefix, before, listed) in roots {
            let root = Root {
                bucket: "b".to_owned(),
                prefix: prefix.to_owned(),
            };
            for (key, expected) in [
                ("catalog/1.json", Catalog),
                ("streams/k3f/raw/part.parquet", Raw),
                ("streams/k3f/raw/_delta_log/1.json", RawCommits),
                ("streams/k3f/dead-letters/_delta_log/1.json", DeadLetters),
                ("views/v1/files/x.parquet", Generations),
                ("views/v1/_delta_log/1.json", Projections),
                ("probe-7", Other),
            ] {
                let path = match prefix {
                    "" => format!("{before}{key}"),
                    _ => format!("{before}{prefix}/{key}"),
                };
                let asked = request(&format!("GET {path}"), &[]);
                assert_eq!(Purpose::of(&root.key(&asked)), expected, "{path}");
                let page = format!("GET /b?list-type=2&prefix={listed}{key}");
                let page = request(&page, &[]);
                assert_eq!(Purpose::of(&root.key(&page)), expected, "{key}");
            }
        }
    }

    #[test]
    fn latencies_fall_between_their_bounds() {
        let mut latencies = Latencies::default();
        for ms in [1, 2, 3, 60_000] {
            latencies.add(Duration::from_millis(ms));
        }
        assert_eq!(latencies.buckets[..3], [2, 1, 0]);
        assert_eq!(latencies.buckets[LATENCY_BOUNDS_S.len()], 1);
        assert!((latencies.sum_s - 60.006).abs() < 1e-9);
    }
}
