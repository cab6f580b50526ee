// SPDX-License-Identifier: Apache-2.0
//! The worker's side: beats, begins what it is told to, and brings the answers.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow_flight::Action;
use arrow_flight::error::FlightError;
use dovetail_log::catalog::{Catalog, random_u64};
use dovetail_model::{Problem, ProblemKind, RowsRead, RunMode, ViewId};
use futures::TryStreamExt;
use futures::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};

use super::{ANSWER, Answered, BEAT, Beat, HOLD, Order, Orders, SILENCE, Told};
use crate::PeerToken;
use crate::client::Connections;
use crate::wire::problem_in;

/// How long an answer may take.
const ANSWER_WAIT: Duration = Duration::from_secs(4);
/// Between two tries while nobody answers.
const PAUSE: Duration = Duration::from_millis(500);

/// What a worker can do.
pub trait Computes: Send + Sync + 'static {
    /// Begins a task.
    fn begin(&self, work: &RawValue) -> Begun;
}

/// A task that is under way. It is given up by dropping it.
pub struct Begun {
    /// What becomes of it.
    pub answer: BoxFuture<'static, Box<RawValue>>,
    /// What it has read so far.
    pub read: Box<dyn Fn() -> RowsRead + Send + Sync>,
}

impl fmt::Debug for Begun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Begun").finish_non_exhaustive()
    }
}

/// What a worker is told of its place among the processes.
#[derive(Debug, Clone)]
pub struct HandConfig {
    /// The catalog of the store: it names the process to work for. Whoever has this follows it.
    pub catalog: Arc<Catalog>,
    /// What it shows there.
    pub token: PeerToken,
    /// What people call it.
    pub name: String,
    /// How many full or repair runs it computes at a time, and how many incremental ones beside them.
    pub runs: usize,
    /// Where it computes.
    pub runtime: Handle,
}

/// Works for whichever process the catalog names.
pub struct Hand {
    config: HandConfig,
    computes: Arc<dyn Computes>,
    connections: Arc<Connections>,
    number: u64,
}

impl fmt::Debug for Hand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hand")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// What is in hand, for the process at one address.
struct InHand {
    link: Link,
    tasks: HashMap<u64, Running>,
    /// When that process answered last.
    heard: Instant,
    /// What went wrong since then, said once.
    trouble: Option<String>,
}

struct Running {
    read: Box<dyn Fn() -> RowsRead + Send + Sync>,
    _work: AbortOnDropHandle<()>,
}

/// The way to the process that hands out work.
#[derive(Clone)]
struct Link {
    address: String,
    connections: Arc<Connections>,
}

impl Hand {
    /// Begins nothing yet.
    pub fn new(config: HandConfig, computes: Arc<dyn Computes>) -> Self {
        Self {
            connections: Arc::new(Connections::new(config.token.clone())),
            config,
            computes,
            number: random_u64(),
        }
    }

    /// Works until `stop`. What is in hand then is handed back at once, and given up.
    pub async fn work(self, stop: CancellationToken) {
        let mut present: Option<InHand> = None;
        loop {
            let working = self.go_on(&mut present);
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = working => {}
            }
        }
        if let Some(in_hand) = present {
            let leaving = Beat {
                leaves: true,
                ..self.beat(&in_hand)
            };
            // Not heard of, it is missed in some seconds.
            let _left = in_hand.link.call::<Orders>(BEAT, &leaving).await;
        }
    }

    /// One beat, or a pause where there is nobody to work for.
    async fn go_on(&self, present: &mut Option<InHand>) {
        let state = self.config.catalog.state();
        let claim = state.claim.as_ref();
        let endpoints = claim.and_then(|claim| claim.endpoints.as_ref());
        let Some(address) = endpoints.map(|endpoints| &endpoints.cuts) else {
            *present = None;
            return sleep(PAUSE).await;
        };
        if present
            .as_ref()
            .is_none_or(|now| now.link.address != *address)
        {
            // What was for another process is of no use any more.
            *present = Some(InHand::new(Link {
                address: address.clone(),
                connections: Arc::clone(&self.connections),
            }));
        }
        let Some(in_hand) = present else { return };
        let beat = self.beat(in_hand);
        match in_hand.link.call::<Orders>(BEAT, &beat).await {
            Ok(orders) => {
                in_hand.heard();
                self.follow(in_hand, orders);
            }
            Err(problem) => {
                in_hand.missed(&problem);
                sleep(PAUSE).await;
            }
        }
    }

    fn beat(&self, in_hand: &InHand) -> Beat {
        let told = in_hand.tasks.iter().map(|(task, running)| Told {
            task: *task,
            read: (running.read)(),
        });
        Beat {
            worker: self.number,
            name: self.config.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            runs: self.config.runs,
            computing: told.collect(),
            leaves: false,
        }
    }

    fn follow(&self, in_hand: &mut InHand, orders: Orders) {
        for task in orders.give_up {
            // Answered, it is given up as well: then nothing is left of it but its number.
            in_hand.tasks.remove(&task);
        }
        for order in orders.begin {
            let Order {
                task,
                view,
                mode,
                work,
            } = order;
            let begun = self.computes.begin(&work);
            let answered = deliver(
                in_hand.link.clone(),
                self.number,
                task,
                view,
                mode,
                begun.answer,
            );
            let running = Running {
                read: begun.read,
                _work: AbortOnDropHandle::new(self.config.runtime.spawn(answered)),
            };
            in_hand.tasks.insert(task, running);
        }
    }
}

