// SPDX-License-Identifier: Apache-2.0
use super::*;
use crate::{
    Column, ColumnType, GenerationInputs, KafkaSettings, KafkaSource, MessageFormat, Offset,
    Outcome, PartitionId, Position, RunMode, Source, StartAt, StreamSchema, Tombstones,
    UnknownColumns,
};

fn at() -> DateTime<Utc> {
    DateTime::UNIX_EPOCH
}

fn stream(name: &str, id: &str) -> Entry {
    let columns = vec![Column {
        name: "x".to_owned(),
        column_type: ColumnType::Int,
        nullable: true,
    }];
    let schema = StreamSchema {
        columns,
        event_time: None,
        unknown_columns: UnknownColumns::Ignore,
    };
    Entry::StreamCreated {
        stream: StreamDef {
            id: id.parse().unwrap(),
            name: name.to_owned(),
            schema,
            source: crate::Source::Embedded,
            created_at: at(),
        },
    }
}

fn view_def(name: &str, id: &str, stream: &str, version: u64) -> ViewDef {
    ViewDef {
        id: id.parse().unwrap(),
        name: name.to_owned(),
        stream: stream.parse().unwrap(),
        sql: format!("SELECT count(*) FROM s -- {version}"),
        recompute: None,
        recompute_after: Default::default(),
        refresh_s: None,
        version,
        definition_hash: version.to_string(),
        defined_at: at(),
    }
}

fn manifest(view: &ViewDef, number: u64, horizon: u64) -> Entry {
    let inputs = GenerationInputs {
        horizon: Position::single(Offset(horizon)),
        raw_version: 0,
        definition_hash: view.definition_hash.clone(),
        exclusions: vec![],
        state_fingerprint: "f".to_owned(),
    };
    Entry::GenerationWritten {
        manifest: Arc::new(Manifest {
            view: view.id.clone(),
            stream: view.stream.clone(),
            number: GenerationNumber(number),
            parent: None,
            definition_version: view.version,
            sql: view.sql.clone(),
            mode: Some(RunMode::Full),
            run: None,
            inputs,
            files: vec![],
            created_at: at(),
        }),
    }
}

fn publish(view: &ViewDef, expected: Option<u64>, generation: u64, reason: PublishReason) -> Entry {
    Entry::GenerationPublished {
        view: view.id.clone(),
        expected: expected.map(GenerationNumber),
        generation: GenerationNumber(generation),
        reason,
    }
}

fn commit(state: &mut CatalogState, entries: Vec<Entry>) -> Result<(), CatalogConflict> {
    let commit = Commit {
        sequence: state.sequence + 1,
        nonce: 0,
        at: at(),
        entries,
    };
    state.apply(&commit)
}

fn with_view() -> (CatalogState, ViewDef) {
    let mut state = CatalogState::default();
    let view = view_def("v", "v1", "s1", 1);
    commit(
        &mut state,
        vec![stream("s", "s1"), Entry::ViewCreated { view: view.clone() }],
    )
    .unwrap();
    (state, view)
}

#[test]
fn a_commit_applies_whole_or_not_at_all() {
    let mut state = CatalogState::default();
    let before = state.clone();
    let error = commit(&mut state, vec![stream("s", "s1"), stream("s", "s2")]).unwrap_err();
    assert!(
        matches!(error, CatalogConflict::NameTaken { .. }),
        "{error}"
    );
    assert_eq!(state, before);
}

fn altered(state: &CatalogState, change: impl FnOnce(&mut StreamSchema)) -> Entry {
    let id: StreamId = "s1".parse().unwrap();
    let mut schema = state.streams[&id].def.schema.clone();
    change(&mut schema);
    Entry::StreamAltered { id, schema }
}

fn note() -> Column {
    Column {
        name: "note".to_owned(),
        column_type: ColumnType::Varchar,
        nullable: true,
    }
}

