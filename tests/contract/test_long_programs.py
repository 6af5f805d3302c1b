# SPDX-License-Identifier: GPL-3.0-or-later
"""What README names for longer runs, tests/parity and tests/churn: how they say what they are for, that they cannot be run
here, and that they were interrupted. What they find is theirs to test."""
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

import pytest

from lab import wait_until  # conftest.py knows where it is

CHURN = pathlib.Path(__file__).resolve().parent.parent / "churn" / "churn.py"
UNPRIVILEGED = ["setpriv", "--bounding-set=-all"]


@pytest.fixture(scope="module")
def parity(build_dir):
    program = build_dir / "tests" / "parity" / "parity"
    if not program.exists():
        pytest.fail(f"{program} is not built")
    return str(program)


@pytest.fixture
def churn(build_dir):
    return [sys.executable, str(CHURN), "--build-dir", str(build_dir)]


@pytest.fixture
def root():
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")


def call(*words, **more):
    return subprocess.run(words, capture_output=True, text=True, timeout=60, **more)


def interrupt(words, until_begun, pause):
    """Ctrl-C, to the whole process group as a terminal sends it, `pause` seconds after until_begun(process)."""
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        until_begun(process)
        time.sleep(pause)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    except BaseException:
        process.kill()
        process.wait()
        raise
    return process, out, err


def check_unavailable(done, *names):
    """77, and one line that says why."""
    assert done.returncode == 77 and done.stdout == "", done
    assert done.stderr.count("\n") == 1, done.stderr
    for name in names:
        assert name in done.stderr


@pytest.mark.parametrize("word", ["--help", "-h"])
def test_parity_help(parity, word):
    done = call(parity, word)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: parity ") and "--cases N" in done.stdout


def test_parity_wrong_usage(parity):
    done = call(parity, "--cases", "0")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1) and "--cases 0" in done.stderr
    assert call(parity, "--frobnicate").returncode == 2


def test_parity_without_privilege(parity, root):
    check_unavailable(call(*UNPRIVILEGED, parity), "root")
    check_unavailable(call("setpriv", "--bounding-set=-net_admin", parity), "tun")


def test_parity_without_a_tool(parity, root, tmp_path):
    (tmp_path / "ip").symlink_to("/bin/true")
    check_unavailable(call(parity, env={"PATH": str(tmp_path)}), "nft")


@pytest.mark.parametrize("pause", [0, 2])
def test_parity_interrupted(parity, utproxy, root, pause):
    if call(parity, "--cases", "1", "--rows", "0").returncode == 77:
        pytest.skip("parity cannot run here")
    process, out, err = interrupt([parity, "--cases", "10000000", "--program", utproxy], lambda p: p.stdout.readline(), pause)
    assert (process.returncode, err) == (130, "parity: interrupted\n"), out
    assert re.search(r"^parity: \d+ cases .* 0 differences; ", out, re.MULTILINE), out
    assert "row reached" not in out


def test_churn_without_privilege(churn, root):
    check_unavailable(call(*UNPRIVILEGED, *churn), "root")


def test_churn_interrupted(churn, root):
    """With the summary of what was done until then, and nothing left."""
    def driver_is_started(process):
        def found():
            assert process.poll() is None, process.communicate()
            return list(pathlib.Path(tempfile.gettempdir()).glob(f"utp-{process.pid}-*/churn-*.out"))

        wait_until(found, 30, "churn to be started")

    process, out, err = interrupt([*churn, "--seconds", "60"], driver_is_started, 2)
    assert process.returncode == 130 and "Traceback" not in err, err
    assert err.endswith("churn.py: interrupted\n")
    assert json.loads(out)["judged"] > 0
    assert not list(pathlib.Path("/run/netns").glob(f"utp-{process.pid}-*"))
    assert not list(pathlib.Path(tempfile.gettempdir()).glob(f"utp-{process.pid}-*"))
