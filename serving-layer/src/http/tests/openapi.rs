// SPDX-License-Identifier: Apache-2.0
//! The document against the router and the words: what one has, the others have.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use axum::http::Method;

use super::super::openapi::document;
use super::super::routes;
use super::roles::ROUTES;
use super::*;

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| document(&routes::calls()));
const METHODS: [&str; 3] = ["get", "post", "delete"];

/// Each call of the document: method, path, operation.
fn operations() -> impl Iterator<Item = (&'static str, &'static str, &'static Value)> {
    let paths = DOCUMENT["paths"].as_object().unwrap().iter();
    paths.flat_map(|(path, calls)| {
        let calls = calls.as_object().unwrap().iter();
        calls.map(move |(method, operation)| (method.as_str(), path.as_str(), operation))
    })
}

/// Whether `path` is one of `template`.
fn is_of(template: &str, path: &str) -> bool {
    let (mut template, mut path) = (template.split('/'), path.split('/'));
    loop {
        match (template.next(), path.next()) {
            (None, None) => return true,
            (Some(part), Some(given)) if part.starts_with('{') || part == given => {}
            _ => return false,
        }
    }
}

fn operation_of(method: &str, path: &str) -> Option<&'static Value> {
    let mut operations = operations();
    let found = operations.find(|(m, template, _)| *m == method && is_of(template, path));
    found.map(|(_, _, operation)| operation)
}

/// What `reference` of the document points to.
fn resolved(value: &'static Value) -> &'static Value {
    match value["$ref"].as_str() {
        Some(reference) => DOCUMENT.pointer(&reference[1..]).unwrap(),
        None => value,
    }
}

/// Every reply of every test is one that the document knows: its status, its type, its headers.
#[track_caller]
pub(super) fn assert_documented(method: &Method, path: &str, reply: &Reply) {
    // HEAD is what GET answers, without the body.
    let method = match *method {
        Method::HEAD => "get".to_owned(),
        _ => method.as_str().to_ascii_lowercase(),
    };
    let Some(operation) = operation_of(&method, path) else {
        assert!(
            !reply.status.is_success(),
            "{method} {path} is not documented"
        );
        return;
    };
    let answer = resolved(&operation["responses"][reply.status.as_str()]);
    assert!(
        answer.is_object(),
        "{method} {path}: {} is not documented",
        reply.status
    );
    let given = reply.header("content-type");
    let essence = given.split(';').next();
    let mut types = answer["content"].as_object().unwrap().keys();
    assert!(
        types.any(|documented| documented.split(';').next() == essence),
        "{method} {path}: {given} is not documented"
    );
    if let Some(headers) = answer["headers"].as_object() {
        for (name, header) in headers {
            let required = resolved(header)["required"] == true;
            assert!(
                !required || reply.headers.contains_key(name),
                "{method} {path}: {} lacks the header {name}",
                reply.status
            );
        }
    }
}

#[tokio::test]
async fn the_document_is_served_to_readers_as_it_is_made() {
    let router = open(&Fake::default());
    let reply = get(&router, "/openapi.json").await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), "application/json");
    assert_eq!(reply.json(), *DOCUMENT);
    assert_eq!(DOCUMENT["openapi"], "3.1.0");
}

#[test]
fn every_call_names_the_role_that_its_route_asks_for() {
    for (method, path, operation) in operations() {
        let tested = ROUTES.iter().filter(|(line, _, _)| {
            let (m, uri) = line.split_once(' ').unwrap();
            m.eq_ignore_ascii_case(method) && is_of(path, uri.split('?').next().unwrap())
        });
        let least = tested
            .map(|(_, _, role)| *role)
            .min_by_key(|role| role.len());
        // `read` is the shortest of the names, and where a call has two roles one is that.
        assert_eq!(
            operation["security"][0]["bearer"][0].as_str(),
            least,
            "{method} {path}: documented role, and the one of tests/roles.rs"
        );
    }
}

#[tokio::test]
async fn every_parameter_that_a_call_takes_is_documented() {
    let router = open(&Fake::default());
    for (method, path, operation) in operations() {
        let parameters = operation["parameters"].as_array().map_or(&[][..], |p| p);
        let names = |place: &str| -> BTreeSet<&str> {
            let of_place = parameters.iter().filter(|p| p["in"] == place);
            of_place.map(|p| p["name"].as_str().unwrap()).collect()
        };
        let in_path = path.split(['{', '}']).skip(1).step_by(2);
        assert_eq!(names("path"), in_path.collect(), "{method} {path}");
        // Rows take every name for that of a column, and probes look at none.
        if names("query").contains("filters") || operation["security"] == serde_json::json!([]) {
            continue;
        }
        let uri = path.replace("{id}", "1").replace(['{', '}'], "") + "?no_such=1";
        let method = method.to_ascii_uppercase();
        let refused = send(&router, request(&method, &uri, &[], "")).await;
        let detail = refused.is_problem(400, "there is no parameter `no_such`; ")["detail"].clone();
        let (_, known) = detail.as_str().unwrap().split_once("; ").unwrap();
        let known: BTreeSet<&str> = match known.strip_prefix("there are ") {
            Some("none here") => BTreeSet::new(),
            Some(names) => names.split(", ").collect(),
            None => panic!("{known}"),
        };
        assert_eq!(names("query"), known, "{method} {path}");
    }
}

#[test]
fn the_document_and_its_words_name_the_same_calls() {
    let words = include_str!("../../../../docs/api.md");
    let documented: BTreeSet<String> = operations()
        .map(|(method, path, _)| format!("{} {path}", method.to_ascii_uppercase()))
        .collect();
    let said = words.lines().filter_map(|line| {
        let call = line.strip_prefix("| `")?.split('`').next()?;
        let (method, path) = call.split_once(' ')?;
        let is_call = METHODS.iter().any(|m| m.eq_ignore_ascii_case(method));
        is_call.then(|| format!("{method} {path}"))
    });
    assert_eq!(said.collect::<BTreeSet<String>>(), documented);
}

#[test]
fn every_reference_leads_somewhere_and_every_name_is_given_once() {
    fn walk(value: &'static Value, seen: &mut usize) {
        if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
            assert!(DOCUMENT.pointer(&reference[1..]).is_some(), "{reference}");
            *seen += 1;
        }
        match value {
            Value::Object(members) => members.values().for_each(|v| walk(v, seen)),
            Value::Array(items) => items.iter().for_each(|v| walk(v, seen)),
            _ => {}
        }
    }
    let mut references = 0;
    walk(&DOCUMENT, &mut references);
    assert!(references > 100, "{references}");
    let mut names = BTreeSet::new();
    for (method, path, operation) in operations() {
        assert!(METHODS.contains(&method), "{method} {path}");
        let name = operation["operationId"].as_str().unwrap();
        assert!(names.insert(name), "{name} is the name of two calls");
    }
}
