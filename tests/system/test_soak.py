# SPDX-License-Identifier: GPL-3.0-or-later
"""A short run of tests/stress/soak.py: everything that happens to a router happens at once, and each packet is accounted for by
counters that are not the daemon's. What it holds is judged by the long run only: bench/results/soak.json."""
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "stress"))

from soak import Soak  # noqa: E402
from soak_account import balance  # noqa: E402
from soak_samples import judge  # noqa: E402

SECONDS = 20


@pytest.mark.load
def test_twenty_seconds(build_dir):
    soak = Soak(build_dir, SECONDS)
    try:
        result = soak.run()
    finally:
        soak.close()
    assert result["faults"] == []
    books = result["accounting"]
    assert books["packets"] > 10000 and books["targets"]["web"]["past_the_queue"] > 100, books
    assert all(good > 0 for good, _ in books["connections"].values()), books["connections"]
    assert len(result["clock_offsets_days"]) >= 2, "the clock's steps did not reach the daemon"


def a_target(**others):
    return {"came": 1000, "packets": 990, "queued_again": 0, "lost_by_queue": 10, "accepted": 980, "in": 970, "leaked": 0, **others}


@pytest.mark.parametrize("books,said", [
    ({}, None),
    ({"packets": 989}, "came in"),  # one that nobody counted
    ({"packets": 991}, "came in"),
    ({"packets": 992, "accepted": 982, "queued_again": 2}, None),
    ({"leaked": 1}, "passed by"),
    ({"in": 900}, "not delivered"),
])
def test_what_does_not_add_up_is_said(books, said):
    faults = balance({"flood": a_target(**books)}, flushed=10)
    assert (faults == []) if said is None else (len(faults) == 1 and said in faults[0]), faults


def held(grow, queues=(5,), of_a_queue=0):
    """Samples in which resident memory grows by so many kB a second, and all else stays, but for the number of queues and what
    each of them takes."""
    same = {"anon_kb": 40000, "pss_kb": 45000, "descriptors": 40, "threads": 11, "flow_entries": 70000, "bpf_kb": 28000,
            "bpf_elements": 70000, "mirror_sockets": 300}
    return [{"s": 5 * i, "rss_kb": 50000 + 5 * i * grow + i % 7 + of_a_queue * queues[i % len(queues)],
             "queues": queues[i % len(queues)], **same} for i in range(360)]


@pytest.mark.parametrize("grow,flat", [(0, True), (0.5, True), (2, False)])
def test_growth_is_seen(grow, flat):
    assert judge(held(grow))["rss_kb"]["flat"] == flat
    assert all(facts["flat"] for name, facts in judge(held(grow)).items() if name != "rss_kb")


@pytest.mark.parametrize("grow,flat", [(0, True), (0.5, True), (2, False)])
def test_a_queue_that_comes_and_goes_is_no_growth(grow, flat):
    assert judge(held(grow, queues=(5, 6), of_a_queue=9000))["rss_kb"]["flat"] == flat
