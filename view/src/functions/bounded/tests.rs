// SPDX-License-Identifier: Apache-2.0
use std::collections::BTreeSet;

use arrow::array::{
    BinaryArray, Float64Array, Int64Array, ListArray, ListBuilder, RecordBatch, StringArray,
    StringBuilder, TimestampMicrosecondArray,
};
use arrow::datatypes::{Field, Float64Type, Int64Type};
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::context::SessionState;
use datafusion::execution::memory_pool::GreedyMemoryPool;
use datafusion::prelude::SessionContext;
use proptest::prelude::*;

use super::growth::BOUNDED;
use super::*;
use crate::UNBOUNDED_FUNCTIONS;

/// Functions whose result has a fixed size, or is a part of one argument, or as large as the largest of them.
const HARMLESS: &[&str] = &[
    "abs",
    "acos",
    "acosh",
    "array_add",
    "array_any_value",
    "array_avg",
    "array_compact",
    "array_dims",
    "array_distance",
    "array_distinct",
    "array_element",
    "array_except",
    "array_has",
    "array_has_all",
    "array_has_any",
    "array_intersect",
    "array_length",
    "array_max",
    "array_min",
    "array_ndims",
    "array_normalize",
    "array_pop_back",
    "array_pop_front",
    "array_position",
    "array_positions",
    "array_product",
    "array_remove",
    "array_remove_all",
    "array_remove_n",
    "array_reverse",
    "array_scale",
    "array_slice",
    "array_sort",
    "array_subtract",
    "array_sum",
    "arrow_field",
    "arrow_metadata",
    "arrow_typeof",
    "ascii",
    "asin",
    "asinh",
    "atan",
    "atan2",
    "atanh",
    "bit_length",
    "btrim",
    "cardinality",
    "cbrt",
    "ceil",
    "character_length",
    "chr",
    "coalesce",
    "contains",
    "cos",
    "cosh",
    "cosine_distance",
    "cot",
    "current_date",
    "current_time",
    "date_bin",
    "date_part",
    "date_trunc",
    "decode",
    "degrees",
    "digest",
    "empty",
    "ends_with",
    "exp",
    "factorial",
    "file_row_index",
    "find_in_set",
    "flatten",
    "floor",
    "from_unixtime",
    "gcd",
    "get_field",
    "greatest",
    "inner_product",
    "input_file_name",
    "isnan",
    "iszero",
    "lcm",
    "least",
    "left",
    "levenshtein",
    "ln",
    "log",
    "log10",
    "log2",
    "ltrim",
    "make_date",
    "make_time",
    "map_extract",
    "map_keys",
    "map_values",
    "md5",
    "nanvl",
    "now",
    "nullif",
    "nvl",
    "nvl2",
    "octet_length",
    "pi",
    "power",
    "radians",
    "random",
    "regexp_count",
    "regexp_instr",
    "regexp_like",
    "reverse",
    "right",
    "round",
    "rtrim",
    "sha224",
    "sha256",
    "sha384",
    "sha512",
    "signum",
    "sin",
    "sinh",
    "split_part",
    "sqrt",
    "starts_with",
    "strpos",
    "substr",
    "substr_index",
    "tan",
    "tanh",
    "to_date",
    "to_hex",
    "to_local_time",
    "to_time",
    "to_timestamp",
    "to_timestamp_micros",
    "to_timestamp_millis",
    "to_timestamp_nanos",
    "to_timestamp_seconds",
    "to_unixtime",
    "trunc",
    "union_extract",
    "union_tag",
    "uuid",
    "version",
    "with_metadata",
];

fn state() -> SessionState {
    SessionStateBuilder::new().with_default_features().build()
}

fn session(rule: Option<BoundedCalls>) -> SessionContext {
    let builder = SessionStateBuilder::new().with_default_features();
    let mut config = datafusion::prelude::SessionConfig::new();
    config.options_mut().sql_parser.map_string_types_to_utf8view = false;
    let builder = builder.with_config(config);
    let builder = match rule {
        Some(rule) => builder.with_analyzer_rule(Arc::new(rule)),
        None => builder,
    };
    SessionContext::new_with_state(builder.build())
}

fn pool(bytes: usize) -> Arc<dyn MemoryPool> {
    Arc::new(GreedyMemoryPool::new(bytes))
}

async fn ask(rule: Option<BoundedCalls>, sql: &str) -> Result<Vec<RecordBatch>> {
    session(rule).sql(sql).await?.collect().await
}

