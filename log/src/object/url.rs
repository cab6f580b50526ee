// SPDX-License-Identifier: Apache-2.0
//! Where a store is: the URL that `--store` takes.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use object_store::path::Path;
use url::Url;

/// The forms that are understood, as messages list them: `memory://` keeps nothing, and is for tests.
const FORMS: &str =
    "s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or file:///DIRECTORY";

/// Whose protocol a bucket speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Provider {
    /// Amazon S3 and what is compatible with it.
    S3,
    /// Google Cloud Storage.
    Gcs,
    /// Azure Blob Storage.
    Azure,
}

/// What is at the top of a store.
const DIRECTORIES: [&str; 3] = ["catalog", "streams", "views"];

/// What a URL names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Memory,
    Directory(PathBuf),
    Bucket {
        provider: Provider,
        bucket: String,
        prefix: Path,
    },
}

/// Where a store is. Shown as it was written; it never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreUrl {
    text: String,
    pub(super) place: Place,
}

impl StoreUrl {
    /// Whether it is reached over a network, where anything may answer.
    pub fn is_remote(&self) -> bool {
        matches!(self.place, Place::Bucket { .. })
    }

    /// The stores in whose directories it would lie, if they are there: these delete there what they do not know.
    pub fn around(&self) -> Vec<Self> {
        let Place::Bucket {
            provider,
            bucket,
            prefix,
        } = &self.place
        else {
            return vec![];
        };
        let parts: Vec<_> = prefix.parts().collect();
        let inside = (0..parts.len()).filter(|at| DIRECTORIES.contains(&parts[*at].as_ref()));
        let store = |at: usize| {
            let prefix: Path = parts[..at].iter().cloned().collect();
            let scheme = match provider {
                Provider::S3 => "s3",
                Provider::Gcs => "gs",
                Provider::Azure => "az",
            };
            Self {
                text: format!("{scheme}://{bucket}/{prefix}"),
                place: Place::Bucket {
                    provider: *provider,
                    bucket: bucket.clone(),
                    prefix,
                },
            }
        };
        inside.map(store).collect()
    }

    /// Whether nothing but the process that opens it ever sees it.
    pub fn is_private(&self) -> bool {
        self.place == Place::Memory
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for StoreUrl {
    type Err = String;

    /// # Errors
    /// What is wrong with it, and the forms that there are. Credentials in it are refused and not repeated.
    fn from_str(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|_| format!("`{text}` is not a URL: write {FORMS}"))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(
                "a store's URL holds no credentials: give them by the environment".to_owned(),
            );
        }
        if url.query().is_some() || url.fragment().is_some() || url.port().is_some() {
            return Err(format!(
                "`{text}` has a port, `?` or `#`: write {FORMS}, and what else there is to say as --store-option"
            ));
        }
        Ok(Self {
            place: place(&url, text)?,
            text: text.to_owned(),
        })
    }
}

fn place(url: &Url, text: &str) -> Result<Place, String> {
    let provider = match url.scheme() {
        "memory" if url.host().is_none() && url.path().trim_matches('/').is_empty() => {
            return Ok(Place::Memory);
        }
        "file" => {
            let path = url
                .to_file_path()
                .ok()
                .filter(|path| path.parent().is_some());
            let path = path.ok_or_else(|| {
                format!("`{text}` names no directory of this machine: write file:///DIRECTORY")
            })?;
            return Ok(Place::Directory(path));
        }
        "s3" => Provider::S3,
        "gs" => Provider::Gcs,
        "az" => Provider::Azure,
        _ => return Err(format!("`{text}` is no store: write {FORMS}")),
    };
    let bucket = url.host_str().unwrap_or_default().to_owned();
    if bucket.is_empty() {
        return Err(format!("`{text}` names no bucket: write {FORMS}"));
    }
    let prefix = Path::from_url_path(url.path())
        .map_err(|error| format!("`{text}` has a prefix that stores cannot have: {error}"))?;
    Ok(Place::Bucket {
        provider,
        bucket,
        prefix,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_tells_in_whose_directories_it_lies() {
        let around = |text: &str| {
            let url: StoreUrl = text.parse().unwrap();
            let stores = url.around();
            // What is shown is what is opened.
            for store in &stores {
                assert_eq!(
                    store.to_string().parse::<StoreUrl>().unwrap().place,
                    store.place
                );
            }
            stores.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        for beside in [
            "s3://b",
            "s3://b/n",
            "s3://b/n/other",
            "file:///streams/x",
            "memory://",
        ] {
            assert_eq!(around(beside), [""; 0], "{beside}");
        }
        assert_eq!(around("az://b/streams"), ["az://b/"]);
        assert_eq!(around("gs://b/n/catalog/x"), ["gs://b/n"]);
        assert_eq!(
            around("s3://b/n/views/m/streams/"),
            ["s3://b/n", "s3://b/n/views/m"]
        );
    }

    fn place_of(text: &str) -> Place {
        text.parse::<StoreUrl>().unwrap().place
    }

    #[test]
    fn a_url_names_a_bucket_and_a_prefix_a_directory_or_memory() {
        for (text, provider, bucket, prefix) in [
            ("s3://b", Provider::S3, "b", ""),
            ("s3://my-bucket/a/b/", Provider::S3, "my-bucket", "a/b"),
            ("gs://my_bucket/x", Provider::Gcs, "my_bucket", "x"),
            ("az://c/with%20space", Provider::Azure, "c", "with space"),
        ] {
            let expected = Place::Bucket {
                provider,
                bucket: bucket.to_owned(),
                prefix: prefix.into(),
            };
            assert_eq!(place_of(text), expected, "{text}");
        }
        assert_eq!(place_of("file:///a/b"), Place::Directory("/a/b".into()));
        assert_eq!(place_of("memory://"), Place::Memory);
        assert_eq!(
            "s3://b/a/".parse::<StoreUrl>().unwrap().to_string(),
            "s3://b/a/"
        );
    }

    #[test]
    fn what_is_no_store_is_refused_with_the_forms_there_are() {
        for text in [
            "/var/lib",
            "bucket",
            "http://b/x",
            "s3://",
            "s3:///x",
            "file://host/x",
            "file:///",
            "memory://x",
            "s3://b?region=x",
            "s3://b/x#y",
            "s3://b:9000/x",
        ] {
            let error = text.parse::<StoreUrl>().unwrap_err();
            assert!(error.contains("write "), "{text}: {error}");
            assert!(!error.contains("or memory://"), "{text}: {error}");
        }
    }

    #[test]
    fn credentials_in_a_url_are_refused_and_not_repeated() {
        let error = "s3://key:hunter2@b/x".parse::<StoreUrl>().unwrap_err();
        assert!(
            error.contains("environment") && !error.contains("hunter2"),
            "{error}"
        );
    }
}
