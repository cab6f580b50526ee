// SPDX-License-Identifier: Apache-2.0
//! Every input of the corpus, and the smallest changes of each, through its target.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::fs;
use std::path::{Path, PathBuf};

use dovetail_fuzz::{Check, TARGETS};

fn inputs(name: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(name);
    let entries =
        fs::read_dir(&directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
    let mut inputs: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    inputs.sort();
    inputs
}

/// An input whole, cut in half, doubled, and with a byte of it changed.
fn check(check: Check, input: &[u8]) {
    check(input);
    check(&input[..input.len() / 2]);
    check(&[input, input].concat());
    for place in [0, input.len() / 3, input.len() * 2 / 3] {
        let mut changed = input.to_vec();
        if let Some(byte) = changed.get_mut(place) {
            *byte ^= 0x20;
        }
        check(&changed);
    }
}

#[test]
fn what_holds_of_any_bytes_holds_of_these() {
    for (name, target) in TARGETS {
        let inputs = inputs(name);
        assert!(inputs.len() > 1, "{name} has no corpus");
        for path in inputs {
            check(target, &fs::read(&path).unwrap());
        }
    }
}

#[test]
fn every_directory_of_the_corpus_has_a_target() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for entry in fs::read_dir(corpus).unwrap() {
        let name = entry.unwrap().file_name();
        assert!(
            TARGETS.iter().any(|(target, _)| name == *target),
            "{}",
            name.display()
        );
    }
}
