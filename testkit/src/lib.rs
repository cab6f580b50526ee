// SPDX-License-Identifier: Apache-2.0
//! What the tests of several crates share: real servers on loopback.

pub use dovetail_broker as kafka;
