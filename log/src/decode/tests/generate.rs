// SPDX-License-Identifier: Apache-2.0
//! Random schemas, values, and texts that are often but not always values.

use dovetail_model::{Column, ColumnType, EpochUnit, StreamSchema, UnknownColumns};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::cells::Cell;

const NAMES: [&str; 8] = [
    "a",
    "b",
    "delay",
    "a b",
    "é",
    "say \"x\"",
    "back\\slash",
    "C",
];

fn leaf_type() -> impl Strategy<Value = ColumnType> {
    prop_oneof![
        Just(ColumnType::Boolean),
        Just(ColumnType::Int),
        Just(ColumnType::BigInt),
        Just(ColumnType::Double),
        (1_u8..=38).prop_flat_map(|precision| {
            let scale = 0..=i8::try_from(precision).unwrap();
            scale.prop_map(move |scale| ColumnType::Decimal(precision, scale))
        }),
        Just(ColumnType::Varchar),
        Just(ColumnType::Date),
        Just(ColumnType::Timestamp),
    ]
}

fn column_type() -> impl Strategy<Value = ColumnType> {
    leaf_type().prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            columns_of(inner.clone().boxed(), 3).prop_map(ColumnType::Struct),
            inner.prop_map(|item| ColumnType::List(Box::new(item))),
        ]
    })
}

fn columns_of(types: BoxedStrategy<ColumnType>, most: usize) -> impl Strategy<Value = Vec<Column>> {
    vec((types, any::<bool>()), 1..=most).prop_map(|columns| {
        columns
            .into_iter()
            .zip(NAMES)
            .map(|((column_type, nullable), name)| Column {
                name: name.to_owned(),
                column_type,
                nullable,
            })
            .collect()
    })
}

/// A valid schema of one to six columns.
pub(super) fn any_schema() -> impl Strategy<Value = StreamSchema> {
    let units = [
        EpochUnit::Second,
        EpochUnit::Millisecond,
        EpochUnit::Microsecond,
        EpochUnit::Nanosecond,
    ];
    let columns = columns_of(column_type().boxed(), 6);
    (columns, option::of(select(units.to_vec())), any::<bool>()).prop_map(
        |(columns, unit, strict)| {
            let time = columns
                .iter()
                .find(|c| c.column_type == ColumnType::Timestamp);
            let event_time = time.map(|time| dovetail_model::EventTime {
                column: time.name.clone(),
                epoch: unit,
            });
            let schema = StreamSchema {
                columns,
                event_time,
                unknown_columns: if strict {
                    UnknownColumns::Reject
                } else {
                    UnknownColumns::Ignore
                },
            };
            schema.check().unwrap();
            schema
        },
    )
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]{0,12}",
        "[ -~]{0,20}",
        "\\PC{0,12}",
        vec(
            select(vec![
                "\"", "\\", "\n", "\r", "\t", ",", "é", "😀", "\u{0}", "x", "  "
            ]),
            0..6
        )
        .prop_map(|parts| parts.concat()),
    ]
}

/// A value that fits the type, never null.
fn value(column_type: &ColumnType) -> BoxedStrategy<Cell> {
    match column_type {
        ColumnType::Boolean => any::<bool>().prop_map(Cell::Boolean).boxed(),
        ColumnType::Int => any::<i32>().prop_map(|v| Cell::Integer(v.into())).boxed(),
        ColumnType::BigInt => any::<i64>().prop_map(|v| Cell::Integer(v.into())).boxed(),
        ColumnType::Double => prop_oneof![
            any::<f64>(),
            (-1000_i32..1000).prop_map(|v| f64::from(v) / 8.0)
        ]
        .prop_map(Cell::double)
        .boxed(),
        ColumnType::Decimal(precision, _) => {
            let limit = 10_i128.pow(u32::from(*precision)) - 1;
            (-limit..=limit).prop_map(Cell::Integer).boxed()
        }
        ColumnType::Varchar => text().prop_map(Cell::Text).boxed(),
        // Years 0000 to 9999.
        ColumnType::Date => (-719_528_i128..=2_932_896).prop_map(Cell::Integer).boxed(),
        ColumnType::Timestamp => (-62_167_219_200_000_000_i128..=253_402_300_799_999_999)
            .prop_map(Cell::Integer)
            .boxed(),
        ColumnType::Struct(columns) => row(columns).prop_map(Cell::Struct).boxed(),
        ColumnType::List(item) => vec(nullable(item), 0..4).prop_map(Cell::List).boxed(),
    }
}

