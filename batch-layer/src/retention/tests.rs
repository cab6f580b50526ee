// SPDX-License-Identifier: Apache-2.0
use std::collections::BTreeMap;
use std::sync::Arc;

use dovetail_model::{
    BatchRun, ExpiredGeneration, GenerationInputs, Manifest, Position, RunMode, ViewDef,
};

use super::*;

fn at(minutes: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::minutes(minutes)
}

fn manifest(number: u64, files: &[&str]) -> Arc<Manifest> {
    let file = |path: &&str| DataFile {
        path: (*path).to_owned(),
        rows: 1,
        bytes: 1,
        decoded_bytes: None,
        checksum: String::new(),
        first_key: String::new(),
        last_key: String::new(),
    };
    Arc::new(Manifest {
        view: "v1".parse().unwrap(),
        stream: "s1".parse().unwrap(),
        number: GenerationNumber(number),
        parent: None,
        definition_version: 1,
        sql: String::new(),
        mode: None,
        run: None,
        inputs: GenerationInputs {
            horizon: Position::zero(),
            raw_version: 0,
            definition_hash: String::new(),
            exclusions: vec![],
            state_fingerprint: String::new(),
        },
        files: files.iter().map(file).collect(),
        created_at: at(0),
    })
}

fn view(readable: &[(u64, &[&str])], expired: &[(u64, &[&str], i64)]) -> ViewState {
    let def = ViewDef {
        id: "v1".parse().unwrap(),
        name: "v".to_owned(),
        stream: "s1".parse().unwrap(),
        sql: String::new(),
        recompute: None,
        recompute_after: Default::default(),
        refresh_s: None,
        version: 1,
        definition_hash: String::new(),
        defined_at: at(0),
    };
    let expired = expired.iter().map(|(number, files, minutes)| {
        let manifest = manifest(*number, files);
        let at = at(*minutes);
        (
            GenerationNumber(*number),
            ExpiredGeneration { manifest, at },
        )
    });
    ViewState {
        def,
        pending: None,
        next_version: 2,
        dropped_at: None,
        live: None,
        before_promote: None,
        generations: readable
            .iter()
            .map(|(number, files)| (GenerationNumber(*number), manifest(*number, files)))
            .collect::<BTreeMap<_, _>>(),
        expired: expired.collect(),
        next_generation: GenerationNumber(9),
        pointer_epoch: 0,
        published_at: 0,
        schedule_paused: false,
        schedule_served: None,
        recomputed_to: Position::zero(),
    }
}

/// Names of the files that go, and numbers of the generations that are forgotten, at the last of `sweeps`, each of
/// which finds the files that are `listed` since then.
fn gone(view: &ViewState, listed: &[(&str, i64)], sweeps: &[i64]) -> (Vec<String>, Vec<u64>) {
    let policy = RetentionPolicy::default();
    let root = Path::from("views/v1");
    let mut seen = Sightings::default();
    let mut last = Garbage::default();
    for now in sweeps {
        let there = listed.iter().filter(|(_, since)| since <= now);
        let there = there.map(|(path, _)| Path::from(format!("{root}/{path}")));
        last = garbage(view, &root, there.collect(), &mut seen, &policy, at(*now));
    }
    let name = |path: &Path| path.filename().unwrap().to_owned();
    let numbers = last.generations.iter().map(|number| number.0);
    (last.files.iter().map(name).collect(), numbers.collect())
}

#[test]
fn an_old_file_gets_its_grace_from_the_commit_that_made_it_garbage() {
    let view = view(&[], &[(3, &["a"], 1000)]);
    let written_long_ago = [("a", 0)];
    assert_eq!(gone(&view, &written_long_ago, &[0, 1000]), (vec![], vec![]));
    assert_eq!(gone(&view, &written_long_ago, &[0, 1060]), (vec![], vec![]));
    let after = (vec!["a".to_owned()], vec![3]);
    assert_eq!(gone(&view, &written_long_ago, &[1061]), after);
}

#[test]
fn a_file_that_was_never_named_goes_an_hour_after_it_was_seen_first() {
    let view = view(&[(1, &["live"])], &[]);
    let listed = [("left-by-a-crash", 100), ("just-written", 150), ("live", 0)];
    let after = (vec!["left-by-a-crash".to_owned()], vec![]);
    assert_eq!(gone(&view, &listed, &[100, 159]), (vec![], vec![]));
    assert_eq!(gone(&view, &listed, &[100, 150, 160]), after);
    // Whenever it was written: nobody knows by which clock.
    assert_eq!(gone(&view, &listed, &[1000]), (vec![], vec![]));
}

#[test]
fn a_shared_file_lives_as_long_as_the_last_generation_that_names_it() {
    let shared = view(&[(2, &["both"])], &[(1, &["both", "alone"], 0)]);
    let listed = [("both", 0), ("alone", 0)];
    assert_eq!(
        gone(&shared, &listed, &[100]),
        (vec!["alone".to_owned()], vec![1])
    );
    let twice = view(&[], &[(1, &["both"], 0), (2, &["both"], 90)]);
    assert_eq!(gone(&twice, &[("both", 0)], &[100]), (vec![], vec![1]));
}

#[test]
fn the_ledger_keeps_the_newest_runs_what_is_at_work_and_what_made_a_readable_generation() {
    let mut view = view(&[(1, &[]), (2, &[])], &[]);
    let made = view.generations.get_mut(&GenerationNumber(2)).unwrap();
    Arc::make_mut(made).run = Some(RunId(2));
    let run = |(index, outcome): (usize, &Outcome)| {
        let id = RunId(index as u64 + 1);
        let run = BatchRun::begun(id, view.def.id.clone(), RunMode::Full, "user", at(0));
        let outcome = *outcome;
        (id, Arc::new(BatchRun { outcome, ..run }))
    };
    let outcomes = [
        Outcome::Promoted,
        Outcome::Promoted,
        Outcome::Staged,
        Outcome::Failed,
        Outcome::Promoted,
        Outcome::Cancelled,
    ];
    let state = CatalogState {
        runs: outcomes.iter().enumerate().map(run).collect(),
        ..CatalogState::default()
    };
    let policy = RetentionPolicy {
        keep_runs: 2,
        ..RetentionPolicy::default()
    };
    assert_eq!(expired_runs(&state, &view, &policy), [RunId(4), RunId(1)]);
}
