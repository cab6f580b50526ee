// SPDX-License-Identifier: Apache-2.0
//! A hook for tests: places where a process can be made to die, or to stand still.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};

const UNKNOWN: u8 = 0;
const OFF: u8 = 1;
const ARMED: u8 = 2;

static STATE: AtomicU8 = AtomicU8::new(UNKNOWN);
/// A signal takes no longer, however busy the machine is.
const STOPS_WITHIN: Duration = Duration::from_secs(2);

static PLANS: OnceLock<Plans> = OnceLock::new();

/// Marks a place where durability is decided. For process tests only.
///
/// Aborts the process, as a kill would, when the environment variable `DOVETAIL_CRASH_AT` is `name`, or is
/// `name:N` and this is the N-th time that the place is reached, counted from 1. `DOVETAIL_STOP_AT` stops it there
/// instead, as SIGSTOP does, until a SIGCONT. Otherwise it costs one relaxed load. The variables are read once, when
/// the first place is reached.
pub fn crash_point(name: &str) {
    if STATE.load(Ordering::Relaxed) != OFF {
        reached(name);
    }
}

#[cold]
fn reached(name: &str) {
    let plan = |variable| {
        let text = std::env::var(variable).ok()?;
        Plan::parse(&text)
    };
    let Plans { dies, stops } = PLANS.get_or_init(|| Plans {
        dies: plan("DOVETAIL_CRASH_AT"),
        stops: plan("DOVETAIL_STOP_AT"),
    });
    let armed = dies.is_some() || stops.is_some();
    STATE.store(if armed { ARMED } else { OFF }, Ordering::Relaxed);
    let due = |plan: &Option<Plan>| plan.as_ref().is_some_and(|plan| plan.is_due(name));
    if due(dies) {
        std::process::abort();
    }
    if due(stops) {
        // One that cannot be stopped goes on: the test that waits for it says so.
        let _ = kill_process(getpid(), Signal::STOP);
        // The signal goes to any thread, which stops the others: this one must not get past the place meanwhile.
        std::thread::sleep(STOPS_WITHIN);
    }
}

#[derive(Debug)]
struct Plans {
    dies: Option<Plan>,
    stops: Option<Plan>,
}

#[derive(Debug)]
struct Plan {
    name: String,
    /// Times that the place may still be passed.
    passes: AtomicU64,
}

impl Plan {
    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return None;
        }
        let counted = text
            .rsplit_once(':')
            .and_then(|(name, count)| Some((name, count.parse::<u64>().ok()?)));
        let (name, count) = counted.unwrap_or((text, 1));
        Some(Self {
            name: name.to_owned(),
            passes: AtomicU64::new(count.saturating_sub(1)),
        })
    }

    fn is_due(&self, name: &str) -> bool {
        if name != self.name {
            return false;
        }
        // Past it, one that was stopped and goes on has a long way to the next.
        self.passes.fetch_sub(1, Ordering::Relaxed) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_waits_for_its_time_and_its_place() {
        let plan = Plan::parse("log-append:written").unwrap();
        assert!(!plan.is_due("log-append"));
        assert!(!plan.is_due("log-append:synced"));
        assert!(plan.is_due("log-append:written"));
        let plan = Plan::parse("log-append:written:3").unwrap();
        let due: Vec<bool> = (0..4).map(|_| plan.is_due("log-append:written")).collect();
        assert_eq!(due, [false, false, true, false]);
        assert!(Plan::parse("").is_none());
    }

    /// Also what the next test runs in a process of its own, with a plan.
    #[test]
    fn without_a_plan_it_is_passed() {
        crash_point("anywhere");
    }

    #[test]
    fn with_a_plan_the_process_dies() {
        let run = |plan: &str| {
            std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "crash::tests::without_a_plan_it_is_passed"])
                .env("DOVETAIL_CRASH_AT", plan)
                .output()
                .unwrap()
                .status
        };
        assert!(run("elsewhere").success());
        assert!(run("anywhere:2").success());
        assert_eq!(run("anywhere").code(), None, "died of a signal");
    }
}
