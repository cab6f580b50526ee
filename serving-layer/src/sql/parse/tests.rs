// SPDX-License-Identifier: Apache-2.0
use chrono::DateTime;
use dovetail_model::{
    Column, ColumnType, EpochUnit, EventTime, StreamDef, StreamSchema, UnknownColumns, ViewDef,
    VolumeTrigger,
};
use proptest::prelude::*;

use super::*;
use crate::sql::{
    AddColumn, AlterStream, AlterView, CreateStream, CreateView, ViewOptions, render_stream,
    render_view,
};

fn define(sql: &str) -> Definition {
    match parse(sql) {
        Ok(Statement::Define(definition)) => definition,
        other => panic!("{sql}: {other:?}"),
    }
}

fn column(name: &str, column_type: ColumnType, nullable: bool) -> Column {
    Column {
        name: name.to_owned(),
        column_type,
        nullable,
    }
}

#[test]
fn the_statements_of_the_design_page() {
    let stream = define(
        "CREATE STREAM flights (
           date TIMESTAMP NOT NULL, delay INT, distance INT, origin VARCHAR, destination VARCHAR
         ) WITH (event_time = 'date');",
    );
    let columns = vec![
        column("date", ColumnType::Timestamp, false),
        column("delay", ColumnType::Int, true),
        column("distance", ColumnType::Int, true),
        column("origin", ColumnType::Varchar, true),
        column("destination", ColumnType::Varchar, true),
    ];
    let schema = StreamSchema {
        columns,
        event_time: Some(EventTime {
            column: "date".to_owned(),
            epoch: None,
        }),
        unknown_columns: UnknownColumns::Ignore,
    };
    let expected = CreateStream {
        name: "flights".to_owned(),
        if_not_exists: false,
        schema,
        kafka: None,
    };
    assert_eq!(stream, Definition::CreateStream(expected));

    let select = "SELECT origin, date_trunc('hour', date) AS hour, count(*) AS flights
FROM flights -- all of them
GROUP BY origin, hour";
    let view = define(&format!(
        "-- delays\nCREATE VIEW airport_delays WITH (recompute = '0 3 * * *', recompute_after_events = 1000000, recompute_after_bytes = '10 GiB', refresh = '5 minutes') AS\n{select}\n; -- end"
    ));
    let expected = CreateView {
        name: "airport_delays".to_owned(),
        or_replace: false,
        if_not_exists: false,
        options: ViewOptions {
            recompute: Some("0 3 * * *".to_owned()),
            recompute_after: VolumeTrigger {
                events: Some(1_000_000),
                bytes: Some(10 << 30),
            },
            refresh_s: Some(300),
        },
        select: select.to_owned(),
    };
    assert_eq!(view, Definition::CreateView(expected));
}

#[test]
fn every_type_and_its_aliases() {
    let Definition::CreateStream(created) = define(
        r#"create stream if not exists S (
             a bool, b integer, c int4, d int8, e double precision, f float8, g numeric(5), h decimal(38, 38),
             i text, j string, k date, l timestamp without time zone,
             m struct<x int not null, "Y y" list<struct<z varchar>>>, n array<list<int>>, o bigint[][] not null,
             "P" struct<q struct<r struct<s int>>> null
           ) with ("event_time" = 'l', event_time_unit = 'ms', UNKNOWN_COLUMNS = 'reject')"#,
    ) else {
        panic!("not a stream");
    };
    assert!(created.if_not_exists);
    assert_eq!(created.name, "s");
    let types: Vec<String> = created
        .schema
        .columns
        .iter()
        .map(Column::to_string)
        .collect();
    let expected = [
        "a BOOLEAN",
        "b INT",
        "c INT",
        "d BIGINT",
        "e DOUBLE",
        "f DOUBLE",
        "g DECIMAL(5, 0)",
        "h DECIMAL(38, 38)",
        "i VARCHAR",
        "j VARCHAR",
        "k DATE",
        "l TIMESTAMP",
        r#"m STRUCT<x INT NOT NULL, "Y y" LIST<STRUCT<z VARCHAR>>>"#,
        "n LIST<LIST<INT>>",
        "o LIST<LIST<BIGINT>> NOT NULL",
        r#""P" STRUCT<q STRUCT<r STRUCT<s INT>>>"#,
    ];
    assert_eq!(types, expected);
    let event_time = created.schema.event_time.unwrap();
    assert_eq!(event_time.epoch, Some(EpochUnit::Millisecond));
    assert_eq!(created.schema.unknown_columns, UnknownColumns::Reject);
}

