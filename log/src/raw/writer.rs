// SPDX-License-Identifier: Apache-2.0
//! In whose name a stream's tables are written.

use dovetail_model::{IngestEpoch, Share, StoreEpoch};

/// Who writes the tables of a stream, and in which epochs: no write of an earlier one lands behind the claim of a later
/// one of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawWriter {
    store: Option<StoreEpoch>,
    ingest: Option<IngestEpoch>,
    share: Share,
}

/// An epoch that a table is claimed in.
pub(super) struct Claim {
    /// The application id under which a table keeps the newest one.
    pub(super) transaction: &'static str,
    /// What the epochs are of, in errors.
    pub(super) of: &'static str,
    pub(super) epoch: u64,
}

impl RawWriter {
    /// The process that has the store.
    pub fn owner(epoch: StoreEpoch) -> Self {
        Self {
            store: Some(epoch),
            ingest: None,
            share: Share::ALL,
        }
    }

    /// The same, which takes the events, too: no other process does from this epoch on.
    #[must_use]
    pub fn taking_all(self, epoch: IngestEpoch) -> Self {
        Self {
            ingest: Some(epoch),
            ..self
        }
    }

    /// One of the processes that take the events, of its share.
    pub fn member(epoch: IngestEpoch, share: Share) -> Self {
        Self {
            store: None,
            ingest: Some(epoch),
            share,
        }
    }

    /// The partitions that it archives.
    pub fn share(self) -> Share {
        self.share
    }

    pub(super) fn claims(self) -> impl Iterator<Item = Claim> {
        let store = self.store.map(|epoch| Claim {
            transaction: "dovetail-epoch",
            of: "the store",
            epoch: epoch.0,
        });
        let ingest = self.ingest.map(|epoch| Claim {
            transaction: "dovetail-ingest-epoch",
            of: "those that take the events",
            epoch: epoch.0,
        });
        store.into_iter().chain(ingest)
    }
}

impl From<StoreEpoch> for RawWriter {
    fn from(epoch: StoreEpoch) -> Self {
        Self::owner(epoch)
    }
}
