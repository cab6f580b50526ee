// SPDX-License-Identifier: Apache-2.0
use std::sync::Arc;

use chrono::TimeZone as _;
use dovetail_model::{
    BatchRun, Column, ColumnType, Commit, GenerationInputs, GenerationNumber, Manifest, Outcome,
    Position, PublishReason, RunId, StreamDef, StreamId, StreamSchema, UnknownColumns, ViewDef,
    VolumeTrigger,
};

use super::*;

fn at(text: &str) -> DateTime<Utc> {
    Utc.from_utc_datetime(
        &chrono::NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S").unwrap(),
    )
}

fn commit(state: &mut CatalogState, entries: Vec<Entry>) {
    let commit = Commit {
        sequence: state.sequence + 1,
        nonce: 0,
        at: at("2026-01-01 00:00:00"),
        entries,
    };
    state.apply(&commit).unwrap();
}

#[test]
fn a_dropped_view_is_called_by_its_name() {
    let (mut state, id) = scheduled();
    commit(&mut state, vec![Entry::ViewDropped { id: id.clone() }]);
    let error = live_view(&state, &id).err().unwrap();
    assert_eq!(
        error.to_string(),
        "view `v` was dropped; UNDROP VIEW v restores it"
    );
    assert_eq!(state.view_name(&id), "v");
    let unknown = "v9".parse().unwrap();
    assert_eq!(state.view_name(&unknown), "v9");
}

/// A live view with a nightly full run at three and a refresh every minute, declared at noon.
fn scheduled() -> (CatalogState, ViewId) {
    let mut state = CatalogState::default();
    let schema = StreamSchema {
        columns: vec![Column {
            name: "x".to_owned(),
            column_type: ColumnType::Int,
            nullable: true,
        }],
        event_time: None,
        unknown_columns: UnknownColumns::Ignore,
    };
    let noon = at("2026-01-01 12:00:00");
    let stream = StreamDef {
        id: "s1".parse().unwrap(),
        name: "s".to_owned(),
        schema,
        source: dovetail_model::Source::Embedded,
        created_at: noon,
    };
    let view = ViewDef {
        id: "v1".parse().unwrap(),
        name: "v".to_owned(),
        stream: stream.id.clone(),
        sql: "SELECT count(*) FROM s".to_owned(),
        recompute: Some("0 3 * * *".to_owned()),
        recompute_after: Default::default(),
        refresh_s: Some(60),
        version: 1,
        definition_hash: "h".to_owned(),
        defined_at: noon,
    };
    let manifest = Manifest {
        view: view.id.clone(),
        stream: stream.id.clone(),
        number: GenerationNumber(1),
        parent: None,
        definition_version: 1,
        sql: view.sql.clone(),
        mode: None,
        run: None,
        inputs: GenerationInputs {
            horizon: Position::zero(),
            raw_version: 0,
            definition_hash: "h".to_owned(),
            exclusions: vec![],
            state_fingerprint: "f".to_owned(),
        },
        files: vec![],
        created_at: noon,
    };
    let id = view.id.clone();
    let publish = Entry::GenerationPublished {
        view: id.clone(),
        expected: None,
        generation: GenerationNumber(1),
        reason: PublishReason::Created,
    };
    let written = Entry::GenerationWritten {
        manifest: Arc::new(manifest),
    };
    commit(
        &mut state,
        vec![
            Entry::StreamCreated { stream },
            Entry::ViewCreated { view },
            written,
            publish,
        ],
    );
    (state, id)
}

fn run(view: &ViewId, id: u64, mode: RunMode, outcome: Outcome, started: &str) -> Entry {
    let run = BatchRun {
        outcome,
        ended_at: Some(at(started)),
        ..BatchRun::begun(RunId(id), view.clone(), mode, "schedule", at(started))
    };
    Entry::Run { run: Box::new(run) }
}

fn modes(state: &CatalogState, now: &str) -> Vec<(RunMode, &'static str)> {
    due_runs(state, at(now), &MemoryDemand::default(), &BTreeMap::new())
        .into_iter()
        .map(|due| (due.mode, due.trigger))
        .collect()
}

#[test]
fn nothing_is_due_before_its_time() {
    let (state, _) = scheduled();
    assert_eq!(modes(&state, "2026-01-01 12:00:59"), vec![]);
    assert_eq!(
        modes(&state, "2026-01-01 12:01:00"),
        vec![(RunMode::Incremental, "schedule")]
    );
}

