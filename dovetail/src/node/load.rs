// SPDX-License-Identifier: Apache-2.0
//! How busy each stage is, and which one holds the others up.

use chrono::{DateTime, TimeDelta, Utc};
use dovetail_model::{BatchRun, CatalogState, Offset, Outcome, PartitionId, Position};
use dovetail_seam::{Cut, Latencies, Meter, Rates, Waiting};
use dovetail_serving_layer::ports::StageStatus;
use dovetail_speed_layer::Pressure;

use super::open_stream::OpenStream;
use super::{Duty, Node};

/// Below this share of the time, a stage is idle.
const IDLE: f64 = 0.05;
/// From this share on, it is worth doing something about.
const HELD_UP: f64 = 0.5;

const QUERIES: &str = "queries";

/// Stages, and what relieves each. Of two that are equally busy, the first one is named: an ingest that waits
/// for accumulate is as busy as that, and what runs at a low priority holds up nobody.
const STAGES: [(&str, &str); 6] = [
    (
        "accumulate",
        "fewer or simpler views, or more cores, relieve it",
    ),
    (
        "ingest",
        "larger requests, or Arrow instead of text, relieve it",
    ),
    ("archive", "fewer columns, or faster storage, relieve it"),
    (
        "merge",
        "fewer groups, or more frequent incremental runs, relieve it",
    ),
    (QUERIES, "narrower questions, or more cores, relieve it"),
    ("batch", "rarer full runs, or more cores, relieve it"),
];

impl Node {
    /// Every stage that works here, in the order of the data path.
    pub(super) fn stages(&self, state: &CatalogState) -> Vec<StageStatus> {
        let full = self.0.memory.pressure() == Pressure::Full;
        let limited = full.then(|| {
            let holder = self.memory_holder();
            let holder = holder.map(|holder| format!(" ({holder})"));
            format!(
                "speed-layer memory is at its limit{}",
                holder.unwrap_or_default()
            )
        });
        let mut stages = vec![];
        let streams = self.0.streams.all();
        for open in streams.iter().filter(|open| !open.cell().is_elsewhere()) {
            let (cut, meters) = (open.cell().load(), open.cell().meters());
            let unarchived = offsets_between(cut.raw().archived(), cut.position());
            let mut add = |name, meter: &Meter, waiting, limited_by| {
                stages.push(StageStatus {
                    stream: Some(open.def().name.clone()),
                    total: Some(meter.total()),
                    latencies: meter.latencies(),
                    waiting,
                    limited_by,
                    failing: meter.failing().map(Into::into),
                    ..stage(name, meter.rates())
                });
            };
            add("ingest", &meters.ingest, 0, limited.clone());
            add("accumulate", &meters.accumulate, lag(open, &cut), None);
            add("merge", &meters.merge, 0, None);
            add("archive", &meters.archive, unarchived, None);
        }
        if self.0.config.duty != Duty::Ingests {
            stages.push(StageStatus {
                latencies: self.0.batch.run_latencies(),
                failing: self.0.batch.failing().map(Into::into),
                ..stage("batch", self.batch_rates(state))
            });
        }
        stages.push(queries(&self.0.queries));
        stages
    }

    /// Whose runs take most of the speed layer's memory, and how the batch run stands that is to take them over.
    pub(super) fn memory_holder(&self) -> Option<String> {
        let open = self.0.streams.all();
        let cuts = open.iter().map(|open| open.cell().load());
        let views = cuts.flat_map(|cut| {
            let views = cut.all_views();
            views
                .map(|(id, view)| (view.bytes(), id.clone(), view.name.clone()))
                .collect::<Vec<_>>()
        });
        let (bytes, id, name) = views.max()?;
        let state = self.0.catalog.state();
        let last = state.runs.values().rev().find(|run| run.view == id);
        let run = match last.map(|run| (run.id, run.outcome, &run.error)) {
            Some((run, Outcome::Running, _)) => format!("run {run} makes room"),
            Some((run, Outcome::Failed, Some(error))) => {
                format!("run {run}, which was to make room, failed ({error})")
            }
            _ => "an incremental run is to make room".to_owned(),
        };
        Some(format!(
            "view `{name}` holds {} MiB of it, {run}",
            bytes >> 20
        ))
    }

