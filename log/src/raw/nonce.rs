// SPDX-License-Identifier: Apache-2.0
//! Names that nobody else gives: of data files, and of commits that must be told apart.

use crate::catalog::random_u64;

/// 32 hex digits that nobody gave before. Nothing that a query answers depends on them.
pub(super) fn nonce() -> String {
    format!("{:016x}{:016x}", random_u64(), random_u64())
}
