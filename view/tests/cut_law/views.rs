// SPDX-License-Identifier: Apache-2.0
//! Views: keys, aggregates, filters and expressions over them, drawn from templates.
//!
//! In a template `{x}` and `{y}` are columns. Two more stand for what a view does by itself, and is spelled
//! out for the oracle: `{tie}`, the tie-break of an order, and `{~x}`, a column without negative zeros.

use dovetail_model::{Column, ColumnType, StreamSchema};

use crate::draw::Draw;
use crate::events;

/// A view, and the query that says what it must answer.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    /// The SELECT that is declared.
    pub(crate) view: String,
    /// The same in one or more queries for the oracle, each with all keys and some of the outputs.
    pub(crate) oracle: Vec<String>,
    /// How many of the first outputs are keys.
    pub(crate) keys: usize,
}

type Fits = fn(&ColumnType) -> bool;

fn any(_: &ColumnType) -> bool {
    true
}

fn number(column_type: &ColumnType) -> bool {
    matches!(
        column_type,
        ColumnType::Int | ColumnType::BigInt | ColumnType::Double | ColumnType::Decimal(_, _)
    )
}

fn int(column_type: &ColumnType) -> bool {
    matches!(column_type, ColumnType::Int | ColumnType::BigInt)
}

fn decimal(column_type: &ColumnType) -> bool {
    matches!(column_type, ColumnType::Decimal(_, _))
}

fn double(column_type: &ColumnType) -> bool {
    matches!(column_type, ColumnType::Double)
}

fn boolean(column_type: &ColumnType) -> bool {
    matches!(column_type, ColumnType::Boolean)
}

fn varchar(column_type: &ColumnType) -> bool {
    matches!(column_type, ColumnType::Varchar)
}

fn timestamp(column_type: &ColumnType) -> bool {
    matches!(column_type, ColumnType::Timestamp)
}

fn ordered(column_type: &ColumnType) -> bool {
    !matches!(column_type, ColumnType::Struct(_) | ColumnType::List(_))
}

fn not_double(column_type: &ColumnType) -> bool {
    ordered(column_type) && !double(column_type)
}

fn flat(column_type: &ColumnType) -> bool {
    ordered(column_type)
}

const KEYS: &[(&str, Fits)] = &[
    ("{x}", any),
    ("{x}", double),
    ("{x}", flat),
    ("date_trunc('hour', {x})", timestamp),
    ("date_bin(INTERVAL '15 minutes', {x})", timestamp),
    // Not of {x} alone: DataFusion's rules trip over `GROUP BY t, CAST(t AS DATE)`, which share a name.
    ("CAST(date_trunc('minute', {x}) AS DATE)", timestamp),
    ("{x} % 3", int),
    ("CAST({x} % 100 AS SMALLINT)", int),
    ("{x} * -1.0", double),
    ("upper({x})", varchar),
    ("character_length({x})", varchar),
    ("NOT {x}", boolean),
    ("'constant'", any),
    ("CAST(NULL AS INT)", any),
    ("CASE WHEN {x} IS NULL THEN 'none' ELSE 'some' END", any),
    ("_partition", any),
];

