// SPDX-License-Identifier: Apache-2.0
//! Keys and region from the files that AWS's own tools keep: `credentials` and `config`, one section per profile.
//!
//! Only what is written there as it is: a profile that says how to get keys (single sign-on, a process, another role)
//! is refused by that name. Errors name files, profiles and settings, never a value.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::Environment;

/// Settings of a profile that would have to be acted on to get keys.
const INDIRECT: [&str; 6] = [
    "sso_session",
    "sso_start_url",
    "credential_process",
    "role_arn",
    "web_identity_token_file",
    "login_session",
];

/// What a profile says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Profile {
    /// Id, secret and session token.
    pub(super) keys: Option<(String, String, Option<String>)>,
    pub(super) region: Option<String>,
    pub(super) endpoint: Option<String>,
}

type Section = BTreeMap<String, String>;

/// The profile that the environment names, or the one called `default`; empty where there are no files.
///
/// # Errors
/// A sentence: a named profile is in no file, a file cannot be read or understood, or the profile has no keys of its
/// own.
pub(super) fn profile(environment: &Environment) -> Result<Profile, String> {
    let named = environment.get("AWS_PROFILE");
    let name = named.unwrap_or("default");
    let credentials = file(environment, "AWS_SHARED_CREDENTIALS_FILE", "credentials");
    let config = file(environment, "AWS_CONFIG_FILE", "config");
    let in_config = match name {
        "default" => name.to_owned(),
        _ => format!("profile {name}"),
    };
    let from_credentials = section(credentials.as_deref(), name)?;
    let from_config = section(config.as_deref(), &in_config)?;
    if named.is_some() && from_credentials.is_none() && from_config.is_none() {
        return Err(format!(
            "the profile `{name}` that AWS_PROFILE names is neither in {} nor in {}",
            shown(credentials.as_deref()),
            shown(config.as_deref())
        ));
    }
    // As AWS's tools do: what the credentials say goes before the config.
    let mut all = from_config.unwrap_or_default();
    all.extend(from_credentials.unwrap_or_default());
    read(name, all)
}

fn read(name: &str, mut section: Section) -> Result<Profile, String> {
    let id = section.remove("aws_access_key_id");
    let secret = section.remove("aws_secret_access_key");
    let keys = match (id, secret) {
        (Some(id), Some(secret)) => Some((id, secret, section.remove("aws_session_token"))),
        (Some(_), None) => return Err(lacks(name, "aws_secret_access_key")),
        (None, Some(_)) => return Err(lacks(name, "aws_access_key_id")),
        (None, None) => match INDIRECT.iter().find(|key| section.contains_key(**key)) {
            Some(key) => {
                return Err(format!(
                    "the profile `{name}` gets its keys by `{key}`, which is not done here: put keys into the environment (aws configure export-credentials)"
                ));
            }
            None => None,
        },
    };
    Ok(Profile {
        keys,
        region: section.remove("region"),
        endpoint: section.remove("endpoint_url"),
    })
}

fn lacks(name: &str, key: &str) -> String {
    format!("the profile `{name}` of AWS's files has no `{key}`")
}

/// The file that the environment names, or the one in the home directory; none where there is neither.
fn file(environment: &Environment, variable: &str, name: &str) -> Option<PathBuf> {
    let home = || Some(Path::new(environment.get("HOME")?).join(".aws").join(name));
    environment.get(variable).map(PathBuf::from).or_else(home)
}

fn shown(file: Option<&Path>) -> String {
    file.map_or("a home directory".to_owned(), |file| {
        format!("`{}`", file.display())
    })
}

