// SPDX-License-Identifier: Apache-2.0
//! Whom the catalog names.

use dovetail_model::{CatalogState, IngestEpoch, Problem, Share};

use super::connections::{Peer, unavailable};

/// The processes that take the events.
pub(super) struct Peers {
    pub(super) epoch: IngestEpoch,
    /// In order of their shares.
    pub(super) all: Vec<Peer>,
    /// Whether they are other processes than the one that has the store.
    pub(super) is_divided: bool,
}

impl Peers {
    /// Those that `catalog` names.
    pub(super) fn of(catalog: &CatalogState) -> Result<Self, Problem> {
        let epoch = catalog.ingest.epoch;
        if catalog.ingest.members.is_empty() {
            return Ok(Self {
                epoch,
                all: vec![decider(catalog)?],
                is_divided: false,
            });
        }
        let all = catalog.ingest.shares().map(|(member, share)| Peer {
            url: member.endpoints.cuts.clone(),
            share,
        });
        Ok(Self {
            epoch,
            all: all.collect(),
            is_divided: true,
        })
    }
}

/// The process that has the store, which decides; where no others take the events, it takes them all.
pub(super) fn decider(catalog: &CatalogState) -> Result<Peer, Problem> {
    let claim = catalog.claim.as_ref();
    let endpoints = claim.and_then(|claim| claim.endpoints.as_deref());
    let url = endpoints.map(|endpoints| endpoints.cuts.clone());
    let url = url.ok_or_else(|| {
        unavailable(
            "no process has said where it hands out what it holds in memory: start the one that takes the events with --cuts ADDRESS; layer=batch answers from the generations".to_owned(),
        )
    })?;
    Ok(Peer {
        url,
        share: Share::ALL,
    })
}
