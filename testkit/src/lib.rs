//! What the tests of several crates share: generators, an oracle, temporary places.
