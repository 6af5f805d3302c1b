# SPDX-License-Identifier: GPL-3.0-or-later
"""`utproxy report` beside a daemon, and what asks a daemon that hangs."""
import json
import re
import signal
import socket
import subprocess
import tarfile
import time

import pytest

from engine import Target
from lab import ASKED, CLIENT, OTHER, endpoint, wait_until

PORT, ON_PORT = 8080, 12345
SECRET = "what nobody is to know"


def report(engine, path, *words):
    """The report's files by name; the daemon is found by itself."""
    engine.lab.router.run(engine.binary, "report", *words, str(path))
    with tarfile.open(path) as tar:
        files = {m.name.removeprefix("utproxy-report/"): tar.extractfile(m).read() for m in tar.getmembers()}
    return {name: text if name.endswith("pcapng") else text.decode() for name, text in files.items()}


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
        text = text.decode("latin-1") if isinstance(text, bytes) else text
        assert ASKED[family] not in text and CLIENT[family] not in text
    assert [(d["id"], d["verdict"]) for d in hidden] == [(d["id"], d["verdict"]) for d in decided]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", d["time"]) for d in hidden), "a time is no address"
    # The same address has the same mask, in all files.
    assert len({d["packet"]["dst"] for d in hidden}) == 1 and len({d["packet"]["src"] for d in hidden}) == 1
    laddr, mask = decided[0]["laddr"], hidden[0]["laddr"]
    assert laddr in files["routing"] and mask in masked["routing"]


def replayed(engine, path, directory):
    """What a report's own command makes of its own files, elsewhere: without privilege, without its network."""
    with tarfile.open(path) as tar:
        tar.extractall(directory)
    folder = directory / "utproxy-report"
    words = (folder / "replay").read_text().splitlines()[-1].split()
    assert words[:2] == ["utproxy", "replay"]
    done = subprocess.run(["unshare", "--net", "--map-root-user", engine.binary, *words[1:], "-j"], cwd=folder, capture_output=True,
                          text=True, timeout=60)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return lines(done.stdout)


@pytest.mark.parametrize("anonymize", [False, True], ids=["plain", "anonymized"])
def test_a_report_replays_to_the_same_decisions(lab, make_engine, tmp_path, anonymize):
    """Hits and misses, both families, a mark before, an on-ip: the bundle alone tells all that they rest on."""
    lab.router.run("nft", "-f", "-", text="""
        table inet marks {
            chain before { type filter hook prerouting priority raw; iifname "lan0" meta mark set 0xa0; }
        }""")
    for family in (4, 6):
        lab.listen("udp", ON_PORT, family=family)
    target = Target("udp", 0, on_port=ON_PORT, on_ip=(OTHER[4],), mark="0x1/0xff", options=("--proto", "tcp"))
    engine = make_engine("install", lab, target)
    for family in (4, 6):
        inet = socket.AF_INET if family == 4 else socket.AF_INET6
        with lab.client.entered():
            asker, client = socket.socket(inet, socket.SOCK_DGRAM), socket.socket(inet)
        for _ in range(5):
            asker.sendto(SECRET.encode(), (ASKED[family], PORT))
        asker.close()
        client.settimeout(0.2)
        with client, pytest.raises(TimeoutError):  # nobody listens for TCP, so its SYN is dropped
            client.connect((ASKED[family], PORT))
    wait_until(lambda: engine.stats()["packets"] >= 12, 5)
    path = tmp_path / "r.tar.gz"
    files = report(engine, path, *(["--anonymize"] if anonymize else []))
    *decided, end = lines(files["decisions.json"])
    assert end["lost_total"] == 0 and len(decided) >= 12
    again = replayed(engine, path, tmp_path)
    stripped = [[{key: value for key, value in d.items() if key not in ("time", "source")} for d in all] for all in (decided, again)]
    assert stripped[0] == stripped[1]
    assert {(d["verdict"], d["packet"]["family"], d["mark"]) for d in again} == {
        (verdict, family, mark) for verdict, mark in (("accept", "0x1"), ("drop", "0xa0")) for family in ("ipv4", "ipv6")}
    assert ({d["laddr"] for d in again if d["packet"]["family"] == "ipv4"} == {OTHER[4]}) != anonymize
    # What packets carry is the asker's own.
    assert (SECRET.encode() in files["decisions.pcapng"]) != anonymize
    assert lines(files["sockets-kernel.json"])[0].keys() >= {"interface", "index"}


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


def test_a_trace_outlasts_silence_and_not_a_daemon_that_hangs(lab, make_engine):
    lab.listen("udp", ON_PORT)
    engine = make_engine("install", lab, Target("udp", PORT, on_port=ON_PORT))
    tracer = lab.router.start(engine.binary, "trace", "--control", engine.control, "dport", 1, name="trace")
    time.sleep(11)  # nothing to show: longer than a stream may be silent
    assert tracer.alive() and tracer.err() == ""
    engine.process.popen.send_signal(signal.SIGSTOP)
    try:
        wait_until(lambda: not tracer.alive(), 15, "the trace's end")
    finally:
        engine.process.popen.send_signal(signal.SIGCONT)
    first, remedy = tracer.err().splitlines()
    assert tracer.popen.returncode == 1
    assert first == f"utproxy: ask the daemon at {engine.control}: no answer within 10 s" and "stuck" in remedy


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
