// SPDX-License-Identifier: Apache-2.0
//! How panics are reported: as a log line like any other where there is a log, and not at all where one
//! only says that somebody sent a broken Arrow stream.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::PanicHookInfo;

use dovetail_log::decode::panics_are_caught;
use tracing::{Level, debug, error, event_enabled};

/// Takes over the reporting of panics.
pub(super) fn install() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if panics_are_caught() {
            debug!(panic = message(info), "an Arrow stream is damaged");
        } else if event_enabled!(Level::ERROR) {
            report(info);
        } else {
            default(info);
        }
    }));
}

fn report(info: &PanicHookInfo<'_>) {
    let location = info.location().map(ToString::to_string);
    let thread = std::thread::current();
    // Only with RUST_BACKTRACE.
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then_some(backtrace);
    error!(
        panic = message(info),
        at = location.as_deref().unwrap_or_default(),
        thread = thread.name().unwrap_or_default(),
        backtrace = backtrace.map(tracing::field::display),
        "a panic: this is a bug in dovetail"
    );
}

fn message<'a>(info: &'a PanicHookInfo<'_>) -> &'a str {
    info.payload_as_str().unwrap_or("no message")
}
