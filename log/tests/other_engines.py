# SPDX-License-Identifier: Apache-2.0
"""Reads a stream's Delta tables with delta-rs, Polars and DuckDB and compares them with what was archived.

Usage: other_engines.py STREAM_DIRECTORY EVENTS STEP FILES, see other_engines.rs for what it archives.
"""

import datetime
import decimal
import sys

import deltalake
import duckdb
import polars
import pyarrow

directory, events, step, files = sys.argv[1], *map(int, sys.argv[2:])
alive = [o for o in range(events) if o % step != step - 1]
present = [o for o in alive if o % 10 != 0]


def equal(what, found, expected):
    if found != expected:
        sys.exit(f"{what}: expected {expected!r}, found {found!r}")


table = deltalake.DeltaTable(f"{directory}/raw")
adds = pyarrow.table(table.get_add_actions(flatten=True)).to_pylist()
equal("files", len(adds), files)
equal("rows by statistics", sum(add["num_records"] for add in adds), len(alive))
equal("smallest offset by statistics", min(add["min._offset"] for add in adds), 0)
equal("largest offset by statistics", max(add["max._offset"] for add in adds), alive[-1])
equal("nulls by statistics", sum(add["null_count.price"] for add in adds), len(alive) - len(present))
equal(
    "smallest price by statistics",
    min(add["min.price"] for add in adds),
    decimal.Decimal("1.07"),
)
equal("append only", table.metadata().configuration["delta.appendOnly"], "true")
equal("archived position", table.transaction_version("dovetail/k3f/0"), events)

types = {
    "at": "timestamp_ntz",
    "flag": "boolean",
    "small": "integer",
    "big": "long",
    "real": "double",
    "price": "decimal(20,2)",
    "odd text": "string",
    "note": "string",
    "day": "date",
    "_partition": "integer",
    "_offset": "long",
    "_arrived_at": "timestamp_ntz",
}
found = {field.name: getattr(field.type, "type", None) for field in table.schema().fields}
for name, expected in types.items():
    equal(f"type of {name}", found[name], expected)

frame = polars.scan_delta(f"{directory}/raw").sort("_offset").collect()
equal("Polars: rows", frame.height, len(alive))
equal("Polars: offsets", frame["_offset"].to_list(), alive)
equal("Polars: type of at", frame.schema["at"], polars.Datetime("us"))
equal("Polars: type of price", frame.schema["price"], polars.Decimal(20, 2))
row = frame.row(1, named=True)
equal("Polars: at", row["at"], datetime.datetime(2001, 1, 1, 0, 1, 0, 1))
equal("Polars: price", row["price"], decimal.Decimal("1.07"))
equal("Polars: day", row["day"], datetime.date(1970, 1, 2))
equal("Polars: pair", row["pair"], {"a": 1})
equal("Polars: list", row["list"], [1, None])
noted = [o for o in alive if o >= events // 2]
equal("Polars: the column added later", frame["note"].drop_nulls().to_list(), [f"n{o}" for o in noted])
equal("Polars: null before it was added", frame["note"].null_count(), len(alive) - len(noted))
late = datetime.datetime(2001, 1, 2)
pruned = polars.scan_delta(f"{directory}/raw").filter(polars.col("at") >= late).collect()
equal("Polars: pruned by time", pruned.height, sum(1 for o in alive if o * 60_000_001 >= 86_400_000_000))

paths = [f"{directory}/raw/{add['path']}" for add in adds]
query = """
    SELECT count(*), sum(_offset), sum(small), sum(big), sum(price), sum("real"), count(flag),
           max("odd text"), count(note), max(day), sum(pair.a), sum(len(list)), typeof(any_value("at"))
    FROM read_parquet(?, union_by_name = true)
"""
answer = duckdb.execute(query, [paths]).fetchone()
expected = (
    len(alive),
    sum(alive),
    sum(present),
    sum(present) << 32,
    sum(decimal.Decimal(100 * o + 7) / 100 for o in present),
    sum(present) / 4,
    len(present),
    f"t{present[-1]:05}",
    len(noted),
    datetime.date(1970, 1, 1) + datetime.timedelta(days=present[-1]),
    sum(present),
    2 * len(alive),
    "TIMESTAMP",
)
equal("DuckDB", answer, expected)

letters = polars.scan_delta(f"{directory}/dead-letters").sort("_offset", "replayed").collect()
dead = list(range(step - 1, events, step))
equal("dead letters", letters.filter(~polars.col("replayed"))["_offset"].to_list(), dead)
equal("replayed", letters.filter("replayed")["_offset"].to_list(), [step - 1])
equal("bytes of a dead letter", letters.row(0, named=True)["bytes"], b"{\xff")
print(f"delta-rs, Polars and DuckDB agree: {len(alive)} events in {files} files, {len(dead)} dead letters")