/// A function that DataFusion brings with an upgrade is in no list: somebody has to look at it.
#[test]
fn every_function_of_the_engine_is_harmless_or_bounded_or_refused() {
    let state = state();
    let there: BTreeSet<&str> = state
        .scalar_functions()
        .values()
        .map(|f| f.name())
        .collect();
    let bounded = BOUNDED.iter().map(|(name, _)| *name);
    let known: BTreeSet<&str> = bounded
        .chain(HARMLESS.iter().copied())
        .chain(growth::CASTS)
        .chain(UNBOUNDED_FUNCTIONS)
        .collect();
    let unknown: Vec<_> = there.difference(&known).collect();
    assert!(unknown.is_empty(), "in no list: {unknown:?}");
    let names: BTreeSet<&str> = state
        .scalar_functions()
        .keys()
        .map(String::as_str)
        .collect();
    let gone: Vec<_> = known.difference(&names).collect();
    assert!(gone.is_empty(), "not there: {gone:?}");
    let lambdas = state.higher_order_functions().values().map(|f| f.name());
    let lambdas: BTreeSet<&str> = lambdas.collect();
    let seen = [
        "array_any_match",
        "array_filter",
        "array_first",
        "array_transform",
    ];
    assert_eq!(
        lambdas,
        BTreeSet::from(seen),
        "lambdas that nobody looked at"
    );
}

/// What `name` makes of `args`, and the most that it may make of each row.
fn called(name: &str, args: &[ColumnarValue], rows: usize) -> (ArrayRef, Vec<usize>) {
    let state = state();
    let function = &state.scalar_functions()[name];
    let fields: Vec<FieldRef> = (args.iter().enumerate())
        .map(|(place, arg)| Arc::new(Field::new(format!("a{place}"), arg.data_type(), true)))
        .collect();
    let scalars: Vec<Option<&ScalarValue>> = (args.iter())
        .map(|arg| match arg {
            ColumnarValue::Scalar(scalar) => Some(scalar),
            ColumnarValue::Array(_) => None,
        })
        .collect();
    let return_field = function.return_field_from_args(ReturnFieldArgs {
        arg_fields: &fields,
        scalar_arguments: &scalars,
    });
    let made = function.invoke_with_args(ScalarFunctionArgs {
        args: args.to_vec(),
        arg_fields: fields,
        number_rows: rows,
        return_field: return_field.unwrap(),
        config_options: Arc::clone(state.config_options()),
    });
    let made = made.unwrap_or_else(|error| panic!("{name}: {error}"));
    let sizes = Sizes::of(args).unwrap();
    let bound = bound_of(name).unwrap();
    let bounds = (0..rows).map(|row| sizes.bound(row, bound)).collect();
    (made.into_array(rows).unwrap(), bounds)
}

fn text(texts: &[Option<String>]) -> ColumnarValue {
    ColumnarValue::Array(Arc::new(StringArray::from_iter(texts)))
}

fn one(text: &str) -> ColumnarValue {
    ColumnarValue::Scalar(ScalarValue::Utf8(Some(text.to_owned())))
}

fn letters() -> impl Strategy<Value = Option<String>> {
    // Letters that take more room in the other case, and those that patterns mean something by.
    proptest::option::weighted(0.9, "[ab ,ŉΐİȺﬃᾷß🦀$\\\\0-9]{0,12}")
}

