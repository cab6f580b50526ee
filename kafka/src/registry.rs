// SPDX-License-Identifier: Apache-2.0
//! The registry that keeps the schemas of a topic's records, over Confluent's HTTP API.
//!
//! Purpose: a schema by its id, with all that it refers to. Collaborators: `gather` asks for what its records name,
//! `probe` whether there is a registry at all. Invariants: an id means one schema for ever, so a schema is asked for
//! once; a request ends within its time-out, an answer within a size; credentials and certificates are read anew for
//! each question, and are in no message. Non-goals: registering schemas, subjects, compatibility.
//! Source: the API reference of Confluent's Schema Registry; Apicurio, Karapace and Redpanda answer the same requests.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::error::Error as _;
use std::fs;
use std::time::Duration;

use dovetail_log::decode::{RegisteredSchema, SchemaReference};
use dovetail_model::{MessageFormat, SchemaRegistry};
use parking_lot::Mutex;
use reqwest::{Certificate, Client, Identity, StatusCode, redirect};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::{sleep, timeout};
use url::Url;

use crate::KafkaError;
use crate::secret::secret;

/// How often a request is made that gets no answer.
const ATTEMPTS: u32 = 3;
/// Between two of them.
const PAUSE: Duration = Duration::from_millis(200);
/// The largest answer that is read.
const MOST_BYTES: usize = 16 << 20;
/// Most schemas that one refers to, directly or not.
const MOST_REFERENCES: usize = 1_000;

/// A schema registry, and the schemas that were asked for.
#[derive(Debug)]
pub(crate) struct Registry {
    settings: SchemaRegistry,
    known: Mutex<HashMap<u32, RegisteredSchema>>,
}

/// A schema as the API writes it.
#[derive(Debug, Deserialize)]
struct Answer {
    schema: String,
    /// Avro where nothing is said.
    #[serde(rename = "schemaType")]
    schema_type: Option<String>,
    #[serde(default)]
    references: Vec<Reference>,
}

/// What a schema says of one that it refers to.
#[derive(Debug, Deserialize)]
struct Reference {
    name: String,
    subject: String,
    version: i64,
}

/// A problem as the API writes it.
#[derive(Debug, Deserialize)]
struct Refusal {
    message: String,
}

/// The type of schemas in the API's words.
fn kind(format: MessageFormat) -> &'static str {
    match format {
        MessageFormat::Protobuf => "PROTOBUF",
        _ => "AVRO",
    }
}

impl Registry {
    pub(crate) fn new(settings: &SchemaRegistry) -> Self {
        Self {
            settings: settings.clone(),
            known: Mutex::default(),
        }
    }

    /// Makes sure that there is a registry that keeps schemas of this format. Blocks for up to `within`.
    ///
    /// # Errors
    /// When it does not answer, refuses us, or is none.
    pub(crate) fn check(&self, format: MessageFormat, within: Duration) -> Result<(), KafkaError> {
        let kinds: Option<Vec<String>> = self.within(within, async {
            self.connect()?.get(&["schemas", "types"]).await
        })?;
        match kinds {
            Some(kinds) if kinds.iter().any(|known| known == kind(format)) => Ok(()),
            Some(kinds) => Err(self.none(format!("it keeps schemas of {kinds:?} only"))),
            None => Err(self.none("there is no `schemas/types` under it".to_owned())),
        }
    }

    /// A schema and all that it refers to; none if the registry has no such id. Blocks for up to `within`, the first
    /// time.
    ///
    /// # Errors
    /// When the registry does not answer, or not as one.
    pub(crate) fn schema(
        &self,
        id: u32,
        within: Duration,
    ) -> Result<Option<RegisteredSchema>, KafkaError> {
        if let Some(known) = self.known.lock().get(&id) {
            return Ok(Some(known.clone()));
        }
        let found = self.within(within, async { self.connect()?.schema(id).await })?;
        if let Some(schema) = &found {
            self.known.lock().insert(id, schema.clone());
        }
        Ok(found)
    }