#[test]
fn a_streams_schema_grows_and_nothing_else_changes() {
    let (mut state, view) = with_view();
    let before = state.clone();
    let grown = altered(&state, |schema| schema.columns.push(note()));
    commit(&mut state, vec![grown]).unwrap();
    let columns = &state.stream_named("s").unwrap().def.schema.columns;
    assert_eq!(columns[1], note());
    assert_eq!(state.views, before.views);
    // By a definition that knows the new schema as by one that does not.
    let same = altered(&state, |_| {});
    commit(&mut state, vec![same]).unwrap();
    let refused = altered(&state, |schema| schema.columns.truncate(1));
    let error = commit(&mut state, vec![refused]).unwrap_err();
    assert!(
        error.to_string().contains("`note` would be gone"),
        "{error}"
    );
    assert_eq!(state.view_named("v").unwrap().def, view);
}

#[test]
fn a_dropped_stream_keeps_its_schema() {
    let mut state = CatalogState::default();
    commit(&mut state, vec![stream("s", "s1")]).unwrap();
    let grown = altered(&state, |schema| schema.columns.push(note()));
    let dropped = Entry::StreamDropped {
        id: "s1".parse().unwrap(),
    };
    commit(&mut state, vec![dropped]).unwrap();
    let error = commit(&mut state, vec![grown]).unwrap_err();
    assert!(matches!(error, CatalogConflict::Missing { .. }), "{error}");
}

/// Stream `s` on a topic.
fn on_a_topic() -> Entry {
    let mut entry = stream("s", "s1");
    if let Entry::StreamCreated { stream } = &mut entry {
        stream.source = Source::Kafka(Box::new(KafkaSource {
            settings: KafkaSettings {
                brokers: "b:1".to_owned(),
                topic: "t".to_owned(),
                format: MessageFormat::Json,
                schema_registry: None,
                start: StartAt::Earliest,
                tombstones: Tombstones::Skip,
                key_column: None,
                timestamp_column: None,
                headers_column: None,
                security: BTreeMap::new(),
            },
            topic_id: "i".to_owned(),
            start: Position::zero(),
        }));
    }
    entry
}

fn skipped(partition: u32, from: u64, to: u64) -> Entry {
    Entry::HoleSkipped {
        id: "s1".parse().unwrap(),
        hole: Hole {
            partition: PartitionId(partition),
            from: Offset(from),
            to: Offset(to),
            skipped_at: at(),
        },
    }
}

#[test]
fn holes_are_kept_in_order_and_the_newer_of_two_that_overlap() {
    let mut state = CatalogState::default();
    commit(&mut state, vec![on_a_topic()]).unwrap();
    let before = serde_json::to_string(&state).unwrap();
    assert!(!before.contains("holes"), "{before}");
    let holes = |state: &CatalogState| -> Vec<String> {
        let stream = state.stream_named("s").unwrap();
        stream.holes.iter().map(Hole::to_string).collect()
    };
    for hole in [skipped(1, 5, 9), skipped(0, 20, 30), skipped(0, 10, 20)] {
        commit(&mut state, vec![hole]).unwrap();
    }
    assert_eq!(holes(&state), ["0@10..20", "0@20..30", "1@5..9"]);
    commit(&mut state, vec![skipped(0, 8, 15)]).unwrap();
    assert_eq!(holes(&state), ["0@8..15", "0@20..30", "1@5..9"]);
    let text = serde_json::to_string(&state).unwrap();
    assert_eq!(serde_json::from_str::<CatalogState>(&text).unwrap(), state);
    let entry = serde_json::to_string(&skipped(0, 8, 15)).unwrap();
    assert_eq!(
        entry,
        r#"{"entry":"hole_skipped","id":"s1","hole":{"partition":0,"from":8,"to":15,"skipped_at":"1970-01-01T00:00:00Z"}}"#
    );
}

#[test]
fn a_hole_that_cannot_be_is_refused() {
    let mut state = CatalogState::default();
    commit(&mut state, vec![on_a_topic()]).unwrap();
    let empty = commit(&mut state, vec![skipped(0, 9, 9)]).unwrap_err();
    assert!(empty.to_string().contains("`0@9..9` is empty"), "{empty}");
    let mut state = CatalogState::default();
    let missing = commit(&mut state, vec![skipped(0, 8, 9)]).unwrap_err();
    assert!(
        matches!(missing, CatalogConflict::Missing { .. }),
        "{missing}"
    );
    commit(&mut state, vec![stream("s", "s1")]).unwrap();
    let embedded = commit(&mut state, vec![skipped(0, 8, 9)]).unwrap_err();
    assert!(
        embedded.to_string().contains("reads no topic"),
        "{embedded}"
    );
}

