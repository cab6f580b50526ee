// SPDX-License-Identifier: Apache-2.0
//! What cannot be a view or a predicate: each refusal names the expression and says what to write instead.

use dovetail_model::ProblemKind;
use dovetail_view::{Predicate, View};

use crate::{stream, streams};

fn refusal(sql: &str) -> String {
    let error = View::compile(sql, &streams())
        .map(|view| panic!("{} is a view", view.sql()))
        .unwrap_err();
    assert_eq!(error.kind(), ProblemKind::Invalid, "{sql}: {error}");
    error.to_string()
}

/// The definition, what the message must name, and what it must say to do.
const REFUSED: &[(&str, &str, &str)] = &[
    (
        "SELECT nth_value(delay, 0 ORDER BY distance) AS x FROM flights",
        "`nth_value(delay, 0 ORDER BY distance)`",
        "places count from 1",
    ),
    (
        "SELECT cnt(*) FROM flights",
        "`cnt`",
        "did you mean `count`?",
    ),
    ("SELECT summ(delay) FROM flights", "`summ`", "`sum`?"),
    (
        "SELECT repeat(origin, 1000000000) AS x, count(*) FROM flights GROUP BY x",
        "`repeat` makes values of any size",
        "write a number up to 1000",
    ),
    (
        "SELECT max(lpad(origin, delay)) AS x FROM flights",
        "`lpad` makes values of any size",
        "write a number up to 1000",
    ),
    (
        "SELECT max(length(rpad(repeat(origin, 1000), 1000))) AS x FROM flights",
        "`rpad` makes values of any size",
        "once, or leave it out",
    ),
    (
        "SELECT sum(array_length(range(1, 5))) AS x FROM flights",
        "`range` makes values of any size",
        "leave it out",
    ),
    (
        "SELECT cabaret(*) FROM flights",
        "`cabaret`",
        "lists the aggregates",
    ),
    (
        "SELECT date_trunc(origin, date) AS t, count(*) FROM flights GROUP BY t",
        "date_trunc",
        "date_trunc('hour', …)",
    ),
    (
        "SELECT date_trunc('fortnight', date) AS t, count(*) FROM flights GROUP BY t",
        "fortnight",
        "",
    ),
    (
        "SELECT date_trunc('hour', date) AS date, count(*) FROM flights GROUP BY date",
        "`GROUP BY date`",
        "the stream's column",
    ),
    ("", "no statement", ""),
    ("SELECT count(*) FROM", "cannot read the SQL", ""),
    (
        "SELECT count(*) FROM flights; SELECT count(*) FROM flights",
        "2 statements",
        "",
    ),
    (
        "DELETE FROM flights",
        "`DELETE FROM flights`",
        "a view is one SELECT",
    ),
    ("VALUES (1)", "`VALUES (1)`", "one SELECT over one stream"),
    (
        "SELECT count(*) FROM ships",
        "`ships`",
        "there are `airports`, `flights`",
    ),
    ("SELECT count(*)", "`SELECT count(*)`", "add FROM"),
    (
        "SELECT count(*) FROM flights, airports",
        "`airports`",
        "exactly one stream",
    ),
    (
        "SELECT count(*) FROM flights JOIN airports ON flights.origin = airports.origin",
        "`JOIN airports ON flights.origin = airports.origin`",
        "in the query that reads them",
    ),
    (
        "SELECT count(*) FROM (SELECT * FROM flights) f",
        "`(SELECT * FROM flights) f`",
        "the name of a stream",
    ),
    (
        "SELECT count(*) FROM other.flights",
        "`other.flights`",
        "the name of a stream",
    ),
    (
        "SELECT count(*) FROM generate_series(1, 3)",
        "`generate_series(1, 3)`",
        "the name of a stream",
    ),
    (
        "SELECT count(*) FROM flights TABLESAMPLE (10 PERCENT)",
        "TABLESAMPLE",
        "nothing else",
    ),
    (
        "WITH f AS (SELECT * FROM flights) SELECT count(*) FROM f",
        "`WITH f AS (SELECT * FROM flights)`",
        "without WITH",
    ),
    (
        "SELECT count(*) FROM flights UNION ALL SELECT count(*) FROM airports",
        "UNION ALL",
        "one SELECT over one stream",
    ),
    (
        "SELECT count(*) FROM flights ORDER BY 1",
        "`ORDER BY 1`",
        "in the query that reads the view",
    ),
    (
        "SELECT count(*) FROM flights LIMIT 3",
        "`LIMIT 3`",
        "in the query that reads the view",
    ),
    (
        "SELECT count(*) FROM flights FETCH FIRST 3 ROWS ONLY",
        "FETCH",
        "in the query that reads the view",
    ),
    (
        "SELECT origin, count(*) FROM flights GROUP BY origin HAVING count(*) > 3",
        "`HAVING count(*) > 3`",
        "in the query that reads the view",
    ),
    (
        "SELECT DISTINCT origin FROM flights",
        "`DISTINCT`",
        "GROUP BY",
    ),
    ("SELECT * FROM flights", "`*`", "name the columns"),
    (
        "SELECT flights.*, count(*) FROM flights GROUP BY origin",
        "`flights.*`",
        "name the columns",
    ),
    (
        "SELECT origin FROM flights",
        "`flights.origin`",
        "a view aggregates",
    ),
    (
        "SELECT delay + 1 AS late FROM flights",
        "delay",
        "a view aggregates",
    ),
    (
        "SELECT origin, row_number() OVER (ORDER BY origin) AS n FROM flights GROUP BY origin",
        "`row_number() OVER (ORDER BY origin)`",
        "in the query that reads the view",
    ),
    (
        "SELECT count(*) FROM flights WHERE delay > (SELECT avg(delay) FROM flights)",
        "`(SELECT avg(delay) FROM flights)`",
        "FILTER",
    ),
    (
        "SELECT count(*) FROM flights WHERE origin IN (SELECT origin FROM airports)",
        "`origin IN (SELECT origin FROM airports)`",
        "exactly one stream",
    ),
    (
        "SELECT count(*) FROM flights WHERE date > now()",
        "`now()`",
        "_arrived_at",
    ),
    (
        "SELECT count(*) FROM flights WHERE date > current_date()",
        "`current_date()`",
        "_arrived_at",
    ),
    (
        "SELECT max(random()) FROM flights",
        "`random()`",
        "another value each time",
    ),
    (
        "SELECT sum(delay) FILTER (WHERE random() > 0.5) FROM flights",
        "`random()`",
        "another value each time",
    ),
    (
        "SELECT uuid() AS id, count(*) FROM flights GROUP BY 1",
        "`uuid()`",
        "another value each time",
    ),
    (
        "SELECT count(*) FROM flights WHERE delay > $1",
        "`$1`",
        "no parameters",
    ),
    (
        "SELECT first_value(delay) FROM flights",
        "`first_value(delay)`",
        "first_value(… ORDER BY …)",
    ),
    (
        "SELECT \"first_value\"(delay) FROM flights",
        "first_value",
        "ORDER BY",
    ),
    (
        "SELECT array_agg(delay) FROM flights",
        "`array_agg(delay)`",
        "array_agg(… ORDER BY …)",
    ),
    (
        "SELECT array_agg(DISTINCT delay) FROM flights",
        "`array_agg(DISTINCT delay)`",
        "ORDER BY",
    ),
    (
        "SELECT string_agg(origin, ',') FROM flights",
        "`string_agg(origin, ',')`",
        "ORDER BY",
    ),
    (
        "SELECT nth_value(delay, 2) FROM flights",
        "`nth_value(delay, 2)`",
        "ORDER BY",
    ),
    (
        "SELECT any_value(delay) FROM flights",
        "`any_value(delay)`",
        "first_value(… ORDER BY …)",
    ),
    (
        "SELECT last_value(delay ORDER BY date, date) FROM flights",
        "`date`",
        "twice",
    ),
    (
        "SELECT last_value(delay ORDER BY delay, CASE WHEN true THEN delay END) FROM flights",
        "last_value",
        "twice",
    ),
    (
        "SELECT nth_value(delay, 2 ORDER BY date) AS a, nth_value(delay, 2 ORDER BY delay) AS b FROM flights",
        "nth_value",
        "the same ORDER BY",
    ),
    (
        "SELECT count(*) FROM flights GROUP BY origin",
        "`flights.origin`",
        "add it there",
    ),
    (
        "SELECT upper(origin) AS o, count(*) FROM flights GROUP BY origin",
        "`flights.origin`",
        "add it there",
    ),
    (
        "SELECT origin, count(*) FROM flights GROUP BY ROLLUP(origin)",
        "ROLLUP",
        "one view for each grouping",
    ),
    (
        "SELECT origin, count(*) FROM flights GROUP BY CUBE(origin)",
        "CUBE",
        "one view for each grouping",
    ),
    (
        "SELECT origin, count(*) FROM flights GROUP BY GROUPING SETS ((origin), ())",
        "GROUPING SETS",
        "one view for each grouping",
    ),
    (
        "SELECT origin, count(*) FROM flights GROUP BY ALL",
        "`GROUP BY ALL`",
        "name the columns",
    ),
    (
        "SELECT count(*) + 1 FROM flights",
        "`count(*) + 1`",
        "a name with AS",
    ),
    (
        "SELECT CAST(count(*) AS INT) FROM flights",
        "CAST(count(*) AS INT)",
        "a name with AS",
    ),
    (
        "SELECT count(*) AS n, sum(delay) AS N FROM flights",
        "`n`",
        "another with AS",
    ),
    (
        "SELECT origin, origin, count(*) FROM flights GROUP BY origin",
        "`origin`",
        "another with AS",
    ),
    (
        "SELECT count(*) AS _state0 FROM flights",
        "`_state0`",
        "another after AS",
    ),
    (
        "SELECT count(*) AS \"a b\" FROM flights",
        "`a b`",
        "letters, digits and _",
    ),
    (
        "SELECT count(ship) FROM flights",
        "no column `ship`",
        "there are flights.date",
    ),
    (
        "SELECT min(place) FROM flights",
        "`min(flights.place)`",
        "its fields",
    ),
    (
        "SELECT max(to_timestamp(delay)) FROM flights",
        "to_timestamp",
        "CAST(… AS …)",
    ),
    (
        "SELECT to_timestamp(delay) AS t, count(*) FROM flights GROUP BY 1",
        "to_timestamp",
        "CAST(… AS …)",
    ),
    (
        "SELECT max(date) - min(date) AS d FROM flights",
        "max(date)",
        "CAST(… AS BIGINT) for its microseconds",
    ),
    ("SELECT min(NULL) FROM flights", "NULL", "CAST(… AS …)"),
    (
        "SELECT grouping(origin) AS g, origin FROM flights GROUP BY origin",
        "`grouping(origin)`",
        "leave it out",
    ),
    (
        "SELECT count(DISTINCT origin, delay) AS n FROM flights",
        "`count(DISTINCT flights.origin, flights.delay)`",
        "count(DISTINCT struct(flights.origin, flights.delay))",
    ),
    (
        "SELECT corr(DISTINCT delay, distance) AS c FROM flights",
        "`corr(DISTINCT",
        "leave it out",
    ),
    (
        "SELECT unnest(array_agg(delay ORDER BY date)) AS d FROM flights",
        "unnest",
        "in the query that reads the view",
    ),
];

