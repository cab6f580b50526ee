# SPDX-License-Identifier: Apache-2.0
"""Reads what `dovetail demo` has left on disk with other engines and compares it with Dovetail's answers.

    python script/check-engines.py      with `dovetail` on PATH and log/tests/requirements.txt installed

The generations are read as the Delta tables they are projected to (delta-rs and Polars), and must hold
exactly the rows that Dovetail answers. The raw log is aggregated anew by DuckDB, and must come to the same
counts and averages; percentiles and distinct counts are sketches and are compared within their error.
"""

import json
import sys
import tempfile
import time
import urllib.request
from importlib.machinery import SourceFileLoader
from pathlib import Path

import deltalake
import duckdb
import polars
import pyarrow

here = Path(__file__).parent
start_demo = SourceFileLoader("readme", str(here / "readme-commands")).load_module().start_demo

ARROW = "application/vnd.apache.arrow.stream"
KEYS = {"airport_delays": ["origin", "hour"], "route_performance": ["origin", "destination"]}
# An estimate is checked by bounds: `x_low <= x <= x_high`. A percentile may be off by one event and one
# percent of the events in rank, a distinct count by one and two percent.
RECOUNT = {
    "airport_delays": """
        SELECT origin, hour, flights, avg_delay,
               delays[greatest(1, floor(0.89 * flights - 1)::INT)] AS p90_low,
               delays[least(flights, ceil(0.91 * flights + 1)::INT)] AS p90_high,
               0.98 * destinations - 1 AS destinations_low, 1.02 * destinations + 1 AS destinations_high
        FROM (SELECT origin, date_trunc('hour', date) AS hour, count(*) AS flights, avg(delay) AS avg_delay,
                     list_sort(list(delay)) AS delays, count(DISTINCT destination) AS destinations
              FROM raw GROUP BY ALL)""",
    "route_performance": """
        SELECT origin, destination, count(*) AS flights, count(*) FILTER (delay > 15) AS late,
               avg(delay) AS avg_delay, max(delay) AS worst_delay, max(distance) AS miles
        FROM raw GROUP BY ALL""",
}


def ask(url, path, body=None, accept="application/json"):
    data = None if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json", "accept": accept}
    with urllib.request.urlopen(urllib.request.Request(url + path, data, headers)) as answer:
        return answer.read()


def bring_up_to_date(url, view):
    """Publishes a generation that covers every event, so that the files hold all of the answer."""
    run = json.loads(ask(url, f"/v1/views/{view}/recompute", {"mode": "incremental"}))
    while run["outcome"] == "running":
        time.sleep(0.1)
        run = json.loads(ask(url, f"/v1/runs/{run['id']}"))
    equal(f"{view}: outcome of the incremental run", run["outcome"], "promoted")


def rows(url, view, layer):
    body = {"sql": f"SELECT * FROM {view}", "layer": layer}
    stream = ask(url, "/v1/sql", body, ARROW)
    table = pyarrow.ipc.open_stream(stream).read_all()
    return polars.from_arrow(table).sort(KEYS[view])


def equal(what, found, expected):
    if found != expected:
        sys.exit(f"{what}: expected {expected!r}, found {found!r}")


def same_rows(what, found, expected):
    """Compares two frames with the same order of the same keys."""
    equal(f"{what}: rows", found.height, expected.height)
    for name in found.columns:
        column = found[name]
        if name in expected.columns:
            wrong = column.cast(expected[name].dtype).ne_missing(expected[name])
        else:
            wrong = (column < expected[f"{name}_low"]) | (column > expected[f"{name}_high"])
        if wrong.any():
            first = wrong.arg_true()[0]
            sys.exit(
                f"{what}: column {name} differs in {wrong.sum()} rows; the first:\n"
                f"found {found.row(first, named=True)}\nexpected {expected.row(first, named=True)}"
            )


def directory(url, store, kind, name):
    """Where a stream or view keeps its data: below its id."""
    path = f"/v1/views/{name}/status" if kind == "views" else f"/v1/streams/{name}"
    return store / kind / json.loads(ask(url, path))["id"]


def main():
    with tempfile.TemporaryDirectory() as root:
        root = Path(root)
        demo, url, _ = start_demo(root / "data", root / "log")
        try:
            checked = check(url, root / "data" / "store")
        finally:
            demo.terminate()
            demo.wait(60)
    print(f"engines: delta-rs, Polars and DuckDB agree with Dovetail on {checked}")


def check(url, store):
    raw = deltalake.DeltaTable(directory(url, store, "streams", "flights") / "raw")
    checked = []
    for view in KEYS:
        bring_up_to_date(url, view)
    raw.update_incremental()
    root = raw.table_uri.removeprefix("file://").rstrip("/")
    files = [f"{root}/{add['path']}" for add in pyarrow.table(raw.get_add_actions()).to_pylist()]
    duckdb.execute(f"CREATE VIEW raw AS SELECT * FROM read_parquet({files})")
    ((events,),) = duckdb.execute("SELECT count(*) FROM raw").fetchall()
    for view, keys in KEYS.items():
        answer = rows(url, view, "merged")
        same_rows(f"{view}: batch layer alone", rows(url, view, "batch"), answer)
        projected = polars.scan_delta(str(directory(url, store, "views", view))).collect()
        finished = projected.select(answer.columns).sort(keys)
        same_rows(f"{view}: Polars on the generation", finished, answer)
        recount = polars.from_arrow(duckdb.sql(RECOUNT[view]).to_arrow_table()).sort(keys)
        same_rows(f"{view}: DuckDB on the raw log", answer, recount)
        checked.append(f"{answer.height} rows of {view}")
    return f"{events} events, {' and '.join(checked)}"


if __name__ == "__main__":
    main()
