#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Sets the weights of HAProxy's replicas by their response times: the fastest gets 100, one that takes twice as long 50.

    response-time.py [--socket /run/haproxy/admin.sock] [--every SECONDS] [--once]

HAProxy averages the response times of the last 1024 answers of each server (`rtime`). A replica never gets less than 5,
so that it is noticed when it becomes faster again.
"""

import argparse
import csv
import io
import socket
import time

BACKEND = "replicas"
LEAST, MOST = 5, 100


def command(path, text):
    """What HAProxy answers to a command on its admin socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        connection.sendall(text.encode() + b"\n")
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


def response_times(stat):
    """Milliseconds by server, of those that are up and have answered something, from `show stat`."""
    rows = csv.DictReader(io.StringIO(stat.lstrip("# ")))
    return {
        row["svname"]: int(row["rtime"])
        for row in rows
        if row["pxname"] == BACKEND and row["svname"] not in ("FRONTEND", "BACKEND")
        and row["status"].startswith("UP") and row["rtime"] and int(row["stot"]) > 0
    }


def weights(times):
    """Inversely proportional to the times; under a millisecond they are all the same."""
    fastest = max(min(times.values(), default=1), 1)
    return {server: max(LEAST, min(MOST, round(MOST * fastest / max(ms, 1)))) for server, ms in times.items()}


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--socket", default="/run/haproxy/admin.sock")
    options.add_argument("--every", type=float, default=2.0, metavar="SECONDS")
    options.add_argument("--once", action="store_true", help="set the weights once, print them, and end")
    given = options.parse_args()
    while True:
        for server, weight in weights(response_times(command(given.socket, "show stat"))).items():
            answer = command(given.socket, f"set weight {BACKEND}/{server} {weight}").strip()
            if answer:
                raise SystemExit(f"HAProxy refuses a weight for {server}: {answer}")
            if given.once:
                print(server, weight)
        if given.once:
            return
        time.sleep(given.every)


if __name__ == "__main__":
    main()