#[test]
fn the_smaller_statements() {
    let drop = |kind, name: &str, if_exists| Definition::Drop {
        kind,
        name: name.to_owned(),
        if_exists,
    };
    assert_eq!(
        define("DROP STREAM a"),
        drop(ObjectKind::Stream, "a", false)
    );
    assert_eq!(
        define("drop view if exists \"b\" restrict;"),
        drop(ObjectKind::View, "b", true)
    );
    let undrop = Definition::Undrop {
        kind: ObjectKind::View,
        name: "v".to_owned(),
    };
    assert_eq!(define("UNDROP VIEW v"), undrop);
    let add = AlterStream {
        name: "s".to_owned(),
        add: vec![
            AddColumn {
                column: column("x", ColumnType::Decimal(5, 2), true),
                if_not_exists: false,
            },
            AddColumn {
                column: column("y", ColumnType::Int, true),
                if_not_exists: true,
            },
        ],
        drop_not_null: vec!["z".to_owned()],
    };
    assert_eq!(
        define(
            "ALTER STREAM s ADD COLUMN x DECIMAL(5, 2), ALTER COLUMN z DROP NOT NULL, ADD if not exists y INT"
        ),
        Definition::AlterStream(add)
    );
    let skip = Definition::SkipHole {
        name: "s".to_owned(),
    };
    assert_eq!(define("alter stream s skip hole;"), skip);
    assert_eq!((skip.verb(), skip.name()), ("ALTER STREAM", "s"));
    let set = AlterView {
        name: "v".to_owned(),
        recompute: Some(None),
        recompute_after_events: Some(Some(5)),
        recompute_after_bytes: Some(None),
        refresh_s: Some(Some(5400)),
    };
    assert_eq!(
        define(
            "ALTER VIEW v SET (recompute = NULL, refresh = '1 hour 30 min', recompute_after_bytes = NULL, recompute_after_events = '5')"
        ),
        Definition::AlterView(set)
    );
    for (sql, show) in [
        ("SHOW STREAMS", Show::Streams),
        ("show views;", Show::Views),
        ("show tables;", Show::Tables),
        ("SHOW RUNS", Show::Runs),
        ("DESCRIBE v", Show::Columns("v".to_owned())),
        ("desc view V", Show::Columns("v".to_owned())),
        (
            "SHOW CREATE VIEW v",
            Show::Create(ObjectKind::View, "v".to_owned()),
        ),
    ] {
        assert_eq!(parse(sql), Ok(Statement::Show(show)), "{sql}");
    }
}

#[test]
fn queries_pass_as_they_are_and_where_they_stand() {
    for sql in [
        "SELECT 1",
        "WITH a AS (SELECT 1 AS x) SELECT * FROM a, b WHERE b.x = a.x",
        "(SELECT 1) UNION ALL SELECT 2",
        "VALUES (1), (2)",
        "EXPLAIN SELECT * FROM v",
        "EXPLAIN ANALYZE VERBOSE SELECT count(*) FROM v",
        "SELECT 'a;b' AS \"c;d\" /* e;f */ FROM v",
        "FROM v SELECT x",
    ] {
        let text = format!("  -- first\n\n /* */ {sql} ; -- last");
        let passed = format!("\n\n       {sql}");
        assert_eq!(parse(&text), Ok(Statement::Query(passed)));
    }
}

#[test]
fn what_is_too_wide_is_refused_before_anything_is_made_of_it() {
    let list =
        |n: usize, item: fn(usize) -> String| (0..n).map(item).collect::<Vec<_>>().join(", ");
    let refused = |sql: &str| parse(sql).unwrap_err().detail;
    let stream = |n| format!("CREATE STREAM s ({})", list(n, |i| format!("c{i} INT")));
    assert!(parse(&stream(1000)).is_ok());
    for n in [1001, 100_000] {
        let said = refused(&stream(n));
        assert!(said.contains("at most 1000 columns"), "{said}");
    }
    let fields = list(1000, |i| format!("c{i} INT"));
    let said = refused(&format!("CREATE STREAM s (a STRUCT<{fields}>)"));
    assert!(said.contains("these are 1001"), "{said}");
    let view = |n| {
        let sums = list(n, |i| format!("sum(c{i}) AS s{i}"));
        format!("CREATE VIEW v AS SELECT {sums} FROM s")
    };
    assert!(parse(&view(1000)).is_ok());
    let said = refused(&view(1001));
    assert!(
        said.contains("at most 1000 columns, and these are 1001"),
        "{said}"
    );
}

