// SPDX-License-Identifier: Apache-2.0
//! Asking a session that has our functions.

use arrow::array::RecordBatch;
use arrow::util::pretty::pretty_format_batches;
use datafusion::error::Result;
use datafusion::prelude::SessionContext;

use crate::register_functions;

pub(super) async fn ask(sql: &str) -> Result<Vec<RecordBatch>> {
    let mut context = SessionContext::new();
    register_functions(&mut context).expect("a fresh session takes our functions");
    context.sql(sql).await?.collect().await
}

/// The only column of the answer, as text.
pub(super) async fn column(sql: &str) -> Vec<String> {
    let batches = ask(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    let table = pretty_format_batches(&batches)
        .expect("what is answered can be shown")
        .to_string();
    let cells = table.lines().skip(3).filter(|line| !line.starts_with('+'));
    cells
        .map(|line| line.trim_matches(['|', ' ']).to_owned())
        .collect()
}