    /// Runs one question on this thread.
    fn within<T>(
        &self,
        within: Duration,
        question: impl Future<Output = Result<T, KafkaError>>,
    ) -> Result<T, KafkaError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| self.unreachable(error.to_string()))?;
        runtime.block_on(async {
            match timeout(within, question).await {
                Ok(answered) => answered,
                Err(_) => {
                    let seconds = within.as_secs_f32();
                    Err(self.unreachable(format!("no answer within {seconds} s")))
                }
            }
        })
    }

    /// A client, with certificates and credentials as they are now.
    fn connect(&self) -> Result<Connection<'_>, KafkaError> {
        let access = &self.settings.access;
        let url = self.settings.url.parse::<Url>();
        let url = url.map_err(|error| self.option(format!("`schema_registry`: {error}")))?;
        let mut client = Client::builder()
            .user_agent(concat!("dovetail/", env!("CARGO_PKG_VERSION")))
            // A password must not follow where we are sent.
            .redirect(redirect::Policy::none());
        if is_loopback(&url) {
            client = client.no_proxy();
        }
        if let Some(bytes) = self.file("schema_registry_ca_location")? {
            let certificates = Certificate::from_pem_bundle(&bytes);
            let certificates = certificates.map_err(|error| {
                self.option(format!("`schema_registry_ca_location`: {}", chain(&error)))
            })?;
            client = client.tls_certs_only(certificates);
        }
        let certificate = self.file("schema_registry_certificate_location")?;
        let key = self.file("schema_registry_key_location")?;
        if let (Some(certificate), Some(key)) = (certificate, key) {
            let identity = Identity::from_pem(&[certificate, b"\n".to_vec(), key].concat());
            let identity = identity.map_err(|error| {
                let reason = chain(&error);
                self.option(format!("`schema_registry_certificate_location`: {reason}"))
            })?;
            client = client.identity(identity);
        }
        Ok(Connection {
            registry: self,
            url,
            client: client.build().map_err(|error| self.option(chain(&error)))?,
            credentials: Credentials::of(access)?,
        })
    }

    /// What is in the file that an option names, if it is given.
    fn file(&self, option: &str) -> Result<Option<Vec<u8>>, KafkaError> {
        let Some(path) = self.settings.access.get(option) else {
            return Ok(None);
        };
        let read = fs::read(path).map(Some);
        read.map_err(|error| self.option(format!("`{option}` names `{path}`: {error}")))
    }

    fn unreachable(&self, reason: String) -> KafkaError {
        KafkaError::RegistryUnreachable {
            url: self.settings.url.clone(),
            reason,
        }
    }

    fn none(&self, reason: String) -> KafkaError {
        KafkaError::NoRegistry {
            url: self.settings.url.clone(),
            reason,
        }
    }

    fn option(&self, reason: String) -> KafkaError {
        KafkaError::Options(reason)
    }
}

/// What a request says of who we are.
enum Credentials {
    None,
    Basic { user: String, password: String },
    Bearer(String),
}

impl Credentials {
    fn of(access: &BTreeMap<String, String>) -> Result<Self, KafkaError> {
        let of = |option: &str| {
            let reference = access.get(option);
            reference.map(|value| secret(option, value)).transpose()
        };
        if let Some(token) = of("schema_registry_token")? {
            return Ok(Self::Bearer(token));
        }
        let password = of("schema_registry_password")?;
        Ok(match access.get("schema_registry_username") {
            Some(user) => Self::Basic {
                user: user.clone(),
                password: password.unwrap_or_default(),
            },
            None => Self::None,
        })
    }
}

/// One connection to a registry.
struct Connection<'a> {
    registry: &'a Registry,
    url: Url,
    client: Client,
    credentials: Credentials,
}