// Moments of values that differ by many orders of magnitude are noise in any order: keep them modest.
const AGGREGATES: &[(&str, Fits)] = &[
    ("count(*)", any),
    ("count({x})", any),
    ("count(DISTINCT {x})", not_double),
    ("count(DISTINCT {~x})", double),
    ("avg(DISTINCT {~x})", double),
    ("sum({x})", number),
    ("sum({x})", decimal),
    ("sum(DISTINCT {x})", int),
    ("sum(DISTINCT {x})", decimal),
    ("min({x})", ordered),
    ("max({x})", ordered),
    ("min({x})", double),
    ("max({x})", double),
    ("avg({x})", number),
    ("avg({x})", decimal),
    ("var_pop({x} % 1000)", int),
    ("var_samp({x} % 1000)", int),
    ("stddev({x} % 1000)", int),
    ("stddev_pop({x} % 1000)", int),
    ("corr({x} % 1000, {y} % 100)", int),
    ("covar_pop({x} % 1000, {y} % 100)", int),
    ("regr_slope({x} % 1000, {y} % 100)", int),
    ("bool_and({x})", boolean),
    ("bool_or({x})", boolean),
    ("bit_and({x})", int),
    ("bit_xor({x})", int),
    ("approx_distinct({x})", any),
    ("approx_percentile_cont({x}, 0.9)", int),
    ("approx_median({x})", int),
    ("median({x})", int),
    ("median({x})", double),
    ("median({x})", decimal),
    ("median(DISTINCT {x})", decimal),
    ("percentile_cont({x}, 0.25)", int),
    ("first_value({x} ORDER BY {y}{tie})", any),
    ("last_value({x} ORDER BY {y} DESC{tie})", any),
    ("first_value({x} ORDER BY {y} DESC NULLS LAST{tie})", flat),
    ("first_value({x} IGNORE NULLS ORDER BY {y}{tie})", any),
    ("last_value({x} ORDER BY CAST({y} AS VARCHAR){tie})", flat),
    ("nth_value({x}, 2 ORDER BY {y}{tie})", flat),
    ("string_agg(DISTINCT {x}, ',' ORDER BY {x})", varchar),
    ("avg(DISTINCT {x})", int),
    ("avg(DISTINCT {x})", decimal),
    ("median(DISTINCT {x})", int),
    ("bit_or({x})", int),
    ("covar_samp({x} % 1000, {y} % 100)", int),
    ("regr_r2({x} % 1000, {y} % 100)", int),
    ("regr_count({x}, {y})", int),
    ("regr_avgx({x} % 1000, {y} % 100)", int),
    ("regr_avgy({x} % 1000, {y} % 100)", int),
    ("regr_intercept({x} % 1000, {y} % 100)", int),
    ("regr_sxx({x} % 1000, {y} % 100)", int),
    ("regr_sxy({x} % 1000, {y} % 100)", int),
    ("regr_syy({x} % 1000, {y} % 100)", int),
    ("approx_percentile_cont({x}, 0.5)", double),
    ("approx_percentile_cont_with_weight({x}, 1, 0.5)", int),
    (
        "percentile_cont(0.25) WITHIN GROUP (ORDER BY {x} DESC)",
        int,
    ),
    ("array_agg({x} ORDER BY {y}{tie})", any),
    ("array_agg({x} ORDER BY {y} DESC{tie})", flat),
    ("array_agg(DISTINCT {x} ORDER BY {x})", not_double),
    ("array_agg(DISTINCT {~x} ORDER BY {~x})", double),
    ("string_agg({x}, ',' ORDER BY {y}{tie})", varchar),
];

/// Around an aggregate.
const EXPRESSIONS: &[(&str, Fits)] = &[
    ("{a}", any),
    ("{a}", any),
    ("{a}", any),
    ("{a} FILTER (WHERE {x} IS NOT NULL)", any),
    ("{a} FILTER (WHERE {x} > 1)", int),
    ("{a} FILTER (WHERE {x})", boolean),
    ("coalesce(sum({x}), 0) + count(*)", int),
    ("max({x}) = min({x})", ordered),
    ("CASE WHEN count(*) > 2 THEN 'many' ELSE 'few' END", any),
    ("CAST(count(*) AS SMALLINT)", any),
    ("CAST(count(*) AS BIGINT UNSIGNED)", any),
];

const CONDITIONS: &[(&str, Fits)] = &[
    ("{x} IS NOT NULL", any),
    ("{x} > 0", int),
    ("{x}", boolean),
    ("false", any),
    ("{x} <> ''", varchar),
    ("_offset % 2 = 0", any),
];

fn columns(stream: &StreamSchema, fits: Fits) -> Vec<&Column> {
    stream
        .columns
        .iter()
        .filter(|c| fits(&c.column_type))
        .collect()
}

/// A template that the stream has a column for, filled in but for `{a}` and `{tie}`.
fn fill(draw: &mut Draw, stream: &StreamSchema, templates: &[(&str, Fits)]) -> String {
    let (template, fits) = draw.one_of(templates);
    let fitting = columns(stream, fits);
    let (template, fitting) = if fitting.is_empty() {
        (templates[0].0, columns(stream, templates[0].1))
    } else {
        (template, fitting)
    };
    let x = draw.one_of(&fitting).name.clone();
    let mut others = columns(stream, ordered);
    if template.contains("corr") || template.contains("covar") || template.contains("regr") {
        others = columns(stream, int);
    }
    let y = if others.is_empty() {
        "_arrived_at".to_owned()
    } else {
        draw.one_of(&others).name.clone()
    };
    let signless = format!("{{~{x}}}");
    let template = template.replace("{~x}", &signless);
    template.replace("{x}", &x).replace("{y}", &y)
}

/// Any view over the stream.
pub(crate) fn draw_view(draw: &mut Draw, stream: &StreamSchema) -> Case {
    let keys: Vec<String> = (0..draw.below(4))
        .map(|_| fill(draw, stream, KEYS))
        .collect();
    let mut outputs: Vec<String> = Vec::new();
    let mut nth_value_seen = false;
    for _ in 0..=draw.below(5) {
        let aggregate = fill(draw, stream, AGGREGATES);
        let output = fill(draw, stream, EXPRESSIONS).replace("{a}", &aggregate);
        // Two that must each see the events in an order of their own are refused, as DataFusion does.
        // Nor does DataFusion's plan sort by what is also a key, though -0.0 and 0.0 are one key and two
        // places in an order.
        let asks_for_order = ["nth_value", "WITHIN GROUP"]
            .iter()
            .any(|f| output.contains(f));
        let by_a_key = keys
            .iter()
            .any(|key| output.contains(&format!("ORDER BY {key}")));
        if !(asks_for_order && (nth_value_seen || by_a_key)) {
            nth_value_seen |= asks_for_order;
            outputs.push(output);
        }
    }
    let condition = draw.one_in(3).then(|| fill(draw, stream, CONDITIONS));
    case(stream, &keys, &outputs, condition.as_deref())
}

