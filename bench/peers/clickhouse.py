# SPDX-License-Identifier: Apache-2.0
"""ClickHouse catches up on a Kafka topic of flights: kcat reads it into a pipe, ClickHouse keeps the view.

    clickhouse.py BROKERS TOPIC EVENTS

For each line on stdin it starts over, and answers with a line of JSON once the view has all events. The raw events go
to a table that keeps none, so this is the view alone, in memory and on disk as ClickHouse likes, without fsync.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time

from chdb.session import Session

SETUP = """
DROP TABLE IF EXISTS hourly_view;
DROP TABLE IF EXISTS hourly;
DROP TABLE IF EXISTS flights;
CREATE TABLE flights (date DateTime, delay Nullable(Int64), distance Nullable(Int64), origin LowCardinality(String),
    destination LowCardinality(String)) ENGINE = Null;
CREATE TABLE hourly (origin LowCardinality(String), hour DateTime, flights AggregateFunction(count),
    total AggregateFunction(sum, Nullable(Int64)), mean AggregateFunction(avg, Nullable(Int64)),
    least AggregateFunction(min, Nullable(Int64)), most AggregateFunction(max, Nullable(Int64)))
    ENGINE = AggregatingMergeTree ORDER BY (origin, hour);
CREATE MATERIALIZED VIEW hourly_view TO hourly AS SELECT origin, toStartOfHour(date) AS hour, countState() AS flights,
    sumState(delay) AS total, avgState(delay) AS mean, minState(delay) AS least, maxState(delay) AS most
    FROM flights GROUP BY origin, hour;
"""

# With queues so long that it never pauses to fetch, which costs it a second each time.
KCAT = """exec kcat -C -q -e -X queued.min.messages=10000000 -X queued.max.messages.kbytes=2000000 \
    -b "$0" -t "$1" -o beginning >"$2"
"""


def cpu_seconds() -> float:
    return sum(use.ru_utime + use.ru_stime for use in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))


def peak_mib() -> float:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def main(brokers: str, topic: str, events: int) -> None:
    with tempfile.TemporaryDirectory() as root:
        session = Session(os.path.join(root, "data"))
        for setting in ("max_threads = 2", "max_insert_threads = 2", "date_time_input_format = 'best_effort'"):
            session.query(f"SET {setting}")
        pipe = os.path.join(root, "pipe")
        os.mkfifo(pipe)
        for _ in sys.stdin:
            for statement in filter(str.strip, SETUP.split(";")):
                session.query(statement)
            begin, cpu = time.monotonic(), cpu_seconds()
            # The shell opens the pipe, which waits for ClickHouse.
            reader = subprocess.Popen(["sh", "-c", KCAT, brokers, topic, pipe])
            session.query(f"INSERT INTO flights SELECT * FROM file('{pipe}', JSONEachRow, "
                          "'date DateTime, delay Nullable(Int64), distance Nullable(Int64), origin String, destination String')")
            seen = int(session.query("SELECT countMerge(flights) FROM hourly", "TabSeparated").data())
            seconds = time.monotonic() - begin
            reader.wait()
            if seen != events:
                sys.exit(f"ClickHouse's view has {seen} of {events} events")
            print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds() - cpu, "peak_mib": peak_mib()}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
