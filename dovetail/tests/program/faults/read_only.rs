// SPDX-License-Identifier: Apache-2.0
//! Directories that cannot be written: at a start, and from some moment on.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::crash::{append, declare};
use crate::support::feed::Feed;
use crate::support::server::Server;
use crate::support::small_disk::SmallDisk;

#[tokio::test]
async fn a_start_on_a_read_only_disk_says_so_and_leaves_everything_as_it_is() {
    let Some(disk) = SmallDisk::new(32) else {
        return;
    };
    let mut feed = Feed::default();
    let server = Server::start(disk.home(), None).await.unwrap();
    declare(&server.calls()).await.unwrap();
    append(&server.calls(), &mut feed, 50, 1).await.unwrap();
    server.kill().await;

    disk.set_read_only(true);
    let ended = Server::start(disk.home(), None).await.err();
    assert_eq!(ended.expect("it does not start").code(), Some(1));
    let log = std::fs::read_to_string(disk.home().join("server.log")).unwrap();
    let said = log.lines().last().unwrap();
    assert!(said.contains("/data/"), "{said}");
    assert!(said.contains("Read-only file system"), "{said}");

    disk.set_read_only(false);
    let server = Server::start(disk.home(), None).await.unwrap();
    feed.verify(&server.calls()).await;
}

/// Root may write whatever the mode says, but not what is immutable.
fn set_immutable(path: &Path, immutable: bool) {
    let flag = if immutable { "+i" } else { "-i" };
    let ran = Command::new("chattr").arg(flag).arg(path).output().unwrap();
    assert!(ran.status.success(), "{ran:?}");
}

fn only_entry_of(directory: &Path) -> PathBuf {
    let mut entries = std::fs::read_dir(directory).unwrap();
    let first = entries.next().unwrap().unwrap().path();
    assert!(entries.next().is_none());
    first
}

#[tokio::test]
async fn a_log_that_cannot_be_written_any_more_takes_no_appends_until_a_restart() {
    let Some(disk) = SmallDisk::new(32).filter(SmallDisk::has_immutable_files) else {
        return;
    };
    let mut feed = Feed::default();
    let server = Server::start(disk.home(), None).await.unwrap();
    let calls = server.calls();
    declare(&calls).await.unwrap();
    append(&calls, &mut feed, 50, 1).await.unwrap();

    let log = only_entry_of(&disk.home().join("data/log"));
    let segment = only_entry_of(&log);
    set_immutable(&segment, true);
    let number = feed.push(7, 0);
    for reason in ["may or may not be kept", "takes no more appends"] {
        let (status, problem) = feed.request(number).try_send(&calls).await.unwrap();
        assert_eq!(status, 503, "{problem}");
        assert_eq!(problem["retry_after_s"], 60, "{problem}");
        let detail = problem["detail"].as_str().unwrap();
        let directory = problem["directory"].as_str().unwrap();
        for part in [reason, directory, "Operation not permitted", "restart"] {
            assert!(detail.contains(part), "{part}: {detail}");
        }
    }
    let rows = calls.rows("SELECT seen FROM total", json!({})).await;
    assert_eq!(rows.unwrap(), [json!({"seen": 50})]);
    let ready = calls.get("/readyz").await.unwrap();
    let failing = ready["failing"][0].as_str().unwrap();
    assert!(failing.starts_with("ingest of stream `events`"), "{ready}");

    set_immutable(&segment, false);
    server.kill().await;
    let server = Server::start(disk.home(), None).await.unwrap();
    feed.retry(&server.calls()).await;
    feed.verify(&server.calls()).await;
}
