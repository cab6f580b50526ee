// SPDX-License-Identifier: Apache-2.0
//! From a URL to a store, and what is asked of a store before it is trusted.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use dovetail_model::{ProblemKind, innermost};
use futures::StreamExt as _;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzure, MicrosoftAzureBuilder};
use object_store::client::SpawnedReqwestConnector;
use object_store::gcp::{GoogleCloudStorage, GoogleCloudStorageBuilder};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientConfigKey, ClientOptions, Error, ObjectStore, ObjectStoreExt, PutMode,
    RetryConfig,
};
use tokio::runtime::Handle;

use super::below::Below;
use super::options::{Addressing, Setting};
use super::requests::{CountingConnector, Root, StoreRequests};
use super::url::{Place, Provider};
use super::{LocalStore, StoreOption, StoreUrl, aws_files};
use crate::catalog::random_u64;

/// How long a connection may take to come about: far more than one across an ocean needs.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one try of a request may take, its body included: a part of 10 MiB at 3 Mbit/s.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// No try begins later than this after the first. Long enough for a throttled store to recover and for a failover of
/// the endpoint; short enough that whoever waits for a statement or a start hears of an outage while he still waits.
/// What must not fail by an outage, archiving, is tried again by itself for as long as it lasts.
const RETRY_TIMEOUT: Duration = Duration::from_secs(10);
/// More than fit into that time, which is the bound.
const MAX_RETRIES: usize = 50;

/// Variables that say where keys come from. Where one is set, AWS's files are not looked at.
const KEY_VARIABLES: [&str; 6] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_SKIP_SIGNATURE",
];

/// Environment variables, as an argument, so that a test has its own.
#[derive(Debug, Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Those of this process; those that are not text are left out.
    pub fn of_process() -> Self {
        let variables = std::env::vars_os();
        let text = variables.filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        Self(text.collect())
    }

    /// A variable; an empty one counts as not set.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let value = self.0.get(name)?;
        (!value.is_empty()).then_some(value)
    }

    /// What a cloud's client knows of the variables whose names begin with `prefix`.
    fn settings<K: FromStr>(&self, prefix: &str) -> impl Iterator<Item = (K, &str)> {
        let variables = self.0.iter();
        variables.filter_map(move |(name, value)| {
            let known = name.starts_with(prefix).then(|| name.to_ascii_lowercase());
            Some((known?.parse().ok()?, value.as_str()))
        })
    }

    /// Sets a variable.
    pub fn set(&mut self, name: &str, value: &str) {
        self.0.insert(name.to_owned(), value.to_owned());
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for Environment {
    fn from_iter<T: IntoIterator<Item = (&'a str, &'a str)>>(variables: T) -> Self {
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        Self(variables.into_iter().map(owned).collect())
    }
}

/// What a process does with a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// It writes, as the only one, and reads.
    Writing,
    /// It adds files beside that one, each under a name that nobody else gives, and reads.
    Adding,
    /// It only reads, beside the one that writes.
    Reading,
}

/// Why a store cannot be used. Names its URL, never a secret.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// What was said of it contradicts itself or is incomplete: say it otherwise.
    #[error("the store `{url}` cannot be opened: {reason}")]
    Settings {
        /// Which store.
        url: StoreUrl,
        /// What is wrong.
        reason: String,
    },
    /// The store refuses us: look at keys, rights and the bucket's name.
    #[error("the store `{url}` refuses: {reason}")]
    Refused {
        /// Which store.
        url: StoreUrl,
        /// What it is about.
        reason: &'static str,
        /// What the store said.
        source: Box<Error>,
    },
    /// No answer, or one that says nothing about us: try again, or look after the store.
    #[error("the store `{url}` cannot be reached: {source}: {}", innermost(source))]
    Unreachable {
        /// Which store.
        url: StoreUrl,
        /// What happened.
        source: Box<Error>,
    },
    /// It would lie in the directories of another store: choose a prefix beside that.
    #[error(
        "the store `{url}` would lie within the store at `{within}`, which deletes what it does not know there; choose a prefix beside it"
    )]
    Nested {
        /// Which store.
        url: StoreUrl,
        /// Where the other one is.
        within: String,
    },
    /// The store lacks what everything here rests on: take another.
    #[error(
        "the store `{url}` cannot be used: {reason}; two processes could both believe that they wrote one commit"
    )]
    Unfit {
        /// Which store.
        url: StoreUrl,
        /// What it did.
        reason: &'static str,
    },
}

