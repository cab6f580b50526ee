// SPDX-License-Identifier: Apache-2.0
use std::cmp::Ordering;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::DataType;
use datafusion::common::ParamValues;
use datafusion::execution::SessionStateBuilder;
use datafusion::prelude::{DataFrame, SessionContext};
use datafusion::sql::parser::Statement;
use proptest::prelude::*;

use super::*;
use crate::analyzer_rules;

fn context() -> SessionContext {
    let state = SessionStateBuilder::new()
        .with_default_features()
        .with_analyzer_rules(analyzer_rules(vec![]))
        .build();
    let mut context = SessionContext::new_with_state(state);
    crate::register_functions(&mut context).expect("a fresh session takes our functions");
    context
}

async fn frame(context: &SessionContext, sql: &str) -> Result<DataFrame> {
    let state = context.state();
    let mut statement = state.sql_to_statement(sql, &state.config_options().sql_parser.dialect)?;
    if let Statement::Statement(statement) = &mut statement {
        keep_digits(statement);
    }
    let plan = state.statement_to_plan(statement).await?;
    Ok(DataFrame::new(state, plan))
}

async fn ask(sql: &str) -> Result<RecordBatch> {
    let frame = frame(&context(), sql).await?;
    let batches = frame.collect().await?;
    Ok(arrow::compute::concat_batches(
        &batches[0].schema(),
        &batches,
    )?)
}

/// The type and the only value of the answer.
async fn only_value(sql: &str) -> (DataType, String) {
    let batch = ask(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    assert_eq!(batch.num_rows(), 1, "{sql}");
    let column = batch.column(0);
    let shown = arrow::util::display::array_value_to_string(column, 0);
    let shown = shown.expect("a value can be shown");
    (column.data_type().clone(), shown)
}

const ROW: &str = "(SELECT CAST('4.48' AS DECIMAL(10, 2)) AS d, CAST('12345678901234567890123' AS DECIMAL(38, 0)) AS w,
    CAST('0.00000000000000000001' AS DECIMAL(38, 38)) AS t, CAST(4.48 AS DOUBLE) AS x, CAST(1e200 AS DOUBLE) AS huge, 5 AS i,
    [CAST('4.48' AS DECIMAL(10, 2))] AS l, struct(CAST('4.48' AS DECIMAL(10, 2))) AS st, concat('4.48', '1') AS word) AS s";

