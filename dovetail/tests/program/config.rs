// SPDX-License-Identifier: Apache-2.0
//! Settings of a server: a file, variables and options, and what `dovetail config` says of them.

use std::path::Path;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::fake::run;
use crate::support::program::program;
use crate::support::server::Server;

/// What `dovetail config` shows as JSON, each setting by its name.
async fn effective(arguments: &[&str], variables: &[(&str, &str)]) -> Vec<Value> {
    let output = program(&["config", "--format", "json"])
        .args(arguments)
        .envs(variables.iter().copied())
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    document["settings"].as_array().unwrap().clone()
}

fn named<'a>(settings: &'a [Value], name: &str) -> &'a Value {
    let mut found = settings.iter().filter(|setting| setting["name"] == name);
    found.next().unwrap_or_else(|| panic!("no `{name}`"))
}

fn write(directory: &Path, name: &str, text: &str) -> String {
    let path = directory.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_option_goes_before_its_variable_that_before_the_file_that_before_the_default() {
    let dir = tempfile::tempdir().unwrap();
    let file = "# ours\nbatch_runs = 2\nqueries = 8\nkeep_runs = 30\n";
    let file = write(dir.path(), "conf.toml", file);
    let settings = effective(
        &["--config", &file, "--batch-runs", "4"],
        &[("DOVETAIL_BATCH_RUNS", "3"), ("DOVETAIL_QUERIES", "9")],
    )
    .await;
    for (name, value, source) in [
        ("batch_runs", 4, "flag"),
        ("queries", 9, "environment"),
        ("keep_runs", 30, "file"),
        ("connections", 1024, "default"),
    ] {
        let setting = named(&settings, name);
        assert_eq!(setting["value"], value, "{setting}");
        assert_eq!(setting["source"], source, "{setting}");
    }
    let kept = named(&settings, "keep_runs");
    assert_eq!(
        (&kept["file"], &kept["line"]),
        (&file.as_str().into(), &4.into())
    );
    // The variable names a file as the option does.
    let settings = effective(&[], &[("DOVETAIL_CONFIG", &file)]).await;
    assert_eq!(named(&settings, "batch_runs")["value"], 2);
}

#[tokio::test]
async fn what_is_shown_as_a_file_is_one_that_says_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let arguments = [
        "--store",
        "s3://events/it's \"x\"",
        "--store-option",
        "region=eu-central-1,allow_http=true",
        "--store-option",
        "endpoint=http://127.0.0.1:1",
        "--cuts",
        "127.0.0.1:0",
        "--speed-memory",
        "2 GiB",
        "--archive-interval",
        "1m 30s",
        "--batch-memory",
        "4GiB",
        "--batch-runs",
        "3",
        "--log-level",
        "info,hyper=debug",
    ];
    let shown = run(
        &[&["config", "--format", "toml"], &arguments[..]].concat(),
        b"",
    )
    .await;
    assert_eq!((shown.code, shown.err.as_str()), (0, ""));
    let file = write(dir.path(), "conf.toml", &shown.out);
    let of_file = effective(&["--config", &file], &[]).await;
    let of_arguments = effective(&arguments, &[]).await;
    assert_eq!(of_file.len(), of_arguments.len());
    for (of_file, of_arguments) in of_file.iter().zip(&of_arguments) {
        assert_eq!(of_file["name"], of_arguments["name"]);
        assert_eq!(of_file["value"], of_arguments["value"], "{of_file}");
        let stated = of_file["is_set"].as_bool().unwrap();
        assert_eq!(of_file["source"] == "file", stated, "{of_file}");
    }
}

#[tokio::test]
async fn a_secret_is_never_shown() {
    let dir = tempfile::tempdir().unwrap();
    let secret = "c1b8f0d6e7a94c02";
    let file = write(
        dir.path(),
        "conf.toml",
        &format!("peer_token = \"{secret}\"\n"),
    );
    for format in ["table", "json", "toml"] {
        // All roles in one process need none: the refusal does not show it either.
        let refused = run(&["config", "--format", format, "--config", &file], b"").await;
        assert_eq!(refused.code, 2);
        assert!(refused.err.contains("does all of it"), "{refused:?}");
        assert!(!refused.err.contains(secret));
        let arguments = [
            "--roles",
            "serve",
            "--store",
            "s3://events",
            "--config",
            &file,
        ];
        let shown = run(
            &[&["config", "--format", format], &arguments[..]].concat(),
            b"",
        )
        .await;
        assert_eq!((shown.code, shown.err.as_str()), (0, ""));
        assert!(shown.out.contains("peer_token"), "{}", shown.out);
        assert!(!shown.out.contains(secret), "{}", shown.out);
    }
    let settings = effective(
        &["--roles", "serve", "--store", "s3://events"],
        &[("DOVETAIL_PEER_TOKEN", secret)],
    )
    .await;
    let token = named(&settings, "peer_token");
    assert_eq!(
        (&token["value"], &token["is_set"]),
        (&Value::Null, &true.into())
    );
}