fn lists(texts: &[Vec<Option<String>>]) -> ListArray {
    let mut lists = ListBuilder::new(StringBuilder::new());
    for list in texts {
        for text in list {
            lists.values().append_option(text.as_ref());
        }
        lists.append(true);
    }
    lists.finish()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]
    #[test]
    fn no_bound_is_too_small(
        a in proptest::collection::vec(letters(), 3),
        b in proptest::collection::vec(letters(), 3),
        c in proptest::collection::vec(letters(), 3),
        l in proptest::collection::vec(proptest::collection::vec(letters(), 0..5), 3),
        m in proptest::collection::vec(proptest::collection::vec(letters(), 0..5), 3),
        n in proptest::collection::vec(proptest::collection::vec(proptest::num::f64::ANY, 0..4), 3),
        at in proptest::collection::vec(any::<i32>(), 3),
        x in "[ab🦀]{0,3}",
        format in "(%[aAbBcdDeFhHIjklmMnpPrRsStTuUvVwWxXyYzZ+%]|[a-f ]){0,4}",
        group in "[$]{0,2}[0-9]|\\\\[0-9]|[ab]{0,9}",
    ) {
        let (ta, tb, tc) = (text(&a), text(&b), text(&c));
        let list = |lists: ListArray| ColumnarValue::Array(Arc::new(lists));
        let (ll, lm) = (list(lists(&l)), list(lists(&m)));
        let numbers = n.iter().map(|list| Some(list.iter().map(|n| Some(*n)).collect::<Vec<_>>()));
        let floats = list(ListArray::from_iter_primitive::<Float64Type, _, _>(numbers));
        let whole = n.iter().map(|list| Some(list.iter().map(|n| Some(*n as i64)).collect::<Vec<_>>()));
        let whole = list(ListArray::from_iter_primitive::<Int64Type, _, _>(whole));
        let texts: Vec<Option<&[u8]>> = a.iter().map(|a| a.as_deref().map(str::as_bytes)).collect();
        let binary = ColumnarValue::Array(Arc::new(BinaryArray::from_iter(texts)));
        let times = at.iter().map(|at| i64::from(*at) * 1_000_000_007);
        let times = TimestampMicrosecondArray::from_iter_values(times).with_timezone("+05:30");
        let times = ColumnarValue::Array(Arc::new(times));
        let places = ColumnarValue::Array(Arc::new(Int64Array::from(vec![1, 2, 3])));
        let doubles = ColumnarValue::Array(Arc::new(Float64Array::from(vec![1.5, f64::MAX, f64::MIN])));
        let number = |number: i64| ColumnarValue::Scalar(ScalarValue::Int64(Some(number)));
        let mut left: BTreeSet<&str> = BOUNDED.iter().map(|(name, _)| *name).collect();
        for (name, args) in [
            ("concat", vec![ta.clone(), one(&x), tb.clone(), tc.clone()]),
            ("concat_ws", vec![one(&x), ta.clone(), tb.clone(), one("z"), tc.clone()]),
            ("concat_ws", vec![tc.clone(), ta.clone(), tb.clone()]),
            ("replace", vec![ta.clone(), tb.clone(), tc.clone()]),
            ("replace", vec![ta.clone(), one(&x), tc.clone()]),
            ("replace", vec![one(&x), one(""), tc.clone()]),
            ("regexp_replace", vec![ta.clone(), one("(.)"), one(&group)]),
            ("regexp_replace", vec![ta.clone(), one("(a*)(.?)"), one("\\1\\0\\2$1${2}"), one("g")]),
            ("regexp_replace", vec![ta.clone(), one("((.*))"), one("\\1\\1\\1"), one("gi")]),
            ("regexp_match", vec![ta.clone(), one("(((.)(.*)))")]),
            ("translate", vec![ta.clone(), one("ab ,"), one("🦀🦀🦀")]),
            ("upper", vec![ta.clone()]),
            ("lower", vec![ta.clone()]),
            ("initcap", vec![ta.clone()]),
            ("encode", vec![binary.clone(), one("hex")]),
            ("encode", vec![binary.clone(), one("base64")]),
            ("overlay", vec![ta.clone(), tb.clone(), number(1)]),
            ("to_char", vec![times.clone(), one(&format)]),
            ("string_to_array", vec![ta.clone(), one(&x)]),
            ("string_to_array", vec![ta.clone(), ColumnarValue::Scalar(ScalarValue::Utf8(None))]),
            ("array_to_string", vec![ll.clone(), tb.clone(), tc.clone()]),
            ("array_to_string", vec![floats.clone(), one(&x)]),
            ("array_to_string", vec![whole.clone(), tb.clone()]),
            ("array_append", vec![ll.clone(), ta.clone()]),
            ("array_prepend", vec![ta.clone(), ll.clone()]),
            ("array_concat", vec![ll.clone(), lm.clone(), ll.clone()]),
            ("array_union", vec![ll.clone(), lm.clone()]),
            ("make_array", vec![ta.clone(), one(&x), tb.clone()]),
            ("array_replace", vec![ll.clone(), tb.clone(), tc.clone()]),
            ("array_replace_n", vec![ll.clone(), tb.clone(), tc.clone(), places.clone()]),
            ("array_replace_all", vec![ll.clone(), one("a"), tc.clone()]),
            ("arrays_zip", vec![ll.clone(), floats.clone(), lm.clone()]),
            ("struct", vec![ta.clone(), one(&x), doubles.clone(), ll.clone()]),
            ("named_struct", vec![one("name"), ta.clone(), one("b"), one(&x), one("c"), lm.clone()]),
        ] {
            let (made, bounds) = called(name, &args, 3);
            for (row, bound) in bounds.into_iter().enumerate() {
                let size = sizes::size(made.as_ref(), row, row + 1).bytes;
                prop_assert!(size <= bound, "{name}: {size} of row {row}, not {bound}: {made:?}");
            }
            left.remove(name);
        }
        prop_assert_eq!(left, BTreeSet::from(["map", "map_entries"]));
    }
}

