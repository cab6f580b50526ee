// SPDX-License-Identifier: Apache-2.0
//! In place of `kafka` in a build without that feature: no topic can be read, and the refusal says so.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use dovetail_log::raw::ArchivedDeadLetter;
use dovetail_model::{
    Clock, Hole, KafkaSettings, KafkaSource, Position, Problem, Share, Source, StreamDef, StreamId,
    StreamSchema,
};
use dovetail_seam::StreamCell;
use dovetail_serving_layer::ports::{AppendAnswer, AppendRequest, SourceInfo};
use dovetail_speed_layer::{BatchSender, SpeedMemory};

use super::ingest::Tried;
use super::open_stream::Declared;

const ABSENT: &str = "this build of Dovetail has no Kafka in it: build it with the cargo feature `kafka`, which is on by default";

/// There is none.
#[derive(Debug, Clone)]
pub(crate) enum KafkaFeed {}

/// It appends nothing.
#[derive(Debug, Clone)]
pub(crate) struct KafkaAppender;

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

    pub(crate) fn check_same_topic(&self) -> Result<(), Problem> {
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

impl KafkaAppender {
    pub(crate) fn new(_: &StreamDef, _: &KafkaSource, _: Arc<dyn Clock>) -> Self {
        Self
    }

    pub(crate) async fn append(
        &self,
        _: Declared,
        _: Position,
        _: AppendRequest,
    ) -> Result<AppendAnswer, Problem> {
        Err(Problem::conflict(ABSENT))
    }

    pub(crate) async fn replay(
        &self,
        _: Declared,
        _: Vec<ArchivedDeadLetter>,
    ) -> Result<(Vec<Tried>, Position), Problem> {
        Err(Problem::conflict(ABSENT))
    }

    pub(crate) async fn end(&self, _: &StreamDef) -> Result<Position, Problem> {
        Err(Problem::conflict(ABSENT))
    }

    pub(crate) async fn close(&self) {}
}