#[tokio::test]
async fn a_decimal_is_compared_with_the_number_that_is_written() {
    for truth in [
        "d = 4.48",
        "4.48 = d",
        "NOT d <> 4.48",
        "d <= 4.48 AND d >= 4.48 AND NOT d < 4.48 AND NOT d > 4.48",
        "d BETWEEN 4.48 AND 4.48",
        "4.48 BETWEEN d AND d",
        "d IN (4.47, 4.48)",
        "4.48 IN (d)",
        "d NOT IN (4.481, 4.4800000000000001)",
        "d IS NOT DISTINCT FROM 4.48",
        "CASE d WHEN 4.48 THEN true ELSE false END",
        "-d = -4.48",
        "-d = -(4.48)",
        "d * i = 22.4",
        "d < 4.480000000000000000000000000001",
        "d > 4.479999999999999999999999999999",
        "d <> '4.485'",
        "d > '4.475'",
        "d = '4.48'",
        "d < 1e300 AND d > -1e300 AND d > 1e-300",
        "d < 123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890",
        "w = 12345678901234567890123",
        "w < 12345678901234567890124 AND w > 12345678901234567890122",
        "w <> 12345678901234567890123.5",
        "w > 9223372036854775808 AND w > 18446744073709551616 AND w > -18446744073709551616",
        "t = 0.00000000000000000001",
        "t < 5 AND t < 123456789012345678901",
        "CAST(1.005 AS DECIMAL(10, 2)) = 1.01",
        "TRY_CAST(12345678901234567890123 AS DECIMAL(38, 0)) = w",
        "nullif(d, 4.48) IS NULL",
        "(d, i) = (4.48, 5) AND (d, i) IN ((4.47, 5), (4.48, 5)) AND NOT (d, i) <> (4.48, 5)",
        "[d] = [4.48] AND struct(d) = struct(4.48)",
        // One that is far away takes nothing from the others.
        "w BETWEEN 1e-70 AND 12345678901234567890123 AND NOT w BETWEEN 1e-70 AND 12345678901234567890122.9",
        "w NOT IN (12345678901234567890124, 1e90, 1e-400)",
        "t BETWEEN 1e-400 AND 1e41 AND NOT t BETWEEN 0.00000000000000000001000000000000000000001 AND 1e41",
        "nullif(w, 0.5) = w AND nullif(w, 1e-320) = w AND nullif(d, 4.48) IS NULL",
        "round(d, 1) = 4.5 AND round(d, 1) <> d AND round(d, 1) BETWEEN 4.5 AND 4.5",
        "ifnull(w, 0) = w AND nvl(w, w) = 12345678901234567890123",
        // With the DOUBLE of a column, as DOUBLEs.
        "d = x AND x = d AND w < huge AND d IN (x, 1.0) AND NOT d BETWEEN huge AND x",
        "d IN (SELECT column1 FROM (VALUES (4.48)))",
        "x IN (SELECT CAST(column1 AS DECIMAL(10, 2)) FROM (VALUES ('4.48')))",
        "d = ANY (SELECT column1 FROM (VALUES (4.48)))",
        "d = (SELECT 4.48)",
        // Subqueries and columns that hold what is written, however far away.
        "w = (SELECT 12345678901234567890123) AND NOT w = (SELECT 12345678901234567890124)",
        "w IN (VALUES (12345678901234567890123), (1.5), (NULL)) AND w IN (SELECT 12345678901234567890123 UNION SELECT 1.5)",
        "w NOT IN (VALUES (12345678901234567890124), (1.5))",
        "t IN (SELECT column1 FROM (VALUES (1e-20), (2)) WHERE column1 < 1.5)",
        "t NOT IN (SELECT column1 FROM (VALUES (1e-21), (2.5)) WHERE column1 < 1.5)",
        "t = ANY (SELECT column1 FROM (VALUES (1e-20), (2.5)))",
        "t = (SELECT column1 FROM (VALUES (1e-20), (2.5)) ORDER BY column1 LIMIT 1)",
        "-t = (SELECT -1e-20) AND t > (SELECT column1 FROM (VALUES (1e-20), (-2.5)) ORDER BY column1 LIMIT 1)",
        "EXISTS (SELECT 1 FROM (VALUES (4.48)) AS v (y) WHERE y = s.d)",
        // Beside rows and lists of a column, too.
        "[4.48] = l AND l <> [4.4800000001] AND l < [4.481, 1.5] AND l IN ([4.47], [4.48])",
        "st = struct(4.48) AND st = named_struct('c0', 4.48) AND st <> struct(4.4800000001)",
        "array_has_any(l, [4.48, 1e90]) AND NOT array_has_all(l, [4.4800000001])",
        "array_has(l, 4.48) AND list_has(l, 4.480) AND array_contains(l, 4.48) AND list_contains(l, 4.48)",
        "NOT array_has(l, 4.4800000000000001) AND NOT array_has(l, 1e300) AND NOT array_has(l, 4)",
        "4.48 = ANY (l) AND 4.48 = SOME (l) AND NOT 4.47 = ANY (l) AND NOT -4.48 = ANY (l) AND '4.48' = ANY (l)",
        "d = ANY (l) AND d = ANY ([4.48, 1.1]) AND NOT d = ANY ([4.4800000000000001]) AND d = ANY ([1, 4.48])",
        "x = ANY (l) AND d = ANY ([x, 1.5]) AND NOT huge = ANY (l) AND w = ANY ([12345678901234567890123])",
        "CAST(d AS DECIMAL(12, 4)) = ANY (l) AND NOT i = ANY (l) AND i = ANY ([CAST(5 AS DECIMAL(10, 2))])",
        "(NULL = ANY (l)) IS NULL AND array_has(l, NULL) IS NULL AND array_has(NULL, 4.48) IS NULL",
        "array_has([1, 2], 2) AND 'b' = ANY (['a', 'b']) AND 1.5 = ANY ([1.5, 2.5]) AND NOT 3 = ANY ([1, 2])",
        // Rows whose first value is neither a name nor a plain number.
        "(-4.48, 5) = (-d, i) AND (d, i) <> (-1, 2.5) AND (-1, 2.5) < (d, i) AND (d, i) IN ((-1, 2), (4.48, 5))",
        "(d + 1, i) = (5.48, 5) AND NOT (-d, -i) = (-4.4800000000000001, -5) AND (-w, d) = (-12345678901234567890123, 4.48)",
        // A text of a column is no other number than it says.
        "d <> word AND d < word AND d NOT IN (word, word) AND concat(d, '') = d AND w < '12345678901234567890123.5'",
        "x = 4.48 AND x = 4.4800000000000000000001 AND huge = 1e200",
    ] {
        let sql = format!("SELECT count(*) FROM {ROW} WHERE {truth}");
        let count = ask(&sql).await.unwrap_or_else(|e| panic!("{truth}: {e}"));
        let count = count
            .column(0)
            .as_primitive::<arrow::datatypes::Int64Type>();
        assert_eq!(count.value(0), 1, "{truth}");
    }
}

