// SPDX-License-Identifier: Apache-2.0
//! Where the store is: the options, and the place that they name.

use clap::Args;
use dovetail_log::object::{StoreOption, StoreUrl};

use crate::cli::CliError;

/// Where the raw log, the generations and the catalog live.
#[derive(Debug, Args)]
pub(super) struct StoreArgs {
    /// Where the raw log, the generations and the catalog live: s3://BUCKET/PREFIX, gs://BUCKET/PREFIX,
    /// az://CONTAINER/PREFIX or file:///DIRECTORY [default: store/ in the data directory]
    #[arg(long, env = "DOVETAIL_STORE", value_name = "URL")]
    pub(super) store: Option<StoreUrl>,
    /// More about the store, once for each: endpoint=URL, region=NAME, addressing=path or virtual-hosted,
    /// allow_http=true, account=NAME; several by commas, too. Keys come from the environment
    #[arg(
        long = "store-option",
        env = "DOVETAIL_STORE_OPTIONS",
        value_name = "KEY=VALUE",
        value_delimiter = ','
    )]
    options: Vec<StoreOption>,
    /// Take the store from the data directory that has it. Events that only its log holds are given up, and a process
    /// that still runs there writes nothing more and ends
    #[arg(long)]
    pub(super) take_over: bool,
}

impl StoreArgs {
    /// Whether there is a store that the options are of. Not for clap to ask: what a file says does not count there.
    pub(super) fn check(&self) -> Result<(), CliError> {
        if self.store.is_none() && !self.options.is_empty() {
            return Err(CliError::Usage(
                "--store-option says more about a store: name it with --store".to_owned(),
            ));
        }
        Ok(())
    }

    pub(super) fn place(self) -> Option<StorePlace> {
        let url = self.store?;
        Some(StorePlace {
            url,
            options: self.options,
        })
    }
}

/// A store that is not in the data directory.
#[derive(Debug, Clone)]
pub struct StorePlace {
    /// Where it is.
    pub url: StoreUrl,
    /// What else there is to say of it.
    pub options: Vec<StoreOption>,
}