#[test]
fn what_cannot_be_merged_is_refused_and_told_what_to_write_instead() {
    for (sql, names, says) in REFUSED {
        let message = refusal(sql);
        assert!(message.contains(names), "{sql}: {message}");
        assert!(message.contains(says), "{sql}: {message}");
        let first = message.chars().next().unwrap();
        assert!(!first.is_uppercase(), "{sql}: {message}");
    }
}

/// What the engine refuses, in words of ours: the whole message.
const IN_OUR_WORDS: &[(&str, &str)] = &[
    (
        "sum(origin)",
        "`sum` takes no VARCHAR: it takes DECIMAL, BIGINT or DOUBLE; cast the argument, as in sum(CAST(… AS DOUBLE))",
    ),
    (
        "corr(origin, delay)",
        "`corr` takes no (VARCHAR, INT): it takes (DOUBLE, DOUBLE); cast the argument, as in corr(CAST(… AS DOUBLE), …)",
    ),
    (
        "avg(place)",
        "`avg` takes no STRUCT<lat DOUBLE>: it takes DECIMAL, BIGINT or DOUBLE",
    ),
    (
        "sum(date)",
        "`sum` takes no TIMESTAMP: it takes DECIMAL, BIGINT or DOUBLE",
    ),
    (
        "sum(delay, delay)",
        "`sum` takes no (INT, INT): it takes DECIMAL, BIGINT or DOUBLE",
    ),
    (
        "sum()",
        "`sum` needs arguments: it takes DECIMAL, BIGINT or DOUBLE",
    ),
    (
        "max(origin + place)",
        "cannot compute VARCHAR + STRUCT<lat DOUBLE>: give both a type that it takes with CAST(… AS …)",
    ),
    (
        "sum(CAST('x' AS INT))",
        "cannot cast string 'x' to value of INT type",
    ),
    (
        "summ(delay)",
        "there is no function `summ`: did you mean `sum`?",
    ),
    // `md5` is two letters away, `grouping` one, but no view may use it.
    (
        "mode(delay)",
        "there is no function `mode`: docs/sql.md lists the aggregates, https://datafusion.apache.org/user-guide/sql/scalar_functions.html the others",
    ),
    (
        "groupin(delay)",
        "there is no function `groupin`: docs/sql.md lists the aggregates, https://datafusion.apache.org/user-guide/sql/scalar_functions.html the others",
    ),
    (
        "sum(count(*))",
        "aggregates cannot be nested: write the outer one in a query over the inner one's result",
    ),
    (
        "approx_percentile_cont(delay, 5)",
        "percentile value must be between 0.0 and 1.0 inclusive, 5 is invalid",
    ),
    (
        "max(distance) + delay",
        "`flights.delay` is neither in GROUP BY nor in an aggregate: add it to GROUP BY, or write an aggregate of it, such as max(flights.delay)",
    ),
];