#[tokio::test]
async fn what_is_no_number_is_looked_for_in_no_list_of_decimals() {
    for (call, given) in [
        ("true = ANY (l)", "LIST<DECIMAL(10, 2)>, BOOLEAN"),
        ("array_has(d, 4.48)", "DECIMAL(10, 2), DOUBLE"),
    ] {
        let error = ask(&format!("SELECT {call} FROM {ROW}")).await.unwrap_err();
        let said = format!("`array_has` takes no ({given}): it takes (array, element)");
        assert!(crate::words_of(&error).starts_with(&said), "{error}");
    }
}

#[tokio::test]
async fn an_alternative_to_a_decimal_is_the_number_that_is_written() {
    for (expr, data_type, shown) in [
        (
            "coalesce(nullif(d, d), 4.48)",
            DataType::Decimal128(10, 2),
            "4.48",
        ),
        (
            "coalesce(nullif(d, d), 4.485)",
            DataType::Decimal128(11, 3),
            "4.485",
        ),
        (
            "CASE WHEN i = 4 THEN d ELSE 1.1 END",
            DataType::Decimal128(10, 2),
            "1.10",
        ),
        (
            "CASE WHEN i = 5 THEN 1.1 WHEN i = 4 THEN d END",
            DataType::Decimal128(10, 2),
            "1.10",
        ),
        ("greatest(d, 4.49)", DataType::Decimal128(10, 2), "4.49"),
        ("least(d, 4.48, -3)", DataType::Decimal128(22, 2), "-3.00"),
        (
            "coalesce(nullif(d, d), '1.239')",
            DataType::Decimal128(11, 3),
            "1.239",
        ),
        (
            "greatest(d, ' 4.489')",
            DataType::Decimal128(11, 3),
            "4.489",
        ),
        (
            "CASE WHEN i = 4 THEN d ELSE '1.239' END",
            DataType::Utf8,
            "1.239",
        ),
        (
            "lag(d, 1, 0.1) OVER ()",
            DataType::Decimal128(10, 2),
            "0.10",
        ),
        (
            "lag(d, 1, 0.105) OVER ()",
            DataType::Decimal128(11, 3),
            "0.105",
        ),
        (
            "lead(d, 1, '0.105') OVER ()",
            DataType::Decimal128(11, 3),
            "0.105",
        ),
        ("lag(w, 1, 0.5) OVER ()", DataType::Decimal128(38, 1), "0.5"),
        ("lag(d, 1, 1e300) OVER ()", DataType::Float64, "1e300"),
        ("lag(d, 1, 5) OVER ()", DataType::Decimal128(10, 2), "5.00"),
        (
            "lag(d, 1, 123456.7890123456789) OVER ()",
            DataType::Decimal128(21, 13),
            "123456.7890123456789",
        ),
        (
            "lead(d, 1, -123456.7890123456789) OVER ()",
            DataType::Decimal128(21, 13),
            "-123456.7890123456789",
        ),
        ("nvl2(x, d, 1.0)", DataType::Decimal128(10, 2), "4.48"),
        (
            "coalesce(w, 0.5)",
            DataType::Decimal128(38, 1),
            "12345678901234567890123.0",
        ),
        // Elsewhere it is a DOUBLE, with as many digits as one has.
        ("4.48", DataType::Float64, "4.48"),
        (
            "12345678901234567890123",
            DataType::Float64,
            "1.2345678901234568e22",
        ),
        (
            "-18446744073709551615",
            DataType::Float64,
            "-1.8446744073709552e19",
        ),
        ("d + 0.5", DataType::Float64, "4.98"),
        ("coalesce(x, 4.48)", DataType::Float64, "4.48"),
        ("coalesce(d, x)", DataType::Float64, "4.48"),
        ("coalesce(d, 1e300)", DataType::Float64, "4.48"),
    ] {
        let sql = format!("SELECT {expr} AS r FROM {ROW}");
        let expected = (data_type, shown.to_owned());
        assert_eq!(only_value(&sql).await, expected, "{expr}");
    }
}

