// SPDX-License-Identifier: Apache-2.0
//! A Kafka topic as the log below a stream.
//!
//! Purpose: a topic's partitions and offsets *are* the stream's, so the seam needs nothing of its own here: what is
//! consumed becomes committed batches, and where to go on after a restart is the archived position of the raw log,
//! which commits with the data. The group's offsets in Kafka are never read.
//! Collaborators: `dovetail-log` decodes and defines the batches; a schema registry keeps what Avro and Protobuf
//! records were written with; the node wires a [`KafkaLog`] to the speed layer
//! and the archiver.
//! Invariants: only committed records are seen (`read_committed`); the position moves over offsets that no consumer
//! sees, up to the last stable one; what cannot be told (a hole that retention left, another topic of the same
//! name, offsets that went backwards, a schema that the registry does not have) stops the stream with a reason and never shortens an answer.
//! Appends over HTTP go to the topic, one transaction for each or for several; what is committed comes back through the
//! reader like anybody's records.
//! Non-goals: consumer groups (partitions are assigned by us).

mod connect;
mod error;
mod gather;
mod log;
mod native;
mod probe;
pub mod produce;
mod registry;
pub mod replay;
mod secret;
mod state;

pub use error::KafkaError;
pub use log::{KafkaLog, Sink};
pub use probe::{declare, stable_end};
pub use state::{PartitionLag, Phase, State};