#[tokio::test]
async fn a_file_that_is_wrong_starts_nothing_and_says_where() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let data = data.to_str().unwrap();
    let file = write(
        dir.path(),
        "conf.toml",
        "listen = \"127.0.0.1:0\"\nspeed-memory = \"1GiB\"\n",
    );
    for command in ["up", "config"] {
        let ran = run(&[command, "--data", data, "--config", &file], b"").await;
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{ran:?}");
        let expected = format!(
            "error: `{file}`, line 2: there is no setting `speed-memory`: did you mean `speed_memory`?\n"
        );
        assert_eq!(ran.err, expected);
        let gone = run(&[command, "--data", data, "--config", "/no/such.toml"], b"").await;
        assert_eq!(gone.code, 2);
        assert!(gone.err.contains("cannot read `/no/such.toml`"), "{gone:?}");
    }
    // Each setting is right, and they do not fit together.
    let file = write(dir.path(), "conf.toml", "batch_runs = 9\n");
    let ran = run(&["config", "--config", &file], b"").await;
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("at least 576MiB"), "{ran:?}");
    assert!(!Path::new(data).exists());
    // Who may be told of a setting by a file that is not for it alone is not told that it is wrong.
    let file = write(dir.path(), "conf.toml", "speed_memory = \"2GiB\"\n");
    let worker = [
        "--roles",
        "batch",
        "--store",
        "s3://events",
        "--config",
        &file,
    ];
    assert_eq!(run(&[&["config"], &worker[..]].concat(), b"").await.code, 0);
}

/// What would end a start is known before: in the words of the start, and without a trace on the disk.
#[tokio::test]
async fn what_a_start_would_refuse_is_refused_when_it_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let tokens = write(
        dir.path(),
        "tokens.txt",
        "# ours\nops:root:c1b8f0d6e7a94c02\n",
    );
    let none = write(dir.path(), "none.txt", "# none yet\n");
    let wrong = write(
        dir.path(),
        "definitions/a.sql",
        "CREATE STREEM a (b INT);\n",
    );
    let definitions = Path::new(&wrong).parent().unwrap().to_str().unwrap();
    for (arguments, said) in [
        (&["--tokens", &tokens][..], "line 2"),
        (&["--tokens", &none], "has no token"),
        (
            &["--tokens", "/no/such.txt"],
            "--tokens: cannot read `/no/such.txt`",
        ),
        (
            &["--listen", "0.0.0.0:0"],
            "(--listen) can be reached from other machines",
        ),
        (
            &["--cuts", "0.0.0.0:0", "--advertise", "here"],
            "(--cuts) can be reached from other machines",
        ),
        (&["--apply", "/no/such"], "--apply: cannot read `/no/such`"),
        (&["--apply", definitions], "a.sql"),
        (
            &["--store", "az://events"],
            "the store `az://events` cannot be opened",
        ),
        (
            &[
                "--store",
                "s3://events",
                "--store-option",
                "endpoint=http://127.0.0.1:1",
            ],
            "cannot be opened",
        ),
        (&["--roles", "ingest"], "needs --cuts"),
        (
            &["--speed-memory", "64MiB", "--speed-memory-soft", "65MiB"],
            "is more than --speed-memory 64MiB",
        ),
    ] {
        let data = ["--data", data.to_str().unwrap()];
        let shown = run(&[&["config"], &data[..], arguments].concat(), b"").await;
        assert!(
            shown.code != 0 && shown.out.is_empty(),
            "{arguments:?}: {shown:?}"
        );
        assert!(shown.err.contains(said), "{arguments:?}: {shown:?}");
        let started = run(&[&["up"], &data[..], arguments].concat(), b"").await;
        assert_eq!((started.code, &started.err), (shown.code, &shown.err));
    }
    assert!(!data.exists());
}