impl Connection<'_> {
    async fn schema(&self, id: u32) -> Result<Option<RegisteredSchema>, KafkaError> {
        let id = id.to_string();
        let Some(found) = self.get::<Answer>(&["schemas", "ids", &id]).await? else {
            return Ok(None);
        };
        Ok(Some(RegisteredSchema {
            kind: found.schema_type.unwrap_or_else(|| "AVRO".to_owned()),
            references: self.references(found.references).await?,
            text: found.schema,
        }))
    }

    /// What is referred to, each behind what it refers to itself, and once.
    async fn references(
        &self,
        references: Vec<Reference>,
    ) -> Result<Vec<SchemaReference>, KafkaError> {
        enum Step {
            Open(Reference),
            Close(SchemaReference),
        }
        let mut open: Vec<Step> = references.into_iter().rev().map(Step::Open).collect();
        let mut seen = HashSet::new();
        let mut closed = Vec::new();
        while let Some(step) = open.pop() {
            let reference = match step {
                Step::Close(reference) => {
                    closed.push(reference);
                    continue;
                }
                Step::Open(reference) => reference,
            };
            let Reference {
                name,
                subject,
                version,
            } = reference;
            if !seen.insert(name.clone()) {
                continue;
            }
            if seen.len() > MOST_REFERENCES {
                let reason = format!("a schema refers to more than {MOST_REFERENCES} others");
                return Err(self.registry.none(reason));
            }
            let path = ["subjects", &subject, "versions", &version.to_string()];
            let found = self.get::<Answer>(&path).await?;
            let found = found.ok_or_else(|| {
                let reason = format!(
                    "version {version} of subject `{subject}`, which a schema refers to, is not there"
                );
                self.registry.none(reason)
            })?;
            open.push(Step::Close(SchemaReference {
                name,
                text: found.schema,
            }));
            open.extend(found.references.into_iter().rev().map(Step::Open));
        }
        Ok(closed)
    }

    /// What a path has, tried again while the registry gives no answer; none where it has nothing.
    async fn get<T: DeserializeOwned>(&self, path: &[&str]) -> Result<Option<T>, KafkaError> {
        let mut attempt = 1;
        loop {
            match self.get_once(path).await {
                Err(KafkaError::RegistryUnreachable { .. }) if attempt < ATTEMPTS => {
                    attempt += 1;
                    sleep(PAUSE).await;
                }
                answered => return answered,
            }
        }
    }

    async fn get_once<T: DeserializeOwned>(&self, path: &[&str]) -> Result<Option<T>, KafkaError> {
        let registry = self.registry;
        let mut url = self.url.clone();
        match url.path_segments_mut() {
            Ok(mut segments) => segments.pop_if_empty().extend(path),
            Err(()) => {
                return Err(registry.option("`schema_registry` is no URL of HTTP".to_owned()));
            }
        };
        // What a record was written with may have been deleted since.
        url.set_query(Some("deleted=true"));
        let request = self.client.get(url).header("accept", ACCEPT);
        let request = match &self.credentials {
            Credentials::None => request,
            Credentials::Basic { user, password } => request.basic_auth(user, Some(password)),
            Credentials::Bearer(token) => request.bearer_auth(token),
        };
        let unreachable = |error: reqwest::Error| registry.unreachable(chain(&error.without_url()));
        let mut response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            if body.len() + chunk.len() > MOST_BYTES {
                return Err(registry.none(format!("it answers with more than {MOST_BYTES} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        let says = || match serde_json::from_slice::<Refusal>(&body) {
            Ok(refusal) => format!("{status}: {}", refusal.message),
            Err(_) => status.to_string(),
        };
        match status {
            StatusCode::OK => serde_json::from_slice(&body).map(Some).map_err(|error| {
                registry.none(format!("it answers with something else ({error})"))
            }),
            StatusCode::NOT_FOUND => Ok(None),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(KafkaError::RegistryDenied {
                url: registry.settings.url.clone(),
                reason: says(),
            }),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
                Err(registry.unreachable(says()))
            }
            status if status.is_server_error() => Err(registry.unreachable(says())),
            _ => Err(registry.none(says())),
        }
    }
}

/// The API's own media type first.
const ACCEPT: &str = "application/vnd.schemaregistry.v1+json, application/json";

/// Whether it is on this machine, where no proxy stands between.
fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// An error and what it comes from.
fn chain(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
