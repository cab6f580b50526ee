// SPDX-License-Identifier: Apache-2.0
//! When to try again: doubling waits, and an end.

use std::time::Duration;

use tokio::time::Instant;

/// How a request that may succeed later is tried again.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// The first wait; each further one is twice as long.
    pub first_wait: Duration,
    /// The longest wait.
    pub max_wait: Duration,
    /// How long after the first failure to give up.
    pub give_up_after: Duration,
}

impl Default for RetryPolicy {
    /// 200 ms doubling to 10 s, for five minutes: longer than a restart with its rebuild, shorter than
    /// anyone would watch.
    fn default() -> Self {
        Self {
            first_wait: Duration::from_millis(200),
            max_wait: Duration::from_secs(10),
            give_up_after: Duration::from_secs(300),
        }
    }
}

impl RetryPolicy {
    /// The state of one request's attempts.
    pub fn start(self) -> Retry {
        Retry {
            policy: self,
            next_wait: self.first_wait,
            failing_since: None,
        }
    }
}

/// One request's attempts so far.
#[derive(Debug)]
pub struct Retry {
    policy: RetryPolicy,
    next_wait: Duration,
    failing_since: Option<Instant>,
}

impl Retry {
    /// How long to wait after a failure at `now`, at least as long as the server asked (`Retry-After`);
    /// `None` to give up.
    pub fn wait_after_failure(
        &mut self,
        now: Instant,
        asked: Option<Duration>,
    ) -> Option<Duration> {
        let since = *self.failing_since.get_or_insert(now);
        if now.duration_since(since) >= self.policy.give_up_after {
            return None;
        }
        let wait = self.next_wait.max(asked.unwrap_or_default());
        self.next_wait = (self.next_wait * 2).min(self.policy.max_wait);
        Some(wait.min(self.policy.max_wait))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_bound_and_end() {
        let policy = RetryPolicy {
            first_wait: Duration::from_secs(1),
            max_wait: Duration::from_secs(5),
            give_up_after: Duration::from_secs(10),
        };
        let start = Instant::now();
        let mut retry = policy.start();
        let mut waits = Vec::new();
        let mut now = start;
        while let Some(wait) = retry.wait_after_failure(now, None) {
            waits.push(wait.as_secs());
            now += wait;
        }
        assert_eq!(waits, [1, 2, 4, 5]);
    }

    #[test]
    fn the_server_may_ask_for_a_longer_wait_within_the_bound() {
        let mut retry = RetryPolicy::default().start();
        let now = Instant::now();
        let asked = |s| Some(Duration::from_secs(s));
        assert_eq!(retry.wait_after_failure(now, asked(3)), asked(3));
        assert_eq!(retry.wait_after_failure(now, asked(3600)), asked(10));
    }
}