#[test]
fn a_commit_out_of_sequence_is_refused() {
    let mut state = CatalogState::default();
    let skipped = Commit {
        sequence: 2,
        nonce: 0,
        at: at(),
        entries: vec![],
    };
    assert!(matches!(
        state.apply(&skipped),
        Err(CatalogConflict::Sequence { .. })
    ));
}

#[test]
fn a_stream_in_use_cannot_be_dropped_and_a_view_shares_its_name_space() {
    let (mut state, view) = with_view();
    let id: StreamId = "s1".parse().unwrap();
    assert!(matches!(
        commit(&mut state, vec![Entry::StreamDropped { id: id.clone() }]),
        Err(CatalogConflict::InUse { .. })
    ));
    assert!(matches!(
        commit(&mut state, vec![stream("v", "s9")]),
        Err(CatalogConflict::NameTaken { .. })
    ));
    commit(
        &mut state,
        vec![
            Entry::ViewDropped {
                id: view.id.clone(),
            },
            Entry::StreamDropped { id: id.clone() },
        ],
    )
    .unwrap();
    commit(&mut state, vec![stream("s", "s2")]).unwrap();
    assert!(matches!(
        commit(&mut state, vec![Entry::StreamUndropped { id }]),
        Err(CatalogConflict::NameTaken { .. })
    ));
}

#[test]
fn the_pointer_moves_only_from_where_the_writer_saw_it() {
    let (mut state, view) = with_view();
    commit(
        &mut state,
        vec![
            manifest(&view, 1, 5),
            publish(&view, None, 1, PublishReason::Promoted),
        ],
    )
    .unwrap();
    let lost = commit(
        &mut state,
        vec![
            manifest(&view, 2, 9),
            publish(&view, None, 2, PublishReason::Promoted),
        ],
    );
    assert!(matches!(lost, Err(CatalogConflict::PointerMoved { .. })));
    assert_eq!(state.views[&view.id].live, Some(GenerationNumber(1)));
}

#[test]
fn the_seam_never_moves_back() {
    let (mut state, view) = with_view();
    commit(
        &mut state,
        vec![
            manifest(&view, 1, 5),
            publish(&view, None, 1, PublishReason::Created),
        ],
    )
    .unwrap();
    let back = commit(
        &mut state,
        vec![
            manifest(&view, 2, 4),
            publish(&view, Some(1), 2, PublishReason::RolledBack),
        ],
    );
    assert!(matches!(back, Err(CatalogConflict::Contradiction(_))));
}

#[test]
fn rollback_target_ignores_refreshes() {
    let (mut state, view) = with_view();
    commit(
        &mut state,
        vec![
            manifest(&view, 1, 1),
            publish(&view, None, 1, PublishReason::Created),
        ],
    )
    .unwrap();
    commit(
        &mut state,
        vec![
            manifest(&view, 2, 2),
            publish(&view, Some(1), 2, PublishReason::Promoted),
        ],
    )
    .unwrap();
    let epoch = state.views[&view.id].pointer_epoch;
    commit(
        &mut state,
        vec![
            manifest(&view, 3, 3),
            publish(&view, Some(2), 3, PublishReason::Refreshed),
        ],
    )
    .unwrap();
    let v = &state.views[&view.id];
    assert_eq!(
        (v.before_promote, v.live),
        (Some(GenerationNumber(1)), Some(GenerationNumber(3)))
    );
    assert_eq!(
        v.pointer_epoch, epoch,
        "an incremental run never makes a staged run stale"
    );
}

#[test]
fn publishing_a_generation_of_another_definition_swaps_the_definition() {
    let (mut state, old) = with_view();
    commit(
        &mut state,
        vec![
            manifest(&old, 1, 1),
            publish(&old, None, 1, PublishReason::Created),
        ],
    )
    .unwrap();
    let new = view_def("v", "v1", "s1", 2);
    commit(&mut state, vec![Entry::ViewRedefined { view: new.clone() }]).unwrap();
    assert_eq!(
        state.views[&old.id].def.version, 1,
        "the old definition stays in force while the new one is built"
    );
    commit(
        &mut state,
        vec![
            manifest(&new, 2, 2),
            publish(&old, Some(1), 2, PublishReason::Promoted),
        ],
    )
    .unwrap();
    assert_eq!(state.views[&old.id].def.sql, new.sql);
    assert_eq!(state.views[&old.id].pending, None);
    commit(
        &mut state,
        vec![
            manifest(&old, 3, 2),
            publish(&old, Some(2), 3, PublishReason::RolledBack),
        ],
    )
    .unwrap();
    assert_eq!(state.views[&old.id].def.sql, old.sql);
}

