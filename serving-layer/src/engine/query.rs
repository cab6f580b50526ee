// SPDX-License-Identifier: Apache-2.0
//! From a question to a running answer.

use std::ops::ControlFlow;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::dataframe::DataFrame;
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::execution::context::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    ExceptSelectItem, Ident, SelectItem, Statement as SqlStatement, Visit as _, VisitMut as _,
    Visitor, VisitorMut,
};
use dovetail_model::{Problem, ProblemKind, SYSTEM_COLUMNS};
use dovetail_view::Calculations;
use futures::TryStreamExt as _;
use tokio::time::timeout_at;
use tokio_util::sync::CancellationToken;

use super::column_names::name_columns;
use super::interrupt::{Interrupt, computes, interruptible, interruptible_planning};
use super::lookup::one_batch;
use super::page::RowsQuestion;
use super::parts::Parts;
use super::session::{QuerySession, read_only};
use super::snapshot::Snapshot;
use super::{Engine, problem_of, width};
use crate::held::{Admission, AnswerMemory};
use crate::ports::{Answer, Limits, Queries, QueryRequest, RowsAnswer, RowsRequest};
use crate::rows::RowsPlan;

#[async_trait]
impl Queries for Engine {
    async fn query(&self, request: QueryRequest) -> Result<Answer, Problem> {
        let place = self.place(&request.limits).await?;
        let mut statement = self.parse(&request.sql)?;
        check_width(&statement, 0)?;
        let names = self.names(&statement)?;
        let system_columns = names_system_columns(&statement);
        if system_columns {
            hide_system_columns(&mut statement);
        }
        name_columns(&mut statement);
        keep_digits(&mut statement);
        let snapshot = self
            .snapshot(&names, &request.limits, system_columns)
            .await?;
        if let Some(statement) = sql_of(&statement) {
            let tables = snapshot.tables();
            let widths = tables
                .iter()
                .map(|(_, table)| table.schema().fields().len());
            width::check(statement, widths.max().unwrap_or(0))?;
        }
        let state = self
            .session
            // A text of the statement may stand in every row.
            .state(snapshot.tables(), snapshot.row_bytes() + request.sql.len())
            .map_err(|e| problem_of(&e))?;
        let parameters = request.parameters;
        let planning = async move {
            let plan = state.statement_to_plan(statement).await?;
            read_only().verify_plan(&plan)?;
            let frame = DataFrame::new(state, plan);
            match parameters {
                Some(parameters) => frame.with_param_values(parameters),
                None => Ok(frame),
            }
        };
        let kept = Arc::new((place, snapshot));
        self.answer(&kept, planning, &request.limits).await
    }

    async fn rows(&self, request: RowsRequest) -> Result<RowsAnswer, Problem> {
        let place = self.place(&request.limits).await?;
        let catalog = self.catalog.state();
        if catalog.view_named(&request.view).is_none() {
            return Err(Problem::not_found("view", &request.view));
        }
        let snapshot = self
            .snapshot(std::slice::from_ref(&request.view), &request.limits, false)
            .await?;
        let Some(source) = snapshot.view() else {
            return Err(Problem::internal("what has rows by REST is a view"));
        };
        let view = source.generation.view();
        let keys = view.keys().iter().map(|key| key.output_index);
        let keys: Vec<usize> = keys.collect();
        let plan = RowsPlan::new(&request, &view.output_schema(), &keys)?;
        if let Some(rows) = self.looked_up(&snapshot, &plan, &request.limits).await? {
            let page = plan.page;
            let provenance = snapshot.provenance();
            let memory = self.readers.answer_of(&rows);
            let batches = one_batch(rows);
            let answer = Answer {
                batches,
                provenance,
                memory,
            };
            return Ok(RowsAnswer { answer, page });
        }
        let question = RowsQuestion {
            kept: Arc::new((place, snapshot)),
            view: request.view,
            limits: request.limits,
        };
        self.page(&question, plan, keys).await
    }
}

impl Engine {
    async fn place(&self, limits: &Limits) -> Result<Admission, Problem> {
        let _in_line = self.meter.waits("every place of --queries is taken");
        let busy = || {
            busy("too many queries run at once; try again, or start the server with more --queries")
        };
        let place = timeout_at(limits.deadline, self.readers.place(self.is_long(limits)))
            .await
            .map_err(|_| busy())?;
        place.ok_or_else(busy)
    }