#[test]
fn any_number_of_missed_times_is_one_run() {
    let (mut state, id) = scheduled();
    let due = due_runs(
        &state,
        at("2026-01-05 02:59:59"),
        &MemoryDemand::default(),
        &BTreeMap::new(),
    );
    let full: Vec<_> = due
        .into_iter()
        .filter(|due| due.mode == RunMode::Full)
        .collect();
    assert_eq!(full.len(), 1);
    assert_eq!(
        full[0].due,
        Some(at("2026-01-04 03:00:00")),
        "the latest missed time"
    );
    commit(
        &mut state,
        vec![Entry::ScheduleServed {
            view: id,
            due: at("2026-01-04 03:00:00"),
        }],
    );
    let due = due_runs(
        &state,
        at("2026-01-05 02:59:59"),
        &MemoryDemand::default(),
        &BTreeMap::new(),
    );
    assert!(due.iter().all(|due| due.mode != RunMode::Full), "served");
}

#[test]
fn a_running_run_of_the_lane_and_a_pause_hold_back() {
    let (mut state, id) = scheduled();
    commit(
        &mut state,
        vec![run(
            &id,
            1,
            RunMode::Repair,
            Outcome::Running,
            "2026-01-02 03:00:00",
        )],
    );
    commit(
        &mut state,
        vec![run(
            &id,
            2,
            RunMode::Incremental,
            Outcome::Running,
            "2026-01-02 03:00:00",
        )],
    );
    assert_eq!(modes(&state, "2026-01-02 04:00:00"), vec![]);
    let (mut state, id) = scheduled();
    commit(
        &mut state,
        vec![Entry::SchedulePaused {
            view: id,
            paused: true,
        }],
    );
    assert_eq!(
        modes(&state, "2026-01-02 04:00:00"),
        vec![(RunMode::Incremental, "schedule")]
    );
}

fn pressed(stream: &StreamId) -> MemoryDemand {
    MemoryDemand {
        pressed: Some(stream.clone()),
        ..MemoryDemand::default()
    }
}

#[test]
fn a_view_that_let_go_of_its_runs_gets_incremental_ones_until_one_succeeds() {
    let (mut state, id) = scheduled();
    let memory = MemoryDemand {
        shed: [id.clone()].into(),
        ..MemoryDemand::default()
    };
    let triggers = |state: &CatalogState, now: &str| -> Vec<&'static str> {
        let due = due_runs(state, at(now), &memory, &BTreeMap::new());
        due.into_iter().map(|due| due.trigger).collect()
    };
    assert_eq!(triggers(&state, "2026-01-01 12:00:10"), vec!["memory"]);
    let failed = run(
        &id,
        1,
        RunMode::Incremental,
        Outcome::Failed,
        "2026-01-01 12:00:10",
    );
    commit(&mut state, vec![failed]);
    assert!(triggers(&state, "2026-01-01 12:01:09").is_empty());
    assert_eq!(triggers(&state, "2026-01-01 12:01:10"), vec!["memory"]);
}

#[test]
fn memory_pressure_asks_for_incremental_runs_of_that_stream() {
    let (state, _) = scheduled();
    let now = at("2026-01-01 12:00:10");
    let (of, other) = ("s1".parse().unwrap(), "s2".parse().unwrap());
    assert_eq!(
        due_runs(&state, now, &pressed(&of), &BTreeMap::new())
            .iter()
            .map(|d| d.trigger)
            .collect::<Vec<_>>(),
        vec!["memory"]
    );
    assert_eq!(
        due_runs(&state, now, &pressed(&other), &BTreeMap::new()),
        vec![]
    );
}

#[test]
fn a_failed_build_is_tried_again_after_a_pause_and_an_interrupted_one_at_once() {
    let (mut state, id) = scheduled();
    let mut next = state.views[&id].def.clone();
    next.version = 2;
    commit(&mut state, vec![Entry::ViewRedefined { view: next }]);
    assert_eq!(
        modes(&state, "2026-01-01 12:00:10"),
        vec![(RunMode::Full, "build")]
    );
    commit(
        &mut state,
        vec![run(
            &id,
            1,
            RunMode::Full,
            Outcome::Failed,
            "2026-01-01 12:00:10",
        )],
    );
    assert_eq!(modes(&state, "2026-01-01 12:00:20"), vec![]);
    assert!(modes(&state, "2026-01-01 12:01:10").contains(&(RunMode::Full, "build")));
    let Entry::Run { run: mut cut_off } = run(
        &id,
        2,
        RunMode::Full,
        Outcome::Failed,
        "2026-01-01 12:02:00",
    ) else {
        panic!("a run entry")
    };
    cut_off.error = Some("interrupted".to_owned());
    commit(&mut state, vec![Entry::Run { run: cut_off }]);
    assert!(modes(&state, "2026-01-01 12:02:01").contains(&(RunMode::Full, "build")));
}