/// The settings of one section; none if it or the file is not there.
fn section(file: Option<&Path>, wanted: &str) -> Result<Option<Section>, String> {
    let Some(file) = file else { return Ok(None) };
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("`{}` cannot be read: {error}", file.display())),
    };
    let mut found: Option<Section> = None;
    let mut inside = false;
    for (index, line) in text.lines().enumerate() {
        // Indented lines are settings of a setting, such as those of `s3 =`.
        let nested = line.starts_with([' ', '\t']);
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) || nested {
            continue;
        }
        if let Some(name) = line.strip_prefix('[') {
            let name = name.split(']').next().unwrap_or_default();
            let words: Vec<&str> = name.split_whitespace().collect();
            inside = words.join(" ") == wanted;
            if inside {
                found.get_or_insert_default();
            }
            continue;
        }
        let Some((key, value)) = line.split_once('=') else {
            return Err(format!(
                "`{}`, line {}: it is neither a [section] nor a setting with `=`",
                file.display(),
                index + 1
            ));
        };
        if inside && let Some(found) = &mut found {
            found.insert(key.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A home with AWS's two files, and the environment that names it.
    fn home(
        credentials: &str,
        config: &str,
        more: &[(&str, &str)],
    ) -> (tempfile::TempDir, Environment) {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join(".aws")).unwrap();
        for (name, text) in [("credentials", credentials), ("config", config)] {
            std::fs::write(home.path().join(".aws").join(name), text).unwrap();
        }
        let mut variables = vec![("HOME", home.path().to_str().unwrap())];
        variables.extend(more);
        let environment = variables.into_iter().collect();
        (home, environment)
    }

    const CREDENTIALS: &str = "\
# ours
[default]
aws_access_key_id = AKDEFAULT
aws_secret_access_key=s=e/c+r

[ other ]
AWS_ACCESS_KEY_ID = AKOTHER
aws_secret_access_key = two
aws_session_token = three
";
    const CONFIG: &str = "\
[default]
region = eu-central-1
s3 =
    max_concurrent_requests = 20
[profile other]
region = us-west-2
endpoint_url = https://s3.example.com
; its keys are elsewhere
[profile sso]
sso_session = work
";

    #[test]
    fn the_default_profile_has_its_keys_in_one_file_and_its_region_in_the_other() {
        let (_home, environment) = home(CREDENTIALS, CONFIG, &[]);
        let profile = profile(&environment).unwrap();
        let keys = ("AKDEFAULT".to_owned(), "s=e/c+r".to_owned(), None);
        assert_eq!(profile.keys, Some(keys));
        assert_eq!(profile.region.as_deref(), Some("eu-central-1"));
        assert_eq!(profile.endpoint, None);
    }

    #[test]
    fn a_named_profile_is_taken_whole_and_nothing_from_others() {
        let (_home, environment) = home(CREDENTIALS, CONFIG, &[("AWS_PROFILE", "other")]);
        let profile = profile(&environment).unwrap();
        let keys = (
            "AKOTHER".to_owned(),
            "two".to_owned(),
            Some("three".to_owned()),
        );
        assert_eq!(profile.keys, Some(keys));
        assert_eq!(profile.region.as_deref(), Some("us-west-2"));
        assert_eq!(profile.endpoint.as_deref(), Some("https://s3.example.com"));
    }

    #[test]
    fn files_may_be_elsewhere_or_not_there() {
        let (home, mut environment) = home(CREDENTIALS, CONFIG, &[]);
        let moved = home.path().join("keys");
        std::fs::write(
            &moved,
            "[default]\naws_access_key_id=A\naws_secret_access_key=B\n",
        )
        .unwrap();
        environment.set("AWS_SHARED_CREDENTIALS_FILE", moved.to_str().unwrap());
        assert_eq!(profile(&environment).unwrap().keys.unwrap().0, "A");
        let nowhere = [("HOME", "/nonexistent")].into_iter().collect();
        assert_eq!(profile(&nowhere), Ok(Profile::default()));
        assert_eq!(profile(&Environment::default()), Ok(Profile::default()));
    }

    #[test]
    fn what_cannot_be_followed_is_said_without_a_value() {
        for (credentials, config, name, expected) in [
            (CREDENTIALS, CONFIG, "absent", "`absent`"),
            (CREDENTIALS, CONFIG, "sso", "`sso_session`"),
            (
                "[x]\naws_access_key_id=hunter2",
                "",
                "x",
                "no `aws_secret_access_key`",
            ),
            (
                "[x]\naws_secret_access_key=hunter2",
                "",
                "x",
                "no `aws_access_key_id`",
            ),
            ("[x]\nhunter2\n", "", "x", "line 2"),
        ] {
            let (_home, environment) = home(credentials, config, &[("AWS_PROFILE", name)]);
            let error = profile(&environment).unwrap_err();
            assert!(
                error.contains(expected) && !error.contains("hunter2"),
                "{error}"
            );
        }
    }
}
