// SPDX-License-Identifier: Apache-2.0
//! `/metrics`: everything that this process measures, in the text format that Prometheus reads.
//!
//! Invariants: nothing is counted here; each value is read once, where it lives, when it is asked for, and what the
//! status shows too is taken from the status. What a process does not have is left out ([`Holds`](crate::ports::Holds)). Names, units and labels are listed in `docs/operations.md`.
//! Non-goals: exemplars, pushing.

use std::fmt;

use dovetail_log::object::{CacheCounts, LATENCY_BOUNDS_S};
use dovetail_model::{Offset, PartitionId, PositionToken, Problem};
use dovetail_seam::{Latencies, STAGE_BOUNDS_S};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, NoLabelSet, prometheus_text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Registry;

use crate::ports::{Measurements, SourceInfo, Status, StreamInfo, ViewPhase, ViewStatus};

pub(super) use prometheus_text::CONTENT_TYPE;

/// All of `measured` as text.
///
/// # Errors
/// When it cannot be written as text, which is a mistake here.
pub(super) fn exposition(measured: Measurements) -> Result<String, Problem> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Reading(measured)));
    let mut text = String::new();
    prometheus_text::encode(&mut text, &registry).map_err(Problem::internal)?;
    Ok(text)
}

#[derive(Debug)]
struct Reading(Measurements);

impl Collector for Reading {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut sheet = Sheet(encoder);
        let Measurements { status, holds, .. } = &self.0;
        server(&mut sheet, status)?;
        stages(&mut sheet, status)?;
        positions(&mut sheet, &status.streams)?;
        sources(&mut sheet, &status.streams)?;
        if holds.runs {
            memory(&mut sheet, status)?;
            runs(&mut sheet, status)?;
        }
        if holds.store {
            archive(&mut sheet, &status.streams)?;
            generations(&mut sheet, &status.views)?;
            batch_runs(&mut sheet, &self.0)?;
        }
        store(&mut sheet, &self.0)?;
        self.0
            .cache
            .iter()
            .try_for_each(|counts| cache(&mut sheet, counts))
    }
}

/// Names and values, in the order in which they are shown.
type Labels = Vec<(&'static str, String)>;

fn label(name: &'static str, value: impl fmt::Display) -> (&'static str, String) {
    (name, value.to_string())
}

/// What is written, a family of metrics at a time. A family without values is left out.
struct Sheet<'a>(DescriptorEncoder<'a>);

impl Sheet<'_> {
    fn gauges<V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels, V)>,
    ) -> fmt::Result {
        let mut values = values.into_iter().peekable();
        if values.peek().is_none() {
            return Ok(());
        }
        let kind = MetricType::Gauge;
        let mut family = self.0.encode_descriptor(name, help, None, kind)?;
        values.try_for_each(|(labels, value)| family.encode_family(&labels)?.encode_gauge(&value))
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl EncodeGaugeValue) -> fmt::Result {
        let kind = MetricType::Gauge;
        let mut family = self.0.encode_descriptor(name, help, None, kind)?;
        family.encode_gauge(&value)
    }

    /// `name` without its `_total`.
    fn counters<V: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels, V)>,
    ) -> fmt::Result {
        let mut values = values.into_iter().peekable();
        if values.peek().is_none() {
            return Ok(());
        }
        let kind = MetricType::Counter;
        let mut family = self.0.encode_descriptor(name, help, None, kind)?;
        let none = None::<&Exemplar<NoLabelSet, f64>>;
        values.try_for_each(|(labels, value)| {
            family.encode_family(&labels)?.encode_counter(&value, none)
        })
    }

    /// Counts of each bucket, those above all `bounds` last, and the sum.
    fn histograms<'c>(
        &mut self,
        name: &str,
        help: &str,
        bounds: &[f64],
        values: impl IntoIterator<Item = (Labels, &'c [u64], f64)>,
    ) -> fmt::Result {
        let mut values = values.into_iter().peekable();
        if values.peek().is_none() {
            return Ok(());
        }
        let kind = MetricType::Histogram;
        let mut family = self.0.encode_descriptor(name, help, None, kind)?;
        values.try_for_each(|(labels, counts, sum)| {
            let bounds = bounds.iter().copied().chain([f64::INFINITY]);
            let buckets: Vec<(f64, u64)> = bounds.zip(counts.iter().copied()).collect();
            let mut one = family.encode_family(&labels)?;
            one.encode_histogram::<NoLabelSet>(sum, counts.iter().sum(), &buckets, None)
        })
    }
}

