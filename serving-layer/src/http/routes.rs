// SPDX-License-Identifier: Apache-2.0
//! The handlers. Each names the role it needs, takes its parameters, refuses the rest, and calls one port.

pub(super) mod definitions;
pub(super) mod exclusions;
pub(super) mod runs;
mod show;
pub(super) mod sql;
pub(super) mod status;
pub(super) mod streams;
pub(super) mod views;
