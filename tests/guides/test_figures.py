# SPDX-License-Identifier: GPL-3.0-or-later
"""The README's figures are those of the run that bench/results keeps, and that bench/README.md prints."""
import json
import re
import statistics

import pytest

from printed import README, ROOT

RESULTS = json.loads((ROOT / "bench" / "results" / "lab.json").read_text())["results"]
TEXT = README.read_text()
COLUMNS = ["xt TPROXY", "accept-all", "utproxy", "utproxy, fast path"]
ROWS = [  # of the table of "Measured": the lab's name of each, what of it, and by what it is divided
    ("drain 64 B, 1 queue, 1 flow", "value", 1),
    ("drain 64 B, 1 queue, 10000 flows", "value", 1),
    ("connections, 1 at a time", "value", 1),
    ("connections, 8 at a time", "value", 1),
    ("bulk, 8 connections", "value", 1),
    ("round trip, idle", "value", 1),
    ("datagrams, 2 flows", "value", 1),
    ("datagrams, 2 flows", "consumer_ns", 1000),
    ("datagrams, 10000 flows", "value", 1),
    ("datagrams, 10000 flows", "consumer_ns", 1000),
]


def median(measure, contestant, what="value"):
    return statistics.median(each[what] for each in RESULTS[measure][contestant])


def table():
    rows = re.findall(r"^\| (.*) \|$", TEXT.partition("## Measured")[2], re.MULTILINE)
    cells = [row.removeprefix("| ").split(" | ") for row in rows]
    assert cells[0][-4:] == ["kernel's TPROXY", "NFQUEUE, accept all", "utproxy", "with the fast path"]
    return cells[1:]


@pytest.mark.parametrize("number", range(len(ROWS)), ids=lambda n: f"{ROWS[n][0]}, {ROWS[n][1]}")
def test_table(number):
    measure, what, divisor = ROWS[number]
    rows = table()
    assert len(rows) == len(ROWS)
    for contestant, shown in zip(COLUMNS, rows[number][-4:]):
        if shown == "–":
            continue
        digits = len(shown.partition(".")[2])
        measured = median(measure, contestant, what) / divisor
        assert abs(float(shown.replace(",", "")) - measured) <= 0.51 * 10 ** -digits, (contestant, shown, measured)


CONNECTIONS, BULK, TRIP = "connections, 1 at a time", "bulk, 8 connections", "round trip, idle"
SAID = {  # what "What it costs" says, in its words, and what that is of the lab's; to two digits
    r"so that one queue carries ([\d,]+)": median("drain 64 B, 1 queue, 10000 flows", "utproxy") * 1000,
    r"That takes ([\d.]+) µs of processor time where many wait": median("drain 64 B, 1 queue, 1 flow", "utproxy", "consumer_ns") / 1000,
    r"and ([\d.]+) to [\d.]+ µs at some": median("datagrams, 10000 flows", "utproxy", "consumer_ns") / 1000,
    r"and [\d.]+ to ([\d.]+) µs at some": median("datagrams, 2 flows", "utproxy", "consumer_ns") / 1000,
    r"a round trip takes ([\d.]+) µs longer": median(TRIP, "utproxy") - median(TRIP, "xt TPROXY"),
    r"takes some ([\d.]+) µs more": 1e6 / median(CONNECTIONS, "utproxy") - 1e6 / median(CONNECTIONS, "xt TPROXY"),
    r"µs more: ([\d,]+) a second": median(CONNECTIONS, "utproxy"),
    r"where TPROXY has ([\d,]+)": median(CONNECTIONS, "xt TPROXY"),
    r"Bulk transfers reach ([\d.]+) Gbit/s": median(BULK, "utproxy"),
    r"Gbit/s, TPROXY's ([\d.]+)\.": median(BULK, "xt TPROXY"),
    r"makes that ([\d.]+),": median(BULK, "utproxy, fast path"),
    r"makes that [\d.]+, ([\d,]+) connections": median(CONNECTIONS, "utproxy, fast path"),
}


@pytest.mark.parametrize("words", SAID)
def test_what_it_costs(words):
    costs = " ".join(TEXT.partition("### What it costs")[2].partition("###")[0].split())
    [shown] = re.findall(words, costs)
    assert float(shown.replace(",", "")) == pytest.approx(SAID[words], rel=0.05)
