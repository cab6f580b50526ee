// SPDX-License-Identifier: Apache-2.0
//! Questions, and answers with their provenance.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use datafusion::common::ParamValues;
use datafusion::execution::SendableRecordBatchStream;
use dovetail_model::{ExclusionId, GenerationNumber, PositionToken, StreamId, ViewId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::status::HoleInfo;
use crate::held::AnswerMemory;

/// Which layers an answer is made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Layer {
    /// Generation and runs: everything up to the last accumulated event.
    #[default]
    Merged,
    /// The generation alone, up to its horizon.
    ///
    /// Generations of several views of one stream may end at different positions. Then the answer's position is
    /// what all of them cover, the stream itself is read up to exactly that, and the provenance names the
    /// generation and horizon of each view and says which reach further. The same generations always give the
    /// same rows.
    Batch,
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Merged => "merged",
            Self::Batch => "batch",
        })
    }
}

impl FromStr for Layer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "merged" => Ok(Self::Merged),
            "batch" => Ok(Self::Batch),
            other => Err(format!(
                "`{other}` is not a layer: use merged (generation and runs) or batch (the generation alone)"
            )),
        }
    }
}

/// What every question may say besides itself.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Positions that the answer must cover, at most one per stream. Wait for them until `deadline`.
    pub after: Vec<PositionToken>,
    /// Which layers to answer from.
    pub layer: Layer,
    /// Answer from this generation of the view (and nothing newer), if the question reads exactly one.
    pub generation: Option<GenerationNumber>,
    /// How long the caller allowed, for messages.
    pub timeout: Duration,
    /// When the caller's patience ends, rows included.
    pub deadline: Instant,
}

/// One SELECT or EXPLAIN.
#[derive(Debug, Clone)]
pub struct QueryRequest {
    /// The statement, without a trailing semicolon.
    pub sql: String,
    /// Values of its placeholders, `$1` or `$name`: booleans, BIGINT, DOUBLE, VARCHAR or null.
    pub parameters: Option<ParamValues>,
    /// Cut, layer and time.
    pub limits: Limits,
}

/// How a filter compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FilterOp {
    /// `=`; null matches nothing.
    Eq,
    /// `>`
    Gt,
    /// `>=`
    GtEq,
    /// `<`
    Lt,
    /// `<=`
    LtEq,
    /// `IN (…)`
    In,
    /// `IS NULL`
    IsNull,
    /// `IS NOT NULL`
    IsNotNull,
}

/// One condition on one column. Conditions are joined by AND.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// The column.
    pub column: String,
    /// How it compares.
    pub op: FilterOp,
    /// The literals as text: one; any number for [`FilterOp::In`], none for those that ask for null.
    pub values: Vec<String>,
}

/// One column to sort by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderBy {
    /// The column.
    pub column: String,
    /// Largest first. Nulls are last either way.
    pub descending: bool,
}

/// Rows of one view.
#[derive(Debug, Clone)]
pub struct RowsRequest {
    /// The view's name.
    pub view: String,
    /// The columns to answer, in order; all when none is named.
    pub columns: Vec<String>,
    /// Conditions, joined by AND.
    pub filters: Vec<Filter>,
    /// Columns to sort by before the key columns, which always follow as the tie-break.
    pub order: Vec<OrderBy>,
    /// Most rows to answer.
    pub limit: usize,
    /// Where an earlier page ended, as that page gave it.
    pub cursor: Option<String>,
    /// Cut, layer and time.
    pub limits: Limits,
}

/// A running answer. Dropping its stream cancels the query.
pub struct Answer {
    /// The rows, produced as they are asked for.
    pub batches: SendableRecordBatchStream,
    /// What they were made from.
    pub provenance: Provenance,
    /// What is held of it for its reader. A batch is on it until the next one is asked for.
    pub memory: AnswerMemory,
}

/// Where the page of a [`RowsAnswer`] stands; made by [`crate::rows::RowsPlan`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Columns of the batches to show: the first so many. Behind them are columns only needed to sort.
    pub visible: usize,
    /// Columns of the batches that the rows are sorted by.
    pub order: Vec<usize>,
    /// Ties a cursor to the view, its filters and its order.
    pub fingerprint: String,
    /// Whether there are more rows, though none is there that says so.
    pub more: bool,
}

/// Rows of a view, at most one more than the request's limit: the last one only says that there are more.
pub struct RowsAnswer {
    /// The rows.
    pub answer: Answer,
    /// How they continue.
    pub page: Page,
}

/// What an answer was made from: each stream and each view that it reads, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Provenance {
    /// Every stream that is read, directly or under a view.
    pub streams: Vec<StreamProvenance>,
    /// Every view that is read.
    pub views: Vec<ViewProvenance>,
}

/// How far an answer covers one stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StreamProvenance {
    /// The stream's name.
    pub stream: String,
    /// Its id.
    pub id: StreamId,
    /// The position that every part of the answer covers, as a token that `after=` takes; where the stream
    /// itself is read, its rows end exactly here. A view's rows end here too unless its notes say that they
    /// reach further, as views that answer from generations of different horizons do.
    pub position: String,
    /// Age of the oldest durable event that the answer does not cover, in milliseconds; 0 when it covers all. None
    /// where the process that knows what is durable could not be asked.
    pub freshness_ms: Option<u64>,
    /// Offsets that its topic lost before they were read, and that the answer runs over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holes: Vec<HoleInfo>,
}

/// What an answer took from one view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ViewProvenance {
    /// The view's name.
    pub view: String,
    /// Its id.
    pub id: ViewId,
    /// The stream it reads.
    pub stream: String,
    /// The generation that was read.
    pub generation: GenerationNumber,
    /// Where that generation ends and the runs begin: the seam, as a token.
    pub horizon: String,
    /// Which layers answered.
    pub layer: Layer,
    /// Runs read from the horizon on; 0 for the batch layer alone.
    pub runs: u64,
    /// Exclusions that the generation carries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclusions: Vec<ExclusionId>,
    /// What a reader should know: a redefinition that is building, another state fingerprint, a speed
    /// layer that is down.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}
