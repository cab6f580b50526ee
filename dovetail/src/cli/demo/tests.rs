// SPDX-License-Identifier: Apache-2.0
//! The demo against a small fake of the server, right or wrong on purpose: it must be able to fail.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Mutex, PoisonError};

use axum::extract::{Path, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use chrono::NaiveDateTime;
use dovetail_model::Problem;
use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::question::TOP;
use super::*;

/// What a fake server does wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// After the promote an event of the complete days is missing.
    GroupLosesEvent,
    /// While merged, one event is counted twice.
    SeamOverlaps,
    /// The recompute finds other groups.
    DiffNotEmpty,
    /// The pointer does not move.
    NoPromote,
    /// Behind the promote, answers stand where they stood when the run was staged.
    NothingArrives,
}

#[derive(Debug, Clone)]
struct Flight {
    date: NaiveDateTime,
    delay: i64,
    origin: String,
}

#[derive(Debug)]
struct Fake {
    fault: Fault,
    flights: Vec<Flight>,
    horizon: usize,
    generation: u64,
    runs: Vec<Value>,
    promoted_full: bool,
    /// Events when the full run was staged.
    staged_at: usize,
}

type Shared = Arc<Mutex<Fake>>;

fn lock(fake: &Shared) -> std::sync::MutexGuard<'_, Fake> {
    fake.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Fake {
    fn token(&self, offset: usize) -> String {
        format!("flights~k3f:0@{offset}")
    }

    fn append(&mut self, body: &str) -> Value {
        let before = self.flights.len();
        for line in body.lines() {
            let event: Value = serde_json::from_str(line).unwrap();
            let date = event["date"].as_str().unwrap();
            self.flights.push(Flight {
                date: date.parse().unwrap(),
                delay: event["delay"].as_i64().unwrap(),
                origin: event["origin"].as_str().unwrap().to_owned(),
            });
        }
        let position = self.token(self.flights.len());
        json!({"accepted": self.flights.len() - before, "rejected": 0, "position": position})
    }

    fn sql(&self, sql: &str) -> Value {
        let covered = match self.fault {
            Fault::NothingArrives if self.promoted_full => self.staged_at,
            _ => self.flights.len(),
        };
        let provenance = json!({
            "streams": [{"stream": "flights", "position": self.token(covered), "freshness_ms": 0}],
            "views": [{"view": "airport_delays", "generation": self.generation,
                       "horizon": self.token(self.horizon), "layer": "merged", "runs": 2}],
        });
        if sql.contains("by_hour") {
            let double = u64::from(self.fault == Fault::SeamOverlaps && self.promoted_full);
            let row =
                json!({"by_hour": covered as u64 + double, "by_route": covered, "events": covered});
            return json!({"columns": [], "rows": [row], "provenance": provenance});
        }
        let (_, rest) = sql.split_once("TIMESTAMP '").unwrap();
        let until = NaiveDateTime::parse_from_str(&rest[..19], "%Y-%m-%d %H:%M:%S").unwrap();
        let skip = usize::from(self.fault == Fault::GroupLosesEvent && self.promoted_full);
        let mut hours: BTreeMap<(String, String), Vec<i64>> = BTreeMap::new();
        let atlanta = self.flights.iter().filter(|f| f.origin == "ATL").skip(skip);
        let others = self.flights.iter().filter(|f| f.origin != "ATL");
        for flight in atlanta.chain(others).filter(|f| f.date < until) {
            let hour = flight.date.format("%Y-%m-%d %H").to_string();
            let key = (flight.origin.clone(), hour);
            hours.entry(key).or_default().push(flight.delay);
        }
        let mut origins: BTreeMap<String, (u64, u64, f64)> = BTreeMap::new();
        for ((origin, _), delays) in hours {
            let average = delays.iter().sum::<i64>() as f64 / delays.len() as f64;
            let (hours, flights, worst) = origins.entry(origin).or_insert((0, 0, average));
            *hours += 1;
            *flights += delays.len() as u64;
            *worst = worst.max(average);
        }
        let mut rows: Vec<Value> = origins
            .into_iter()
            .map(|(origin, (hours, flights, worst))| {
                json!({"origin": origin, "hours": hours, "flights": flights, "worst_hour": worst})
            })
            .collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row["flights"].as_u64()));
        rows.truncate(TOP);
        let columns =
            json!([{"name": "origin", "type": "VARCHAR"}, {"name": "flights", "type": "BIGINT"}]);
        json!({"columns": columns, "rows": rows, "provenance": provenance})
    }

    fn recompute(&mut self, view: &str, body: &Value) -> Value {
        self.horizon = self.flights.len();
        let staged = body["dry_run"] == true;
        if staged {
            self.staged_at = self.flights.len();
        } else {
            self.generation += 1;
        }
        let run = json!({
            "id": self.runs.len(), "view": view, "mode": body["mode"], "base": self.generation,
            "outcome": if staged { "staged" } else { "promoted" },
            "generation": self.generation, "span": {"to": self.token(self.horizon)},
        });
        self.runs.push(run.clone());
        run
    }

    fn promote(&mut self, id: usize) -> Value {
        if self.fault != Fault::NoPromote {
            self.generation += 1;
        }
        self.promoted_full = true;
        self.runs[id]["outcome"] = "promoted".into();
        self.runs[id]["generation"] = self.generation.into();
        self.runs[id].clone()
    }
}