#[test]
fn what_is_wrong_is_said_and_where() {
    for (sql, part) in [
        ("", "there is no statement"),
        (" ; -- nothing\n", "there is no statement"),
        (
            "SELECT 1;\n SELECT 2",
            "line 2, column 2: a second statement begins here",
        ),
        (
            "SELECT 'abc",
            "line 1, column 8: unterminated string literal",
        ),
        (
            "SELECT a\n  b c",
            "line 2, column 5: expected: end of statement, found: c",
        ),
        ("CREATE STREAM", "expected a name, found the end"),
        ("CREATE STREAM a.b (x INT)", "plain names"),
        ("CREATE STREAM \"A\" (x INT)", "`A` cannot be a name"),
        ("CREATE STREAM s", "expected `(`"),
        ("CREATE STREAM s ()", "expected a column's name, found `)`"),
        ("CREATE STREAM s (x)", "expected a type, found `)`"),
        ("CREATE STREAM s (x INT,)", "expected a column's name"),
        (
            "CREATE STREAM s (x INT PRIMARY KEY)",
            "`NOT NULL`, `,` or `)`",
        ),
        (
            "CREATE STREAM s (x INT, primary key (x))",
            "no constraint but NOT NULL",
        ),
        (
            "CREATE STREAM s (\n  userId INT)",
            "line 2, column 3: column `userId` has upper case",
        ),
        (
            "CREATE STREAM s (x UINT)",
            "`UINT` is not a type here: use BOOLEAN",
        ),
        ("CREATE STREAM s (x FLOAT)", "write `DOUBLE`"),
        (
            "CREATE STREAM s (x VARCHAR(10))",
            "lengths are not enforced",
        ),
        ("CREATE STREAM s (x DECIMAL)", "DECIMAL(18, 2)"),
        ("CREATE STREAM s (x DECIMAL(300, 2))", "number from 0 to 38"),
        ("CREATE STREAM s (x DECIMAL(39, 2))", "1 <= precision <= 38"),
        ("CREATE STREAM s (x TIMESTAMP(3))", "microseconds"),
        (
            "CREATE STREAM s (x TIMESTAMP WITH TIME ZONE)",
            "without a zone",
        ),
        ("CREATE STREAM s (x STRUCT<>)", "a STRUCT needs a field"),
        ("CREATE STREAM s (x LIST<INT)", "expected `>`"),
        (
            "CREATE STREAM s (x LIST<INT>>)",
            "expected `NOT NULL`, `,` or `)`",
        ),
        ("CREATE STREAM s (x INT, x INT)", "declared twice"),
        ("CREATE STREAM s (_offset INT)", "kept for system columns"),
        (
            "CREATE STREAM s (x INT) WITH (evnt_time = 'x')",
            "there is no option `evnt_time`; there are event_time, event_time_unit, unknown_columns",
        ),
        (
            "CREATE STREAM s (x INT) WITH (event_time = x)",
            "write event_time = '…', not `x`",
        ),
        (
            "CREATE STREAM s (x INT) WITH (event_time = 'y')",
            "event_time names `y`",
        ),
        (
            "CREATE STREAM s (x INT) WITH (event_time_unit = 'ms')",
            "needs `event_time`",
        ),
        (
            "CREATE STREAM s (t TIMESTAMP) WITH (event_time = 't', event_time_unit = 'm')",
            "one of 's', 'ms', 'us', 'ns'",
        ),
        (
            "CREATE STREAM s (x INT) WITH (unknown_columns = 'reject', unknown_columns = 'ignore')",
            "given twice",
        ),
        ("CREATE STREAM s (x INT) AS SELECT 1", "expected the end"),
        ("CREATE OR REPLACE STREAM s (x INT)", "cannot be replaced"),
        ("CREATE VIEW v", "expected `AS`"),
        ("CREATE VIEW v AS", "expected a SELECT, found the end"),
        ("CREATE VIEW v AS SELEC 1", "line 1, column 18"),
        ("CREATE VIEW v AS\nSELECT a FROM b GROUP", "line 2"),
        ("CREATE VIEW v AS EXPLAIN SELECT 1", "expected a SELECT"),
        (
            "CREATE VIEW v AS INSERT INTO a VALUES (1)",
            "expected a SELECT",
        ),
        ("CREATE VIEW v (a, b) AS SELECT 1, 2", "with AS"),
        (
            "CREATE OR REPLACE VIEW IF NOT EXISTS v AS SELECT 1",
            "contradict",
        ),
        (
            "CREATE VIEW v WITH (refresh = '5 moons') AS SELECT 1",
            "write an interval",
        ),
        (
            "CREATE VIEW v WITH (refresh = '0s') AS SELECT 1",
            "write an interval",
        ),
        (
            "CREATE VIEW v WITH (refresh = '99999999999999999999 days') AS SELECT 1",
            "write an interval",
        ),
        (
            "CREATE VIEW v WITH (refresh = 5) AS SELECT 1",
            "write refresh = '…', not `5`",
        ),
        (
            "CREATE VIEW v WITH (recompute_after_events = 0) AS SELECT 1",
            "`recompute_after_events` cannot be '0': write a whole number of events from 1",
        ),
        (
            "ALTER VIEW v SET (recompute_after_events = 'many')",
            "`recompute_after_events` cannot be 'many'",
        ),
        (
            "CREATE VIEW v WITH (recompute_after_events = NULL) AS SELECT 1",
            "write recompute_after_events = '…', not `NULL`",
        ),
        (
            "CREATE VIEW v WITH (recompute_after_bytes = 1000000) AS SELECT 1",
            "`recompute_after_bytes` cannot be '1000000': write a whole number from 1 and its unit",
        ),
        (
            "CREATE VIEW v WITH (recompute_after_bytes = '0 GiB') AS SELECT 1",
            "`recompute_after_bytes` cannot be '0 GiB'",
        ),
        (
            "CREATE VIEW v WITH (recompute_after_bytes = '99999999999999 TiB') AS SELECT 1",
            "`recompute_after_bytes` cannot be '99999999999999 TiB'",
        ),
        (
            "CREATE VIEW v WITH (refresh = NULL) AS SELECT 1",
            "not `NULL`",
        ),
        (
            "CREATE VIEW v WITH (recompute = '0 3 * *') AS SELECT 1",
            "4 fields, not 5",
        ),
        (
            "CREATE VIEW v WITH (recompute = '0 0 3 * * *') AS SELECT 1",
            "6 fields, not 5",
        ),
        (
            "CREATE VIEW v WITH (recompute = '61 3 * * *') AS SELECT 1",
            "`recompute` cannot be '61 3 * * *'",
        ),
        (
            "CREATE VIEW v WITH (recompute = '0 0 30 2 *') AS SELECT 1",
            "never comes due",
        ),
        (
            "ALTER STREAM s ADD COLUMN x INT NOT NULL",
            "cannot be NOT NULL",
        ),
        ("ALTER STREAM s DROP COLUMN x", "can only become more"),
        (
            "ALTER STREAM s SKIP HOLE, ADD COLUMN x INT",
            "column 25: `SKIP HOLE` stands alone",
        ),
        (
            "ALTER STREAM s ADD COLUMN x INT, SKIP HOLE",
            "column 34: `SKIP HOLE` stands alone",
        ),
        ("ALTER STREAM s SKIP HOLE 1", "expected the end"),
        ("ALTER STREAM s SKIP 3", "expected `ADD COLUMN name type`"),
        ("ALTER VIEW v SKIP HOLE", "expected `SET"),
        (
            "ALTER STREAM s ALTER COLUMN x TYPE BIGINT",
            "expected `DROP NOT NULL`",
        ),
        ("ALTER STREAM s ALTER X DROP NOT NULL", "write `x`"),
        ("ALTER VIEW v AS SELECT 2", "CREATE OR REPLACE VIEW"),
        (
            "ALTER VIEW v SET (sql = 'x')",
            "there are recompute, recompute_after_events, recompute_after_bytes, refresh",
        ),
        ("DROP VIEW a, b", "expected the end"),
        ("DROP STREAM a CASCADE", "drop the views of a stream first"),
        ("UNDROP STREAM IF EXISTS a", "expected the end"),
        ("SHOW SCHEMAS", "`STREAMS`, `VIEWS`, `TABLES`, `RUNS`"),
        ("DESCRIBE SELECT 1", "expected the end"),
        ("frobnicate", "line 1, column 1"),
    ] {
        let problem = parse(sql).expect_err(sql);
        assert!(problem.detail.contains(part), "{sql}\n  {problem}");
        let located =
            problem.members.contains_key("line") && problem.members.contains_key("column");
        assert!(
            located || part == "there is no statement",
            "{sql}: {problem:?}"
        );
    }
}

