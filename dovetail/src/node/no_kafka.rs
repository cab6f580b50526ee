// SPDX-License-Identifier: Apache-2.0
//! In place of `kafka` in a build without that feature: no topic can be read, and the refusal says so.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use dovetail_log::decode::Decoder;
use dovetail_log::raw::ArchivedDeadLetter;
use dovetail_model::{
    Clock, Hole, KafkaSettings, KafkaSource, Position, Problem, Share, Source, StreamDef, StreamId,
    StreamSchema,
};
use dovetail_seam::StreamCell;
use dovetail_serving_layer::ports::{AppendAnswer, AppendRequest, SourceInfo};
use dovetail_speed_layer::{BatchSender, SpeedMemory};

const ABSENT: &str = "this build of Dovetail has no Kafka in it: build it with the cargo feature `kafka`, which is on by default";

/// There is none.
#[derive(Debug, Clone)]
pub(crate) enum KafkaFeed {}

/// Where a reader's batches would go.
pub(crate) struct Destination {
    pub(crate) cell: Arc<StreamCell>,
    pub(crate) batches: BatchSender,
    pub(crate) memory: Arc<SpeedMemory>,
}

pub(crate) async fn declare(_: KafkaSettings, _: StreamId) -> Result<Source, Problem> {
    Err(Problem::invalid(ABSENT))
}

impl KafkaFeed {
    pub(crate) fn start(
        _: &StreamDef,
        _: &KafkaSource,
        _: Share,
        _: &[Hole],
        _: Arc<dyn Clock>,
        to: Destination,
    ) -> std::io::Result<Self> {
        drop((to.cell, to.batches, to.memory));
        Err(std::io::Error::other(ABSENT))
    }

    pub(crate) fn evolve(&self, _: &StreamSchema) {
        match *self {}
    }

    pub(crate) async fn append(
        &self,
        _: &Arc<StreamDef>,
        _: &StreamCell,
        _: Arc<Decoder>,
        _: AppendRequest,
    ) -> Result<AppendAnswer, Problem> {
        match *self {}
    }

    pub(crate) async fn replay(
        &self,
        _: &Arc<StreamDef>,
        _: Arc<Decoder>,
        _: Vec<ArchivedDeadLetter>,
    ) -> Result<(u64, Position), Problem> {
        match *self {}
    }

    pub(crate) async fn end(&self) -> Result<Position, Problem> {
        match *self {}
    }

    pub(crate) fn check_replayable(&self, _: &StreamDef) -> Result<(), Problem> {
        match *self {}
    }

    pub(crate) fn hole(&self, _: &str, _: DateTime<Utc>) -> Result<Hole, Problem> {
        match *self {}
    }

    pub(crate) fn skip(&self, _: &Hole) {
        match *self {}
    }

    pub(crate) async fn catch_up(&self, _: &StreamCell) {
        match *self {}
    }

    pub(crate) async fn close(&self) {
        match *self {}
    }

    pub(crate) fn info(&self, _: i64) -> SourceInfo {
        match *self {}
    }
}