#[tokio::test]
async fn a_union_has_the_numbers_that_are_written() {
    for (sql, data_type, shown) in [
        (
            "SELECT d FROM {s} UNION SELECT 4.48",
            DataType::Decimal128(10, 2),
            "4.48",
        ),
        (
            "SELECT 4.48 UNION SELECT d FROM {s}",
            DataType::Decimal128(10, 2),
            "4.48",
        ),
        (
            "SELECT d FROM {s} UNION VALUES (4.48)",
            DataType::Decimal128(10, 2),
            "4.48",
        ),
        (
            "SELECT min(v) FROM (SELECT d AS v FROM {s} UNION SELECT 1e300)",
            DataType::Float64,
            "4.48",
        ),
        (
            "SELECT min(v) FROM (SELECT d AS v FROM {s} UNION VALUES (4.485), (5))",
            DataType::Decimal128(11, 3),
            "4.480",
        ),
        (
            "SELECT d FROM {s} UNION SELECT x FROM {s}",
            DataType::Float64,
            "4.48",
        ),
        (
            "SELECT max(v) FROM (SELECT d AS v FROM {s} UNION ALL SELECT 4.485) WHERE v <> 4.48",
            DataType::Decimal128(11, 3),
            "4.485",
        ),
    ] {
        let sql = sql.replace("{s}", ROW);
        assert_eq!(
            only_value(&sql).await,
            (data_type, shown.to_owned()),
            "{sql}"
        );
    }
}

#[tokio::test]
async fn columns_of_written_numbers_are_joined_with_decimals() {
    for (rest, rows) in [
        ("JOIN (VALUES (1e-20), (2.5)) AS v (y) ON t = y", 1),
        ("JOIN (VALUES (1e-21), (2.5)) AS v (y) ON t = y", 0),
        ("JOIN (VALUES (4.48, 1), (2, 2)) AS v (d, n) USING (d)", 1),
        (
            "JOIN (SELECT 4.48 AS y UNION ALL SELECT 1.5) AS v ON -d = -y",
            1,
        ),
        (
            "JOIN (SELECT 12345678901234567890123 AS y) AS v ON w = y",
            1,
        ),
        (
            "JOIN (SELECT 12345678901234567890124 AS y) AS v ON w = y",
            0,
        ),
        (
            "LEFT JOIN (VALUES (1e-20), (2.5)) AS v (y) ON t = y WHERE y IS NOT NULL AND t BETWEEN y AND y",
            1,
        ),
        // They are DOUBLEs to everything else, and the others are.
        (
            "JOIN (VALUES (4.48), (2)) AS v (y) ON d = y AND y * 2 = 8.96 AND y = x",
            1,
        ),
        ("JOIN (SELECT CAST(4.48 AS DOUBLE) AS y) AS v ON d = y", 1),
        (
            ", (SELECT random() AS y UNION ALL SELECT 4.48) AS v WHERE d = y",
            1,
        ),
        // Those of which a DOUBLE lacks digits are the DOUBLEs that they are, where there are several.
        (
            "JOIN (VALUES (12345678901234567890123), (2.5)) AS v (y) ON w = y",
            1,
        ),
    ] {
        let sql = format!("SELECT count(*) FROM {ROW} {rest}");
        assert_eq!(only_value(&sql).await.1, rows.to_string(), "{rest}");
    }
    let sql =
        format!("WITH v AS (SELECT 4.48 AS y) SELECT arrow_typeof(y) FROM {ROW}, v WHERE d = y");
    assert_eq!(only_value(&sql).await.1, "Float64");
}