#[test]
fn options_are_of_the_view_and_not_of_one_of_its_definitions() {
    let (mut state, view) = with_view();
    let mut second = view_def("v", "v1", "s1", 2);
    second.refresh_s = Some(10);
    let redefined = Entry::ViewRedefined {
        view: second.clone(),
    };
    commit(&mut state, vec![redefined]).unwrap();
    let options = |state: &CatalogState| {
        let view = &state.views[&view.id];
        let pending = view.pending.as_ref().map(|pending| pending.refresh_s);
        (view.def.refresh_s, pending)
    };
    assert_eq!(options(&state), (Some(10), Some(Some(10))));
    assert_eq!(state.views[&view.id].def.version, 1);
    let mut altered = state.views[&view.id].def.clone();
    altered.refresh_s = Some(60);
    commit(&mut state, vec![Entry::ViewAltered { view: altered }]).unwrap();
    assert_eq!(options(&state), (Some(60), Some(Some(60))));
    commit(
        &mut state,
        vec![
            manifest(&second, 1, 1),
            publish(&view, None, 1, PublishReason::Promoted),
        ],
    )
    .unwrap();
    assert_eq!(options(&state), (Some(60), None));
}

#[test]
fn a_rollback_gives_up_what_is_being_built_and_a_refresh_does_not() {
    let (mut state, view) = with_view();
    let second = view_def("v", "v1", "s1", 2);
    commit(
        &mut state,
        vec![
            manifest(&view, 1, 1),
            publish(&view, None, 1, PublishReason::Promoted),
            manifest(&view, 2, 1),
            publish(&view, Some(1), 2, PublishReason::Promoted),
            Entry::ViewRedefined { view: second },
            manifest(&view, 3, 2),
            publish(&view, Some(2), 3, PublishReason::Refreshed),
        ],
    )
    .unwrap();
    assert!(state.views[&view.id].is_building());
    commit(
        &mut state,
        vec![
            manifest(&view, 4, 2),
            publish(&view, Some(3), 4, PublishReason::RolledBack),
        ],
    )
    .unwrap();
    assert!(!state.views[&view.id].is_building());
}

#[test]
fn a_version_is_never_used_twice_not_even_after_a_rollback() {
    let (mut state, view) = with_view();
    let second = view_def("v", "v1", "s1", 2);
    let redefined = |def: &ViewDef| Entry::ViewRedefined { view: def.clone() };
    commit(
        &mut state,
        vec![
            manifest(&view, 1, 5),
            publish(&view, None, 1, PublishReason::Promoted),
            redefined(&second),
            manifest(&second, 2, 5),
            publish(&view, Some(1), 2, PublishReason::Promoted),
            manifest(&view, 3, 5),
            publish(&view, Some(2), 3, PublishReason::RolledBack),
        ],
    )
    .unwrap();
    assert_eq!(state.views[&view.id].def.version, 1);

    let again = commit(&mut state, vec![redefined(&second)]).unwrap_err();
    assert!(again.to_string().contains("next version"), "{again}");
    assert_eq!(state.views[&view.id].next_version, 3);
    let third = view_def("v", "v1", "s1", 3);
    let early = commit(&mut state, vec![manifest(&third, 4, 5)]).unwrap_err();
    assert!(early.to_string().contains("unknown definition"), "{early}");
    commit(&mut state, vec![redefined(&third), manifest(&third, 4, 5)]).unwrap();
}

