// SPDX-License-Identifier: Apache-2.0
//! A real S3 server, and what goes wrong on the way to it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use dovetail_model::{Clock, ManualClock};
use dovetail_testkit::{BUCKET, Fault, Gateway, KEY_ID, Proxy, SECRET};
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use super::{
    Environment, Operation, Purpose, RequestOutcome, StoreError, StoreOption, StoreRequests,
    StoreUrl, Usage, check_beside_others, check_store, conformance, open_store,
};
use crate::catalog::Catalog;
use crate::catalog::tests::create;

fn url(prefix: &str) -> StoreUrl {
    format!("s3://{BUCKET}/{prefix}").parse().unwrap()
}

fn options(endpoint: &str) -> [StoreOption; 2] {
    [format!("endpoint={endpoint}"), "allow_http=true".to_owned()]
        .map(|option| option.parse().unwrap())
}

fn environment() -> Environment {
    [
        ("AWS_ACCESS_KEY_ID", KEY_ID),
        ("AWS_SECRET_ACCESS_KEY", SECRET),
        ("AWS_REGION", "us-east-1"),
        // A silent server is noticed while a test waits for it; one on a busy machine is not taken for silent.
        ("AWS_TIMEOUT", "3s"),
    ]
    .into_iter()
    .collect()
}

/// A store below `prefix` of the bucket, through `endpoint`.
pub(crate) fn open(endpoint: &str, prefix: &str) -> Arc<dyn ObjectStore> {
    opened(&url(prefix), &options(endpoint), &environment()).unwrap()
}

fn opened(
    url: &StoreUrl,
    options: &[StoreOption],
    environment: &Environment,
) -> std::result::Result<Arc<dyn ObjectStore>, StoreError> {
    counted(url, options, environment, &Arc::default())
}

fn counted(
    url: &StoreUrl,
    options: &[StoreOption],
    environment: &Environment,
    requests: &Arc<StoreRequests>,
) -> std::result::Result<Arc<dyn ObjectStore>, StoreError> {
    let io = tokio::runtime::Handle::current();
    open_store(url, options, environment, &io, Usage::Writing, requests)
}