#[test]
fn what_fails_again_and_again_is_tried_less_and_less_until_something_is_promoted() {
    let (mut state, id) = scheduled();
    let failed = |number, started| run(&id, number, RunMode::Incremental, Outcome::Failed, started);
    let due = vec![(RunMode::Incremental, "schedule")];
    let next = |state: &CatalogState, now| next_incremental(state, &state.views[&id], at(now));
    commit(&mut state, vec![failed(1, "2026-01-01 12:01:00")]);
    let told = next(&state, "2026-01-01 12:01:10");
    assert_eq!(
        told,
        Some(at("2026-01-01 12:02:00")),
        "not before it is tried again"
    );
    let told = next(&state, "2026-01-01 12:30:00");
    assert_eq!(told, Some(at("2026-01-01 12:30:00")), "never in the past");
    assert_eq!(modes(&state, "2026-01-01 12:01:59"), vec![]);
    assert_eq!(modes(&state, "2026-01-01 12:02:00"), due);
    commit(&mut state, vec![failed(2, "2026-01-01 12:02:00")]);
    assert_eq!(modes(&state, "2026-01-01 12:03:59"), vec![]);
    assert_eq!(modes(&state, "2026-01-01 12:04:00"), due);
    for number in 3..20 {
        commit(&mut state, vec![failed(number, "2026-01-01 12:04:00")]);
    }
    assert_eq!(modes(&state, "2026-01-01 13:07:59"), vec![]);
    assert_eq!(
        modes(&state, "2026-01-01 13:08:00"),
        due,
        "never more than an hour or so"
    );
    let stream = "s1".parse().unwrap();
    let under_pressure = due_runs(
        &state,
        at("2026-01-01 12:30:00"),
        &pressed(&stream),
        &BTreeMap::new(),
    );
    assert_eq!(under_pressure, vec![], "not under memory pressure either");
    let healed = run(
        &id,
        20,
        RunMode::Full,
        Outcome::Promoted,
        "2026-01-01 12:05:00",
    );
    commit(&mut state, vec![healed]);
    assert_eq!(modes(&state, "2026-01-01 12:05:01"), due);
}

#[test]
fn an_exclusion_makes_a_failed_build_due_at_once() {
    let (mut state, id) = scheduled();
    let mut next = state.views[&id].def.clone();
    next.version = 2;
    commit(&mut state, vec![Entry::ViewRedefined { view: next }]);
    let failed = run(
        &id,
        1,
        RunMode::Full,
        Outcome::Failed,
        "2026-01-01 12:00:10",
    );
    commit(&mut state, vec![failed]);
    assert_eq!(modes(&state, "2026-01-01 12:00:20"), vec![]);
    let exclusion = dovetail_model::Exclusion {
        id: dovetail_model::ExclusionId(1),
        predicate: "x = 0".to_owned(),
        reason: "cannot be divided by".to_owned(),
        bound: Position::zero(),
        declared_at: at("2026-01-01 12:00:19"),
    };
    let stream = "s1".parse().unwrap();
    commit(
        &mut state,
        vec![Entry::ExclusionDeclared { stream, exclusion }],
    );
    assert_eq!(
        modes(&state, "2026-01-01 12:00:20"),
        vec![(RunMode::Full, "build")]
    );
}

/// The view of [`scheduled`] without a cron, recomputed after so many events.
fn by_volume(events: u64) -> (CatalogState, ViewId) {
    let (mut state, id) = scheduled();
    let mut view = state.views[&id].def.clone();
    view.recompute = None;
    view.recompute_after = VolumeTrigger {
        events: Some(events),
        bytes: None,
    };
    commit(&mut state, vec![Entry::ViewAltered { view }]);
    (state, id)
}

/// Whether `events` behind the last full run start one at `now`.
fn starts(state: &CatalogState, id: &ViewId, events: u64, now: &str) -> bool {
    let archived = BTreeMap::from([(id.clone(), Volume { events, bytes: 0 })]);
    let due = due_runs(state, at(now), &MemoryDemand::default(), &archived);
    let full: Vec<_> = due.iter().filter(|due| due.mode == RunMode::Full).collect();
    assert!(
        full.iter()
            .all(|due| due.trigger == "volume" && due.due.is_none())
    );
    !full.is_empty()
}

#[test]
fn enough_archived_events_start_a_full_run() {
    let (state, id) = by_volume(100);
    assert!(!starts(&state, &id, 99, "2026-01-01 12:00:00"));
    assert!(starts(&state, &id, 100, "2026-01-01 12:00:00"));
}

