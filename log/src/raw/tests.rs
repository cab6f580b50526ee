// SPDX-License-Identifier: Apache-2.0
//! What the raw log protects: exactly once, no hole, any span, every column type.

mod damage;
mod dead_letters;
mod evolve;
mod exactly_once;
mod fencing;
mod follow;
mod holes;
mod round_trip;
mod shares;
mod spans;
mod support;
mod upkeep;
