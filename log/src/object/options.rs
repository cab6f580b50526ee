// SPDX-License-Identifier: Apache-2.0
//! What is said of a store besides its URL. No option holds a secret: those come by the environment.

use std::str::FromStr;

/// How a request names the bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Addressing {
    /// In the path: `https://endpoint/bucket/object`.
    Path,
    /// In the host: the endpoint holds the bucket's name already, or AWS's own is used with it.
    VirtualHosted,
}

/// One `key=value` of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreOption(pub(super) Setting);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Setting {
    Endpoint(String),
    Region(String),
    Addressing(Addressing),
    AllowHttp(bool),
    Account(String),
}

/// Keys, what they take, and the stores that know them.
const KNOWN: &str = "endpoint=URL, region=NAME (s3), addressing=path|virtual-hosted (s3), allow_http=true|false, account=NAME (az)";

impl FromStr for StoreOption {
    type Err = String;

    /// # Errors
    /// What is wrong with it, and the keys that there are.
    fn from_str(text: &str) -> Result<Self, String> {
        let known = || format!("known are {KNOWN}");
        // What is not understood may be a secret in the wrong place: only the key is repeated.
        let (key, value) = text
            .split_once('=')
            .ok_or_else(|| format!("it is written key=value; {}", known()))?;
        let value = value.trim();
        let wrong = |expected: &str| format!("`{key}` is {expected}; {}", known());
        let setting = match key.trim() {
            "endpoint" if value.contains("://") => Setting::Endpoint(value.to_owned()),
            "endpoint" => return Err(wrong("a URL, such as https://storage.example.com")),
            "region" if !value.is_empty() => Setting::Region(value.to_owned()),
            "region" => return Err(wrong("a name, such as eu-central-1")),
            "account" if !value.is_empty() => Setting::Account(value.to_owned()),
            "account" => return Err(wrong("the name of a storage account")),
            "addressing" => Setting::Addressing(match value {
                "path" => Addressing::Path,
                "virtual-hosted" => Addressing::VirtualHosted,
                _ => return Err(wrong("`path` or `virtual-hosted`")),
            }),
            "allow_http" => {
                Setting::AllowHttp(value.parse().map_err(|_| wrong("`true` or `false`"))?)
            }
            _ => return Err(format!("`{key}` is no option of a store; {}", known())),
        };
        Ok(Self(setting))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(text: &str) -> Setting {
        text.parse::<StoreOption>().unwrap().0
    }

    #[test]
    fn options_are_key_and_value() {
        assert_eq!(
            setting("endpoint=http://127.0.0.1:7070"),
            Setting::Endpoint("http://127.0.0.1:7070".to_owned())
        );
        assert_eq!(
            setting("addressing=path"),
            Setting::Addressing(Addressing::Path)
        );
        assert_eq!(setting("allow_http=true"), Setting::AllowHttp(true));
    }

    #[test]
    fn an_unknown_key_or_value_is_refused_with_those_there_are() {
        for text in [
            "colour=red",
            "endpoint",
            "endpoint=localhost",
            "allow_http=yes",
            "addressing=auto",
            "region=",
            "Region=x",
        ] {
            let error = text.parse::<StoreOption>().unwrap_err();
            assert!(error.contains("known are endpoint=URL"), "{text}: {error}");
        }
        let error = "secret_access_key=hunter2"
            .parse::<StoreOption>()
            .unwrap_err();
        assert!(!error.contains("hunter2"), "{error}");
    }
}