#[test]
fn other_databases_statements_say_what_to_use_instead() {
    for (sql, part) in [
        (
            "INSERT INTO s VALUES (1)",
            "`INSERT` is not supported: append events with `POST /v1/streams/{stream}`",
        ),
        ("UPDATE s SET x = 1", "exclusions"),
        ("DELETE FROM s", "exclusions"),
        (
            "CREATE TABLE t (x INT)",
            "`CREATE TABLE` is not supported: there are streams and views",
        ),
        (
            "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '/etc'",
            "`CREATE EXTERNAL`",
        ),
        (
            "CREATE MATERIALIZED VIEW v AS SELECT 1",
            "write `CREATE VIEW`",
        ),
        ("CREATE TEMPORARY VIEW v AS SELECT 1", "`CREATE TEMPORARY`"),
        (
            "CREATE FUNCTION f() RETURNS INT AS '1'",
            "`CREATE FUNCTION`",
        ),
        ("DROP TABLE t", "`DROP TABLE`"),
        (
            "SET datafusion.execution.batch_size = 1",
            "`SET` is not supported",
        ),
        ("RESET datafusion.runtime.memory_limit", "`RESET`"),
        ("COPY v TO '/tmp/x.parquet'", "format=parquet"),
        ("BEGIN", "one snapshot"),
        ("ROLLBACK", "/rollback"),
        ("PREPARE p AS SELECT 1", "`parameters`"),
        ("REFRESH MATERIALIZED VIEW v", "/recompute"),
        ("VACUUM", "`VACUUM` is not supported"),
        ("EXPLAIN INSERT INTO s VALUES (1)", "this is not a query"),
        ("EXPLAIN COPY v TO 'x'", "this is not a query"),
        ("SELECT 1 INTO t", "SELECT … INTO stores nothing"),
        (
            "WITH a AS (INSERT INTO s VALUES (1)) SELECT * FROM a",
            "this is not a query",
        ),
    ] {
        let problem = parse(sql).expect_err(sql);
        assert!(problem.detail.contains(part), "{sql}\n  {problem}");
    }
}

