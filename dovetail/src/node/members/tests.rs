// SPDX-License-Identifier: Apache-2.0

use dovetail_log::object::LocalStore;
use dovetail_model::{Endpoints, IngestEpoch, ManualClock, Offset, PartitionId};
use serde_json::json;

use super::*;

fn member(id: &str, port: u16) -> IngestMember {
    let url = format!("http://127.0.0.1:{port}");
    IngestMember {
        id: id.to_owned(),
        host: "here".to_owned(),
        endpoints: Arc::new(Endpoints {
            http: url.clone(),
            cuts: url,
        }),
    }
}

fn report(id: &str, port: u16) -> Report {
    Report {
        member: member(id, port),
        applied: 0,
        leaves: false,
        pressed: None,
        streams: vec![],
    }
}

/// Those that a catalog with `taking` names next.
fn next(members: &Members, taking: &[IngestMember]) -> Option<Vec<String>> {
    let state = CatalogState {
        ingest: Arc::new(IngestMembers {
            epoch: IngestEpoch(1),
            members: taking.to_vec(),
        }),
        ..CatalogState::default()
    };
    let next = members.next(&state)?;
    Some(next.into_iter().map(|member| member.id).collect())
}

async fn members() -> (Members, tempfile::TempDir) {
    let home = tempfile::tempdir().unwrap();
    let store = Arc::new(LocalStore::open(home.path().join("store")).unwrap());
    let catalog = Catalog::open(store, Arc::new(ManualClock::at(0)));
    (Members::new(Arc::new(catalog.await.unwrap())), home)
}

fn silent_since(members: &mut Members, id: &str, time: Duration) {
    let mut heard = members.heard.lock();
    let (at, _) = heard.get_mut(id).unwrap();
    *at = at.checked_sub(time).unwrap();
}

#[tokio::test]
async fn whoever_reports_takes_part_and_whoever_is_silent_does_not() {
    let (mut members, _home) = members().await;
    assert_eq!(next(&members, &[]), None);
    members.heard(report("b", 1));
    members.heard(report("a", 2));
    let both = [member("b", 1), member("a", 2)];
    assert_eq!(next(&members, &[]).unwrap(), ["a", "b"]);
    // Whoever takes part already keeps its rank.
    assert_eq!(next(&members, &both[..1]).unwrap(), ["b", "a"]);
    assert_eq!(next(&members, &both), None);
    silent_since(&mut members, "b", SILENCE);
    assert_eq!(next(&members, &both).unwrap(), ["a"]);
    // Alone, it would leave nobody: its partitions are named as missing.
    silent_since(&mut members, "a", SILENCE);
    assert_eq!(next(&members, &both), None);
    members.heard(report("b", 1));
    assert_eq!(next(&members, &both).unwrap(), ["b"]);
    members.heard(Report {
        leaves: true,
        ..report("b", 1)
    });
    members.heard(report("a", 2));
    assert_eq!(next(&members, &both).unwrap(), ["a"]);
}

#[tokio::test]
async fn a_restart_elsewhere_begins_an_epoch_and_one_of_this_process_does_not() {
    let (mut members, _home) = members().await;
    let both = [member("a", 1), member("b", 2)];
    // Just started, it has not heard of them, and takes nothing from them yet.
    assert_eq!(next(&members, &both), None);
    members.heard(report("a", 3));
    assert_eq!(next(&members, &both).unwrap(), ["a", "b"]);
    members.begun = members.begun.checked_sub(SILENCE).unwrap();
    assert_eq!(next(&members, &both).unwrap(), ["a"]);
}

