# SPDX-License-Identifier: Apache-2.0
"""DuckDB computes the hourly view from Parquet to Parquet: sorted by key, written, fsynced.

    duckdb_batch.py FLIGHTS TIMES MEMORY

First it writes the flights so many times over into a Parquet file of its own making. Then, for each line on stdin, it
computes the view, and answers with a line of JSON.
"""

import json
import os
import resource
import sys
import tempfile
import time

import duckdb

VIEW = """
COPY (
    SELECT origin, date_trunc('hour', date) AS hour, count(*) AS flights, sum(delay) AS total, avg(delay) AS mean,
        min(delay) AS least, max(delay) AS most
    FROM '{raw}' GROUP BY origin, hour ORDER BY hour, origin
) TO '{view}' (FORMAT parquet)
"""


def cpu_seconds() -> float:
    use = resource.getrusage(resource.RUSAGE_SELF)
    return use.ru_utime + use.ru_stime


def peak_mib() -> float:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def main(flights: str, times: int, memory: str) -> None:
    with tempfile.TemporaryDirectory() as root:
        raw, view = (os.path.join(root, name) for name in ("raw.parquet", "view.parquet"))
        session = duckdb.connect(os.path.join(root, "spill.db"))
        session.execute(f"SET memory_limit = '{memory}'")
        session.execute("SET threads = 2")
        columns = "CAST(date AS TIMESTAMP) AS date, CAST(delay AS BIGINT) AS delay, CAST(distance AS BIGINT) AS distance, origin, destination"
        session.execute(f"COPY (SELECT {columns} FROM read_parquet({[flights] * times})) TO '{raw}' (FORMAT parquet)")
        for _ in sys.stdin:
            begin, cpu = time.monotonic(), cpu_seconds()
            session.execute(VIEW.format(raw=raw, view=view))
            with open(view, "rb") as written:
                os.fsync(written.fileno())
            seconds, cpu = time.monotonic() - begin, cpu_seconds() - cpu
            (groups,) = session.execute(f"SELECT count(*) FROM '{view}'").fetchone()
            if not groups:
                sys.exit("DuckDB's view is empty")
            print(json.dumps({"seconds": seconds, "cpu_seconds": cpu, "peak_mib": peak_mib()}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
