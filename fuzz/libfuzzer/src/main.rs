// SPDX-License-Identifier: Apache-2.0
//! libFuzzer over the target that `DOVETAIL_FUZZ_TARGET` names. One program for all: linking the engine takes longer
//! than compiling the targets.

#![no_main]

use std::panic::{set_hook, take_hook};
use std::process::abort;
use std::sync::LazyLock;

use dovetail_log::decode::panics_are_caught;
use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("DOVETAIL_FUZZ_TARGET").unwrap_or_default();
    let known = dovetail_fuzz::TARGETS.iter();
    let found = known.clone().find(|(known, _)| *known == name);
    let Some((_, check)) = found else {
        let names: Vec<&str> = known.map(|(name, _)| *name).collect();
        eprintln!(
            "DOVETAIL_FUZZ_TARGET is `{name}`: there are {}",
            names.join(", ")
        );
        std::process::exit(2);
    };
    *check
});

fuzz_target!(
    init: {
        // The hook of libFuzzer ends the process at any panic, those included that are no more than a damaged Arrow stream.
        let _ = take_hook();
        set_hook(Box::new(|info| {
            if !panics_are_caught() {
                eprintln!("{info}\n{}", std::backtrace::Backtrace::force_capture());
                abort();
            }
        }));
        LazyLock::force(&TARGET);
    },
    |data: &[u8]| TARGET(data)
);