fn nullable(column_type: &ColumnType) -> BoxedStrategy<Cell> {
    prop_oneof![1 => Just(Cell::Null), 6 => value(column_type)].boxed()
}

/// A row that fits the columns.
pub(super) fn row(columns: &[Column]) -> BoxedStrategy<Vec<Cell>> {
    columns
        .iter()
        .map(|column| {
            if column.nullable {
                nullable(&column.column_type)
            } else {
                value(&column.column_type)
            }
        })
        .collect::<Vec<_>>()
        .boxed()
}

fn iso() -> impl Strategy<Value = String> {
    let date = ("[0-9]{4}", 0_u32..14, 0_u32..33)
        .prop_map(|(year, month, day)| format!("{year}-{month:02}-{day:02}"));
    let time =
        (0_u32..25, 0_u32..60, 0_u32..60).prop_map(|(h, m, s)| format!("{h:02}:{m:02}:{s:02}"));
    let fraction = option::of("[0-9]{1,6}0{0,3}|[0-9]{7}");
    let offset = select(vec!["", "Z", "+01:00", "-0530", "+14", "+25:00", " "]);
    (
        date,
        option::of((select(vec!["T", " "]), time, fraction, offset)),
    )
        .prop_map(|(date, rest)| {
            let rest = rest.map(|(t, time, fraction, offset)| {
                let fraction = fraction.map(|f| format!(".{f}")).unwrap_or_default();
                format!("{t}{time}{fraction}{offset}")
            });
            format!("{date}{}", rest.unwrap_or_default())
        })
}

fn number() -> impl Strategy<Value = String> {
    prop_oneof![
        "-?(0|[1-9][0-9]{0,4})",
        "-?(0|[1-9][0-9]{0,40})(\\.[0-9]{1,20})?",
        "-?[1-9][0-9]{0,3}(\\.[0-9]{1,3})?[eE][+-]?[0-9]{1,2}",
        select(vec![
            "2147483647",
            "2147483648",
            "-2147483648",
            "-2147483649"
        ])
        .prop_map(str::to_owned),
        select(vec![
            "9223372036854775807",
            "9223372036854775808",
            "-9223372036854775808",
            "1.0",
            "1e3",
            "-0",
            "1e400"
        ])
        .prop_map(str::to_owned),
    ]
}

/// A JSON text that is often a value of the type, sometimes of another one, sometimes none at all.
fn json_text(column_type: &ColumnType) -> BoxedStrategy<String> {
    let quoted = |text: String| serde_json::to_string(&text).unwrap();
    let usual = match column_type {
        ColumnType::Boolean => select(vec!["true", "false"])
            .prop_map(str::to_owned)
            .boxed(),
        ColumnType::Int | ColumnType::BigInt => prop_oneof!["-?[1-9][0-9]{0,8}", number()].boxed(),
        ColumnType::Double => number().boxed(),
        ColumnType::Decimal(..) => {
            prop_oneof![number(), number().prop_map(move |n| format!("\"{n}\""))].boxed()
        }
        ColumnType::Varchar => prop_oneof![
            text().prop_map(quoted),
            select(vec![
                r#""\u00e9""#,
                r#""\ud83d\ude00""#,
                r#""\/\b\f\n""#,
                r#""\"""#,
                r#""\\""#,
                r#""\ud800""#,
                r#""\ude00\ud83d""#,
                r#""\x""#,
                r#""\u12""#,
                "\"\t\"",
            ])
            .prop_map(str::to_owned),
        ]
        .boxed(),
        ColumnType::Date | ColumnType::Timestamp => {
            prop_oneof![4 => iso().prop_map(quoted), 1 => number()].boxed()
        }
        ColumnType::Struct(columns) => json_object(columns),
        ColumnType::List(item) => vec(json_text(item), 0..4)
            .prop_map(|items| format!("[{}]", items.join(" , ")))
            .boxed(),
    };
    let odd = select(vec![
        "null",
        "true",
        "1",
        "1.5",
        "\"x\"",
        "\"\"",
        "[]",
        "[1,]",
        "{}",
        "{\"a\":1}",
        "01",
        "abc",
        "nul",
        "\"",
        "\"NaN\"",
        "-",
        "[",
        "{\"a\"",
        "+1",
        ".5",
        "'x'",
    ]);
    prop_oneof![14 => usual, 2 => Just("null".to_owned()), 1 => odd.prop_map(str::to_owned)].boxed()
}

