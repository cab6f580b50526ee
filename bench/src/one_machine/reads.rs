// SPDX-License-Identifier: Apache-2.0
//! The whole view as Arrow, where runs touch a tenth of its groups, beside the same read where there are none: over HTTP,
//! then in this process on the same directories. Once first after another event, of a group that is touched anyway, and
//! once as the next ones do who ask while nothing comes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use arrow::array::{ArrayRef, Int64Array, RecordBatch, UInt64Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::ipc::reader::StreamReader;
use bytes::Bytes;
use dovetail::node::{Node, NodeConfig};
use dovetail_bench::{ARROW, Server, arrow_body};
use dovetail_log::Format;
use dovetail_model::PositionToken;
use dovetail_serving_layer::ports::{
    AppendRequest, Ingest as _, Layer, Limits, OnError, Queries as _, QueryRequest,
};
use futures::TryStreamExt as _;
use tempfile::TempDir;

use crate::Size;
use crate::load::{recomputed, until_visible};
use crate::table::Table;

/// One group of so many is touched.
const TENTH: u64 = 10;
const WHOLE: &str = "SELECT * FROM hourly";
const ANY: &str = "SELECT 1 FROM hourly LIMIT 1";
/// In the order of the generation's files: that of the key which derives from event time first.
const KEYS: &str = "SELECT origin, hour AS date FROM hourly ORDER BY hour, origin";
/// Longer than a read may take.
const PATIENCE: Duration = Duration::from_secs(60);
const COLUMNS: [&str; 6] = [
    "groups",
    "touched",
    "first, ms",
    "of untouched",
    "again, ms",
    "of untouched",
];

/// Who answers, and what is in it.
struct Place<T> {
    touched: Touched,
    groups: u64,
    of_them: u64,
    /// An event of one of them, unless there is none.
    event: Option<Bytes>,
    answers: T,
}

/// How a place is asked.
trait Answers {
    /// Reads the whole view and forgets it.
    async fn read(&self) -> Result<()>;
    /// Appends an event, which the next read has.
    async fn append(&self, event: Bytes) -> Result<()>;
}

impl Answers for Server {
    async fn read(&self) -> Result<()> {
        self.rows(WHOLE, "arrow").await.map(drop)
    }

    async fn append(&self, event: Bytes) -> Result<()> {
        let (_, token) = Self::append(self, event, ARROW).await?;
        until_visible(self, &token).await
    }
}

pub(crate) async fn measure(size: Size) -> Result<()> {
    let mut servers = vec![];
    for touched in [Touched::Nothing, Touched::Clustered, Touched::Uniform] {
        let server = recomputed(1, &[]).await?;
        let (groups, of_them, event) = touched.touch(&server).await?;
        servers.push(Place {
            touched,
            groups,
            of_them,
            event,
            answers: server,
        });
    }
    compare("over HTTP", &servers, size.rounds).await?;
    let mut nodes = vec![];
    for place in servers {
        nodes.push(Place {
            touched: place.touched,
            groups: place.groups,
            of_them: place.of_them,
            event: place.event,
            answers: InProcess::open(place.answers.stopped().await?).await?,
        });
    }
    let groups: BTreeMap<&str, u64> = nodes.iter().map(|p| (p.touched.name(), p.groups)).collect();
    for place in &nodes {
        let rows = place.answers.rows().await?;
        let expected = groups[place.touched.name()];
        ensure!(rows as u64 == expected, "{rows} rows instead of {expected}");
    }
    compare("in process", &nodes, size.rounds).await?;
    for place in nodes {
        place.answers.node.shutdown().await;
    }
    Ok(())
}

/// Reads all of `places` in each round.
async fn compare<T: Answers>(how: &str, places: &[Place<T>], rounds: u64) -> Result<()> {
    let title = format!("the whole view {how} as Arrow, warm; medians of {rounds} rounds");
    let mut table = Table::new(title, &COLUMNS);
    for round in 0..=rounds {
        let mut untouched = f64::NAN;
        for place in places {
            let answers = &place.answers;
            let mut first = f64::NAN;
            if let Some(event) = &place.event {
                answers.append(event.clone()).await?;
                first = timed(answers).await?;
                // The second one settles what the third one finds.
                answers.read().await?;
            }
            let again = timed(answers).await?;
            if place.touched == Touched::Nothing {
                untouched = again;
            }
            // The first one warms up.
            if round > 0 {
                let (groups, of_them) = (place.groups as f64, place.of_them as f64);
                let [first, again] = [first, again].map(|ms| [ms, ms / untouched]);
                let figures = [[groups, of_them], first, again].concat();
                table.push(place.touched.name(), &figures);
            }
        }
    }
    table.print()
}

/// How many milliseconds a read takes.
async fn timed(answers: &impl Answers) -> Result<f64> {
    let begun = Instant::now();
    answers.read().await?;
    Ok(begun.elapsed().as_secs_f64() * 1e3)
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

    /// How many rows the whole view has.
    async fn rows(&self) -> Result<usize> {
        self.rows_of(WHOLE, vec![]).await
    }

    /// How many rows a query has, asked once what comes before these positions can be seen.
    async fn rows_of(&self, sql: &str, after: Vec<PositionToken>) -> Result<usize> {
        let limits = Limits {
            after,
            layer: Layer::Merged,
            generation: None,
            timeout: PATIENCE,
            deadline: tokio::time::Instant::now() + PATIENCE,
        };
        let request = QueryRequest {
            sql: sql.to_owned(),
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

impl Answers for InProcess {
    async fn read(&self) -> Result<()> {
        self.rows().await.map(drop)
    }

    async fn append(&self, event: Bytes) -> Result<()> {
        let request = AppendRequest {
            format: Format::Arrow,
            body: event,
            on_error: OnError::Reject,
            idempotency_key: None,
            origin: "bench".to_owned(),
        };
        let appended = self.node.append("flights", request).await;
        let appended = appended.map_err(|problem| anyhow::anyhow!("{problem}"))?;
        let position = appended.position.parse().context("a position token")?;
        self.rows_of(ANY, vec![position]).await.map(drop)
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

    /// Sends an event into each of these groups; how many groups there are, how many of them got one, and the first of
    /// these events.
    async fn touch(self, server: &Server) -> Result<(u64, u64, Option<Bytes>)> {
        let keys = keys(server).await?;
        let groups = keys.num_rows() as u64;
        let rows: Vec<u64> = match self {
            Self::Nothing => vec![],
            Self::Clustered => (groups - groups / TENTH..groups).collect(),
            Self::Uniform => (0..groups).step_by(TENTH as usize).collect(),
        };
        if rows.is_empty() {
            return Ok((groups, 0, None));
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
        Answers::append(server, arrow_body(&events)?).await?;
        Ok((groups, touched, Some(arrow_body(&events.slice(0, 1))?)))
    }
}

async fn keys(server: &Server) -> Result<RecordBatch> {
    let body = server.body(KEYS, "arrow").await?;
    let reader = StreamReader::try_new(body.as_ref(), None)?;
    let schema = reader.schema();
    let batches = reader.collect::<Result<Vec<_>, _>>()?;
    concat_batches(&schema, &batches).context("the keys are one batch")
}
