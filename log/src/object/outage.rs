// SPDX-License-Identifier: Apache-2.0
//! Telling a store that does not answer from a file that is not there, and from a disk that is full.

use std::error::Error;
use std::io::{self, ErrorKind};

use crate::parquet_files::is_damage;

/// Whether what failed is that a store did not answer, or refused for now: asking again may help. That a file is not
/// there is none, nor that it is damaged.
pub fn is_outage(error: &(dyn Error + 'static)) -> bool {
    if is_damage(error) {
        return false;
    }
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(store) = cause.downcast_ref::<object_store::Error>() {
            return !matches!(store, object_store::Error::NotFound { .. });
        }
        next = cause.source();
    }
    // Where the Parquet reader reads a file's metadata, it makes text of what the store said; deltalake's kernel keeps that
    // to itself where it reads a table's log.
    let text = error.to_string();
    let begins = ["Object Store error: Generic", "object store: Generic"];
    begins.iter().any(|begin| text.contains(begin))
}

/// Whether what failed is that there is no room on a disk: it succeeds once somebody makes some.
pub fn is_full(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            return matches!(io.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
        }
        next = cause.source();
    }
    // Who wraps an error often keeps its text alone.
    let text = error.to_string();
    let ends = [rustix::io::Errno::NOSPC, rustix::io::Errno::DQUOT];
    ends.iter()
        .any(|errno| text.contains(&format!("(os error {})", errno.raw_os_error())))
}

#[cfg(test)]
mod tests {
    use datafusion::error::DataFusionError;
    use object_store::Error::{Generic, NotFound};
    use parquet::errors::ParquetError;

    use super::*;

    #[test]
    fn a_full_disk_is_told_through_all_that_wraps_it() {
        let full = || io::Error::from(rustix::io::Errno::NOSPC);
        let of_store = Generic {
            store: "test",
            source: Box::new(full()),
        };
        assert!(is_full(&of_store));
        assert!(is_full(&DataFusionError::from(full()).context("spilling")));
        let text = ParquetError::General(format!("cannot write `x`: {}", full()));
        assert!(is_full(&text));
        assert!(!is_full(&io::Error::from(rustix::io::Errno::IO)));
    }

    #[test]
    fn a_store_that_failed_may_be_asked_again_but_a_hole_may_not() {
        let failed = || Generic {
            store: "test",
            source: "connection reset".into(),
        };
        let missing = || NotFound {
            path: "a.parquet".to_owned(),
            source: "gone".into(),
        };
        let wrapped = |error| DataFusionError::External(Box::new(error)).context("reading");
        assert!(is_outage(&wrapped(failed())));
        assert!(!is_outage(&wrapped(missing())));
        let as_text =
            |error| ParquetError::General(format!("no metadata: {}", DataFusionError::from(error)));
        assert!(is_outage(&as_text(failed())));
        assert!(!is_outage(&as_text(missing())));
    }
}
