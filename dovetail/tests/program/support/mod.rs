// SPDX-License-Identifier: Apache-2.0
//! What the tests of the program share: the program itself, servers of it, a fake server, load and its oracle.

pub(crate) mod fake;
pub(crate) mod feed;
pub(crate) mod load;
pub(crate) mod node;
pub(crate) mod program;
pub(crate) mod projection;
pub(crate) mod server;
pub(crate) mod small_disk;
pub(crate) mod up;