fn server(sheet: &mut Sheet<'_>, status: &Status) -> fmt::Result {
    sheet.gauges(
        "dovetail_build_info",
        "1, and the version of the server.",
        [(vec![label("version", &status.version)], 1u64)],
    )?;
    sheet.gauge(
        "dovetail_uptime_seconds",
        "Seconds since the server started.",
        status.uptime_s,
    )?;
    sheet.gauge(
        "dovetail_catalog_sequence",
        "Sequence of the catalog's last commit.",
        status.catalog_sequence,
    )?;
    let Some(disk) = &status.disk else {
        return Ok(());
    };
    sheet.gauge(
        "dovetail_disk_free_bytes",
        "What may still be written to the disk of the data directory.",
        disk.free_bytes,
    )?;
    sheet.gauge(
        "dovetail_disk_bytes",
        "Size of the disk of the data directory.",
        disk.all_bytes,
    )
}

fn memory(sheet: &mut Sheet<'_>, status: &Status) -> fmt::Result {
    let Some(memory) = &status.memory else {
        return Ok(());
    };
    for (name, help, bytes) in [
        (
            "dovetail_speed_memory_bytes",
            "Memory held by runs and tails.",
            memory.used_bytes,
        ),
        (
            "dovetail_speed_memory_soft_limit_bytes",
            "Past it incremental runs start by themselves.",
            memory.soft_limit_bytes,
        ),
        (
            "dovetail_speed_memory_hard_limit_bytes",
            "Past it appends wait.",
            memory.hard_limit_bytes,
        ),
    ] {
        sheet.gauge(name, help, bytes)?;
    }
    Ok(())
}

fn stages(sheet: &mut Sheet<'_>, status: &Status) -> fmt::Result {
    let stages = || {
        status.stages.iter().map(|stage| {
            let stream = stage.stream.as_ref().map(|stream| label("stream", stream));
            let labels = [label("stage", &stage.stage)].into_iter().chain(stream);
            (labels.collect::<Labels>(), stage)
        })
    };
    sheet.counters(
        "dovetail_stage_handled",
        "Events (merge: groups, queries: answers) that the stage has handled since the server started.",
        stages().filter_map(|(labels, stage)| Some((labels, stage.total?))),
    )?;
    sheet.gauges(
        "dovetail_stage_busy_ratio",
        "Share of the last ten seconds in which the stage was at work, 0 to 1.",
        stages().map(|(labels, stage)| (labels, stage.busy)),
    )?;
    sheet.gauges(
        "dovetail_stage_failing_seconds",
        "Seconds since the stage has failed and did not succeed again, 0 while it does not fail.",
        stages().map(|(labels, stage)| {
            let failing = stage.failing.as_ref();
            // A failure of this very second is one, too.
            (labels, failing.map_or(0, |failing| failing.for_s.max(1)))
        }),
    )?;
    sheet.gauges(
        "dovetail_stage_waiting_offsets",
        "Offsets (queries: questions) that wait for the stage.",
        stages().map(|(labels, stage)| (labels, stage.waiting)),
    )?;
    sheet.histograms(
        "dovetail_stage_seconds",
        "Time that a thing took the stage: an append, a batch, a merge, an archive, a batch run, an answer.",
        &STAGE_BOUNDS_S,
        stages().map(|(labels, stage)| {
            let Latencies { buckets, sum_s } = &stage.latencies;
            (labels, &buckets[..], *sum_s)
        }),
    )
}

/// The offsets of a token, which the server has just written itself.
fn offsets(token: &str) -> Vec<(PartitionId, Offset)> {
    let token = token.parse::<PositionToken>();
    token.map_or_else(|_| vec![], |token| token.position.iter().collect())
}

fn of_stream(stream: &StreamInfo) -> Labels {
    vec![label("stream", &stream.name)]
}

fn positions(sheet: &mut Sheet<'_>, streams: &[StreamInfo]) -> fmt::Result {
    let positions = streams.iter().flat_map(|stream| {
        let layers = [
            ("durable", &stream.position),
            ("accumulated", &stream.accumulated),
            ("archived", &stream.archived),
        ];
        layers.into_iter().flat_map(move |(layer, token)| {
            offsets(token).into_iter().map(move |(partition, offset)| {
                let layer = [label("partition", partition), label("layer", layer)];
                let labels = of_stream(stream).into_iter().chain(layer).collect();
                (labels, offset.0)
            })
        })
    });
    sheet.gauges(
        "dovetail_stream_offset",
        "Next offset of a partition that a layer covers: durable, accumulated (answers cover it) or archived.",
        positions,
    )
}

