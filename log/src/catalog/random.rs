// SPDX-License-Identifier: Apache-2.0
//! Randomness as an argument.

/// Where commit nonces come from. Injected, so that the simulation owns its randomness.
pub type NonceSource = Box<dyn FnMut() -> u64 + Send>;

/// Sixty-four random bits from the operating system: for nonces, and for ids of streams and views.
pub fn random_u64() -> u64 {
    getrandom::u64().expect("the operating system hands out random bytes")
}