#[tokio::test]
async fn what_several_say_of_a_stream_is_said_as_one() {
    let (members, _home) = members().await;
    let def: StreamDef = serde_json::from_value(json!({
        "id": "k3f", "name": "s", "created_at": "2001-01-01T00:00:00Z",
        "schema": {"columns": [], "event_time": null, "unknown_columns": "ignore"},
    }))
    .unwrap();
    assert_eq!(members.source(&def), None);
    let said = |phase: &str, partition: u32| {
        let lag =
            json!({"partition": partition, "position": 5, "end": 7, "lag": 2, "lag_seconds": 1.5});
        json!({
            "kind": "kafka", "topic": "t", "phase": phase, "reason": null, "lag": 2, "lag_seconds": 1.5,
            "partitions": [lag], "skipped_tombstones": 1,
        })
    };
    for (id, phase, partition) in [("a", "stopped", 1), ("b", "reading", 0)] {
        let at = Position::zero().with(PartitionId(partition), Offset(5));
        members.heard(Report {
            streams: vec![StreamReport {
                stream: def.id.clone(),
                position: at,
                bytes: 10,
                source: Some(said(phase, partition)),
                hole: None,
            }],
            ..report(id, 1)
        });
    }
    let source = members.source(&def).unwrap();
    assert_eq!((source.phase.as_str(), source.lag), ("stopped", 4));
    assert_eq!(source.skipped_tombstones, 2);
    let partitions: Vec<u32> = source.partitions.iter().map(|p| p.partition.0).collect();
    assert_eq!(partitions, [0, 1]);
    assert_eq!(members.position(&def.id).to_string(), "0@5,1@5");
}

#[tokio::test]
async fn who_takes_part_and_has_not_said_that_it_follows_is_behind() {
    let (members, _home) = members().await;
    let state = |taking: &[IngestMember]| CatalogState {
        ingest: Arc::new(IngestMembers {
            epoch: IngestEpoch(1),
            members: taking.to_vec(),
        }),
        ..CatalogState::default()
    };
    let both = state(&[member("a", 1), member("b", 2)]);
    let behind = |state: &CatalogState, sequence| {
        let behind = members.behind(state, sequence);
        behind.map(|member| member.id)
    };
    let says = |id: &str, applied| {
        let said = report(id, 1);
        members.heard(Report { applied, ..said });
    };
    // Nobody reads the topic: whoever comes later opens it as the catalog says then.
    assert_eq!(behind(&state(&[]), 7), None);
    assert_eq!(behind(&both, 7).unwrap(), "a");
    says("a", 7);
    says("b", 6);
    // It takes no part.
    says("c", 0);
    assert_eq!(behind(&both, 7).unwrap(), "b");
    assert_eq!(behind(&both, 6), None);
    says("b", 8);
    assert_eq!(behind(&both, 7), None);
}

#[tokio::test]
async fn a_topic_that_is_another_one_for_some_process_takes_no_events() {
    let (members, _home) = members().await;
    let def: StreamDef = serde_json::from_value(json!({
        "id": "k3f", "name": "s", "created_at": "2001-01-01T00:00:00Z",
        "schema": {"columns": [], "event_time": null, "unknown_columns": "ignore"},
    }))
    .unwrap();
    let says = |phase: &str, hole: Option<Hole>| {
        let source = json!({
            "kind": "kafka", "topic": "t", "phase": phase, "reason": "it is another one", "lag": 0,
            "lag_seconds": 0.0, "partitions": [], "skipped_tombstones": 0,
        });
        members.heard(Report {
            streams: vec![StreamReport {
                stream: def.id.clone(),
                position: Position::zero(),
                bytes: 0,
                source: Some(source),
                hole,
            }],
            ..report("a", 1)
        });
    };
    for phase in ["connecting", "reading", "retrying"] {
        says(phase, None);
        assert_eq!(members.check_same_topic(&def), Ok(()), "{phase}");
    }
    says("stopped", None);
    let problem = members.check_same_topic(&def).unwrap_err();
    assert!(problem.detail.contains("it is another one"), "{problem}");
    // What is appended is read when the hole is skipped.
    says(
        "stopped",
        Some(Hole {
            partition: PartitionId(0),
            from: Offset(1),
            to: Offset(2),
            skipped_at: DateTime::UNIX_EPOCH,
        }),
    );
    assert_eq!(members.check_same_topic(&def), Ok(()));
}