fn router(fake: Shared) -> Router {
    let append = async |State(fake): State<Shared>, body: String| Json(lock(&fake).append(&body));
    let sql = async |State(fake): State<Shared>, Json(body): Json<Value>| {
        Json(lock(&fake).sql(body["sql"].as_str().unwrap()))
    };
    let recompute =
        async |State(fake): State<Shared>, Path(view): Path<String>, Json(body): Json<Value>| {
            Json(lock(&fake).recompute(&view, &body))
        };
    let run = async |State(fake): State<Shared>, Path(id): Path<usize>| {
        Json(lock(&fake).runs[id].clone())
    };
    let diff = async |State(fake): State<Shared>| {
        let changed = u64::from(lock(&fake).fault == Fault::DiffNotEmpty);
        Json(json!({"base": 3, "added": 0, "removed": 0, "changed": changed, "largest": []}))
    };
    let promote =
        async |State(fake): State<Shared>, Path(id): Path<usize>| Json(lock(&fake).promote(id));
    Router::new()
        .route("/v1/apply", post(async || Json(json!({"changes": []}))))
        .route("/v1/streams/flights", post(append))
        .route("/v1/sql", post(sql))
        .route("/v1/views/{view}/recompute", post(recompute))
        .route("/v1/runs/{id}", get(run))
        .route("/v1/runs/{id}/diff", get(diff))
        .route("/v1/runs/{id}/promote", post(promote))
        .with_state(fake)
}

/// A server with a fault.
struct FakeServer(Fault);

impl Server for FakeServer {
    fn check(&self, _options: &UpOptions) -> Result<(), Problem> {
        Ok(())
    }

    fn serve(&self, options: UpOptions, serving: Serving) -> BoxFuture<'_, Result<(), Problem>> {
        let fake = Fake {
            fault: self.0,
            flights: Vec::new(),
            horizon: 0,
            generation: 1,
            runs: Vec::new(),
            promoted_full: false,
            staged_at: 0,
        };
        Box::pin(async move {
            let listener = tokio::net::TcpListener::bind(options.listen).await.unwrap();
            serving.ready.send(listener.local_addr().unwrap()).unwrap();
            let router = router(Arc::new(Mutex::new(fake)));
            axum::serve(listener, router)
                .with_graceful_shutdown(serving.shutdown.cancelled_owned())
                .await
                .map_err(Problem::internal)
        })
    }
}

/// What was written.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Runs `demo --exit` over three days of flights; how it ended, and what it wrote.
async fn demo_against(fault: Fault) -> (Result<(), CliError>, String) {
    let args = DemoArgs {
        data: None,
        listen: "127.0.0.1:0".parse().unwrap(),
        exit: true,
        log: LogArgs::default(),
    };
    let sample = Arc::new(Sample::shipped().unwrap().first(48_000));
    let written = Written::default();
    let mut console = Console::captured(written.clone());
    let shutdown = CancellationToken::new();
    let ended = demonstrate(args, sample, shutdown, &mut console, &FakeServer(fault)).await;
    let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
    (ended, text)
}

fn last_line(text: &str) -> Value {
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

#[tokio::test]
async fn a_right_server_passes_and_the_last_line_says_so() {
    let (ended, text) = demo_against(Fault::None).await;
    ended.unwrap();
    let line = last_line(&text);
    assert_eq!(line["equal"], true);
    assert_eq!(line["events"], 48_000);
    assert_eq!(line["before"]["rows"], line["after"]["rows"]);
    assert_eq!(line["before"]["rows"].as_array().unwrap().len(), TOP);
    let generation = |side: &str| line[side]["provenance"]["views"][0]["generation"].clone();
    assert_eq!(
        (generation("before"), generation("after")),
        (3.into(), 4.into())
    );
    assert!(text.contains("nothing jumped"), "{text}");
    let covered = |side: &str| {
        let position = line[side]["provenance"]["streams"][0]["position"].as_str();
        let (_, offset) = position.unwrap().rsplit_once('@').unwrap();
        offset.parse::<usize>().unwrap()
    };
    assert!(covered("before") < covered("after"), "{line}");
    assert!(covered("after") < 48_000, "{line}");
}

#[tokio::test]
async fn every_fault_of_a_server_fails_the_demo() {
    for (fault, word) in [
        (Fault::GroupLosesEvent, "an answer is wrong"),
        (Fault::SeamOverlaps, "does not add up"),
        (Fault::DiffNotEmpty, "the recompute differs"),
        (Fault::NoPromote, "the same generation"),
        (Fault::NothingArrives, "no events arrived"),
    ] {
        let (ended, text) = demo_against(fault).await;
        assert!(ended.is_err(), "{fault:?}");
        assert_eq!(last_line(&text)["equal"], false, "{fault:?}");
        assert!(text.contains(word), "{fault:?}: {text}");
        assert!(!text.contains("nothing jumped"));
    }
}

#[test]
fn only_a_fresh_directory_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(data_dir(Some(dir.path())).unwrap().0, dir.path());
    assert!(data_dir(Some(&dir.path().join("new"))).is_ok());
    std::fs::write(dir.path().join("x"), "").unwrap();
    assert!(matches!(
        data_dir(Some(dir.path())),
        Err(CliError::Usage(text)) if text.contains("not empty")
    ));
    let (temporary, guard) = data_dir(None).unwrap();
    assert!(temporary.is_dir());
    drop(guard);
    assert!(!temporary.exists());
}
