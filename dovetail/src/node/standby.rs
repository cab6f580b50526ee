// SPDX-License-Identifier: Apache-2.0
//! A second process with `--roles batch`: it waits until the one that has the store answers no more, and takes over.
//!
//! Nothing is lost by that, since such a process holds nothing that is not on the store; and nothing is done twice, since
//! the claim of the store begins an epoch behind which the former one commits nothing, be it dead, paused or cut off.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dovetail_exchange::{Greeted, RemoteCuts, RemoteCutsConfig};
use dovetail_log::catalog::Catalog;
use dovetail_log::object::Usage;
use dovetail_model::CatalogState;
use tokio::runtime::Handle;
use tracing::{info, warn};

use super::data_dir::DataDir;
use super::storage::open_place;
use super::{NodeConfig, NodeError};

/// Whoever has the store, and did not answer for so long, has it no more.
const SILENCE: Duration = Duration::from_secs(10);
/// How often it is asked.
const PAUSE: Duration = Duration::from_secs(1);

/// Waits while another process has the store and answers. Returns whether it is to be taken from it; if not, a claim
/// says for itself what stands against it.
pub(super) async fn stand_by(config: &NodeConfig) -> Result<bool, NodeError> {
    let Some(place) = &config.store else {
        return Ok(false);
    };
    let ours = DataDir::open(&config.data)?.id().to_owned();
    let store = open_place(place, Usage::Reading, &Arc::default())?;
    let clock = Arc::clone(&config.clock);
    let catalog = Arc::new(Catalog::open(Arc::clone(&store), Arc::clone(&clock)).await?);
    let others = RemoteCuts::new(RemoteCutsConfig {
        catalog: Arc::clone(&catalog),
        store,
        clock,
        token: config.peer_token.clone(),
        runtime: Handle::current(),
    });
    let (mut heard, mut known) = (Instant::now(), None);
    loop {
        let state = catalog.state();
        if !may_be_taken(&state, &ours) {
            return Ok(false);
        }
        if known != state.claim {
            if let Some(claim) = &state.claim {
                info!("standing by for {claim}");
            }
            (heard, known) = (Instant::now(), state.claim.clone());
        }
        match others.greet().await {
            Greeted::LetIn => heard = Instant::now(),
            // It lives. Whoever is not let in now would not be later, nor let in by others.
            Greeted::NotLetIn(problem) => return Err(NodeError::Claim(problem.detail)),
            Greeted::Silent(problem) if heard.elapsed() > SILENCE => {
                warn!(%problem, "taking the store over");
                return Ok(true);
            }
            Greeted::Silent(_) => {}
        }
        tokio::time::sleep(PAUSE).await;
        let reloaded = catalog.reload().await;
        if let Err(error) = reloaded {
            // Who cannot see the store cannot say that it is free.
            warn!(%error, "the catalog cannot be read");
            heard = Instant::now();
        }
    }
}

/// Whether another process has the store that can be asked, and that has nothing which is only in its own directory.
fn may_be_taken(state: &CatalogState, ours: &str) -> bool {
    let mut streams = state.live_streams();
    state.claim.as_ref().is_some_and(|claim| {
        claim.owner != ours
            && claim.endpoints.is_some()
            && streams.all(|stream| stream.def.source.kafka().is_some())
    })
}