const TEXTS: &str = "(SELECT CAST(column1 AS INT) AS n, column2 AS t, column3 AS u FROM
    (VALUES (1, 'a-b', 'xyz'), (2, NULL, 'b'), (3, '', ''), (4, 'ŉ', NULL))) AS t";

#[tokio::test]
async fn what_fits_is_the_same_under_the_same_names() {
    for sql in [
        "SELECT t || u, t || '-' || u || NULL, (t || u) || (u || t), n || t, 'a' || 'b' FROM {t}",
        "SELECT concat(t, u), concat_ws('-', t, u, 'z'), replace(t, 'a', u), upper(concat('a', 'b')) FROM {t}",
        "SELECT regexp_replace(t, '(.)', '\\1\\1', 'g'), regexp_match(u, '(.)(.)'), translate(t, 'ab', 'cd') FROM {t}",
        "SELECT string_to_array(t, '-'), array_to_string([t, u], ','), [t] || u, [t] || [u], t || [u] FROM {t}",
        "SELECT {a: t, b: [u]}, struct(t, u), map([t], [u]) FROM {t} WHERE t IS NOT NULL",
        "SELECT map_entries(map(['a'], [u])), arrays_zip([t], [u, t]), map {'a': t} FROM {t}",
        "SELECT t || u, count(*) FROM {t} GROUP BY t || u ORDER BY t || u",
        "SELECT coalesce(t || u, 'none') AS a FROM {t} WHERE t || u <> 'a' ORDER BY 1",
        "SELECT * FROM {t} WHERE u || '' IN (SELECT u || '' FROM {t})",
        "SELECT named_struct('x', t)['x'], (t || u)[1:1] IS NULL FROM {t}",
        "SELECT encode('abc', 'hex'), to_char(DATE '2001-02-03', '%Y')",
    ] {
        let sql = sql.replace("{t}", TEXTS);
        let shown = |answer: Result<Vec<RecordBatch>>| {
            answer.map(|rows| {
                arrow::util::pretty::pretty_format_batches(&rows)
                    .unwrap()
                    .to_string()
            })
        };
        let theirs = shown(ask(None, &sql).await);
        for rule in [
            BoundedCalls::default(),
            BoundedCalls::of_queries(pool(64 << 20)),
        ] {
            match (&theirs, shown(ask(Some(rule), &sql).await)) {
                (Ok(theirs), Ok(ours)) => assert_eq!(&ours, theirs, "{sql}"),
                (Err(_), Err(_)) => {}
                (theirs, ours) => panic!("{sql}: {ours:?}, not {theirs:?}"),
            }
        }
    }
}

/// Doubled again and again, of a constant and of a column.
#[tokio::test]
async fn what_does_not_fit_is_refused_before_it_is_made() {
    const ROWS: &str = "(SELECT CAST(value AS VARCHAR) AS t FROM generate_series(1, 500))";
    let nested = |call: &str, table: &str| {
        let step = |n: usize| format!(", a{} AS (SELECT {call} AS t FROM a{n})", n + 1);
        let steps: String = (0..40).map(step).collect();
        format!("WITH a0 AS (SELECT t FROM {table}){steps} SELECT t FROM a40")
    };
    let mut asked = vec![];
    for call in [
        "t || t",
        "concat(t, t)",
        "concat_ws(t, t, t)",
        "replace(t, left(t, 1), t)",
        "regexp_replace(t, '(.+)', '\\1\\1')",
        "upper(translate(t, '0123456789ʼN', 'ŉŉŉŉŉŉŉŉŉŉŉŉ'))",
        "encode(CAST(t AS BYTEA), 'hex')",
        "overlay(t placing t from octet_length(t) + 1)",
        "array_to_string(string_to_array(t, NULL), '--')",
        "CAST([t, t] AS VARCHAR)",
    ] {
        asked.push(nested(call, ROWS));
        asked.push(nested(call, "(SELECT '1234567' AS t)"));
    }
    let lists = format!("(SELECT [t] AS t FROM {ROWS})");
    for call in [
        "t || t",
        "array_concat(t, t)",
        "array_append([t, t], t)[1] || t",
    ] {
        asked.push(nested(call, &lists));
    }
    for sql in asked {
        let error = ask(Some(BoundedCalls::of_queries(pool(16 << 20))), &sql).await;
        let error = error.expect_err(&sql).find_root().to_string();
        assert!(error.starts_with("Resources exhausted"), "{sql}: {error}");
    }
    let error = ask(Some(BoundedCalls::default()), &nested("t || t", ROWS)).await;
    let error = error.unwrap_err().find_root().to_string();
    assert!(error.contains("for the events of one batch"), "{error}");
}