fn archive(sheet: &mut Sheet<'_>, streams: &[StreamInfo]) -> fmt::Result {
    let of = of_stream;
    sheet.gauges(
        "dovetail_stream_dead_letters",
        "Dead letters that wait for a replay.",
        streams
            .iter()
            .filter_map(|s| Some((of(s), s.dead_letters?))),
    )?;
    sheet.gauges(
        "dovetail_stream_archived_events",
        "Events in the raw log.",
        streams.iter().map(|s| (of(s), s.archived_events)),
    )?;
    sheet.gauges(
        "dovetail_stream_archived_bytes",
        "Bytes of the raw log.",
        streams.iter().map(|s| (of(s), s.archived_bytes)),
    )
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

/// How a stream may stand to its topic.
const SOURCE_PHASES: [&str; 4] = ["connecting", "reading", "retrying", "stopped"];

fn sources(sheet: &mut Sheet<'_>, streams: &[StreamInfo]) -> fmt::Result {
    let sources = || {
        let read = streams.iter();
        read.filter_map(|stream| Some((stream.name.as_str(), stream.source.as_ref()?)))
    };
    let of = |stream: &str, source: &SourceInfo| {
        vec![label("stream", stream), label("topic", &source.topic)]
    };
    let partitions = || {
        sources().flat_map(move |(stream, source)| {
            source.partitions.iter().map(move |partition| {
                let mut labels = of(stream, source);
                labels.push(label("partition", partition.partition));
                (labels, partition)
            })
        })
    };
    sheet.gauges(
        "dovetail_source_lag_offsets",
        "Offsets between what was read of a topic's partition and its last stable offset.",
        partitions().map(|(labels, partition)| (labels, partition.lag)),
    )?;
    sheet.gauges(
        "dovetail_source_lag_seconds",
        "Age of the record that was read last of a topic's partition, while there are more; else 0.",
        partitions().map(|(labels, partition)| (labels, partition.lag_seconds)),
    )?;
    sheet.gauges(
        "dovetail_source_phase",
        "1 for how a stream stands to its topic, 0 for the other ways.",
        sources().flat_map(|(stream, source)| {
            SOURCE_PHASES.map(|phase| {
                let mut labels = of(stream, source);
                labels.push(label("phase", phase));
                (labels, u64::from(source.phase == phase))
            })
        }),
    )
}

/// How a view may answer.
const VIEW_PHASES: [ViewPhase; 5] = [
    ViewPhase::Building,
    ViewPhase::Live,
    ViewPhase::Batch,
    ViewPhase::OutOfMemory,
    ViewPhase::Poisoned,
];

fn of_view(status: &ViewStatus) -> Labels {
    vec![
        label("view", &status.view.name),
        label("stream", &status.view.stream),
    ]
}

/// What whoever has the runs knows of streams and views.
fn runs(sheet: &mut Sheet<'_>, status: &Status) -> fmt::Result {
    let (streams, views, of) = (&status.streams, &status.views, of_view);
    sheet.gauges(
        "dovetail_stream_freshness_seconds",
        "Age of the oldest durable event that answers do not cover; 0 when they cover all.",
        streams
            .iter()
            .map(|s| (of_stream(s), seconds(s.freshness_ms))),
    )?;
    sheet.gauges(
        "dovetail_view_freshness_seconds",
        "Age of the oldest durable event that merged answers do not cover; 0 when they cover all.",
        views.iter().map(|v| (of(v), seconds(v.freshness_ms))),
    )?;
    sheet.gauges(
        "dovetail_view_phase",
        "1 for how a view answers, 0 for the other ways.",
        views.iter().flat_map(|view| {
            VIEW_PHASES.map(|phase| {
                let mut labels = of(view);
                labels.push(label("phase", phase.as_str()));
                (labels, u64::from(view.view.phase == phase))
            })
        }),
    )?;
    sheet.gauges(
        "dovetail_view_run_groups",
        "Groups in the runs behind the horizon.",
        views.iter().map(|v| (of(v), v.run_groups)),
    )?;
    sheet.gauges(
        "dovetail_view_run_bytes",
        "Memory of the runs behind the horizon.",
        views.iter().map(|v| (of(v), v.run_bytes)),
    )
}

fn generations(sheet: &mut Sheet<'_>, views: &[ViewStatus]) -> fmt::Result {
    let of = of_view;
    sheet.gauges(
        "dovetail_view_horizon_offset",
        "Next offset of a partition that the live generation covers: the seam.",
        views.iter().flat_map(|view| {
            let horizon = offsets(&view.view.horizon).into_iter();
            horizon.map(move |(partition, offset)| {
                let mut labels = of(view);
                labels.push(label("partition", partition));
                (labels, offset.0)
            })
        }),
    )?;
    let live = |view: &ViewStatus| view.generations.iter().find(|g| g.live).cloned();
    let live = views.iter().filter_map(|v| Some((of(v), live(v)?)));
    let live: Vec<_> = live.collect();
    let each = || live.iter().map(|(labels, live)| (labels.clone(), live));
    sheet.gauges(
        "dovetail_view_generation",
        "Number of the live generation.",
        each().map(|(labels, live)| (labels, live.number.0)),
    )?;
    sheet.gauges(
        "dovetail_view_generation_groups",
        "Groups in the live generation.",
        each().map(|(labels, live)| (labels, live.groups)),
    )?;
    sheet.gauges(
        "dovetail_view_generation_bytes",
        "Bytes of the live generation's files.",
        each().map(|(labels, live)| (labels, live.bytes)),
    )
}

fn batch_runs(sheet: &mut Sheet<'_>, measured: &Measurements) -> fmt::Result {
    sheet.gauges(
        "dovetail_batch_runs",
        "Batch runs in the ledger, which keeps the newest thousand or so of each view.",
        measured.batch_runs.iter().map(|count| {
            let labels = vec![
                label("view", &count.view),
                label("mode", count.mode),
                label("outcome", count.outcome),
            ];
            (labels, count.runs)
        }),
    )
}

fn store(sheet: &mut Sheet<'_>, measured: &Measurements) -> fmt::Result {
    let kinds = || {
        measured.requests.kinds.iter().map(|(kind, count)| {
            let labels = vec![
                label("operation", kind.operation.as_str()),
                label("purpose", kind.purpose.as_str()),
                label("outcome", kind.outcome.as_str()),
            ];
            (labels, count)
        })
    };
    sheet.counters(
        "dovetail_store_requests",
        "Requests to the object store since the server started, each try and each page.",
        kinds().map(|(labels, count)| (labels, count.requests)),
    )?;
    sheet.counters(
        "dovetail_store_sent_bytes",
        "Bytes of the bodies of requests to the object store.",
        kinds().map(|(labels, count)| (labels, count.sent_bytes)),
    )?;
    sheet.counters(
        "dovetail_store_received_bytes",
        "Bytes of the bodies of the object store's answers, as far as they announce them.",
        kinds().map(|(labels, count)| (labels, count.received_bytes)),
    )?;
    sheet.histograms(
        "dovetail_store_request_seconds",
        "Time until the object store's answer to a try began.",
        &LATENCY_BOUNDS_S,
        measured.requests.latencies.iter().map(|(operation, l)| {
            let labels = vec![label("operation", operation.as_str())];
            (labels, &l.buckets[..], l.sum_s)
        }),
    )
}

fn cache(sheet: &mut Sheet<'_>, counts: &CacheCounts) -> fmt::Result {
    let tiers = |memory: u64, disk: u64| {
        [("memory", memory), ("disk", disk)].map(|(tier, v)| (vec![label("tier", tier)], v))
    };
    let one = |value: u64| [(Labels::new(), value)];
    sheet.counters(
        "dovetail_cache_hits",
        "Blocks of remote files that were found in memory or on disk.",
        tiers(counts.memory_hits, counts.disk_hits),
    )?;
    sheet.counters(
        "dovetail_cache_misses",
        "Blocks of remote files that were fetched.",
        one(counts.misses),
    )?;
    sheet.counters(
        "dovetail_cache_evictions",
        "Blocks that made room for others.",
        tiers(counts.memory_evictions, counts.disk_evictions),
    )?;
    sheet.counters(
        "dovetail_cache_corrupt",
        "Blocks on disk that were not as they had been written, and were fetched again.",
        one(counts.corrupt),
    )?;
    sheet.counters(
        "dovetail_cache_write_failures",
        "Blocks that could not be written to the disk.",
        one(counts.write_failures),
    )?;
    sheet.gauges(
        "dovetail_cache_bytes",
        "Bytes of the blocks that are kept.",
        tiers(counts.memory_bytes, counts.disk_bytes),
    )
}
