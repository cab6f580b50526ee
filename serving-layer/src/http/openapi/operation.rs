// SPDX-License-Identifier: Apache-2.0
//! What the document says of one call. Schemas come from the types that handlers read and answer.

use axum::http::StatusCode;
use dovetail_model::ProblemKind;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use super::super::auth::Role;
use super::super::encode::{RowsDocument, RowsPage};
use super::super::format::AnswerFormat;
use super::super::params::MAX_TIMEOUT_MS;
use super::super::{
    CURSOR_HEADER, FRESHNESS_HEADER, GENERATION_HEADER, HOLES_HEADER, POSITION_HEADER,
};
use crate::ports::Layer;

/// A schema, once the generator that collects the shared ones is known.
type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// One call as the document describes it.
pub(in super::super) struct Operation {
    id: &'static str,
    summary: &'static str,
    /// None: whoever asks.
    role: Option<Role>,
    parameters: Vec<Value>,
    body: Option<Value>,
    answers: Vec<Answer>,
    problems: Vec<ProblemKind>,
}

struct Answer {
    status: StatusCode,
    description: &'static str,
    /// By media type; none for bytes, which have no schema.
    content: Vec<(&'static str, Option<SchemaOf>)>,
    headers: Vec<&'static str>,
}

impl Operation {
    /// A call that callers of `role` may make.
    pub(in super::super) fn new(id: &'static str, role: Role, summary: &'static str) -> Self {
        let mut operation = Self::free(id, summary);
        operation.role = Some(role);
        operation.fails(&[
            ProblemKind::Invalid,
            ProblemKind::Unauthenticated,
            ProblemKind::Unavailable,
        ])
    }

    /// A call that needs no token.
    pub(in super::super) fn free(id: &'static str, summary: &'static str) -> Self {
        Self {
            id,
            summary,
            role: None,
            parameters: Vec::new(),
            body: None,
            answers: Vec::new(),
            problems: vec![ProblemKind::Forbidden, ProblemKind::Internal],
        }
    }

    pub(in super::super) fn role(&self) -> Option<Role> {
        self.role
    }

    /// Its path names a stream.
    pub(in super::super) fn of_stream(self) -> Self {
        self.of("stream", "The name of a stream.", &inline::<String>())
    }

    /// Its path names a view.
    pub(in super::super) fn of_view(self) -> Self {
        self.of("view", "The name of a view.", &inline::<String>())
    }

    /// Its path has the number of a batch run.
    pub(in super::super) fn of_run(self) -> Self {
        self.of("id", "The number of a batch run.", &inline::<u64>())
    }

    /// Its path has the number of an exclusion.
    pub(in super::super) fn of_exclusion(self) -> Self {
        let what = "The number of an exclusion of the stream.";
        self.of("id", what, &inline::<u64>())
    }

    fn of(mut self, name: &str, description: &str, schema: &Schema) -> Self {
        self.parameters.push(json!({
            "name": name, "in": "path", "required": true, "description": description, "schema": schema,
        }));
        self.fails(&[ProblemKind::NotFound])
    }

    /// It takes a parameter in the query string.
    pub(in super::super) fn query<T: JsonSchema>(self, name: &str, description: &str) -> Self {
        self.parameter("query", name, description, &inline::<T>())
    }

    /// It needs a text in the query string.
    pub(in super::super) fn query_required(mut self, name: &str, description: &str) -> Self {
        self = self.query::<String>(name, description);
        if let Some(parameter) = self.parameters.last_mut() {
            parameter["required"] = true.into();
        }
        self
    }

    /// It takes a number from `min` to `max` in the query string.
    pub(in super::super) fn number(
        self,
        name: &str,
        (min, max): (u64, u64),
        description: &str,
    ) -> Self {
        let schema = json_schema!({"type": "integer", "minimum": min, "maximum": max});
        self.parameter("query", name, description, &schema)
    }

    /// It takes a header.
    pub(in super::super) fn header(self, name: &str, description: &str, schema: &Schema) -> Self {
        self.parameter("header", name, description, schema)
    }

    fn parameter(mut self, place: &str, name: &str, description: &str, schema: &Schema) -> Self {
        self.parameters.push(json!({
            "name": name, "in": place, "description": description, "schema": schema,
        }));
        self
    }

    /// It takes parameters that the view's columns name.
    pub(in super::super) fn filters(mut self, description: &str) -> Self {
        self.parameters.push(json!({
            "name": "filters", "in": "query", "style": "form", "explode": true, "description": description,
            "schema": {"type": "object", "additionalProperties": {"type": "string"}},
        }));
        self
    }

    /// It takes what every question may say besides itself.
    pub(in super::super) fn question(self) -> Self {
        self.query::<AnswerFormat>("format", "The format of the answer; wins over `Accept`.")
            .query::<String>(
                "after",
                "Position tokens, joined by `;`, at most one per stream: wait until the answer covers them.",
            )
            .query::<Layer>("layer", "Which layers to answer from; `merged` unless said.")
            .number(
                "generation",
                (1, u64::MAX),
                "Answer from this generation of the view, and nothing newer.",
            )
            .number(
                "timeout_ms",
                (1, MAX_TIMEOUT_MS),
                "How long to wait, rows included; 30 s unless said.",
            )
    }

    /// It reads a JSON document.
    pub(in super::super) fn json_body<T: JsonSchema>(self, required: bool) -> Self {
        self.body(required, &[("application/json", Some(inline::<T>()))], "")
    }

