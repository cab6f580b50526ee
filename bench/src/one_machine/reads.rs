// SPDX-License-Identifier: Apache-2.0
//! The whole view as Arrow, where runs touch a tenth of its groups, beside the same read where there are none: over HTTP,
//! then in this process on the same directories.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use arrow::array::{ArrayRef, Int64Array, RecordBatch, UInt64Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::ipc::reader::StreamReader;
use dovetail::node::{Node, NodeConfig};
use dovetail_bench::{ARROW, Server, arrow_body};
use dovetail_serving_layer::ports::{Layer, Limits, Queries as _, QueryRequest};
use futures::TryStreamExt as _;
use tempfile::TempDir;

use crate::Size;
use crate::load::{recomputed, until_visible};
use crate::table::Table;

/// One group of so many is touched.
const TENTH: u64 = 10;
const WHOLE: &str = "SELECT * FROM hourly";
/// In the order of the generation's files: that of the key which derives from event time first.
const KEYS: &str = "SELECT origin, hour AS date FROM hourly ORDER BY hour, origin";
/// Longer than a read may take.
const PATIENCE: Duration = Duration::from_secs(60);
const COLUMNS: [&str; 4] = ["groups", "touched", "ms", "of untouched"];

/// Who answers, and what is in it.
struct Place<T> {
    touched: Touched,
    groups: u64,
    of_them: u64,
    answers: T,
}

pub(crate) async fn measure(size: Size) -> Result<()> {
    let mut servers = vec![];
    for touched in [Touched::Nothing, Touched::Clustered, Touched::Uniform] {
        let server = recomputed(1, &[]).await?;
        let (groups, of_them) = touched.touch(&server).await?;
        servers.push(Place {
            touched,
            groups,
            of_them,
            answers: server,
        });
    }
    let over_http = async |server: &Server| server.rows(WHOLE, "arrow").await.map(drop);
    compare("over HTTP", &servers, size.rounds, over_http).await?;
    let mut nodes = vec![];
    for place in servers {
        nodes.push(Place {
            touched: place.touched,
            groups: place.groups,
            of_them: place.of_them,
            answers: InProcess::open(place.answers.stopped().await?).await?,
        });
    }
    let groups: BTreeMap<&str, u64> = nodes.iter().map(|p| (p.touched.name(), p.groups)).collect();
    for place in &nodes {
        let rows = place.answers.read().await?;
        let expected = groups[place.touched.name()];
        ensure!(rows as u64 == expected, "{rows} rows instead of {expected}");
    }
    let in_process = async |node: &InProcess| node.read().await.map(drop);
    compare("in process", &nodes, size.rounds, in_process).await?;
    for place in nodes {
        place.answers.node.shutdown().await;
    }
    Ok(())
}

/// Reads all of `places` in each round.
async fn compare<T>(
    how: &str,
    places: &[Place<T>],
    rounds: u64,
    read: impl AsyncFn(&T) -> Result<()>,
) -> Result<()> {
    let title = format!("the whole view {how} as Arrow, warm; medians of {rounds} rounds");
    let mut table = Table::new(title, &COLUMNS);
    for round in 0..=rounds {
        let mut untouched = f64::NAN;
        for place in places {
            let begun = Instant::now();
            read(&place.answers).await?;
            let ms = begun.elapsed().as_secs_f64() * 1e3;
            if place.touched == Touched::Nothing {
                untouched = ms;
            }
            // The first one warms up.
            if round > 0 {
                let (groups, of_them) = (place.groups as f64, place.of_them as f64);
                table.push(place.touched.name(), &[groups, of_them, ms, ms / untouched]);
            }
        }
    }
    table.print()
}

/// A node in this process.
struct InProcess {
    node: Node,
    _home: TempDir,
}

impl InProcess {
    async fn open(home: TempDir) -> Result<Self> {
        let node = Node::open(NodeConfig::new(home.path().to_owned())).await?;
        Ok(Self { node, _home: home })
    }

    /// Reads the whole view and forgets it; how many rows it has.
    async fn read(&self) -> Result<usize> {
        let limits = Limits {
            after: vec![],
            layer: Layer::Merged,
            generation: None,
            timeout: PATIENCE,
            deadline: tokio::time::Instant::now() + PATIENCE,
        };
        let request = QueryRequest {
            sql: WHOLE.to_owned(),
            parameters: None,
            limits,
        };
        let answer = self.node.engine().query(request).await;
        let answer = answer.map_err(|problem| anyhow::anyhow!("{problem}"))?;
        let rows = answer
            .batches
            .try_fold(0, async |rows, batch| Ok(rows + batch.num_rows()));
        Ok(rows.await?)
    }
}

/// Which groups new events fall into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Touched {
    Nothing,
    /// The last tenth.
    Clustered,
    /// Each tenth one.
    Uniform,
}

impl Touched {
    fn name(self) -> &'static str {
        match self {
            Self::Nothing => "speed layer empty",
            Self::Clustered => "a tenth touched, clustered",
            Self::Uniform => "a tenth touched, uniform",
        }
    }

    /// Sends an event into each of these groups; how many groups there are, and how many of them got one.
    async fn touch(self, server: &Server) -> Result<(u64, u64)> {
        let keys = keys(server).await?;
        let groups = keys.num_rows() as u64;
        let rows: Vec<u64> = match self {
            Self::Nothing => vec![],
            Self::Clustered => (groups - groups / TENTH..groups).collect(),
            Self::Uniform => (0..groups).step_by(TENTH as usize).collect(),
        };
        if rows.is_empty() {
            return Ok((groups, 0));
        }
        let touched = rows.len() as u64;
        let keys = take_record_batch(&keys, &UInt64Array::from(rows))?;
        let ones: ArrayRef = Arc::new(Int64Array::from_value(1, keys.num_rows()));
        let [origin, date] = [keys.column(0), keys.column(1)].map(Arc::clone);
        let columns = [
            ("date", date),
            ("delay", Arc::clone(&ones)),
            ("distance", ones),
            ("origin", Arc::clone(&origin)),
            ("destination", origin),
        ];
        let events = RecordBatch::try_from_iter(columns)?;
        let (_, token) = server.append(arrow_body(&events)?, ARROW).await?;
        until_visible(server, &token).await?;
        Ok((groups, touched))
    }
}

async fn keys(server: &Server) -> Result<RecordBatch> {
    let body = server.body(KEYS, "arrow").await?;
    let reader = StreamReader::try_new(body.as_ref(), None)?;
    let schema = reader.schema();
    let batches = reader.collect::<Result<Vec<_>, _>>()?;
    concat_batches(&schema, &batches).context("the keys are one batch")
}