    /// Whether a query may take longer than usual.
    fn is_long(&self, limits: &Limits) -> bool {
        limits.timeout > self.usual_time
    }

    /// Lets a plan run that computes.
    async fn seat(
        &self,
        memory: &AnswerMemory,
        limits: &Limits,
    ) -> Result<Option<Admission>, Problem> {
        let _in_line = self
            .meter
            .waits("a query computes for each 64 MiB of --query-memory");
        let seat = timeout_at(limits.deadline, memory.seat(self.is_long(limits))).await;
        seat.map_err(|_| {
            busy("its time was over before its turn: no more queries compute at once than --query-memory has room for; try again, give it more with timeout_ms, or start the server with more of it")
        })
    }

    /// Works for a question on the threads of queries.
    async fn work<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, DataFusionError>> + Send + 'static,
        interrupt: &Interrupt,
    ) -> Result<T, Problem> {
        let _at_work = self.meter.busy();
        let work = AbortOnDrop(self.runtime.spawn(work), interrupt.gone.clone());
        let done = timeout_at(interrupt.deadline, work).await;
        let done = done.map_err(|_| interrupt.late.clone())?;
        let done = done.map_err(Problem::internal)?;
        done.map_err(|error| problem_of(&error))
    }

    fn parse(&self, sql: &str) -> Result<Statement, Problem> {
        let dialect = self.session.base().config().options().sql_parser.dialect;
        self.session
            .base()
            .sql_to_statement(sql, &dialect)
            .map_err(|error| problem_of(&error))
    }

    /// The tables that a statement names. Ours have no schema or catalog before their name.
    fn names(&self, statement: &Statement) -> Result<Vec<String>, Problem> {
        let references = self
            .session
            .base()
            .resolve_table_references(statement)
            .map_err(|e| problem_of(&e))?;
        let mut names: Vec<String> = vec![];
        for reference in references {
            if reference.schema().is_some_and(|schema| schema != "public")
                || reference.catalog().is_some()
            {
                let catalog = ["information_schema", "pg_catalog"];
                let instead = if reference.schema().is_some_and(|s| catalog.contains(&s)) {
                    "SHOW TABLES, SHOW STREAMS and SHOW VIEWS list what there is, DESCRIBE name says its columns"
                } else {
                    "name a stream or a view, without a schema"
                };
                return Err(Problem::new(
                    ProblemKind::NotFound,
                    format!("there is no table `{reference}`: {instead}"),
                ));
            }
            let name = reference.table().to_owned();
            if !names.contains(&name) {
                names.push(name);
            }
        }
        Ok(names)
    }

    pub(super) async fn answer(
        &self,
        kept: &Kept,
        planning: impl Future<Output = Result<DataFrame, DataFusionError>> + Send + 'static,
        limits: &Limits,
    ) -> Result<Answer, Problem> {
        let interrupt = Interrupt {
            gone: CancellationToken::new(),
            deadline: limits.deadline,
            late: timed_out(limits),
        };
        let memory = self.readers.answer(&kept.0);
        let planning = {
            let (interrupt, memory) = (interrupt.clone(), memory.clone());
            async move {
                let frame = planning.await?;
                let (state, plan) = frame.into_parts();
                interrupt.check()?;
                let calculations = Calculations::of_plan(&plan)?;
                match planned(state, plan, &interrupt, &memory).await {
                    Ok((plan, task)) => Ok((plan, task, calculations)),
                    Err(error) => Err(calculations.named(error)),
                }
            }
        };
        let (plan, task, calculations) = self.work(planning, &interrupt).await?;
        let seat = match computes(plan.as_ref()) {
            true => self.seat(&memory, limits).await?,
            false => None,
        };
        let starting = {
            let memory = memory.clone();
            async move { Parts::of(plan.as_ref(), &task, &memory) }
        };
        let parts = self.work(starting, &interrupt).await?;
        let provenance = kept.1.provenance();
        let kept = Box::new((seat, Arc::clone(kept)));
        let batches = parts.hand_over(&self.runtime, &interrupt, kept);
        Ok(Answer {
            batches: Box::pin(RecordBatchStreamAdapter::new(
                batches.schema(),
                batches.map_err(move |error| calculations.named(error)),
            )),
            provenance,
            memory,
        })
    }
}

/// What a question keeps until it is answered: its place, and its cuts, whose files must not be deleted before.
pub(super) type Kept = Arc<(Admission, Snapshot)>;

