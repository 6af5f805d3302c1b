# SPDX-License-Identifier: GPL-3.0-or-later
"""`utproxy bench`, tiny: what it prints, and that nothing is left however it ends. Its figures are nobody's to test."""
import json
import os
import pathlib
import signal
import subprocess
import time
import xml.etree.ElementTree

import pytest

QUEUED, KERNEL = ["accept-all", "utproxy"], "kernel TPROXY"
MEASURES = {"drain, 1 flow": "kpps", "drain, 1000 flows": "kpps", "bulk, 8 connections": "Gbit/s"}
TINY = ["bench", "--tiny"]


def result(done):
    assert (done.returncode, done.stderr) == (0, ""), done
    assert done.stdout.count("\n") == 1
    return json.loads(done.stdout)["results"]


def test_json_and_plot(call, tmp_path):
    """Each contestant in each measure that is for it, and the picture shows the same figures."""
    path = tmp_path / "figures.svg"
    rows = result(call(*TINY, "-j", "--plot", str(path)))
    expected = {(m, c) for m in MEASURES for c in QUEUED + ([KERNEL] if m.startswith("bulk") else [])}
    assert {(row["measure"], row["contestant"]) for row in rows} == expected and len(rows) == len(expected)
    for row in rows:
        assert row["unit"] == MEASURES[row["measure"]]
        assert 0 < row["lowest"] <= row["median"] <= row["highest"] and len(row["rounds"]) == 1, row
    words = [element.text for element in xml.etree.ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")]
    assert sorted(w for w in words if w.replace(".", "").isdigit()) == sorted(f"{row['median']:.1f}" for row in rows)


def test_table(call):
    done = call(*TINY)
    assert (done.returncode, done.stderr) == (0, ""), done
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["measure", "contestant", "median", "lowest", "highest", "unit"]
    assert len(lines) == 1 + 3 * len(MEASURES)
    assert sum("has no queue" in line for line in lines) == 2


def test_plot_that_cannot_be_written(call):
    done = call(*TINY, "--plot", "/nonexistent/figures.svg")
    assert (done.returncode, done.stdout) == (1, "") and "/nonexistent/figures.svg" in done.stderr


@pytest.mark.parametrize("words", [["--rounds", "0"], ["--rounds", "many"], ["--frobnicate"]])
def test_wrong_usage(call, words):
    done = call("bench", *words)
    assert (done.returncode, done.stdout) == (2, "") and words[0] in done.stderr


def test_without_privilege(utproxy):
    if os.geteuid() != 0:
        pytest.skip("privileges can only be dropped by root")
    done = subprocess.run(["setpriv", "--bounding-set=-all", "--inh-caps=-all", utproxy, *TINY], capture_output=True, text=True,
                          timeout=30)
    assert (done.returncode, done.stdout) == (1, "")
    lines = done.stderr.splitlines()
    assert len(lines) == 2 and lines[0].startswith("utproxy: make a network namespace: ") and "root" in lines[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left(space, utproxy, number):
    """The namespace that it made ends with it: nobody else is in it, and it has no name."""
    named = sorted(os.listdir("/run/netns"))
    # Whoever runs the tests in the background has SIGINT ignored, and children inherit that.
    process = subprocess.Popen([utproxy, "bench", "--rounds", "20"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               start_new_session=True, preexec_fn=lambda: signal.signal(number, signal.SIG_DFL)
                               if number != signal.SIGKILL else None)
    own, end = os.readlink("/proc/self/ns/net"), time.monotonic() + 20
    try:
        while True:
            there = os.readlink(f"/proc/{process.pid}/ns/net")
            if there != own and pathlib.Path(f"/proc/{process.pid}/net/netfilter/nfnetlink_queue").read_text():
                break
            assert process.poll() is None and time.monotonic() < end, "bench does not come to its queue"
            time.sleep(0.01)
    finally:
        process.send_signal(number)
        process.communicate(timeout=20)
    assert process.returncode == -number
    in_it = []
    for path in pathlib.Path("/proc").glob("[0-9]*/ns/net"):
        try:
            in_it += [path] if os.readlink(path) == there else []
        except OSError:
            pass  # a process that has ended
    assert in_it == []
    assert sorted(os.listdir("/run/netns")) == named
