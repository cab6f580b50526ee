# SPDX-License-Identifier: Apache-2.0
"""Reads the last line of `dovetail demo --exit` from standard input and checks what it claims, itself."""

import json
import sys

outcome = json.loads(sys.stdin.read())
before, after = outcome["before"], outcome["after"]


def generation(side):
    (view,) = side["provenance"]["views"]
    return view["generation"]


checks = {
    "`equal` is true": outcome["equal"] is True,
    "there are rows": len(before["rows"]) > 0,
    "the rows before and after are the same": before["rows"] == after["rows"],
    "all of at least 300,000 events are counted": outcome["events"] >= 300_000,
    "the pointer moved in between": generation(before) < generation(after),
}
for claim, holds in checks.items():
    print(f"{'ok    ' if holds else 'FAILED'} {claim}")
sys.exit(0 if all(checks.values()) else 1)