/// On a thread of a test, which has the 2 MiB that threads have by default.
#[test]
fn the_longest_chain_of_operators_is_compiled() {
    let sql = format!("SELECT sum(delay{}) FROM flights", " + delay".repeat(149));
    View::compile(&sql, &streams()).unwrap();
}

#[test]
fn the_engines_refusals_are_short_and_speak_of_sql_types() {
    for (expression, message) in IN_OUR_WORDS {
        let sql = format!("SELECT {expression} AS x FROM flights");
        assert_eq!(refusal(&sql), *message);
    }
    let message = refusal("SELECT count(*) FROM flights WHERE count(*) > 1");
    assert!(
        message.ends_with("filter in the query that reads the view"),
        "{message}"
    );
}

/// Shapes near the refused ones.
const ALLOWED: &[&str] = &[
    "select count(*) from flights;",
    "SELECT lpad(CAST(delay AS VARCHAR), 5, '0') AS x, count(*) FROM flights GROUP BY 1",
    "SELECT count(*) FROM flights f WHERE f.delay > 3",
    "SELECT count(*) FROM Flights",
    "SELECT origin FROM flights GROUP BY origin",
    "SELECT count(DISTINCT struct(flights.origin, flights.delay)) AS n FROM flights",
    "SELECT origin, upper(origin) AS o, count(*) FROM flights GROUP BY origin",
    "SELECT date_trunc('day', date), avg(delay), avg(distance), sum(delay) / count(*) AS mean FROM flights GROUP BY 1",
    "SELECT array_agg(DISTINCT origin ORDER BY origin) FROM flights",
    "SELECT first_value(origin ORDER BY date), last_value(origin ORDER BY date DESC) FROM flights",
    "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY delay) FROM flights",
    "SELECT _partition, max(_offset) FROM flights GROUP BY _partition",
    "SELECT count(*) FROM flights WHERE date >= TIMESTAMP '2001-01-01' AND date < '2002-01-01'",
    "SELECT max(CAST(to_timestamp(delay) AS TIMESTAMP)) FROM flights",
    "SELECT place['lat'] AS lat, count(*) FROM flights GROUP BY 1",
    "SELECT CAST(NULL AS INT) AS nothing, count(*) FROM flights",
];