impl StoreError {
    /// What a caller can do about it.
    pub fn kind(&self) -> ProblemKind {
        match self {
            Self::Settings { .. }
            | Self::Refused { .. }
            | Self::Nested { .. }
            | Self::Unfit { .. } => ProblemKind::Invalid,
            Self::Unreachable { .. } => ProblemKind::Unavailable,
        }
    }
}

/// Opens the store at `url`. Asks it nothing yet: [`check_store`] does. Whoever calls the store later, its requests
/// live on `io`: a query that keeps its own threads busy holds up no answer until it times out. Those of a remote store
/// are counted in `requests`.
///
/// # Errors
/// [`StoreError::Settings`].
pub fn open_store(
    url: &StoreUrl,
    options: &[StoreOption],
    environment: &Environment,
    io: &Handle,
    usage: Usage,
    requests: &Arc<StoreRequests>,
) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let wrong = |reason: String| StoreError::Settings {
        url: url.clone(),
        reason,
    };
    let (provider, bucket, prefix) = match &url.place {
        Place::Bucket {
            provider,
            bucket,
            prefix,
        } => (*provider, bucket, prefix),
        _ if !options.is_empty() => {
            return Err(wrong("a store on this machine takes no options".to_owned()));
        }
        Place::Memory => return Ok(Arc::new(InMemory::new())),
        Place::Directory(directory) => {
            let opened = match usage {
                Usage::Writing => LocalStore::open(directory),
                Usage::Adding | Usage::Reading => LocalStore::open_beside(directory),
            };
            let store = opened.map_err(|error| wrong(error.to_string()))?;
            return Ok(Arc::new(store));
        }
    };
    let connector = CountingConnector {
        inner: SpawnedReqwestConnector::new(io.clone()),
        root: Root {
            bucket: bucket.clone(),
            prefix: prefix.to_string(),
        },
        requests: Arc::clone(requests),
    };
    let opened = match provider {
        Provider::S3 => {
            s3(bucket, options, environment, connector).map(|store| below(prefix, store))
        }
        Provider::Gcs => gcs(bucket, options, connector).map(|store| below(prefix, store)),
        Provider::Azure => {
            azure(bucket, options, environment, connector).map(|store| below(prefix, store))
        }
    };
    opened.map_err(wrong)
}

fn retries() -> RetryConfig {
    RetryConfig {
        // With jitter, so that those who were refused together do not come back together.
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(3),
            base: 2.0,
        },
        max_retries: MAX_RETRIES,
        retry_timeout: RETRY_TIMEOUT,
    }
}

fn client() -> ClientOptions {
    ClientOptions::new()
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_timeout(REQUEST_TIMEOUT)
}

fn below(prefix: &Path, store: impl ObjectStore) -> Arc<dyn ObjectStore> {
    if prefix.as_ref().is_empty() {
        return Arc::new(store);
    }
    Arc::new(Below::new(store, prefix.clone()))
}

/// What the clients of a cloud connect with.
type Connector = CountingConnector<SpawnedReqwestConnector>;

fn unknown(setting: &Setting, store: &str) -> String {
    let key = match setting {
        Setting::Endpoint(_) => "endpoint",
        Setting::Region(_) => "region",
        Setting::Addressing(_) => "addressing",
        Setting::AllowHttp(_) => "allow_http",
        Setting::Account(_) => "account",
    };
    format!("`{key}` is no option of {store}")
}

