//! What the tests of several crates share: real servers on loopback.

pub mod kafka;