async fn check(gateway: &Gateway, url: &StoreUrl, environment: &Environment) -> StoreError {
    let store = opened(url, &options(&gateway.endpoint()), environment).unwrap();
    check_store(url, &store).await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_s3_server_conforms() {
    let gateway = Gateway::start();
    conformance::all(&open(&gateway.endpoint(), "some/where")).await;
    conformance::all(&open(&gateway.endpoint(), "")).await;
}

/// Any store, by hand: with its URL in `DOVETAIL_STORE`, its options in `DOVETAIL_STORE_OPTIONS` (`key=value key=value`)
/// and its keys where its cloud's own tools look.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "asks a store that the environment names"]
async fn the_store_of_the_environment_conforms() {
    let environment = Environment::of_process();
    let url: StoreUrl = std::env::var("DOVETAIL_STORE").unwrap().parse().unwrap();
    let options = std::env::var("DOVETAIL_STORE_OPTIONS").unwrap_or_default();
    let options = options
        .split_whitespace()
        .map(|option| option.parse().unwrap());
    let options: Vec<StoreOption> = options.collect();
    let store = opened(&url, &options, &environment).unwrap();
    check_store(&url, &store).await.unwrap();
    conformance::all(&store).await;
}

/// Where mutual exclusion has to hold: two servers that know nothing of each other, over the same objects.
#[tokio::test(flavor = "multi_thread")]
async fn a_race_through_two_servers_has_one_winner() {
    let gateway = Gateway::start();
    let other = gateway.beside();
    let ways = [&gateway, &other].map(|gateway| open(&gateway.endpoint(), "x"));
    conformance::one_winner("race", [&ways[0], &ways[1]]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_as_it_should_be_is_left_as_it_was() {
    let gateway = Gateway::start();
    let store = open(&gateway.endpoint(), "x");
    check_store(&url("x"), &store).await.unwrap();
    assert!(
        store
            .list_with_delimiter(None)
            .await
            .unwrap()
            .objects
            .is_empty()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_within_the_directories_of_another_is_refused() {
    let gateway = Gateway::start();
    let open = |url: &StoreUrl| opened(url, &options(&gateway.endpoint()), &environment());
    let nested = url("n/streams/x");
    check_beside_others(&nested, open).await.unwrap();
    let other = open(&url("n")).unwrap();
    other.put(&"catalog/1".into(), "{}".into()).await.unwrap();
    let error = check_beside_others(&nested, open).await.unwrap_err();
    assert!(matches!(error, StoreError::Nested { .. }), "{error}");
    assert!(error.to_string().contains("/n`, which deletes"), "{error}");
    check_beside_others(&url("n/beside"), open).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_keys_and_a_missing_bucket_are_said_at_once() {
    let gateway = Gateway::start();
    let begun = Instant::now();
    for (name, value) in [
        ("AWS_ACCESS_KEY_ID", "nobody"),
        ("AWS_SECRET_ACCESS_KEY", "hunter2"),
    ] {
        let mut wrong = environment();
        wrong.set(name, value);
        let error = check(&gateway, &url("x"), &wrong).await;
        assert!(matches!(error, StoreError::Refused { .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.contains("s3://events/x") && text.contains("keys are wrong"),
            "{text}"
        );
        let all = format!("{error:?}{text}");
        assert!(!all.contains("hunter2") && !all.contains(SECRET), "{all}");
    }
    let nowhere = "s3://nowhere/x".parse().unwrap();
    let error = check(&gateway, &nowhere, &environment()).await.to_string();
    assert!(
        error.ends_with("refuses: there is no such bucket"),
        "{error}"
    );
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_wrong_is_named() {
    let gateway = Gateway::start();
    let proxy = Proxy::start(gateway.address()).await;
    proxy.arm("PUT", "", Fault::Skew, usize::MAX);
    let error = check_store(&url("x"), &open(&proxy.endpoint(), "x")).await;
    let error = error.unwrap_err();
    assert!(matches!(error, StoreError::Refused { .. }), "{error}");
    assert!(
        error.to_string().contains("set this machine's right"),
        "{error}"
    );
}

/// With the files of AWS's tools alone.
#[tokio::test(flavor = "multi_thread")]
async fn keys_come_from_files_where_the_environment_has_none() {
    let gateway = Gateway::start();
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("keys");
    let keys = format!("[tests]\naws_access_key_id={KEY_ID}\naws_secret_access_key={SECRET}\n");
    std::fs::write(&file, keys).unwrap();
    let file = file.to_str().unwrap();
    let files = [
        ("AWS_SHARED_CREDENTIALS_FILE", file),
        ("AWS_PROFILE", "tests"),
    ];
    let mut environment: Environment = files.into_iter().collect();
    let store = opened(&url("x"), &options(&gateway.endpoint()), &environment).unwrap();
    check_store(&url("x"), &store).await.unwrap();
    // Those of the environment go first, right or wrong.
    environment.set("AWS_ACCESS_KEY_ID", "nobody");
    environment.set("AWS_SECRET_ACCESS_KEY", "nothing");
    check(&gateway, &url("x"), &environment).await;
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused_before_anything_is_asked() {
    let option = |text: &str| text.parse::<StoreOption>().unwrap();
    let home = [("HOME", "/nonexistent"), ("AWS_PROFILE", "absent")]
        .into_iter()
        .collect();
    for (url, options, environment, expected) in [
        (
            "s3://b",
            vec![option("endpoint=http://localhost:1")],
            environment(),
            "allow_http=true",
        ),
        (
            "s3://b",
            vec![option("account=x")],
            environment(),
            "`account` is no option of s3",
        ),
        (
            "gs://b",
            vec![option("region=x")],
            environment(),
            "`region` is no option of gs",
        ),
        (
            "az://b",
            vec![option("addressing=path")],
            environment(),
            "`addressing` is no option of az",
        ),
        (
            "memory://",
            vec![option("region=x")],
            environment(),
            "takes no options",
        ),
        ("s3://b", vec![], home, "`absent`"),
    ] {
        let url: StoreUrl = url.parse().unwrap();
        let error = opened(&url, &options, &environment).unwrap_err();
        assert!(matches!(error, StoreError::Settings { .. }), "{error}");
        let error = error.to_string();
        assert!(
            error.contains(expected) && error.contains(&url.to_string()),
            "{error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_not_there_is_given_up_within_seconds() {
    let mut gateway = Gateway::start();
    let store = open(&gateway.endpoint(), "x");
    gateway.kill();
    let begun = Instant::now();
    let error = check_store(&url("x"), &store).await.unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
    assert!(
        begun.elapsed() < Duration::from_secs(25),
        "{:?}",
        begun.elapsed()
    );
    gateway.run();
    check_store(&url("x"), &store).await.unwrap();
}

/// A store that takes no notice of a condition, or obeys it and does the put all the same.
#[derive(Debug)]
struct Careless {
    inner: InMemory,
    refuses: bool,
}

impl std::fmt::Display for Careless {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("careless")
    }
}

#[async_trait]
impl ObjectStore for Careless {
    async fn put_opts(
        &self,
        at: &Path,
        data: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let there = self.inner.head(at).await.is_ok();
        let put = self.inner.put(at, data).await?;
        if self.refuses && there && options.mode == PutMode::Create {
            return Err(object_store::Error::AlreadyExists {
                path: at.to_string(),
                source: "412".into(),
            });
        }
        Ok(put)
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(at, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[tokio::test]
async fn a_store_without_conditional_puts_is_refused() {
    for (refuses, reason) in [(false, "wrote over"), (true, "as refused and does it")] {
        let inner = InMemory::new();
        let store = Careless { inner, refuses };
        let error = check_store(&url("x"), &store).await.unwrap_err();
        assert!(matches!(error, StoreError::Unfit { .. }), "{error}");
        assert!(error.to_string().contains(reason), "{error}");
        assert!(
            store
                .list_with_delimiter(None)
                .await
                .unwrap()
                .objects
                .is_empty()
        );
    }
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(ManualClock::at(1_000_000))
}

async fn catalog(store: Arc<dyn ObjectStore>) -> Catalog {
    Catalog::open(store, clock()).await.unwrap()
}

/// Throttled, torn after the commit was written, throttled after it was written (the store's client asks again and
/// hears that the commit exists: its own) and silent: each commit is there once, and its writer knows.
#[tokio::test(flavor = "multi_thread")]
async fn a_catalog_commits_once_whatever_happens_to_its_requests() {
    let gateway = Gateway::start();
    let proxy = Proxy::start(gateway.address()).await;
    let troubled = catalog(open(&proxy.endpoint(), "x")).await;
    let faults = [
        (Fault::SlowDown, 3),
        (Fault::SlowDownAfter, 1),
        (Fault::Tear, 1),
        (Fault::Silence, 1),
    ];
    for (index, (fault, times)) in faults.into_iter().enumerate() {
        proxy.arm("PUT", "/catalog/", fault, times);
        create(&troubled, &format!("s{index}")).await;
        assert_eq!(proxy.happened(), times, "{fault:?}");
        // A rival that reads the store itself sees it, and each of those before.
        let seen = catalog(open(&gateway.endpoint(), "x")).await.state();
        assert_eq!(seen.sequence, index as u64 + 1, "{fault:?}");
        assert_eq!(seen, troubled.state(), "{fault:?}");
    }
}

/// The same for reads, all of which may be asked again.
#[tokio::test(flavor = "multi_thread")]
async fn reads_outlast_trouble() {
    let gateway = Gateway::start();
    let proxy = Proxy::start(gateway.address()).await;
    let store = open(&proxy.endpoint(), "x");
    let at = Path::from("a/b");
    store.put(&at, "body".into()).await.unwrap();
    for fault in [Fault::SlowDown, Fault::Tear, Fault::Silence] {
        proxy.arm("GET", "/a/b", fault, 2);
        let read = store.get(&at).await.unwrap().bytes().await.unwrap();
        assert_eq!(
            (read.as_ref(), proxy.happened()),
            (&b"body"[..], 2),
            "{fault:?}"
        );
        proxy.arm("GET", BUCKET, fault, 2);
        let listed = store
            .list_with_delimiter(Some(&Path::from("a")))
            .await
            .unwrap();
        assert_eq!(
            (listed.objects.len(), proxy.happened()),
            (1, 2),
            "{fault:?}"
        );
    }
}

/// What the counters say is what the server was asked, tries that were throttled included.
#[tokio::test(flavor = "multi_thread")]
async fn requests_are_counted_as_the_server_sees_them() {
    let gateway = Gateway::start();
    let proxy = Proxy::start(gateway.address()).await;
    let requests = Arc::default();
    let endpoint = options(&proxy.endpoint());
    let store = counted(&url("some/where"), &endpoint, &environment(), &requests).unwrap();
    conformance::all(&store).await;
    let before = requests.read();
    let total: u64 = before.kinds.values().map(|count| count.requests).sum();
    assert_eq!(total, proxy.passed() as u64);
    // One of each in it; what two tries came to is told apart.
    let of = |operation| {
        let kinds = before.kinds.iter();
        let kinds = kinds.filter(move |(kind, _)| kind.operation == operation);
        kinds.map(|(_, count)| count.requests).sum::<u64>()
    };
    assert_eq!(of(Operation::MultipartCreate), 3);
    assert_eq!(
        (of(Operation::MultipartPart), of(Operation::MultipartAbort)),
        (6, 1)
    );
    assert_eq!(of(Operation::MultipartComplete), 2);
    assert_eq!(of(Operation::Other), 0);
    for operation in [
        Operation::Head,
        Operation::List,
        Operation::Get,
        Operation::GetRange,
    ] {
        assert!(of(operation) > 0, "{operation:?}");
    }

    let at = Path::from("catalog/1.json");
    proxy.arm("PUT", "/catalog/", Fault::SlowDown, 2);
    store
        .put_opts(&at, "body".into(), PutMode::Create.into())
        .await
        .unwrap();
    store
        .put_opts(&at, "else".into(), PutMode::Create.into())
        .await
        .unwrap_err();
    let counted: Vec<_> = requests.read().kinds.into_iter().collect();
    let counted: Vec<_> = counted
        .into_iter()
        .filter(|(kind, _)| kind.purpose == Purpose::Catalog)
        .map(|(kind, count)| {
            (
                kind.operation,
                kind.outcome,
                count.requests,
                count.sent_bytes,
            )
        })
        .collect();
    let put = Operation::PutIfAbsent;
    assert_eq!(
        counted,
        [
            (put, RequestOutcome::Done, 1, 4),
            (put, RequestOutcome::Unmet, 1, 4),
            (put, RequestOutcome::Throttled, 2, 8),
        ]
    );
}