/// A plan, ready to run, and what runs it.
async fn planned(
    state: SessionState,
    plan: LogicalPlan,
    interrupt: &Interrupt,
    memory: &AnswerMemory,
) -> Result<(Arc<dyn ExecutionPlan>, Arc<TaskContext>), DataFusionError> {
    let state = interruptible_planning(state, interrupt);
    let plan = state.optimize(&plan)?;
    interrupt.check()?;
    let state = QuerySession::with_constants(state, &plan)?;
    let task = Arc::new(TaskContext::from(&state));
    let planner = state.query_planner();
    let plan = planner.create_physical_plan(&plan, &state).await?;
    interrupt.check()?;
    let plan = interruptible(plan, interrupt, &task, memory)?;
    Ok((plan, task))
}

fn busy(detail: &str) -> Problem {
    Problem::new(ProblemKind::Busy, detail).with("retry_after_s", 1)
}

fn check_width(statement: &Statement, widest: usize) -> Result<(), Problem> {
    match sql_of(statement) {
        Some(statement) => width::check(statement, widest),
        None => Ok(()),
    }
}

pub(super) fn timed_out(limits: &Limits) -> Problem {
    Problem::new(
        ProblemKind::Timeout,
        format!(
            "the query took longer than its {} ms; give it more with timeout_ms, or ask for less",
            limits.timeout.as_millis()
        ),
    )
}

/// A task that ends with the question that it works for: where it yields, or where it looks at the token.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>, CancellationToken);

impl<T> Future for AbortOnDrop<T> {
    type Output = Result<T, tokio::task::JoinError>;

    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Self::Output> {
        std::pin::Pin::new(&mut self.0).poll(cx)
    }
}

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        // Once it has ended, its rows go on with the token.
        if !self.0.is_finished() {
            self.1.cancel();
        }
        self.0.abort();
    }
}

/// Whether some identifier of the statement is a system column's name.
fn names_system_columns(statement: &Statement) -> bool {
    struct Finder;
    impl Visitor for Finder {
        type Break = ();

        fn pre_visit_expr(
            &mut self,
            expr: &datafusion::sql::sqlparser::ast::Expr,
        ) -> ControlFlow<()> {
            use datafusion::sql::sqlparser::ast::Expr;
            let named = match expr {
                Expr::Identifier(ident) => is_system(ident),
                Expr::CompoundIdentifier(parts) => parts.last().is_some_and(is_system),
                _ => false,
            };
            if named {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        }
    }
    sql_of(statement).is_some_and(|statement| statement.visit(&mut Finder).is_break())
}

fn is_system(ident: &Ident) -> bool {
    SYSTEM_COLUMNS.contains(&ident.value.as_str())
}

fn sql_of(statement: &Statement) -> Option<&SqlStatement> {
    match statement {
        Statement::Statement(statement) => Some(statement),
        Statement::Explain(explain) => sql_of(&explain.statement),
        _ => None,
    }
}

/// Keeps the digits of numbers that a DOUBLE has no place for.
fn keep_digits(statement: &mut Statement) {
    match statement {
        Statement::Statement(statement) => dovetail_view::keep_digits(statement),
        Statement::Explain(explain) => keep_digits(&mut explain.statement),
        _ => {}
    }
}

/// Keeps the system columns out of `*` in a statement that names one of them.
fn hide_system_columns(statement: &mut Statement) {
    struct Hider;
    impl VisitorMut for Hider {
        type Break = ();

        fn pre_visit_select(
            &mut self,
            select: &mut datafusion::sql::sqlparser::ast::Select,
        ) -> ControlFlow<()> {
            for item in &mut select.projection {
                let options = match item {
                    SelectItem::Wildcard(options) | SelectItem::QualifiedWildcard(_, options) => {
                        options
                    }
                    _ => continue,
                };
                if options.opt_except.is_none() && options.opt_exclude.is_none() {
                    let mut hidden = SYSTEM_COLUMNS.iter().map(|name| Ident::new(*name));
                    options.opt_except = hidden.next().map(|first_element| ExceptSelectItem {
                        first_element,
                        additional_elements: hidden.collect(),
                    });
                }
            }
            ControlFlow::Continue(())
        }
    }
    match statement {
        Statement::Statement(statement) => {
            let _ = statement.visit(&mut Hider);
        }
        Statement::Explain(explain) => hide_system_columns(&mut explain.statement),
        _ => {}
    }
}