impl InHand {
    fn new(link: Link) -> Self {
        Self {
            link,
            tasks: HashMap::new(),
            heard: Instant::now(),
            trouble: None,
        }
    }

    fn heard(&mut self) {
        self.heard = Instant::now();
        if self.trouble.take().is_some() {
            info!(at = %self.link.address, "the process to work for answers again");
        }
    }

    fn missed(&mut self, problem: &Problem) {
        let trouble = problem.detail.clone();
        if self.trouble.as_ref() != Some(&trouble) {
            warn!(at = %self.link.address, %problem, "no work from the process that hands it out");
            self.trouble = Some(trouble);
        }
        if self.heard.elapsed() >= SILENCE && !self.tasks.is_empty() {
            warn!(
                tasks = self.tasks.len(),
                "nobody waits any more for what is in hand: it is given up"
            );
            self.tasks.clear();
        }
    }
}

/// Computes, and brings the answer until somebody has taken note of it.
async fn deliver(
    link: Link,
    worker: u64,
    task: u64,
    view: ViewId,
    mode: RunMode,
    answer: BoxFuture<'static, Box<RawValue>>,
) {
    info!(%view, %mode, "computing");
    let answered = Answered {
        worker,
        task,
        answer: answer.await,
    };
    loop {
        match link.call::<bool>(ANSWER, &answered).await {
            Ok(true) => return info!(%view, %mode, "computed"),
            Ok(false) => return info!(%view, %mode, "computed too late: nobody waits for it"),
            Err(problem) => debug!(%view, %problem, "an answer could not be brought"),
        }
        sleep(PAUSE).await;
    }
}

impl Link {
    /// What the action `name` answers.
    async fn call<T: DeserializeOwned>(
        &self,
        name: &str,
        said: &impl Serialize,
    ) -> Result<T, Problem> {
        let body = serde_json::to_vec(said).map_err(Problem::internal)?;
        let answered = timeout(HOLD + ANSWER_WAIT, self.act(name, body)).await;
        let body = answered.map_err(|_| unavailable("it does not answer"))??;
        serde_json::from_slice(&body).map_err(|error| {
            Problem::internal(format!(
                "it answers what this version does not understand ({error})"
            ))
        })
    }

    async fn act(&self, name: &str, body: Vec<u8>) -> Result<Vec<u8>, Problem> {
        let mut client = self.connections.client(&self.address)?;
        let parts = client.do_action(Action::new(name, body)).await;
        let parts: Vec<_> = parts
            .map_err(problem_of)?
            .try_collect()
            .await
            .map_err(problem_of)?;
        Ok(parts.concat())
    }
}

fn problem_of(error: FlightError) -> Problem {
    let FlightError::Tonic(status) = error else {
        return unavailable(&error.to_string());
    };
    match problem_in(&status) {
        Some(problem)
            if matches!(
                problem.kind,
                ProblemKind::Unauthenticated | ProblemKind::Forbidden
            ) =>
        {
            let detail = format!(
                "it refuses the token that this process shows it (--peer-token), which must be of the role admin: {}",
                problem.detail
            );
            Problem::new(problem.kind, detail)
        }
        Some(problem) => problem,
        None => unavailable(status.message()),
    }
}

fn unavailable(detail: &str) -> Problem {
    Problem::new(ProblemKind::Unavailable, detail)
}