#[tokio::test]
async fn columns_keep_their_names_and_plans_around_them_their_types() {
    let sql = format!("SELECT 12345678901234567890123, d = 4.48 FROM {ROW}");
    let schema = ask(&sql).await.expect("it is answered").schema();
    assert_eq!(schema.field(0).name(), "12345678901234567890123");
    assert_eq!(schema.field(1).name(), "s.d = Float64(4.48)");
    for sql in [
        "WITH RECURSIVE n AS (SELECT coalesce(d, 0.5) AS v, 1 AS k FROM {s} UNION ALL SELECT v + 1.5, k + 1 FROM n WHERE k < 3) SELECT max(v) FROM n",
        "SELECT o.v FROM (SELECT coalesce(d, 0.5) AS v FROM {s}) o WHERE EXISTS (SELECT 1 FROM {s} WHERE s.d = o.v)",
        "SELECT v FROM (SELECT coalesce(d, 0.5) AS v FROM {s}) GROUP BY v HAVING v = 4.48 ORDER BY v = 4.48",
        "SELECT a.d FROM {s} JOIN (SELECT d AS e, x FROM {s}) b ON d = e AND e = 4.48 AND d = b.x",
        "SELECT * FROM (SELECT d FROM {s}) a JOIN (SELECT x AS d FROM {s}) b USING (d)",
        "SELECT DISTINCT x FROM {s} JOIN (VALUES (4.48)) AS v (d) USING (d)",
        "SELECT DISTINCT d FROM {s} JOIN (VALUES (4.48), (1.5)) AS v (d) USING (d) ORDER BY d",
        "SELECT sum(CASE WHEN d = 4.48 THEN d ELSE 0.0 END) FILTER (WHERE d = 4.48) FROM {s}",
        "SELECT first_value(d) OVER (PARTITION BY d = 4.48 ORDER BY coalesce(d, 1.5)) FROM {s}",
        "SELECT percentile_cont(0.123456789012345678901) WITHIN GROUP (ORDER BY x) FROM {s}",
    ] {
        let sql = sql.replace("{s}", ROW).replace("a.d FROM", "s.d FROM");
        let batch = ask(&sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
        assert_eq!(batch.num_rows(), 1, "{sql}");
        assert!(batch.column(0).is_valid(0), "{sql}");
    }
}

#[tokio::test]
async fn a_parameter_is_the_number_that_it_is_in_json() {
    for (text, expr, shown) in [
        ("4.48", "d = $1", "true"),
        ("12345678901234567890123", "w = $1", "true"),
        ("12345678901234567890124", "w = $1", "false"),
        ("12345678901234567890123", "$1", "1.2345678901234568e22"),
        ("4.48e0", "x = $1", "true"),
        ("18446744073709551615", "$1", "18446744073709551615"),
    ] {
        let frame = frame(&context(), &format!("SELECT {expr} AS r FROM {ROW}")).await;
        let number = number_of_json(text).expect("it is a number");
        let frame =
            frame.and_then(|frame| frame.with_param_values(ParamValues::List(vec![number])));
        let batches = frame
            .expect("it is planned")
            .collect()
            .await
            .expect("it is answered");
        let column = batches[0].column(0);
        let value = arrow::util::display::array_value_to_string(column, 0);
        assert_eq!(value.expect("it can be shown"), shown, "{expr} of {text}");
        assert!(batches[0].schema().field(0).metadata().is_empty(), "{expr}");
    }
    for none in ["1e999", "", "x", "-"] {
        assert!(number_of_json(none).is_none(), "{none}");
    }
}

/// A number as text: some digits, a point among them, and an exponent.
fn numbers(most: usize) -> impl Strategy<Value = String> {
    let digits = proptest::collection::vec(0_u8..10, 1..=most);
    (any::<bool>(), digits, any::<prop::sample::Index>()).prop_map(|(negative, digits, point)| {
        let point = point.index(digits.len());
        let digits: String = digits
            .iter()
            .map(|digit| char::from(b'0' + digit))
            .collect();
        let sign = if negative { "-" } else { "" };
        format!("{sign}{}.{}", &digits[..=point], &digits[point + 1..])
    })
}

/// As whole numbers with as many digits behind the point.
fn order(left: &str, right: &str) -> Ordering {
    let scaled = |text: &str| {
        let (whole, fraction) = text.split_once('.').expect("it has a point");
        let digits = format!("{whole}{fraction:0<40}");
        arrow::datatypes::i256::from_string(&digits).expect("it fits")
    };
    scaled(left).cmp(&scaled(right))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn numbers_are_ordered_as_they_are_written(
        (decimal, number) in prop_oneof![
            (numbers(4), numbers(4)),
            (numbers(36), numbers(36)),
            numbers(36).prop_map(|number| (number.clone(), number)),
            // Next to each other.
            (numbers(20), 0_u8..10).prop_map(|(number, digit)| (number.clone(), format!("{number}{digit}"))),
        ],
    ) {
        let behind = decimal.split_once('.').expect("it has a point").1.len();
        let sql = format!("SELECT d < {number}, d = {number}, d > {number}, d IN ({number}), d BETWEEN {number} AND {number}
            FROM (SELECT CAST('{decimal}' AS DECIMAL(38, {behind})) AS d)");
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime starts");
        let batch = runtime.block_on(ask(&sql)).expect("it is answered");
        let said: Vec<bool> = batch.columns().iter().map(|c| c.as_boolean().value(0)).collect();
        let order = order(&decimal, &number);
        let equal = order == Ordering::Equal;
        prop_assert_eq!(said, vec![order == Ordering::Less, equal, order == Ordering::Greater, equal, equal], "{}", sql);
    }
}