#[test]
fn a_definition_file_keeps_its_line_numbers() {
    let file = "-- streams\nCREATE STREAM s (x INT);\n\n/* a\nview */\nCREATE VIEW v AS SELECT count(*) FROM s;\n";
    let definitions = parse_definitions("a.sql", file).unwrap();
    let places: Vec<(u64, &str)> = definitions
        .iter()
        .map(|d| (d.line, d.definition.name()))
        .collect();
    assert_eq!(places, [(2, "s"), (6, "v")]);
    assert_eq!(parse_definitions("empty.sql", "-- none yet\n"), Ok(vec![]));

    let skipped = parse_definitions("c.sql", "ALTER STREAM s SKIP HOLE").unwrap_err();
    assert!(
        skipped.detail.contains("a definition file holds"),
        "{skipped}"
    );
    let problem =
        parse_definitions("b.sql", "CREATE STREAM s (x INT);\nDROP STREAM s;").unwrap_err();
    assert_eq!(problem.members["file"], "b.sql");
    assert_eq!(problem.members["line"], 2);
    assert!(
        problem
            .detail
            .starts_with("b.sql: line 2, column 1: a definition file holds")
    );
}

fn any_column_name() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z][a-z0-9_]{0,8}",
        "[A-Za-z ä\"'`;.,()<>-]{1,6}",
        Just("select".to_owned())
    ]
}