#[test]
fn a_run_that_ended_stays_ended() {
    let (mut state, view) = with_view();
    let mut run = BatchRun::begun(RunId(1), view.id, RunMode::Full, "user", at());
    commit(
        &mut state,
        vec![Entry::Run {
            run: Box::new(run.clone()),
        }],
    )
    .unwrap();
    assert!(state.running(&run.view, false).is_some() && state.running(&run.view, true).is_none());
    // Staged, it is at work for as long as it is going to promote itself.
    for (dry_run, at_work) in [(false, true), (true, false)] {
        run.outcome = Outcome::Staged;
        run.dry_run = dry_run;
        let staged = Entry::Run {
            run: Box::new(run.clone()),
        };
        commit(&mut state, vec![staged]).unwrap();
        assert_eq!(state.running(&run.view, false).is_some(), at_work);
    }
    run.outcome = Outcome::Failed;
    commit(
        &mut state,
        vec![Entry::Run {
            run: Box::new(run.clone()),
        }],
    )
    .unwrap();
    run.outcome = Outcome::Promoted;
    assert!(commit(&mut state, vec![Entry::Run { run: Box::new(run) }]).is_err());
}

#[test]
fn a_state_survives_json() {
    let (mut state, view) = with_view();
    commit(
        &mut state,
        vec![
            manifest(&view, 1, 5),
            publish(&view, None, 1, PublishReason::Promoted),
        ],
    )
    .unwrap();
    let text = serde_json::to_string(&state).unwrap();
    assert_eq!(serde_json::from_str::<CatalogState>(&text).unwrap(), state);
}

#[test]
fn an_expired_generation_is_remembered_until_its_files_are_deleted() {
    let (mut state, view) = with_view();
    commit(&mut state, vec![manifest(&view, 1, 5)]).unwrap();
    let generations = vec![GenerationNumber(1)];
    let expired = Entry::GenerationsExpired {
        view: view.id.clone(),
        generations: generations.clone(),
    };
    let later = at() + chrono::TimeDelta::hours(5);
    let expiring = Commit {
        sequence: state.sequence + 1,
        nonce: 0,
        at: later,
        entries: vec![expired.clone()],
    };
    state.apply(&expiring).unwrap();
    // A second entry for the same generation does not start its grace anew.
    commit(&mut state, vec![expired]).unwrap();
    let known = &state.views[&view.id];
    assert!(known.generations.is_empty());
    assert_eq!(known.expired[&GenerationNumber(1)].at, later);
    let deleted = Entry::GenerationsDeleted {
        view: view.id.clone(),
        generations,
    };
    commit(&mut state, vec![deleted]).unwrap();
    assert!(state.views[&view.id].expired.is_empty());
}

/// What [`crate::VolumeTrigger`] counts from: a restart finds it again, whatever the ledger has let go of.
#[test]
fn only_a_full_run_that_is_promoted_moves_what_was_recomputed() {
    let (mut state, view) = with_view();
    let ended = |state: &mut CatalogState, id, mode, outcome, to| {
        let span = crate::Span::up_to(Position::single(Offset(to)));
        let run = BatchRun {
            outcome,
            span: Some(span),
            ..BatchRun::begun(RunId(id), view.id.clone(), mode, "user", at())
        };
        commit(state, vec![Entry::Run { run: Box::new(run) }]).unwrap();
        state.views[&view.id].recomputed_to.get(PartitionId(0)).0
    };
    use {Outcome::*, RunMode::*};
    assert_eq!(ended(&mut state, 1, Full, Staged, 7), 0);
    assert_eq!(ended(&mut state, 1, Full, Promoted, 7), 7);
    assert_eq!(ended(&mut state, 2, Full, Failed, 9), 7);
    assert_eq!(ended(&mut state, 3, Full, Discarded, 9), 7);
    assert_eq!(ended(&mut state, 4, Incremental, Promoted, 11), 7);
    assert_eq!(ended(&mut state, 5, Repair, Promoted, 13), 7);
    assert_eq!(ended(&mut state, 6, Full, Promoted, 15), 15);
    let all = (1..=6).map(RunId).collect();
    commit(&mut state, vec![Entry::RunsExpired { runs: all }]).unwrap();
    let text = serde_json::to_string(&state).unwrap();
    let read: CatalogState = serde_json::from_str(&text).unwrap();
    let view = read.view_named("v").unwrap();
    assert_eq!(view.recomputed_to, Position::single(Offset(15)));
}