/// Puts a view together.
fn case(
    stream: &StreamSchema,
    keys: &[String],
    outputs: &[String],
    condition: Option<&str>,
) -> Case {
    let named: Vec<String> = outputs
        .iter()
        .enumerate()
        .map(|(index, output)| format!("{output} AS v{index}"))
        .collect();
    // DataFusion reverses the order of a DISTINCT aggregate where another asks for the opposite one, so
    // the oracle asks for each by itself.
    // For one with DISTINCT beside a plain sum it plans sums of sums, of which the inner may pass the end of the
    // type where the whole does not.
    let distinct = outputs.iter().any(|o| o.contains("DISTINCT"));
    let apart = outputs.iter().any(|o| {
        (o.contains("DISTINCT") && o.contains("ORDER BY")) || (distinct && o.contains("sum("))
    });
    let asked: Vec<&[String]> = if apart {
        named.chunks(1).collect()
    } else {
        vec![&named]
    };
    let oracle = asked.into_iter().map(|outputs| {
        let sql = select(keys, outputs, condition);
        with_tie_breaks(stream, &with_signless(&sql, signless))
    });
    Case {
        oracle: oracle.collect(),
        view: with_signless(&select(keys, &named, condition), str::to_owned).replace("{tie}", ""),
        keys: keys.len(),
    }
}

fn select(keys: &[String], outputs: &[String], condition: Option<&str>) -> String {
    let mut items: Vec<String> = Vec::new();
    for (index, key) in keys.iter().enumerate() {
        items.push(format!("{key} AS k{index}"));
    }
    items.extend_from_slice(outputs);
    let mut sql = format!("SELECT {} FROM s", items.join(", "));
    if let Some(condition) = condition {
        sql = format!("{sql} WHERE {condition}");
    }
    if !keys.is_empty() {
        // By position: a constant and a key that is there twice cannot be grouped by in other words.
        let positions: Vec<String> = (1..=keys.len()).map(|p| p.to_string()).collect();
        sql = format!("{sql} GROUP BY {}", positions.join(", "));
    }
    sql
}

/// Replaces each `{~column}`.
fn with_signless(sql: &str, spell: impl Fn(&str) -> String) -> String {
    let mut parts = sql.split("{~");
    let mut spelled = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (column, rest) = part.split_once('}').unwrap();
        spelled.push_str(&spell(column));
        spelled.push_str(rest);
    }
    spelled
}

/// A column with its negative zeros made positive.
fn signless(column: &str) -> String {
    format!("(CASE WHEN {column} = 0.0 THEN 0.0 ELSE {column} END)")
}

/// Spells out the tie-break in each `ORDER BY column …{tie}`.
fn with_tie_breaks(stream: &StreamSchema, sql: &str) -> String {
    let event_time = stream.event_time.iter().map(|e| e.column.as_str());
    let columns: Vec<&str> = event_time.chain(["_partition", "_offset"]).collect();
    let mut parts = sql.split("{tie}");
    let mut spelled = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let order = spelled.rsplit("ORDER BY ").next().unwrap_or_default();
        let ordered_by = order.split(' ').next().unwrap_or_default().to_owned();
        for column in columns.iter().filter(|c| **c != ordered_by) {
            spelled.push_str(&format!(", {column} ASC NULLS FIRST"));
        }
        spelled.push_str(part);
    }
    spelled
}