fn any_type() -> impl Strategy<Value = ColumnType> {
    let scalar = prop_oneof![
        Just(ColumnType::Boolean),
        Just(ColumnType::Int),
        Just(ColumnType::BigInt),
        Just(ColumnType::Double),
        (1_u8..=38, 0_i8..=38).prop_map(|(p, s)| ColumnType::Decimal(p, s.min(p.cast_signed()))),
        Just(ColumnType::Varchar),
        Just(ColumnType::Date),
        Just(ColumnType::Timestamp),
    ];
    scalar.prop_recursive(4, 12, 3, |inner| {
        let fields = prop::collection::vec((any_column_name(), inner.clone(), any::<bool>()), 1..3)
            .prop_map(|fields| {
                let fields = fields
                    .into_iter()
                    .map(|(n, t, nullable)| column(&n, t, nullable));
                ColumnType::Struct(fields.collect())
            });
        prop_oneof![inner.prop_map(|t| ColumnType::List(Box::new(t))), fields]
    })
}

fn any_schema() -> impl Strategy<Value = StreamSchema> {
    let columns = prop::collection::vec((any_column_name(), any_type(), any::<bool>()), 1..5);
    (columns, any::<Option<u8>>(), any::<bool>()).prop_map(|(columns, time, reject)| {
        let mut columns: Vec<Column> = columns
            .into_iter()
            .map(|(name, t, nullable)| column(&name, t, nullable))
            .collect();
        let event_time = time.map(|unit| {
            columns.push(column("at's", ColumnType::Timestamp, false));
            EventTime {
                column: "at's".to_owned(),
                epoch: UNITS.get(usize::from(unit % 5)).copied(),
            }
        });
        let unknown_columns = if reject {
            UnknownColumns::Reject
        } else {
            UnknownColumns::Ignore
        };
        StreamSchema {
            columns,
            event_time,
            unknown_columns,
        }
    })
}

const UNITS: [EpochUnit; 4] = [
    EpochUnit::Second,
    EpochUnit::Millisecond,
    EpochUnit::Microsecond,
    EpochUnit::Nanosecond,
];

proptest! {
    #[test]
    fn a_rendered_stream_is_the_same_stream(schema in any_schema()) {
        prop_assume!(schema.check().is_ok());
        let stream = StreamDef {
            id: "s1".parse().unwrap(),
            name: "some_stream".to_owned(),
            schema: schema.clone(),
            source: dovetail_model::Source::Embedded,
            created_at: DateTime::UNIX_EPOCH,
        };
        let text = render_stream(&stream);
        let expected = CreateStream { name: stream.name, if_not_exists: false, schema, kafka: None };
        prop_assert_eq!(parse(&text), Ok(Statement::Define(Definition::CreateStream(expected))));
    }

    #[test]
    fn a_rendered_view_is_the_same_view(
        refresh_s in prop::option::of(1_u64..=366 * 24 * 3600),
        minute in prop::option::of(0_u8..60),
        events in prop::option::of(1_u64..),
        mib in prop::option::of(1_u64..1 << 40),
        comment in any::<bool>(),
    ) {
        let select = format!("SELECT a, count(*)\nFROM s GROUP BY a{}", if comment { " -- x" } else { "" });
        let bytes = mib.map(|mib| mib << 20);
        let recompute_after = VolumeTrigger { events, bytes };
        let recompute = minute.map(|m| format!("{m} 3 * * *"));
        let view = ViewDef {
            id: "v1".parse().unwrap(),
            name: "v".to_owned(),
            stream: "s1".parse().unwrap(),
            sql: select.clone(),
            recompute: recompute.clone(),
            recompute_after,
            refresh_s,
            version: 1,
            definition_hash: String::new(),
            defined_at: DateTime::UNIX_EPOCH,
        };
        let expected = CreateView {
            name: "v".to_owned(),
            or_replace: false,
            if_not_exists: false,
            options: ViewOptions { recompute, recompute_after, refresh_s },
            select: select.trim_end_matches(" -- x").to_owned(),
        };
        prop_assert_eq!(parse(&render_view(&view)), Ok(Statement::Define(Definition::CreateView(expected))));
    }

    #[test]
    fn no_text_panics(text in "(?s)(CREATE STREAM s \\(|CREATE VIEW v AS |SELECT |).{0,60}") {
        let _ = parse(&text);
        let _ = parse_definitions("f", &text);
    }
}