fn s3(
    bucket: &str,
    options: &[StoreOption],
    environment: &Environment,
    connector: Connector,
) -> Result<AmazonS3, String> {
    let mut builder = AmazonS3Builder::new()
        .with_client_options(client())
        .with_retry(retries());
    if KEY_VARIABLES
        .iter()
        .all(|name| environment.get(name).is_none())
    {
        let profile = aws_files::profile(environment)?;
        if let Some((id, secret, token)) = profile.keys {
            builder = builder
                .with_access_key_id(id)
                .with_secret_access_key(secret);
            builder = match token {
                Some(token) => builder.with_token(token),
                None => builder,
            };
        }
        if let Some(region) = profile.region {
            builder = builder.with_region(region);
        }
        if let Some(endpoint) = profile.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
    }
    for (key, value) in environment.settings::<AmazonS3ConfigKey>("AWS_") {
        builder = builder.with_config(key, value);
    }
    for StoreOption(setting) in options {
        builder = match setting {
            Setting::Endpoint(endpoint) => {
                // The one in the environment for S3 alone goes before the general one.
                builder.with_config(AmazonS3ConfigKey::S3Endpoint, endpoint)
            }
            Setting::Region(region) => builder.with_region(region),
            Setting::Addressing(addressing) => {
                builder.with_virtual_hosted_style_request(*addressing == Addressing::VirtualHosted)
            }
            Setting::AllowHttp(allowed) => builder.with_allow_http(*allowed),
            Setting::Account(_) => return Err(unknown(setting, "s3")),
        };
    }
    let value = |key| builder.get_config_value(&key);
    let endpoint = value(AmazonS3ConfigKey::S3Endpoint).or(value(AmazonS3ConfigKey::Endpoint));
    let allowed = value(AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp));
    check_encrypted(endpoint.as_deref(), allowed.as_deref())?;
    builder
        .with_bucket_name(bucket)
        .with_http_connector(connector)
        .build()
        .map_err(|error| error.to_string())
}

fn gcs(
    bucket: &str,
    options: &[StoreOption],
    connector: Connector,
) -> Result<GoogleCloudStorage, String> {
    let mut endpoint = None;
    let mut allowed = false;
    for StoreOption(setting) in options {
        match setting {
            Setting::Endpoint(url) => endpoint = Some(url.as_str()),
            Setting::AllowHttp(allow) => allowed = *allow,
            _ => return Err(unknown(setting, "gs")),
        }
    }
    check_encrypted(endpoint, allowed.then_some("true"))?;
    let mut builder = GoogleCloudStorageBuilder::from_env()
        .with_client_options(client().with_allow_http(allowed))
        .with_retry(retries())
        .with_bucket_name(bucket);
    if let Some(endpoint) = endpoint {
        builder = builder.with_base_url(endpoint);
    }
    builder
        .with_http_connector(connector)
        .build()
        .map_err(|error| error.to_string())
}

fn azure(
    container: &str,
    options: &[StoreOption],
    environment: &Environment,
    connector: Connector,
) -> Result<MicrosoftAzure, String> {
    let mut allowed = false;
    let mut builder = MicrosoftAzureBuilder::new();
    for (key, value) in environment.settings::<AzureConfigKey>("AZURE_") {
        builder = builder.with_config(key, value);
    }
    // Where a machine in that cloud is told to ask for keys.
    if let Some(endpoint) = environment.get("IDENTITY_ENDPOINT") {
        builder = builder.with_msi_endpoint(endpoint);
    }
    for StoreOption(setting) in options {
        builder = match setting {
            Setting::Endpoint(url) => builder.with_endpoint(url.clone()),
            Setting::Account(account) => builder.with_account(account),
            Setting::AllowHttp(allow) => {
                allowed = *allow;
                builder
            }
            _ => return Err(unknown(setting, "az")),
        };
    }
    let endpoint = builder.get_config_value(&AzureConfigKey::Endpoint);
    check_encrypted(endpoint.as_deref(), allowed.then_some("true"))?;
    builder
        .with_client_options(client().with_allow_http(allowed))
        .with_retry(retries())
        .with_container_name(container)
        .with_http_connector(connector)
        .build()
        .map_err(|error| match error.to_string() {
            text if text.contains("Account must be specified") => {
                "it is of no account: say --store-option account=NAME, or set AZURE_STORAGE_ACCOUNT_NAME".to_owned()
            }
            text => text,
        })
}

/// The client itself would only say that it cannot build a request.
fn check_encrypted(endpoint: Option<&str>, allowed: Option<&str>) -> Result<(), String> {
    match endpoint {
        Some(endpoint) if endpoint.starts_with("http://") && allowed != Some("true") => {
            Err(format!(
                "its endpoint `{endpoint}` is not encrypted; say --store-option allow_http=true if that is meant"
            ))
        }
        _ => Ok(()),
    }
}

