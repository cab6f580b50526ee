// SPDX-License-Identifier: Apache-2.0
//! `/v1/sql`: one statement.

use std::collections::HashMap;
use std::fmt;

use axum::Extension;
use axum::extract::{FromRef, Request, State};
use axum::http::Method;
use axum::http::request::Parts;
use bytes::Bytes;
use datafusion::common::metadata::ScalarAndMetadata;
use datafusion::common::{ParamValues, ScalarValue};
use dovetail_model::{Problem, ProblemKind};
use schemars::JsonSchema;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::super::answer;
use super::super::auth::{Caller, Role};
use super::super::body::{declared_type, first_byte, without_mark};
use super::super::call::Call;
use super::super::format::AnswerFormat;
use super::super::openapi::{Operation, inline};
use super::super::params::{MAX_TIMEOUT_MS, Params, QueryOptions, parameter};
use super::super::problem::Handled;
use super::super::router::{Others, Reads};
use super::super::{MAX_COMMAND_BYTES, json_body};
use super::show;
use crate::ports::{Layer, QueryRequest};
use crate::sql::{Statement, parse, problem_with};

/// `POST /v1/sql` as JSON.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SqlBody {
    /// The statement.
    sql: String,
    /// Values of its placeholders: an array for `$1`, `$2`, …, or an object for `$name`.
    #[schemars(with = "Option<Value>")]
    parameters: Option<Box<RawValue>>,
    /// Position tokens, joined by `;`: wait until the answer covers them.
    after: Option<String>,
    /// Which layers to answer from.
    layer: Option<Layer>,
    /// Answer from this generation of the view, and nothing newer.
    #[schemars(range(min = 1))]
    generation: Option<u64>,
    /// How long to wait, rows included.
    #[schemars(range(min = 1, max = MAX_TIMEOUT_MS))]
    timeout_ms: Option<u64>,
}

/// One statement and what came with it.
struct Asked {
    sql: String,
    parameters: Option<Box<RawValue>>,
    options: QueryOptions,
    format: AnswerFormat,
    /// The request as it came.
    parts: Parts,
    body: Bytes,
}

pub(in super::super) fn calls<S>() -> Vec<Call<S>>
where
    S: Clone + Send + Sync + 'static,
    Reads: FromRef<S>,
{
    let read_only = Operation::new("query", Role::Read, "One statement that changes nothing")
        .query_required("q", "The statement.")
        .question()
        .answers_rows();
    let text = Some(inline::<String>());
    let any = Operation::new(
        "sql",
        Role::Read,
        "One statement; a definition needs the role admin",
    )
    .question()
    .body(
        true,
        &[
            ("application/json", Some(inline::<SqlBody>())),
            ("text/plain", text.clone()),
            ("application/sql", text),
        ],
        "The statement, at most 4 MiB. Options stand in the query string or in the JSON document.",
    )
    .answers_rows();
    vec![
        Call::get("/v1/sql", get, read_only),
        Call::post("/v1/sql", post, any),
    ]
}

/// `GET /v1/sql?q=…`: read-only.
pub(in super::super) async fn get(
    State(reads): State<Reads>,
    Extension(caller): Extension<Caller>,
    mut params: Params,
    request: Request,
) -> Handled {
    let (parts, _) = request.into_parts();
    let format = AnswerFormat::negotiate(&mut params, &parts.headers)?;
    let options = params.query_options()?;
    let sql = params.text("q")?;
    params.finish()?;
    let asked = Asked {
        sql: sql.ok_or_else(|| parameter("q", "give a statement, such as `?q=SHOW+STREAMS`"))?,
        parameters: None,
        options,
        format,
        parts,
        body: Bytes::new(),
    };
    run(reads, &caller, asked).await
}

/// `POST /v1/sql`: the statement as `text/plain`, or `{"sql", "parameters", "after", "layer", "generation", "timeout_ms"}`. A body that
/// does not say which it is shows by its first byte.
pub(in super::super) async fn post(
    State(reads): State<Reads>,
    Extension(caller): Extension<Caller>,
    mut params: Params,
    request: Request,
) -> Handled {
    let (parts, body) = request.into_parts();
    let format = AnswerFormat::negotiate(&mut params, &parts.headers)?;
    let options = params.query_options()?;
    params.finish()?;
    let declared = match declared_type(&parts.headers)?.as_deref() {
        None => None,
        Some("application/json") => Some(true),
        Some("text/plain" | "application/sql") => Some(false),
        Some(other) => {
            let detail = format!(
                "`Content-Type: {other}` is not read here: use `application/json` or `text/plain`"
            );
            return Err(Problem::new(ProblemKind::UnsupportedMedia, detail).into());
        }
    };
    let held = reads
        .bodies
        .read(&parts.headers, body, MAX_COMMAND_BYTES)
        .await?;
    // No statement begins with a brace.
    let is_json = declared.unwrap_or_else(|| first_byte(&held.bytes) == Some(b'{'));
    let (sql, parameters, options) = if is_json {
        let body: SqlBody = json_body::parse(&held.bytes)?;
        let in_body = QueryOptions {
            after: body.after,
            layer: body.layer,
            generation: body.generation,
            timeout_ms: body.timeout_ms,
        };
        (body.sql, body.parameters, options.join(in_body)?)
    } else {
        let sql = std::str::from_utf8(without_mark(&held.bytes))
            .map_err(|e| Problem::invalid(format!("the statement is not UTF-8: {e}")))?;
        (sql.to_owned(), None, options)
    };
    let asked = Asked {
        sql,
        parameters,
        options,
        format,
        parts,
        body: held.bytes.clone(),
    };
    run(reads, &caller, asked).await
}

