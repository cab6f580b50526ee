// SPDX-License-Identifier: Apache-2.0
//! Work of other libraries whose panics are no more than a wrong input.
//!
//! `arrow-ipc` panics on frames that no check of ours foresees. Such a panic becomes an error of the body, and
//! whoever reports panics can tell it from one of our own. Invariant: what a panic leaves half done is dropped.

use std::cell::Cell;
use std::panic::{UnwindSafe, catch_unwind};

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic of this thread, at this moment, is taken for a wrong input. For panic hooks: there is
/// nothing to report then.
pub fn panics_are_caught() -> bool {
    GUARDED.get()
}

/// What `work` returns; none if it panics.
pub fn guarded<T>(work: impl FnOnce() -> T + UnwindSafe) -> Option<T> {
    let outer = GUARDED.replace(true);
    let done = catch_unwind(work);
    GUARDED.set(outer);
    done.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_told_from_others_while_it_is_guarded() {
        let seen = guarded(panics_are_caught);
        assert_eq!((seen, panics_are_caught()), (Some(true), false));
        let nested = guarded(|| {
            let inner: Option<()> = guarded(|| panic!("as a test wants it"));
            (inner, panics_are_caught())
        });
        assert_eq!((nested, panics_are_caught()), (Some((None, true)), false));
    }
}
