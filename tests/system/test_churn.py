# SPDX-License-Identifier: GPL-3.0-or-later
"""A short run of tests/churn: sockets change all the time while packets are decided, and no decision may be one that the
kernel could not have made at that moment. Longer runs, and with many more sockets: tests/churn/churn.py."""
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "churn"))

from churn import Churn  # noqa: E402

SECONDS = 15


@pytest.fixture
def churn(lab, build_dir, utproxy):
    program = build_dir / "tests" / "churn" / "churn"
    if not program.exists():
        pytest.fail(f"{program} is not built")
    started = []

    def run(*options, run_options=(), seconds=SECONDS):
        started.append(Churn(lab, utproxy, program, run_options))
        return started[0].result(started[0].start("--seconds", seconds, *options), seconds + 120)

    yield run
    for made in started:
        if made.engine.process.alive():
            assert made.engine.stop() == 0


def check_much_was_done(result):
    """Enough of everything, on however slow a machine, and nothing lost on the way that would excuse a decision."""
    assert result["changes"] >= 1000 and result["judged"] >= 1000, result
    assert result["missed"] >= 100 and result["judged"] - result["missed"] >= 100
    assert result["queue_dropped"] == 0
    assert result["ambiguous"] < result["judged"] / 2
    assert result["raced"] + result["freed"] < result["judged"] / 100
    losses = result["stats"]["losses"]
    assert all(losses[name] == 0 for name in ("queue_full", "netlink_overrun", "exact_failed", "steer_failed")), losses


@pytest.mark.parametrize("idle", [0, 4000], ids=["alone", "among_4000"])
def test_no_wrong_decision(churn, idle):
    result = churn("--idle", idle, "--idle-udp", idle // 4)
    check_much_was_done(result)
    assert (result["wrong_drop"], result["wrong_hit"], result["wrong_socket"]) == (0, 0, 0), result["log"]
    assert result["exit"] == 0


def test_falsified_outcomes_are_found(churn):
    """One outcome in fifty is changed before it is judged: the run must fail, and by these."""
    result = churn("--self-test", 0.02, seconds=5)
    assert result["exit"] == 1
    assert result["falsified"] >= 10
    # A hit made a miss can be right where the packet came close to a change.
    assert result["falsified"] >= result["found"] >= 0.8 * result["falsified"], result
    assert result["wrong_drop"] > 0 and result["wrong_hit"] > 0 and result["wrong_socket"] > 0
    assert "(falsified)" in result["log"]


def test_wrong_sockets_are_found(churn):
    """Without steering the mark alone leads some packets to other sockets than were decided for: that must be seen."""
    result = churn(run_options=("--steer", "none"), seconds=5)
    assert result["exit"] == 1 and result["wrong_socket"] > 100, result