/// Finds out whether `store` can be written, read and deleted, and whether a put-if-absent keeps its word: there are
/// stores that ignore the condition. Leaves nothing behind.
///
/// # Errors
/// All but [`StoreError::Settings`].
pub async fn check_store(url: &StoreUrl, store: &dyn ObjectStore) -> Result<(), StoreError> {
    let at = Path::from(format!("probe-{:016x}", random_u64()));
    let failed = |source| failed(url, source);
    let unfit = |reason| StoreError::Unfit {
        url: url.clone(),
        reason,
    };
    let create = |body: &'static str| store.put_opts(&at, body.into(), PutMode::Create.into());
    let first = create("first").await;
    // `AlreadyExists` can be the answer to our own retry.
    if let Err(source) = first
        && !matches!(source, Error::AlreadyExists { .. })
    {
        return Err(failed(source));
    }
    let second = create("second").await;
    let read = async { store.get(&at).await?.bytes().await };
    let read = read.await;
    // Whatever came out, it is not left behind; if that fails, the error below is the one to tell.
    let deleted = store.delete(&at).await;
    match second {
        Err(Error::AlreadyExists { .. }) => {}
        Ok(_) => {
            return Err(unfit(
                "it wrote over an object that a conditional put must spare",
            ));
        }
        Err(Error::NotImplemented { .. } | Error::NotSupported { .. }) => {
            return Err(unfit("it has no conditional put"));
        }
        Err(source) => return Err(failed(source)),
    }
    if read.map_err(failed)? != "first" {
        return Err(unfit(
            "it answers a put as refused and does it all the same",
        ));
    }
    deleted.map_err(failed)
}

/// That the store at `url` lies in no directory of another one; `open` opens those that it may lie in. What may not be read
/// is taken for none.
///
/// # Errors
/// [`StoreError::Nested`]; those of `open`.
pub async fn check_beside_others(
    url: &StoreUrl,
    open: impl Fn(&StoreUrl) -> Result<Arc<dyn ObjectStore>, StoreError>,
) -> Result<(), StoreError> {
    for within in url.around() {
        let catalog = Path::from("catalog");
        let store = open(&within)?;
        if let Some(Ok(_)) = store.list(Some(&catalog)).next().await {
            return Err(StoreError::Nested {
                url: url.clone(),
                within: within.to_string(),
            });
        }
    }
    Ok(())
}

/// Whether the store refused a signature for its time: S3 and Azure allow a quarter of an hour.
fn is_of_clocks(source: &Error) -> bool {
    let text = source.to_string();
    let codes = ["RequestTimeTooSkewed", "Request date header too old"];
    codes.iter().any(|code| text.contains(code))
}

/// That there are no keys, and where they could be.
fn no_keys(url: &StoreUrl) -> &'static str {
    match url.place {
        Place::Bucket {
            provider: Provider::Gcs,
            ..
        } => {
            "no keys are in the environment, and this machine has none from its cloud: set GOOGLE_SERVICE_ACCOUNT or GOOGLE_APPLICATION_CREDENTIALS to the file of a service account"
        }
        Place::Bucket {
            provider: Provider::Azure,
            ..
        } => {
            "no keys are in the environment, and this machine has none from its cloud: set AZURE_STORAGE_ACCOUNT_KEY"
        }
        _ => {
            "no keys are in the environment or in AWS's files, and this machine has none from its cloud: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        }
    }
}

fn failed(url: &StoreUrl, source: Error) -> StoreError {
    let refused = |reason, source| StoreError::Refused {
        url: url.clone(),
        reason,
        source: Box::new(source),
    };
    // There are servers that answer to an unknown key as others to an unknown bucket; the code tells.
    let of_bucket = |source: &Error| {
        let text = source.to_string();
        let codes = ["NoSuchBucket", "ContainerNotFound", "bucket does not exist"];
        codes.iter().any(|code| text.contains(code))
    };
    match source {
        source if is_of_clocks(&source) => refused(
            "this machine's clock and the store's are too far apart; set this machine's right",
            source,
        ),
        // Where it is asked for keys, a machine in a cloud answers.
        source
            if ["http://169.254.169.254/", "http://metadata"]
                .iter()
                .any(|asked| source.to_string().contains(asked)) =>
        {
            refused(no_keys(url), source)
        }
        Error::Unauthenticated { .. } => refused("the keys are wrong", source),
        Error::PermissionDenied { .. } => refused(
            "the keys are wrong, or they may not read, write, list and delete here",
            source,
        ),
        Error::NotFound { .. } if of_bucket(&source) => refused("there is no such bucket", source),
        Error::NotFound { .. } => refused("the keys are wrong, or there is no such bucket", source),
        source => StoreError::Unreachable {
            url: url.clone(),
            source: Box::new(source),
        },
    }
}
