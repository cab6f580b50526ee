// SPDX-License-Identifier: Apache-2.0
//! What the machine may do to a server: disks that are full, slow, that cannot be written, or that read back something else;
//! a clock that jumps. A refusal that says the way out, a recovery that says what it did; nothing acknowledged is lost,
//! and no number is wrong.

mod clients;
mod clock;
mod damage;
mod full_disk;
mod read_only;
mod slow_disk;