async fn run(reads: Reads, caller: &Caller, asked: Asked) -> Handled {
    let statement = parse(&asked.sql)?;
    let parameters = asked
        .parameters
        .as_deref()
        .map(parameter_values)
        .transpose()?;
    if !matches!(statement, Statement::Query(_)) {
        let given = asked.options.only_for_queries();
        if let Some(name) = given.or(parameters.is_some().then_some("parameters")) {
            return Err(parameter(name, "only a query takes it").into());
        }
    }
    let limits = asked.options.limits(reads.query_timeout)?;
    let patience = reads.patience(&limits);
    let located = |problem| problem_with(&asked.sql, problem);
    let answer = match (statement, reads.others) {
        (Statement::Query(sql), _) => {
            let request = QueryRequest {
                sql,
                parameters,
                limits,
            };
            let answering = patience.port(reads.queries.query(request));
            answering.await.map_err(located)?
        }
        (_, Others::Elsewhere(forwarder)) => {
            return Ok(forwarder.forward_read(asked.parts, asked.body).await);
        }
        (Statement::Show(show), Others::Here(ports)) => show::answer(&ports, show).await?,
        (Statement::Define(definition), Others::Here(ports)) => {
            caller.require(Role::Admin)?;
            if asked.parts.method == Method::GET {
                let detail = format!(
                    "`{}` changes what there is, and GET is read-only: use POST",
                    definition.verb()
                );
                return Err(Problem::invalid(detail).into());
            }
            let verb = definition.verb();
            let name = definition.name().to_owned();
            let executing = ports.control.execute(definition);
            let answer = executing.await.map_err(located)?;
            show::definition(verb, &name, answer)?
        }
    };
    Ok(answer::respond(answer, asked.format, patience, None).await?)
}

/// Values of placeholders: an array for `$1`, `$2`, …, an object for `$name`. Numbers as they are written, which `Value` does
/// not keep.
fn parameter_values(parameters: &RawValue) -> Result<ParamValues, Problem> {
    let text = parameters.get();
    if text.starts_with('[') {
        let values: Vec<Box<RawValue>> = serde_json::from_str(text).map_err(not_json)?;
        let values = values.iter().enumerate();
        let values = values.map(|(index, value)| scalar(&(index + 1).to_string(), value));
        return Ok(ParamValues::List(values.collect::<Result<_, _>>()?));
    }
    if text.starts_with('{') {
        let named: Named = serde_json::from_str(text).map_err(not_json)?;
        let mut values = HashMap::new();
        for (name, value) in named.0 {
            let value = scalar(&name, &value)?;
            if values.contains_key(&name) {
                let detail = format!("parameter `${name}` is given twice");
                return Err(Problem::invalid(detail));
            }
            values.insert(name, value);
        }
        return Ok(ParamValues::Map(values));
    }
    Err(Problem::invalid(
        "`parameters` must be an array for `$1`, `$2`, … or an object for `$name`",
    ))
}

/// The members of an object, in their order, those of one name too.
struct Named(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Named {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Named;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Named, M::Error> {
                let mut members = vec![];
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Named(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

fn not_json(error: serde_json::Error) -> Problem {
    Problem::invalid(format!("`parameters`: {error}"))
}

fn scalar(name: &str, value: &RawValue) -> Result<ScalarAndMetadata, Problem> {
    let text = value.get();
    Ok(match serde_json::from_str(text).map_err(not_json)? {
        Value::Null => ScalarValue::Null.into(),
        Value::Bool(value) => ScalarValue::Boolean(Some(value)).into(),
        Value::String(text) => ScalarValue::Utf8(Some(text)).into(),
        Value::Number(_) => dovetail_view::number_of_json(text).ok_or_else(|| {
            Problem::invalid(format!("parameter `${name}`: `{text}` is too large"))
        })?,
        Value::Array(_) | Value::Object(_) => {
            return Err(Problem::invalid(format!(
                "parameter `${name}` must be a text, a number, true, false or null"
            )));
        }
    })
}