#[test]
fn what_can_be_merged_is_allowed() {
    for sql in ALLOWED {
        View::compile(sql, &streams()).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
}

/// The predicate over events, what the message must name, and what it must say.
const REFUSED_PREDICATES: &[(&str, &str, &str)] = &[
    (
        "length(repeat(origin, 1000000000)) > 5",
        "`repeat` makes values of any size",
        "write a number up to 1000",
    ),
    ("", "cannot read the SQL", ""),
    ("delay >", "cannot read the SQL", ""),
    ("delay > 3; DROP STREAM flights", "ends before `;`", ""),
    ("ship = 3", "ship", ""),
    ("delay", "`delay`", "compare it with something"),
    ("count(*) > 3", "count", "without aggregates"),
    ("delay > random()", "`random()`", "the value itself"),
    ("date < now()", "`now()`", "the value itself"),
    (
        "origin IN (SELECT origin FROM airports)",
        "SELECT origin FROM airports",
        "list the values",
    ),
    ("EXISTS (SELECT 1)", "EXISTS", "one row only"),
    ("delay > $1", "`$1`", "no parameters"),
    (
        "row_number() OVER () > 1",
        "row_number() OVER ()",
        "one row only",
    ),
];

#[test]
fn predicates_look_at_one_row_and_always_say_the_same() {
    for (sql, names, says) in REFUSED_PREDICATES {
        let error = Predicate::over_events(sql, &stream()).unwrap_err();
        assert_eq!(error.kind(), ProblemKind::Invalid, "{sql}");
        let message = error.to_string();
        assert!(message.contains(names), "{sql}: {message}");
        assert!(message.contains(says), "{sql}: {message}");
    }
}

#[test]
fn a_predicate_that_fails_for_every_row_is_told_from_one_that_fails_for_some() {
    for (sql, names, says) in [
        (
            "delay / 0 = 1",
            "`CAST(delay AS BIGINT) / 0`",
            "it divides by 0",
        ),
        (
            "abs(delay % (3 - 3)) > 1 AND origin = 'SFO'",
            "delay",
            "it divides by 0",
        ),
        ("1 / 0 = 1", "1 / 0", "divide by zero"),
        ("delay = CAST('x' AS INT)", "x", "fails for every row"),
        ("delay IN (1, 2 / 0)", "2 / 0", "divide by zero"),
    ] {
        let predicate = Predicate::over_events(sql, &stream()).unwrap();
        let message = predicate.check_computable().unwrap_err().to_string();
        assert!(
            message.contains(names) && message.contains(says),
            "{sql}: {message}"
        );
    }
    for sql in [
        "100 / delay > 5",
        "delay / 0.0 = 1",
        "delay / 0e0 = 1",
        "delay <> 0 AND 100 / delay > 5",
        "origin = 'none' AND delay / 0 = 1",
        "CASE WHEN origin = 'none' THEN delay / 0 ELSE 1 END = 1",
        "coalesce(delay, 1 / 0) = 1",
        "CAST(origin AS INT) = 1",
        "NULL",
    ] {
        let predicate = Predicate::over_events(sql, &stream()).unwrap();
        let checked = predicate.check_computable();
        assert!(checked.is_ok(), "{sql}: {checked:?}");
    }
}

#[test]
fn a_predicate_over_keys_knows_the_keys_only() {
    let sql = "SELECT origin AS airport, count(*) AS n FROM flights GROUP BY origin";
    let view = View::compile(sql, &streams()).unwrap();
    Predicate::over_keys("airport = 'SFO'", &view).unwrap();
    for sql in ["n > 3", "origin = 'SFO'"] {
        let message = Predicate::over_keys(sql, &view).unwrap_err().to_string();
        assert!(
            message.contains(sql.split(' ').next().unwrap()),
            "{message}"
        );
    }
}