/// A bound that is far from what is made refuses nothing: rows are computed in slices.
#[tokio::test]
async fn rows_are_computed_in_as_many_slices_as_they_need() {
    let sql = "SELECT sum(octet_length(replace(t, '7', 'seven and more'))) FROM
        (SELECT concat(CAST(value AS VARCHAR), '-----------------------------------------------------') AS t
         FROM generate_series(1, 20000))";
    let theirs = ask(None, sql).await.unwrap();
    let ours = ask(Some(BoundedCalls::of_queries(pool(40 << 20))), sql).await;
    assert_eq!(ours.unwrap(), theirs);
}

#[tokio::test]
async fn what_is_large_is_on_the_account_for_as_long_as_it_is_there() {
    let pool = pool(256 << 20);
    let sql = "SELECT concat(t, t) AS a, [t, t] AS b FROM (SELECT concat(CAST(value AS VARCHAR),
        '0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789') AS t
        FROM generate_series(1, 8000))";
    let rows = ask(Some(BoundedCalls::of_queries(Arc::clone(&pool))), sql)
        .await
        .unwrap();
    let of = |rows: &[RecordBatch]| -> usize {
        rows.iter().map(|rows| rows.get_array_memory_size()).sum()
    };
    assert_eq!(rows.len(), 1);
    let (held, there) = (pool.reserved(), of(&rows));
    assert!(held > 2 << 20 && held <= 2 * there, "{held} of {there}");
    let part = rows[0].column(0).slice(5, 1);
    drop(rows);
    assert!(pool.reserved() > 1 << 20);
    drop(part);
    assert_eq!(pool.reserved(), 0);
}

/// Many terms are one function, and what they are called.
#[tokio::test]
async fn a_long_tree_of_operators_is_one_call() {
    let terms = (0..60).map(|n| format!("'{n}' || t")).collect::<Vec<_>>();
    let sql = format!(
        "SELECT octet_length({}) AS n FROM {TEXTS}",
        terms.join(" || ")
    );
    let theirs = ask(None, &sql).await.unwrap();
    assert_eq!(
        ask(Some(BoundedCalls::default()), &sql).await.unwrap(),
        theirs
    );
}

/// A lambda makes a value for each element of a list, out of whatever stands in it: nothing bounds that, and our SQL has
/// none.
#[tokio::test]
async fn there_are_no_lambdas() {
    for lambda in ["x -> x", "(x) -> x", "lambda x: x"] {
        let sql = format!("SELECT array_transform([n], {lambda}) FROM {TEXTS}");
        let planned = session(Some(BoundedCalls::default())).sql(&sql).await;
        assert!(planned.is_err(), "{sql}");
    }
}

#[tokio::test]
async fn a_type_of_any_width_is_refused() {
    for part in [
        "arrow_cast(NULL, 'FixedSizeBinary(2000000000)')",
        "arrow_try_cast(NULL, 'FixedSizeList(2000000000 x Int64)')",
    ] {
        let sql = format!("SELECT {part} FROM {TEXTS}");
        let error = ask(Some(BoundedCalls::default()), &sql).await.unwrap_err();
        assert!(
            error.to_string().contains("values of any size"),
            "{sql}: {error}"
        );
    }
    let sql = format!("SELECT arrow_cast(t, 'LargeUtf8') FROM {TEXTS}");
    ask(Some(BoundedCalls::default()), &sql).await.unwrap();
}