fn json_key(name: String) -> impl Strategy<Value = String> {
    let plain = serde_json::to_string(&name).unwrap();
    let escaped: String = name
        .encode_utf16()
        .map(|unit| format!("\\u{unit:04x}"))
        .collect();
    prop_oneof![8 => Just(plain), 1 => Just(format!("\"{escaped}\""))]
}

fn json_object(columns: &[Column]) -> BoxedStrategy<String> {
    let members: Vec<_> = columns
        .iter()
        .map(|column| {
            let member = (
                json_key(column.name.clone()),
                json_text(&column.column_type),
            );
            let member = member.prop_map(|(key, value)| format!("{key}:{value}"));
            prop_oneof![1 => Just(None), 12 => member.prop_map(Some)]
        })
        .collect();
    let extra = select(vec![
        "\"zz\": [1, {\"y\": \"\\n\"}]",
        "\"zz\":1",
        "\"A\":0",
        "\"zz\":{,}",
    ]);
    let extra = prop_oneof![6 => Just(None), 1 => extra.prop_map(|e| Some(e.to_owned()))];
    let separator = select(vec![",", ", ", " ,\t", ",\r"]);
    let again = prop_oneof![12 => Just(false), 1 => Just(true)];
    (members, extra, separator, any::<bool>(), again)
        .prop_map(|(members, extra, separator, reverse, again)| {
            let mut members: Vec<String> = members.into_iter().chain([extra]).flatten().collect();
            if reverse {
                members.reverse();
            }
            if again && let Some(first) = members.first().cloned() {
                members.push(first);
            }
            format!("{{{}}}", members.join(separator))
        })
        .boxed()
}

/// A line that is often an event of the schema. No line feed in it.
pub(super) fn json_line(columns: &[Column]) -> BoxedStrategy<String> {
    let object = json_object(columns);
    let broken = (
        object.clone(),
        any::<proptest::sample::Index>(),
        any::<bool>(),
    )
        .prop_map(|(object, at, cut)| {
            let mut chars: Vec<char> = object.chars().collect();
            let at = at.index(chars.len());
            if cut {
                chars.truncate(at);
            } else {
                chars.remove(at);
            }
            chars.into_iter().collect()
        });
    let odd = select(vec![
        "{}", "[]", "1", "null", "{} {}", "{},", "\u{0}", "\"x\"",
    ]);
    prop_oneof![
        10 => object,
        2 => broken,
        1 => odd.prop_map(str::to_owned),
    ]
    .prop_map(|line| line.replace('\n', " "))
    .boxed()
}

/// A CSV value, unquoted text, that often fits the type.
pub(super) fn csv_text(column_type: &ColumnType) -> BoxedStrategy<String> {
    let usual = match column_type {
        ColumnType::Boolean => select(vec!["true", "False", "TRUE"])
            .prop_map(str::to_owned)
            .boxed(),
        ColumnType::Int | ColumnType::BigInt => prop_oneof!["[+-]?[0-9]{1,9}", number()].boxed(),
        ColumnType::Double => prop_oneof![
            number(),
            select(vec![
                "nan", "NaN", "inf", "-inf", "Infinity", "+.5", "5.", "007"
            ])
            .prop_map(str::to_owned),
        ]
        .boxed(),
        ColumnType::Decimal(..) => prop_oneof![number(), "[+-]?[0-9]{0,3}\\.?[0-9]{0,3}"].boxed(),
        ColumnType::Varchar => text().boxed(),
        ColumnType::Date | ColumnType::Timestamp => prop_oneof![4 => iso(), 1 => number()].boxed(),
        ColumnType::Struct(_) | ColumnType::List(_) => json_text(column_type),
    };
    let odd = select(vec!["", "x", "1", "1.5", "null", "{}", "[]", " 1"]);
    prop_oneof![12 => usual, 2 => Just(String::new()), 1 => odd.prop_map(str::to_owned)].boxed()
}
