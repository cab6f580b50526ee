// SPDX-License-Identifier: Apache-2.0
//! What the tests of several crates share: real servers on loopback, and what goes wrong on the way to them.

mod proxy;

pub use dovetail_broker as kafka;
pub use dovetail_broker::{
    AZURE_KEYS, AzureServer, BUCKET, Gateway, KEY_ID, KEYS, SECRET, store_options,
};
pub use proxy::{Fault, Proxy};
