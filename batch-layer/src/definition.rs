// SPDX-License-Identifier: Apache-2.0
//! How a view joins its stream, changes its definition, leaves and comes back.
//!
//! Each is one commit of the catalog between two swaps of the cut. Order matters: a definition joins the cut
//! before the catalog names it, so that no event falls between, and what a commit takes out of force leaves the cut
//! after it. Which definition that is, only the commit itself can tell: a promote or a rollback may come just
//! before. Calls for one view come one at a time; batch runs, promotes and rollbacks may come in between.

use std::sync::Arc;

use dovetail_log::catalog::Catalog;
use dovetail_model::{
    CatalogState, Entry, Manifest, Position, PublishReason, ViewDef, ViewId, ViewState,
};
use dovetail_seam::{Generation, StreamCell};
use dovetail_view::View;
use tracing::{info, warn};

use crate::layer::live_view;
use crate::{BatchError, BatchLayer, ledger};

impl BatchLayer {
    /// Declares a view. Returns whether it answers at once, as on an empty stream; else its first full run is to
    /// be started.
    ///
    /// # Errors
    /// When its stream is not open, its name or id is taken, or the catalog cannot commit.
    pub async fn create_view(&self, def: &ViewDef, view: &Arc<View>) -> Result<bool, BatchError> {
        let cell = self.cell(def)?;
        let joined = cell.join_view(def.id.clone(), &def.name, def.version, Arc::clone(view));
        let manifest = Arc::new(Manifest::empty(def, view.state_fingerprint()));
        // Of what other processes have read, nothing is known here before a target is taken.
        let is_empty = joined == Position::zero() && !cell.is_elsewhere();
        let mut entries = vec![Entry::ViewCreated { view: def.clone() }];
        if is_empty {
            entries.push(Entry::GenerationWritten {
                manifest: Arc::clone(&manifest),
            });
            entries.push(Entry::GenerationPublished {
                view: def.id.clone(),
                expected: None,
                generation: manifest.number,
                reason: PublishReason::Created,
            });
        }
        if let Err(error) = commit(&self.config.catalog, &entries).await {
            cell.remove_view(&def.id);
            return Err(error);
        }
        info!(view = %def.name, id = %def.id, "created");
        if is_empty {
            let generation = Generation::new(manifest, Arc::clone(view));
            cell.publish(&def.id, Arc::new(generation))?;
            self.project_or_warn(&def.id).await;
        }
        Ok(is_empty)
    }

    /// Gives a view a new definition, whose first full run is to be started: until it ends, the definition before
    /// it answers. A definition that is still being built is given up for it.
    ///
    /// # Errors
    /// When `def` does not carry the view's next version, or the catalog cannot commit.
    pub async fn redefine_view(&self, def: &ViewDef, view: &Arc<View>) -> Result<(), BatchError> {
        let cell = self.cell(def)?;
        self.cancel_running(&def.id, false).await;
        cell.join_candidate(&def.id, &def.name, def.version, Arc::clone(view));
        let mut superseded = None;
        let committed = ledger::commit(&self.config.catalog, |state| {
            superseded = pending_version(live_view(state, &def.id)?);
            Ok(vec![Entry::ViewRedefined { view: def.clone() }])
        })
        .await;
        let leaves = match &committed {
            Ok(_) => superseded,
            Err(_) => Some(def.version),
        };
        if let Some(version) = leaves {
            cell.remove_candidate(&def.id, version);
        }
        committed?;
        info!(view = %def.name, version = def.version, "redefined; the new generation is built beside the old one");
        Ok(())
    }

    /// Gives up the definition of a view that is being built beside the one that answers, if that is `wanted`.
    /// Returns the version that was given up.
    ///
    /// # Errors
    /// When there is no such view, or the catalog cannot commit.
    pub async fn give_up_pending(
        &self,
        id: &ViewId,
        wanted: impl Fn(&ViewDef) -> bool + Send + Sync,
    ) -> Result<Option<u64>, BatchError> {
        let mut given_up = None;
        let state = ledger::commit(&self.config.catalog, |state| {
            let view = live_view(state, id)?;
            given_up = pending_version(view).filter(|_| view.live.is_some() && wanted(&view.def));
            let entry = given_up.map(|_| Entry::RedefinitionDropped { view: id.clone() });
            Ok(entry.into_iter().collect())
        })
        .await?;
        let Some(version) = given_up else {
            return Ok(None);
        };
        let view = live_view(&state, id)?;
        self.cell(&view.def)?.remove_candidate(id, version);
        self.cancel_running(id, false).await;
        info!(view = %view.def.name, version, "the definition that was being built is given up");
        Ok(Some(version))
    }

    /// Drops a view, once its runs are cancelled. Its generations stay until retention takes them.
    ///
    /// # Errors
    /// When there is no such view, or the catalog cannot commit.
    pub async fn drop_view(&self, id: &ViewId) -> Result<(), BatchError> {
        let state = self.config.catalog.state();
        let cell = self.cell(&live_view(&state, id)?.def)?;
        for incremental in [true, false] {
            self.cancel_running(id, incremental).await;
        }
        // Who moves the pointer now finds the view in the cut until it has.
        let lock = self.publish_lock(id);
        let _publishing = lock.lock().await;
        let dropped = [Entry::ViewDropped { id: id.clone() }];
        commit(&self.config.catalog, &dropped).await?;
        cell.remove_view(id);
        Ok(())
    }

    /// Restores a dropped view under its name, compiled as `view`, and the definition that was being built for it
    /// as `pending`. Returns whether it answers; else its first full run is to be started.
    ///
    /// # Errors
    /// When its name is taken, its live generation cannot be brought to the present, or the catalog cannot commit.
    pub async fn undrop_view(
        &self,
        dropped: &ViewState,
        view: Arc<View>,
        pending: Option<Arc<View>>,
    ) -> Result<bool, BatchError> {
        let def = &dropped.def;
        let cell = self.cell(def)?;
        cell.join_view(def.id.clone(), &def.name, def.version, view);
        if let (Some(version), Some(view)) = (pending_version(dropped), pending) {
            cell.join_candidate(&def.id, &def.name, version, view);
        }
        let id = def.id.clone();
        if let Err(error) = commit(&self.config.catalog, &[Entry::ViewUndropped { id }]).await {
            cell.remove_view(&def.id);
            return Err(error);
        }
        if dropped.live.is_none() {
            return Ok(false);
        }
        self.rejoin(&def.id).await?;
        Ok(true)
    }

    /// Cancels the run of one lane, whose result is not wanted any more.
    async fn cancel_running(&self, id: &ViewId, incremental: bool) {
        let state = self.config.catalog.state();
        let Some(run) = state.running(id, incremental) else {
            return;
        };
        match self.cancel(run.id).await {
            // It has just ended.
            Ok(_) | Err(BatchError::WrongOutcome { .. }) => {}
            Err(error) => {
                warn!(run = run.id.0, view = state.view_name(id), %id, %error, "a run goes on whose result is not wanted any more");
            }
        }
    }

    fn cell(&self, def: &ViewDef) -> Result<Arc<StreamCell>, BatchError> {
        Ok(self.handle(def)?.cell)
    }
}

async fn commit(catalog: &Catalog, entries: &[Entry]) -> Result<Arc<CatalogState>, BatchError> {
    ledger::commit(catalog, |_| Ok(entries.to_vec())).await
}

fn pending_version(view: &ViewState) -> Option<u64> {
    view.pending.as_ref().map(|pending| pending.version)
}
