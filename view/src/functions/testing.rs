// SPDX-License-Identifier: Apache-2.0
//! Asking a session that has our functions.

use arrow::array::RecordBatch;
use arrow::util::display::array_value_to_string;
use arrow::util::pretty::pretty_format_batches;
use datafusion::error::DataFusionError;
use datafusion::prelude::SessionContext;

use crate::{register_functions, words_of};

pub(super) async fn ask(sql: &str) -> Result<Vec<RecordBatch>, DataFusionError> {
    let mut context = SessionContext::new();
    register_functions(&mut context).expect("a fresh session takes our functions");
    context.sql(sql).await?.collect().await
}

/// The values of the only column of the answer's first batch, or the error in our words.
pub(super) async fn values(sql: &str) -> Result<String, String> {
    let batches = ask(sql).await.map_err(|error| words_of(&error))?;
    let column = batches[0].column(0);
    let shown = (0..column.len()).map(|row| array_value_to_string(column, row));
    let shown: Result<Vec<_>, _> = shown.collect();
    Ok(shown.expect("what is answered can be shown").join(" "))
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
