# SPDX-License-Identifier: GPL-3.0-or-later
"""tools/demo --stay, as somebody uses it who tries what the README says: with the commands that it prints."""
import json
import pathlib
import re
import subprocess
import sys

import pytest

from lab import wait_until

WALK = pathlib.Path(__file__).resolve().parents[2] / "tools" / "demo-walk.py"


@pytest.fixture
def demo(utproxy, tmp_path):
    """The demo while it waits: its commands, as they would be typed, and what ends it: returns its exit status and text."""
    out = tmp_path / "out"
    with open(out, "w", encoding="utf-8") as file:
        process = subprocess.Popen([sys.executable, "-B", WALK, utproxy, "--stay"], stdin=subprocess.PIPE, stdout=file,
                                   stderr=subprocess.STDOUT, text=True)
    try:
        wait_until(lambda: "/dev/udp/" in out.read_text() or process.poll() is not None, 60, out.read_text)
        yours = re.sub(r" \\\n +", " ", out.read_text().partition("7. Yours")[2])
        commands = [line.removeprefix("  # ") for line in yours.splitlines() if line.startswith("  # ")]

        def end():
            process.communicate("\n", timeout=60)
            return process.returncode, " ".join(out.read_text().split())

        yield commands, end
    finally:
        if process.poll() is None:
            process.terminate()  # it tidies up
            process.wait(60)


def shell(command):
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)


def inside(enter, *commands):
    """What is typed into the shell that `enter` starts."""
    return subprocess.run(["bash", "-c", enter], input="\n".join(commands) + "\n", capture_output=True, text=True, timeout=60)


def test_the_printed_commands_lead_to_what_was_broken(demo):
    (enter, breaks, doctor, explain, trace, stats, tcp, udp), end = demo
    assert [shell(command).stdout for command in (tcp, udp)] == ["hello\n", "hello\n"]
    healthy = inside(enter, doctor, explain, trace, stats)
    assert healthy.returncode == 0 and healthy.stderr == "", healthy
    assert "No error found." in healthy.stdout and "accept listener" in healthy.stdout
    # The client's questions are in the trace.
    asked = re.findall(r" accept +listener +(tcp S|udp) +10\.77\.1\.2:\d+ +> 203\.0\.113\.80:(\d+) ", healthy.stdout)
    assert {("tcp S", "80"), ("udp", "53")} <= set(asked), healthy.stdout
    broken = inside(enter, breaks, f"{doctor} -j")
    assert broken.stderr == "", broken
    errors = [f for f in json.loads(broken.stdout)["findings"] if f["severity"] == "error"]
    assert [f["id"] for f in errors] == ["src_valid_mark"]
    assert [shell(command).stdout for command in (tcp, udp)] == ["", ""]
    mended = inside(enter, errors[0]["fix"], doctor)
    assert "No error found." in mended.stdout
    assert [shell(command).stdout for command in (tcp, udp)] == ["hello\n", "hello\n"]
    status, text = end()
    assert status == 0 and "nothing is left behind" in text, text


def test_the_demo_ends_without_its_daemon(demo):
    (enter, _, doctor, _, trace, *_), end = demo
    control = trace.split()[-1]
    pids = [path.name for path in pathlib.Path("/proc").glob("[0-9]*") if is_daemon(path, control)]
    assert len(pids) == 1
    gone = inside(enter, f"kill -KILL {pids[0]}; sleep 0.2", doctor, trace)
    assert "there is nothing to look at" in " ".join(gone.stdout.split()) and "Start it with 'utproxy run'" in gone.stderr
    status, text = end()
    # What was killed has not taken its policy rule away, which goes with the namespace.
    assert status == 1 and "Traceback" not in text and "Summary" in text, text
    assert not pathlib.Path(re.search("--net=([^ ]+)", enter).group(1)).exists()


def is_daemon(path, control):
    try:
        words = (path / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return False
    return "run" in words[:2] and control in words
