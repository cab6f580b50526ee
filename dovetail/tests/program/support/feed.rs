// SPDX-License-Identifier: Apache-2.0
//! Numbered events, the requests that carry them, and what must be counted of them: the oracle.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::Method;
use serde_json::{Value, json};

use super::server::Calls;

/// Definitions, as a client declares them that does not know whether it did before.
pub(crate) const DEFINITIONS: [&str; 3] = [
    "CREATE STREAM IF NOT EXISTS events (n BIGINT NOT NULL, at TIMESTAMP NOT NULL, origin VARCHAR, delay INT) \
     WITH (event_time = 'at')",
    "CREATE VIEW IF NOT EXISTS hourly AS SELECT origin, date_trunc('hour', at) AS hour, count(*) AS seen, \
     sum(delay) AS delays, max(n) AS last FROM events GROUP BY origin, hour",
    "CREATE VIEW IF NOT EXISTS total AS SELECT count(*) AS seen, sum(n) AS numbers, \
     count(distinct n) AS different FROM events",
];

/// A group of `hourly`: origin and hour; events, delays and last number.
pub(crate) type Hours = BTreeMap<(Option<String>, String), (i64, Option<i64>, i64)>;

/// One event.
struct Event {
    n: i64,
    at: String,
    origin: Option<&'static str>,
    delay: Option<i64>,
}

impl Event {
    fn numbered(n: i64) -> Self {
        let origins = [Some("SFO"), Some("JFK"), Some(""), None];
        let hour = n * 7 % 24;
        Self {
            n,
            at: format!("2001-01-{:02}T{hour:02}:{:02}:00", 1 + n % 3, n % 60),
            origin: origins[(n % 4) as usize],
            delay: (n % 5 > 0).then_some(n % 97 - 20),
        }
    }

    fn json(&self) -> Value {
        json!({"n": self.n, "at": self.at, "origin": self.origin, "delay": self.delay})
    }
}

/// One append: always sent with the same key and body.
#[derive(Clone)]
pub(crate) struct Request {
    key: String,
    body: String,
    events: std::ops::Range<i64>,
    dead_letters: u64,
    /// The answer, once one came.
    answer: Option<Value>,
}

/// How many events there are, and the sum of their numbers.
pub(crate) type Count = (i64, i64);

/// All appends so far.
#[derive(Default)]
pub(crate) struct Feed {
    requests: Vec<Request>,
    next: i64,
    /// What answers said that are not checked yet: up to which offset, and what they counted.
    seen: Vec<(u64, Count)>,
}

impl Feed {
    /// A new request of `events` good events and `dead_letters` bad ones; its number.
    pub(crate) fn push(&mut self, events: i64, dead_letters: u64) -> usize {
        let number = self.requests.len();
        let range = self.next..self.next + events;
        self.next = range.end;
        let good = range
            .clone()
            .map(|n| Event::numbered(n).json().to_string() + "\n");
        let bad = (0..dead_letters).map(|_| "{\"n\": \"no number\"}\n".to_owned());
        self.requests.push(Request {
            key: format!("request-{number}"),
            body: good.chain(bad).collect(),
            events: range,
            dead_letters,
            answer: None,
        });
        number
    }

    /// A request, to be sent.
    pub(crate) fn request(&self, number: usize) -> Request {
        self.requests[number].clone()
    }

    /// Notes the answer to a request. An earlier answer must have said the same.
    pub(crate) fn answered(&mut self, number: usize, answer: Value) {
        let request = &mut self.requests[number];
        let events = request.events.clone();
        assert_eq!(answer["accepted"], events.end - events.start, "{answer}");
        assert_eq!(answer["rejected"], request.dead_letters, "{answer}");
        if let Some(earlier) = &request.answer {
            assert_eq!(answer["position"], earlier["position"], "{}", request.key);
            assert_eq!(answer["duplicate"], true, "{}: {answer}", request.key);
        }
        request.answer = Some(answer);
    }

    /// The position behind every answered request, and how many events they hold.
    pub(crate) fn acknowledged(&self) -> Option<(String, i64)> {
        let answered = self.requests.iter().filter(|r| r.answer.is_some());
        let events = answered.clone().map(|r| r.events.end - r.events.start);
        let last = answered.max_by_key(|request| offset(position(request)))?;
        Some((position(last).to_owned(), events.sum()))
    }

    /// Notes what an answer at `position` counted.
    pub(crate) fn saw(&mut self, position: &str, count: Count) {
        self.seen.push((offset(position), count));
    }

    /// Every answer that was noted must have counted exactly what lies before its position: all requests are answered
    /// by now, so that their places are known.
    fn check_seen(&mut self) {
        let mut folds = BTreeMap::from([(0, (0, 0))]);
        let by_place: BTreeMap<u64, &Request> = self
            .requests
            .iter()
            .map(|request| (offset(position(request)), request))
            .collect();
        let (mut count, mut sum) = (0, 0);
        for (end, request) in by_place {
            count += request.events.end - request.events.start;
            sum += request.events.clone().sum::<i64>();
            folds.insert(end, (count, sum));
        }
        for (offset, seen) in self.seen.drain(..) {
            // Appends are atomic.
            let fold = folds.get(&offset);
            let fold = fold.unwrap_or_else(|| panic!("no append ends at {offset}"));
            assert_eq!(seen, *fold, "an answer up to offset {offset} is wrong");
        }
    }