#[tokio::test]
async fn what_is_wrong_says_where_it_came_from() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "conf.toml", "\nbatch_runs = 9\n");
    for command in ["up", "config"] {
        let refused = async |arguments: &[&str], variables: &[(&str, &str)]| {
            let output = program(&[&[command, "--data", "/no/such/data"], arguments].concat())
                .envs(variables.iter().copied())
                .output();
            let output = output.await.unwrap();
            assert_eq!(output.status.code(), Some(2), "{output:?}");
            String::from_utf8(output.stderr).unwrap()
        };
        let said = refused(&[], &[("DOVETAIL_BATCH_RUNS", "many")]).await;
        let expected = "invalid value 'many' for 'DOVETAIL_BATCH_RUNS': it is a whole number";
        assert!(said.contains(expected), "{said}");
        assert!(!said.contains("--batch-runs"), "{said}");
        let said = refused(
            &["--batch-runs", "many"],
            &[("DOVETAIL_BATCH_RUNS", "2"), ("DOVETAIL_QUERIES", "2")],
        );
        let said = said.await;
        assert!(said.contains("'many' for '--batch-runs <N>'"), "{said}");
        let said = refused(&[], &[("DOVETAIL_LOG_FORMAT", "xml")]).await;
        assert!(said.contains("'xml' for 'DOVETAIL_LOG_FORMAT'"), "{said}");
        // Each is right, and they do not fit together.
        let said = refused(&["--config", &file], &[]).await;
        let from = format!("(--batch-runs comes from {file}:2)");
        assert!(said.trim_end().ends_with(&from), "{said}");
        let variables = [
            ("DOVETAIL_BATCH_RUNS", "8"),
            ("DOVETAIL_BATCH_MEMORY", "65MiB"),
        ];
        let said = refused(&["--batch-runs", "7"], &variables).await;
        assert!(said.contains("--batch-runs 7"), "{said}");
        assert!(
            said.contains("(--batch-memory comes from DOVETAIL_BATCH_MEMORY)"),
            "{said}"
        );
        let said = refused(&[], &[("DOVETAIL_TOKENS", "/no/such.txt")]).await;
        assert!(
            said.contains("(--tokens comes from DOVETAIL_TOKENS)"),
            "{said}"
        );
        let said = refused(&[], &[("DOVETAIL_CONFIG", "/no/such.toml")]).await;
        assert!(
            said.contains("`/no/such.toml`, which DOVETAIL_CONFIG names"),
            "{said}"
        );
    }
}

#[tokio::test]
async fn a_server_runs_within_the_file_of_its_data_directory() {
    let home = tempfile::tempdir().unwrap();
    let file =
        "body_limit = \"4MiB\"\nquery_timeout = \"50ms\"\nqueries = 1\nlog_format = \"json\"\n";
    write(home.path(), "data/dovetail.toml", file);
    let server = Server::start(home.path(), None).await.unwrap();
    let calls = server.calls();
    let declared = "CREATE STREAM visits (page VARCHAR)";
    calls.sql(declared, json!({})).await.unwrap();
    let ndjson = [("content-type", "application/x-ndjson")];
    let event = "{\"page\": \"/\"}\n";
    let events = event.repeat(4 * 1024 * 1024 / event.len() + 1);
    let appended = calls.call(Method::POST, "/v1/streams/visits", &ndjson, events);
    let (status, refused) = appended.await.unwrap();
    assert_eq!(status, 413, "{refused}");
    assert_eq!(refused["limit_bytes"], 4 * 1024 * 1024);
    assert!(refused["detail"].as_str().unwrap().contains("4 MiB"));
    // It waits for an event that never comes, for as long as a query may take.
    let appended = calls.call(Method::POST, "/v1/streams/visits", &ndjson, event);
    let (_, appended) = appended.await.unwrap();
    let ahead = appended["position"].as_str().unwrap().replace("0@1", "0@2");
    let asked = json!({"sql": "SELECT count(*) FROM visits", "after": ahead});
    let (status, late) = calls.post("/v1/sql", &asked).await.unwrap();
    assert_eq!(status, 408, "{late}");
    let log = server.log();
    assert!(log.lines().next().unwrap().starts_with('{'), "{log}");
    server.terminate();
    assert!(server.died().await.success());
    // It says where the data is, so where it is itself.
    write(
        home.path(),
        "data/dovetail.toml",
        "\ndata = \"elsewhere\"\n",
    );
    let data = home.path().join("data");
    let ran = run(&["config", "--data", data.to_str().unwrap()], b"").await;
    assert_eq!(ran.code, 2);
    assert!(
        ran.err
            .contains("line 2: `data` is where this file was found"),
        "{ran:?}"
    );
}