/// Keys, outputs and the condition of a view.
type Shape<'a> = (&'a [&'a str], &'a [&'a str], Option<&'a str>);

/// Shapes that are known to go wrong, each with its stream.
pub(crate) fn traps() -> Vec<(StreamSchema, Case)> {
    let flat = (events::every_type(), FLAT_TRAPS);
    let nested = (events::nested(), NESTED_TRAPS);
    let owned = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
    let mut traps = Vec::new();
    for (stream, shapes) in [flat, nested] {
        for (keys, outputs, condition) in shapes {
            let case = case(&stream, &owned(keys), &owned(outputs), *condition);
            traps.push((stream.clone(), case));
        }
    }
    traps
}

/// Over lists and structs. NULL and the empty list have the same hash, so their groups come in another
/// order than their rows.
const NESTED_TRAPS: &[Shape] = &[
    (&["c1", "c0"], &["count(*)", "avg(c1)"], None),
    (&["c0"], &["max(c3)", "count(DISTINCT c1)"], None),
    (&["c2", "c1"], &["min(c3)", "approx_distinct(c0)"], None),
    (
        &["c3"],
        &[
            "first_value(c2 ORDER BY c1{tie})",
            "array_agg(c0 ORDER BY c1{tie})",
        ],
        None,
    ),
];

/// Over every simple type: c0 INT, c1 VARCHAR, c2 TIMESTAMP (the event time), c3 DOUBLE, c4 BIGINT, c5 BOOLEAN,
/// c6 DECIMAL, c7 DATE.
const FLAT_TRAPS: &[Shape] = &[
    (&["c1"], &["count(DISTINCT c0)"], None),
    (&[], &["count(DISTINCT c1)"], None),
    (&[], &["count(DISTINCT {~c3})"], None),
    (&["c5"], &["count(DISTINCT {~c3})", "count(*)"], None),
    (&[], &["count(*)"], None),
    (
        &[],
        &["count(*)", "max(c3)", "approx_distinct(c1)"],
        Some("false"),
    ),
    (&["c1"], &["sum(c4)"], Some("false")),
    (&["c3"], &["count(*)"], None),
    (&["c3", "c1"], &["count(*)", "min(c3)", "max(c3)"], None),
    (&["'x'"], &["count(*)", "avg(c0)"], None),
    (&["'x'", "c5", "CAST(NULL AS INT)"], &["sum(c6)"], None),
    (
        &["date_trunc('hour', c2)", "c1"],
        &["avg(c3)", "stddev(c0 % 1000)"],
        None,
    ),
    (
        &["c7"],
        &[
            "corr(c0 % 1000, c4 % 1000)",
            "median(c3)",
            "bool_and(c5)",
            "bool_or(c5)",
        ],
        None,
    ),
    (
        &["c1"],
        &[
            "first_value(c3 ORDER BY c0{tie})",
            "last_value(c3 ORDER BY c0{tie})",
        ],
        None,
    ),
    (
        &["c5"],
        &[
            "array_agg(c1 ORDER BY c0 DESC{tie})",
            "array_agg(c0 ORDER BY c1{tie})",
        ],
        None,
    ),
    (&["c5"], &["nth_value(c1, 3 ORDER BY c0{tie})"], None),
    (&["c5"], &["string_agg(c1, '; ' ORDER BY c4{tie})"], None),
    (
        &[],
        &[
            "nth_value(c1, 2 ORDER BY c0{tie})",
            "array_agg(c3 ORDER BY c4{tie})",
        ],
        None,
    ),
    (
        &["c1"],
        &[
            "sum(c0) FILTER (WHERE c5)",
            "count(*) FILTER (WHERE c3 > 0)",
            "count(*)",
        ],
        None,
    ),
    (&["c1", "c1"], &["max(c7)", "min(c2)"], None),
    (
        &["c1"],
        &["approx_percentile_cont(c0, 0.5)", "approx_median(c4)"],
        None,
    ),
    (
        &["c0"],
        &["avg(c6)", "sum(c6)", "sum(DISTINCT c0)", "avg(c4)"],
        None,
    ),
    // Calls that share what is added up, and ones beside them that do not.
    (
        &["c1"],
        &["sum(c0)", "avg(c0)", "count(c0)", "avg(c6)", "count(*)"],
        None,
    ),
    (&[], &["avg(c0)", "count(c0)", "avg(DISTINCT c0)"], None),
    (
        &["c1"],
        &[
            "avg(c6) FILTER (WHERE c0 > 0)",
            "sum(c6) FILTER (WHERE c0 > 0)",
            "sum(c6)",
        ],
        None,
    ),
    // Calls that differ in a cast or in parentheses.
    (
        &["c1"],
        &[
            "sum(c0)",
            "sum(CAST(c0 AS DECIMAL(20, 3)))",
            "min(CAST(c0 AS VARCHAR))",
            "min(c0)",
            "count(DISTINCT c0)",
            "count(DISTINCT CAST(c0 AS VARCHAR))",
            "max((c0 + 1) % 3 * 2)",
            "max(c0 + 1 % 3 * 2)",
        ],
        None,
    ),
    (&["c0", "c1", "c3", "c5", "c7"], &["count(c2)"], None),
    (&["CAST(c2 AS DATE)"], &["avg(c6)"], None),
    (&["c4"], &[], None),
    (
        &[],
        &[
            "array_agg(DISTINCT c1 ORDER BY c1)",
            "array_agg(c0 ORDER BY c1 DESC{tie})",
        ],
        None,
    ),
];