    /// It reads a body of one of these media types.
    pub(in super::super) fn body(
        mut self,
        required: bool,
        content: &[(&str, Option<Schema>)],
        description: &str,
    ) -> Self {
        let content: Map<String, Value> = content
            .iter()
            .map(|(media_type, schema)| ((*media_type).to_owned(), media(schema.as_ref())))
            .collect();
        let mut body = json!({"required": required, "content": content});
        if !description.is_empty() {
            body["description"] = description.into();
        }
        self.body = Some(body);
        self.fails(&[
            ProblemKind::Timeout,
            ProblemKind::TooLarge,
            ProblemKind::UnsupportedMedia,
            ProblemKind::Busy,
        ])
    }

    /// It answers a JSON document.
    pub(in super::super) fn answers<T: JsonSchema>(
        self,
        status: StatusCode,
        description: &'static str,
    ) -> Self {
        let content = vec![("application/json", Some(schema_of::<T> as SchemaOf))];
        self.answer(status, description, content, vec![])
    }

    /// It answers a text.
    pub(in super::super) fn answers_text(
        self,
        media_type: &'static str,
        description: &'static str,
    ) -> Self {
        let content = vec![(media_type, Some(schema_of::<String> as SchemaOf))];
        self.answer(StatusCode::OK, description, content, vec![])
    }

    /// It answers rows.
    pub(in super::super) fn answers_rows(self) -> Self {
        self.rows(schema_of::<RowsDocument>, vec![])
    }

    /// It answers a page of rows.
    pub(in super::super) fn answers_page(self) -> Self {
        self.rows(schema_of::<RowsPage>, vec![CURSOR_HEADER])
    }

    fn rows(self, document: SchemaOf, more: Vec<&'static str>) -> Self {
        let schema = |format| match format {
            AnswerFormat::Json => Some(document),
            AnswerFormat::Ndjson | AnswerFormat::Csv => Some(schema_of::<String> as SchemaOf),
            AnswerFormat::Arrow | AnswerFormat::Parquet => None,
        };
        let content = AnswerFormat::ALL.map(|format| (format.media_type(), schema(format)));
        let mut headers = vec![
            GENERATION_HEADER,
            POSITION_HEADER,
            FRESHNESS_HEADER,
            HOLES_HEADER,
        ];
        headers.extend(more);
        let description = "The rows, and what they were made from.";
        self.answer(StatusCode::OK, description, content.into(), headers)
            .fails(&[
                ProblemKind::NotFound,
                ProblemKind::NotAcceptable,
                ProblemKind::Timeout,
                ProblemKind::Conflict,
                ProblemKind::Busy,
            ])
    }

    fn answer(
        mut self,
        status: StatusCode,
        description: &'static str,
        content: Vec<(&'static str, Option<SchemaOf>)>,
        headers: Vec<&'static str>,
    ) -> Self {
        self.answers.push(Answer {
            status,
            description,
            content,
            headers,
        });
        self
    }

    /// The last of its answers has this header, too.
    pub(in super::super) fn with_header(mut self, name: &'static str) -> Self {
        if let Some(answer) = self.answers.last_mut() {
            answer.headers.push(name);
        }
        self
    }

    /// It may fail in these ways, too.
    pub(in super::super) fn fails(mut self, problems: &[ProblemKind]) -> Self {
        self.problems.extend(problems);
        self
    }

    /// Its operation object. Shared schemas go into `schemas`.
    pub(super) fn document(&self, tag: &str, schemas: &mut SchemaGenerator) -> Value {
        let mut responses = Map::new();
        for answer in &self.answers {
            responses.insert(answer.status.as_str().to_owned(), answer.document(schemas));
        }
        let mut problems = self.problems.clone();
        problems.sort_by_key(|kind| kind.status());
        for kind in problems {
            let response = json!({"$ref": format!("#/components/responses/{kind:?}")});
            responses.insert(kind.status().to_string(), response);
        }
        let mut operation = json!({"operationId": self.id, "tags": [tag], "summary": self.summary});
        if !self.parameters.is_empty() {
            operation["parameters"] = self.parameters.clone().into();
        }
        if let Some(body) = &self.body {
            operation["requestBody"] = body.clone();
        }
        operation["responses"] = responses.into();
        operation["security"] = match self.role {
            // A server without configured tokens asks for none.
            Some(role) => json!([{"bearer": [role.to_string()]}, {}]),
            None => json!([]),
        };
        operation
    }
}

impl Answer {
    fn document(&self, schemas: &mut SchemaGenerator) -> Value {
        let content = self.content.iter().map(|(media_type, schema)| {
            let schema = schema.map(|schema| schema(schemas));
            ((*media_type).to_owned(), media(schema.as_ref()))
        });
        let content: Map<String, Value> = content.collect();
        let mut answer = json!({"description": self.description, "content": content});
        for name in &self.headers {
            answer["headers"][name] = json!({"$ref": format!("#/components/headers/{name}")});
        }
        answer
    }
}

fn media(schema: Option<&Schema>) -> Value {
    schema.map_or_else(|| json!({}), |schema| json!({"schema": schema}))
}

fn schema_of<T: JsonSchema>(schemas: &mut SchemaGenerator) -> Schema {
    schemas.subschema_for::<T>()
}

/// The schema of what is read as a `T`, whole.
pub(in super::super) fn inline<T: JsonSchema>() -> Schema {
    let settings = SchemaSettings::draft2020_12().for_deserialize();
    let settings = settings.with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<T>();
    schema.remove("title");
    schema
}