    fn batch_rates(&self, state: &CatalogState) -> Rates {
        let now = self.0.config.clock.now();
        let since = (now - TimeDelta::seconds(Meter::WINDOW.as_secs().cast_signed()))
            .max(self.0.started_at);
        let runs = state.runs.values().rev().map(|run| {
            let read = match run.outcome {
                Outcome::Running => self.0.batch.progress(run.id),
                _ => None,
            };
            let read = read.and_then(|progress| progress.rows());
            (
                run_time(run, now),
                read.map_or(run.rows_read, |(read, _)| read),
            )
        });
        ledger_rates(runs, since, now)
    }
}

/// The stage of every process that answers them.
pub(super) fn queries(meter: &Meter) -> StageStatus {
    let Waiting { count, why } = meter.waiting();
    let waits = count > 0;
    StageStatus {
        total: Some(meter.total()),
        latencies: meter.latencies(),
        waiting: count as u64,
        limited_by: waits.then(|| format!("{why}, and {count} wait")),
        ..stage(QUERIES, meter.rates())
    }
}

fn stage(name: &str, rates: Rates) -> StageStatus {
    StageStatus {
        stage: name.to_owned(),
        stream: None,
        per_second: rates.per_second,
        total: None,
        latencies: Latencies::default(),
        waiting: 0,
        busy: rates.busy,
        limited_by: None,
        failing: None,
    }
}

/// How many offsets, of all partitions, `to` is ahead of `from`.
pub(super) fn offsets_between(from: &Position, to: &Position) -> u64 {
    let ahead =
        |(partition, offset): (PartitionId, Offset)| offset.0.saturating_sub(from.get(partition).0);
    to.iter().map(ahead).sum()
}

/// Offsets that are durable and not in the cut.
pub(super) fn lag(open: &OpenStream, cut: &Cut) -> u64 {
    offsets_between(cut.position(), &open.cell().durable())
}

type Time = (DateTime<Utc>, DateTime<Utc>);

/// From when to when a run was at work.
fn run_time(run: &BatchRun, now: DateTime<Utc>) -> Time {
    let worked = run
        .seconds
        .map(|s| TimeDelta::microseconds((s * 1e6) as i64));
    let end = match worked {
        Some(worked) => run.started_at + worked,
        None => run.ended_at.unwrap_or(now),
    };
    (run.started_at, end)
}

