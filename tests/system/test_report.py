# SPDX-License-Identifier: GPL-3.0-or-later
"""`utproxy report` beside a daemon, and what asks a daemon that hangs."""
import json
import re
import signal
import tarfile

import pytest

from engine import Target
from lab import ASKED, CLIENT, endpoint, wait_until

PORT, ON_PORT = 8080, 12345


def report(engine, path, *words):
    """The report's files by name; the daemon is found by itself."""
    engine.lab.router.run(engine.binary, "report", *words, str(path))
    with tarfile.open(path) as tar:
        return {m.name.removeprefix("utproxy-report/"): tar.extractfile(m).read().decode() for m in tar.getmembers()}


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("family", [4, 6])
def test_report_carries_the_last_decisions(lab, make_engine, tmp_path, family):
    lab.listen("udp", ON_PORT, family=family)
    engine = make_engine("install", lab, Target("udp", PORT, on_port=ON_PORT))
    for _ in range(2):
        assert lab.ask("udp", endpoint(ASKED[family], PORT), "--count", 5)["answered"] == 5
    wait_until(lambda: engine.stats()["packets"] == 10, 5)
    files = report(engine, tmp_path / "r.tar")
    *decided, end = lines(files["decisions.json"])
    shown = engine.lab.router.run(engine.binary, "trace", "-j", "--last", 1000, "--control", engine.control).stdout
    assert len(decided) == 10 and end["lost_total"] == 0
    assert [d["id"] for d in decided] == [d["id"] for d in lines(shown)]
    assert all(d["packet"]["dst"] == ASKED[family] and "raw" not in d and d["steps"] for d in decided)
    assert lines(files["stats.json"])[0]["packets"] == 10

    masked = report(engine, tmp_path / "m.tar", "--anonymize")
    *hidden, _ = lines(masked["decisions.json"])
    for text in masked.values():
        assert ASKED[family] not in text and CLIENT[family] not in text
    assert [(d["id"], d["verdict"]) for d in hidden] == [(d["id"], d["verdict"]) for d in decided]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", d["time"]) for d in hidden), "a time is no address"
    # The same address has the same mask, in all files.
    assert len({d["packet"]["dst"] for d in hidden}) == 1 and len({d["packet"]["src"] for d in hidden}) == 1
    laddr, mask = decided[0]["laddr"], hidden[0]["laddr"]
    assert laddr in files["routing"] and mask in masked["routing"]


@pytest.mark.parametrize("words", [("stats",), ("stats", "-j"), ("trace",), ("trace", "--last", 5), ("sockets",)], ids=lambda words: " ".join(map(str, words)))
def test_a_daemon_that_hangs_is_said_so(lab, make_engine, words):
    words = [str(word) for word in words]
    engine = make_engine("install", lab, Target("udp", PORT, on_port=ON_PORT))
    engine.process.popen.send_signal(signal.SIGSTOP)
    try:
        done = lab.router.run(engine.binary, *words, "--control", engine.control, check=False)
    finally:
        engine.process.popen.send_signal(signal.SIGCONT)
    assert done.returncode == 1 and done.stdout == ""
    first, remedy = done.stderr.splitlines()
    assert first == f"utproxy: ask the daemon at {engine.control}: no answer within 3 s" and "stuck" in remedy


def test_doctor_does_without_a_daemon_that_hangs(lab, make_engine, tmp_path):
    lab.listen("udp", ON_PORT, family="dual")
    engine = make_engine("install", lab, Target("udp", PORT, on_port=ON_PORT))
    engine.process.popen.send_signal(signal.SIGSTOP)
    try:
        for words in ((), ("--control", engine.control)):
            done = lab.router.run(engine.binary, "doctor", "-j", *words, check=False)
            assert done.stderr == f"utproxy: doctor: ask the daemon at {engine.control}: no answer within 3 s\n"
            answer = json.loads(done.stdout)
            assert done.returncode == 1 and not answer["ok"]
            assert [(f["id"], f["fix"]) for f in answer["findings"]] == [
                ("daemon_silent", f"kill -CONT {engine.process.pid}")], answer
        files = report(engine, tmp_path / "r.tar")
    finally:
        engine.process.popen.send_signal(signal.SIGCONT)
    assert "no answer" in lines(files["decisions.json"])[0]["error"]
    assert [f["id"] for f in json.loads(files["doctor.json"])["findings"]] == ["daemon_silent"]