    /// How many events were sent so far.
    pub(crate) fn sent(&self) -> i64 {
        self.next
    }

    /// Sends requests again, as a client that saw no answer: all that had none, and of the others about a
    /// hundred.
    pub(crate) async fn retry(&mut self, calls: &Calls) {
        let stride = self.requests.len() / 100 + 1;
        for number in 0..self.requests.len() {
            if self.requests[number].answer.is_some() && number % stride > 0 {
                continue;
            }
            let answer = self.requests[number].send(calls).await;
            self.answered(number, answer.expect("the restarted server answers"));
        }
        self.check_seen();
    }

    fn events(&self) -> impl Iterator<Item = Event> {
        (0..self.next).map(Event::numbered)
    }

    fn hours(&self) -> Hours {
        let mut hours = Hours::new();
        for event in self.events() {
            let key = (
                event.origin.map(str::to_owned),
                format!("{}:00:00", &event.at[..13]),
            );
            let (seen, delays, last) = hours.entry(key).or_insert((0, None, 0));
            *seen += 1;
            *delays = match (*delays, event.delay) {
                (None, delay) => delay,
                (sum, None) => sum,
                (Some(sum), Some(delay)) => Some(sum + delay),
            };
            *last = event.n;
        }
        hours
    }

    /// Stream, views and dead letters must hold every event of every request once: all are answered.
    pub(crate) async fn verify(&self, calls: &Calls) {
        let after = self.after();
        let rows = calls
            .rows("SELECT n, at, origin, delay FROM events", after.clone())
            .await
            .expect("the stream answers");
        let mut found: BTreeSet<String> = BTreeSet::new();
        for row in &rows {
            assert!(found.insert(row.to_string()), "{row} is doubled");
        }
        for event in self.events() {
            let row = event.json().to_string();
            assert!(found.remove(&row), "{row} is lost");
        }
        assert!(found.is_empty(), "nobody sent {found:?}");

        self.verify_views(calls, &after).await;
        let letters = calls
            .get("/v1/streams/events/dead-letters?limit=1")
            .await
            .expect("the dead letters are listed");
        let expected: u64 = self.requests.iter().map(|r| r.dead_letters).sum();
        assert_eq!(letters["total"], expected, "{letters}");
    }

    /// The option that an answer be no older than what was acknowledged last.
    pub(crate) fn after(&self) -> Value {
        json!({"after": self.acknowledged().map(|(position, _)| position)})
    }

    /// The views must hold every event once; `options` may name a layer.
    pub(crate) async fn verify_views(&self, calls: &Calls, options: &Value) {
        self.verify_hourly(calls, options).await;
        let total = calls
            .rows("SELECT * FROM total", options.clone())
            .await
            .expect("the view answers");
        let numbers = (self.next > 0).then(|| self.next * (self.next - 1) / 2);
        let expected = json!({"seen": self.next, "numbers": numbers, "different": self.next});
        assert_eq!(total, [expected]);
    }

    /// The same of `hourly` alone.
    pub(crate) async fn verify_hourly(&self, calls: &Calls, options: &Value) {
        assert_eq!(hourly(calls, options).await, self.hours());
    }
}

impl Request {
    /// Sends it; the answer, or None when the server died before it answered.
    pub(crate) async fn send(&self, calls: &Calls) -> Option<Value> {
        let (status, answer) = self.try_send(calls).await?;
        assert_eq!(status, 200, "{}: {answer}", self.key);
        Some(answer)
    }

    /// Sends it; what it was answered, which may be a refusal.
    pub(crate) async fn try_send(&self, calls: &Calls) -> Option<(u16, Value)> {
        let headers = [
            ("content-type", "application/x-ndjson"),
            ("idempotency-key", self.key.as_str()),
        ];
        let path = "/v1/streams/events?errors=dead-letter";
        calls
            .call(Method::POST, path, &headers, self.body.clone())
            .await
    }
}

/// What `hourly` answers.
pub(crate) async fn hourly(calls: &Calls, options: &Value) -> Hours {
    let rows = calls
        .rows("SELECT * FROM hourly", options.clone())
        .await
        .expect("the view answers");
    let hours: Hours = rows.iter().map(hour_of).collect();
    assert_eq!(hours.len(), rows.len(), "a group is there twice");
    hours
}

fn position(request: &Request) -> &str {
    let answer = request.answer.as_ref().expect("answered");
    answer["position"].as_str().unwrap()
}

fn offset(position: &str) -> u64 {
    let (_, offset) = position.rsplit_once('@').expect("a token");
    offset.parse().unwrap()
}

/// Origin and hour.
type HourKey = (Option<String>, String);
/// What the hourly view says of them.
type HourValues = (i64, Option<i64>, i64);

fn hour_of(row: &Value) -> (HourKey, HourValues) {
    let key = (
        row["origin"].as_str().map(str::to_owned),
        row["hour"].as_str().unwrap().to_owned(),
    );
    let value = (
        row["seen"].as_i64().unwrap(),
        row["delays"].as_i64(),
        row["last"].as_i64().unwrap(),
    );
    (key, value)
}