/// What runs, with the events that each read, make of the time from `since` to `now`. The ledger knows no
/// more than when a run was at work, so what it read is spread evenly.
fn ledger_rates(
    runs: impl Iterator<Item = (Time, u64)>,
    since: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Rates {
    let seconds = |time: TimeDelta| time.num_microseconds().unwrap_or(0) as f64 / 1e6;
    let mut read = 0.0;
    let mut at_work = vec![];
    for ((start, end), rows) in runs {
        let (from, to) = (start.max(since), end.min(now));
        if from < to {
            read += rows as f64 * seconds(to - from) / seconds(end - start);
            at_work.push((from, to));
        }
    }
    at_work.sort_unstable();
    let mut busy = 0.0;
    let mut until = since;
    for (from, to) in at_work {
        busy += seconds(to - from.max(until)).max(0.0);
        until = until.max(to);
    }
    let window = seconds(now - since).max(1.0);
    Rates {
        per_second: read / window,
        busy: (busy / window).min(1.0),
    }
}

/// The stage that holds the others up: one that fails, one at a limit, or else the busiest; none when all are idle.
pub(super) fn bottleneck(stages: &[StageStatus]) -> Option<String> {
    if let Some(failure) = stages.iter().find_map(StageStatus::failure) {
        return Some(failure);
    }
    if let Some(limited) = stages.iter().find(|stage| stage.limited_by.is_some()) {
        let why = limited.limited_by.as_deref().unwrap_or_default();
        let relief = match limited.stage.as_str() {
            QUERIES => "more of it, shorter questions or readers who read relieve it",
            _ => "incremental runs free it, or more --speed-memory",
        };
        return Some(format!("{}: {why}; {relief}", limited.stage));
    }
    let rank = |stage: &StageStatus| STAGES.iter().position(|(name, _)| *name == stage.stage);
    let busiest = stages
        .iter()
        .filter(|stage| stage.busy >= IDLE)
        .min_by_key(|stage| (-percent(stage.busy), rank(stage)))?;
    let of = match &busiest.stream {
        Some(stream) => format!(" of stream `{stream}`"),
        None => String::new(),
    };
    let (_, relief) = STAGES[rank(busiest)?];
    let advice = match busiest.busy >= HELD_UP {
        true => relief,
        false => "nothing is held up",
    };
    Some(format!(
        "{}{of}: at work {} % of the last {} seconds; {advice}",
        busiest.stage,
        percent(busiest.busy),
        Meter::WINDOW.as_secs()
    ))
}

fn percent(share: f64) -> i64 {
    (share * 100.0).round() as i64
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use dovetail_serving_layer::ports::FailingInfo;

    use super::*;

    fn busy(name: &str, busy: f64) -> StageStatus {
        let per_second = 0.0;
        stage(name, Rates { per_second, busy })
    }

    #[test]
    fn the_busiest_stage_is_named_and_none_when_all_are_idle() {
        assert_eq!(bottleneck(&[]), None);
        assert_eq!(
            bottleneck(&[busy("ingest", 0.04), busy("batch", 0.0)]),
            None
        );
        let named = bottleneck(&[busy("ingest", 0.5), busy("batch", 0.8), busy("merge", 0.7)]);
        let named = named.unwrap();
        assert!(named.starts_with("batch: at work 80 %"), "{named}");
        assert!(named.ends_with("relieve it"), "{named}");
        let named = bottleneck(&[busy("ingest", 0.16)]).unwrap();
        assert!(named.ends_with("nothing is held up"), "{named}");
        // Ingest waits for accumulate here.
        let named = bottleneck(&[
            busy("ingest", 1.0),
            busy("accumulate", 0.998),
            busy("batch", 1.0),
        ]);
        assert!(named.unwrap().starts_with("accumulate"));
        let mut full = busy("ingest", 0.1);
        full.limited_by = Some("memory".to_owned());
        let named = bottleneck(&[full.clone(), busy("accumulate", 1.0)]);
        assert!(named.unwrap().starts_with("ingest: memory"));
        let meter = Arc::<Meter>::default();
        let waits = meter.waits("every place is taken");
        assert_eq!(
            bottleneck(&[queries(&meter)]).unwrap(),
            "queries: every place is taken, and 1 wait; more of it, shorter questions or readers who read relieve it"
        );
        drop(waits);
        assert_eq!(bottleneck(&[queries(&meter)]), None);
        let mut archive = busy("archive", 0.0);
        archive.failing = Some(FailingInfo {
            for_s: 7,
            times: 3,
            reason: "no space".to_owned(),
        });
        let named = bottleneck(&[full, archive]).unwrap();
        assert_eq!(named, "archive has failed 3 times in 7 s: no space");
    }

    #[test]
    fn the_ledger_says_how_busy_the_batch_layer_is() {
        let at = |seconds: i64| DateTime::from_timestamp(1_000_000 + seconds, 0).unwrap();
        let rates = |runs: &[(i64, i64, u64)]| {
            let runs = runs
                .iter()
                .map(|(from, to, rows)| ((at(*from), at(*to)), *rows));
            ledger_rates(runs, at(0), at(10))
        };
        assert_eq!(rates(&[(-9, 0, 7)]), Rates::default());
        // Half of it in the window; two at once count once.
        let found = rates(&[(-2, 2, 100), (1, 4, 300), (9, 10, 10)]);
        assert_eq!((found.per_second, found.busy), (36.0, 0.5));
        assert_eq!(
            rates(&[(-100, 10, 1100)]),
            Rates {
                per_second: 10.0,
                busy: 1.0
            }
        );
    }
}