#[test]
fn a_rollback_pauses_volume_as_it_does_cron_and_a_run_at_work_is_enough() {
    let (mut state, id) = by_volume(100);
    let pause = |paused| Entry::SchedulePaused {
        view: id.clone(),
        paused,
    };
    commit(&mut state, vec![pause(true)]);
    assert!(!starts(&state, &id, 500, "2026-01-02 04:00:00"));
    commit(&mut state, vec![pause(false)]);
    assert!(starts(&state, &id, 500, "2026-01-02 04:00:00"));
    let began = "2026-01-02 04:00:00";
    let running = run(&id, 1, RunMode::Repair, Outcome::Running, began);
    commit(&mut state, vec![running]);
    assert!(!starts(&state, &id, 500, "2026-01-02 05:00:00"));
}

#[test]
fn volume_waits_longer_after_each_failure_also_when_the_process_went_down() {
    let (mut state, id) = by_volume(100);
    let failed = |number, error: &str, at| {
        let Entry::Run { run } = run(&id, number, RunMode::Full, Outcome::Failed, at) else {
            unreachable!("it is a run")
        };
        let error = Some(error.to_owned());
        let run = Box::new(BatchRun { error, ..*run });
        Entry::Run { run }
    };
    commit(
        &mut state,
        vec![failed(1, "division by zero", "2026-01-02 03:00:00")],
    );
    assert!(!starts(&state, &id, 500, "2026-01-02 03:00:59"));
    assert!(starts(&state, &id, 500, "2026-01-02 03:01:00"));
    commit(
        &mut state,
        vec![failed(2, "interrupted", "2026-01-02 03:01:00")],
    );
    assert!(!starts(&state, &id, 500, "2026-01-02 03:02:59"));
    assert!(starts(&state, &id, 500, "2026-01-02 03:03:00"));
}

/// The clock was in 2027 for a while: what was served, started or failed then keeps nothing waiting for a year.
#[test]
fn a_clock_that_was_ahead_silences_no_schedule() {
    let (mut state, id) = scheduled();
    let served = |due: &str| Entry::ScheduleServed {
        view: id.clone(),
        due: at(due),
    };
    let ahead = "2027-01-01 03:00:00";
    let promoted = run(&id, 1, RunMode::Incremental, Outcome::Promoted, ahead);
    commit(&mut state, vec![served(ahead), promoted]);
    let now = "2026-01-05 12:00:00";
    let both = vec![
        (RunMode::Full, "schedule"),
        (RunMode::Incremental, "schedule"),
    ];
    assert_eq!(modes(&state, now), both);
    let next = next_incremental(&state, &state.views[&id], at(now));
    assert_eq!(next, Some(at(now)));
    let due = due_full(&state, &state.views[&id], at(now), None).unwrap();
    assert_eq!(due.due, Some(at(now)));
    // From there it goes on.
    let incremental = run(&id, 2, RunMode::Incremental, Outcome::Promoted, now);
    commit(&mut state, vec![served(now), incremental]);
    assert_eq!(modes(&state, "2026-01-05 12:00:59"), vec![]);
    assert_eq!(modes(&state, "2026-01-06 03:00:00"), both);
    // A step back across the time that was served is no reason to serve it again.
    let three = "2026-01-06 03:00:00";
    let incremental = run(&id, 3, RunMode::Incremental, Outcome::Promoted, three);
    commit(&mut state, vec![served(three), incremental]);
    let due = due_full(&state, &state.views[&id], at("2026-01-06 02:59:58"), None);
    assert_eq!(due, None);
}

#[test]
fn a_pause_that_ends_in_a_future_that_was_none_is_over() {
    let (mut state, id) = scheduled();
    let ahead = "2027-01-01 03:00:00";
    let failed = run(&id, 1, RunMode::Incremental, Outcome::Failed, ahead);
    commit(&mut state, vec![failed]);
    let incremental = vec![(RunMode::Incremental, "schedule")];
    assert_eq!(modes(&state, "2026-01-01 12:02:00"), incremental);
    let stream = state.views[&id].def.stream.clone();
    let due = due_runs(
        &state,
        at("2026-01-01 12:00:30"),
        &pressed(&stream),
        &BTreeMap::new(),
    );
    assert_eq!(due[0].trigger, "memory");
}

/// A jump of years is answered at once, however often the schedule would have come in between.
#[test]
fn a_jump_of_years_is_one_run() {
    let (mut state, id) = scheduled();
    let mut def = state.views[&id].def.clone();
    def.recompute = Some("* * * * *".to_owned());
    let view = ViewState {
        def,
        ..state.views.remove(&id).unwrap()
    };
    let due = due_full(&state, &view, at("2126-01-01 00:00:30"), None).unwrap();
    assert_eq!(due.due, Some(at("2126-01-01 00:00:00")));
}
