# SPDX-License-Identifier: GPL-3.0-or-later
"""`utproxy trace` beside traffic: what it shows is what was decided, and it never costs a packet."""
import json
import pathlib
import shutil
import signal
import socket
import subprocess
import time

import pytest

from engine import Target, packet_count
from lab import ASKED, CLIENT, endpoint, wait_until

PORT, ON_PORT = 8080, 12345
KEYS = {"time", "target", "queue", "id", "decide_ns", "verdict", "reason", "mark", "socket", "packet", "steps", "kernel", "source"}


def trace(engine, *words, check=True):
    return engine.lab.router.run(engine.binary, "trace", "--control", engine.control, *words, check=check)


def decisions(engine, *words):
    return [json.loads(line) for line in trace(engine, "-j", *words).stdout.splitlines()]


def start_trace(engine, *words):
    return engine.lab.router.start(engine.binary, "trace", "--control", engine.control, *words, name="trace")


def wait_tracing(engine, readers=1):
    """Until so many of the daemon's threads serve a trace: those that give way to all others. What is decided from then on
    is theirs."""
    tasks = pathlib.Path(f"/proc/{engine.process.pid}/task")

    def nice(task):
        return int((task / "stat").read_text().rpartition(")")[2].split()[16])

    wait_until(lambda: sum(nice(task) == 10 for task in tasks.iterdir()) == readers, 10, "a trace to begin")


def ask(lab, count, **options):
    answer = lab.ask("udp", endpoint(ASKED[4], PORT), "--count", count, "--window", 32, **options)
    assert answer["answered"] == count, answer


def settled(engine):
    """All decisions, once nothing comes any more; the recorder holds them."""
    before = packet_count(engine.stats())
    time.sleep(0.1)
    found = decisions(engine, "--last", 8000)
    return found if len(found) == before == packet_count(engine.stats()) > 0 else None


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_last_tells_what_was_decided(lab, make_engine, protocol, family):
    listener = lab.listen(protocol, ON_PORT, family=family)
    engine = make_engine("install", lab, Target(protocol, PORT, on_port=ON_PORT, queues=2))
    assert lab.ask(protocol, endpoint(ASKED[family], PORT))["exit"] == 0
    found = wait_until(lambda: settled(engine), 5)
    first = found[0]
    assert KEYS <= set(first), first
    assert (first["verdict"], first["reason"], first["mark"]) == ("accept", "listener", "0x1")
    assert first["packet"]["dst"] == ASKED[family] and first["packet"]["iif"] == "lan0"
    assert first["kernel"]["xt_TPROXY"] == "pins the socket, sets the mark 0x1, accepts"
    assert first["socket"]["pid"] == listener.pid and first["lport"] == ON_PORT
    assert first["target"] == "default" and first["queue"] in (0, 1)
    assert [step["step"] for step in first["steps"]] == ["established", "laddr", "listener", "transparent", "mark"]
    assert [c["chosen"] for c in first["steps"][2]["candidates"]] == [True]
    assert [d["time"] for d in found] == sorted(d["time"] for d in found)
    if protocol == "tcp":
        assert {d["reason"] for d in found[1:]} == {"established"}
    assert [d["id"] for d in decisions(engine, "--last", 1)] == [found[-1]["id"]]
    assert decisions(engine, "--last", 1000, "not proto", protocol) == []


def test_live_count_and_until(lab, make_engine):
    listener = lab.listen("udp", ON_PORT)
    engine = make_engine("install", lab, Target("udp", PORT, on_port=ON_PORT))
    counted = start_trace(engine, "-j", "--count", 10, "dport", str(PORT), "and", "verdict", "accept")
    until = start_trace(engine, "-j", "--until", "drop")
    wait_tracing(engine, 2)
    ask(lab, 20)
    wait_until(lambda: not counted.alive(), 10)
    assert counted.popen.returncode == 0, counted.err()
    assert len(counted.out().splitlines()) == 10
    assert until.alive()
    listener.stop()
    lab.ask("udp", endpoint(ASKED[4], PORT), "--count", 3, "--timeout-ms", 100)
    wait_until(lambda: not until.alive(), 10)
    lines = [json.loads(line) for line in until.out().splitlines()]
    assert until.popen.returncode == 0 and lines[-1]["verdict"] == "drop" and lines[-1]["reason"] == "no_socket"
    assert {line["verdict"] for line in lines[:-1]} == {"accept"}


def test_text_is_one_line_a_packet_without_colour(lab, make_engine):
    lab.listen("udp", ON_PORT)
    engine = make_engine("install", lab, Target("udp", PORT, on_port=ON_PORT))
    ask(lab, 50)
    lines = wait_until(lambda: len(trace(engine, "--last", 50).stdout.splitlines()) == 50
                       and trace(engine, "--last", 50).stdout.splitlines(), 5)
    assert all("accept" in line and f"{ASKED[4]}:{PORT}" in line and "\x1b" not in line for line in lines)
    assert len({line.index(" > ") for line in lines}) == 1


def test_filter_errors_are_wrong_usage(lab, make_engine):
    engine = make_engine("install", lab, Target("udp", PORT, on_port=ON_PORT))
    done = trace(engine, "proto tpc", check=False)
    assert done.returncode == 2 and done.stderr.startswith("utproxy: FILTER: column 7: 'tpc'"), done.stderr


def test_readers_are_bounded(lab, make_engine):
    engine = make_engine("install", lab, Target("udp", PORT, on_port=ON_PORT))
    readers = [start_trace(engine, "-j") for _ in range(9)]
    wait_until(lambda: sum(not r.alive() for r in readers) == 1, 10)
    refused = next(r for r in readers if not r.alive())
    assert refused.popen.returncode == 1 and "trace already" in refused.err()
    assert engine.stats()["packets"] == 0  # others are served
    next(r for r in readers if r.alive()).stop(signal.SIGKILL)
    wait_until(lambda: trace(engine, "--last", 1, check=False).returncode == 0, 5)


@pytest.mark.load
@pytest.mark.parametrize("words", [("-j",), ()], ids=["json", "text"])
def test_every_record_is_counted(lab, make_engine, words):
    """All decisions of a flood: shown or counted as lost, no packet more lost than without; also with a reader that is
    stopped in the middle of it."""
    lab.know_each_other()
    lab.router.sh(f"ip route add 198.18.0.0/15 via {CLIENT[4]}")
    engine = make_engine("install", lab, Target("udp", PORT, on_port=ON_PORT, queues=2))
    reader = start_trace(engine, *words)
    wait_tracing(engine)
    mac = json.loads(lab.router.run("ip", "-j", "link", "show", "lan0").stdout)[0]["address"]
    flood = lab.client.start(lab.traffic, "flood", "--kind", "udp", "--to", endpoint(ASKED[4], PORT), "--device", "lan0",
                             "--mac", mac, "--packets", 200000, "--pps", 50000, "--seconds", 30)
    reader.popen.send_signal(signal.SIGSTOP)
    wait_until(lambda: packet_count(engine.stats()) > 50000, 20)
    reader.popen.send_signal(signal.SIGCONT)
    assert flood.popen.wait(60) == 0
    lost = sum(engine.stats()["losses"].values())
    assert lost == 0, engine.stats()["losses"]

    def counted():
        shown = sum(1 for line in reader.out().splitlines() if not line.startswith("-- "))
        said = [line for line in (reader.out() + reader.err()).splitlines() if " decisions lost, " in line]
        total = int(said[-1].split(" decisions lost, ")[1].split()[0]) if said else 0
        return shown, total

    wait_until(lambda: sum(counted()) >= packet_count(engine.stats()), 60, counted)
    shown, total = counted()
    assert total > 0, "the stopped reader lost nothing"
    assert shown + total == packet_count(engine.stats())


def write_and_replay(lab, engine, *words):
    """What the flight recorder holds, as `trace -j` and as `trace --write` tell it, the latter replayed."""
    capture, snapshot = f"{lab.directory}/decisions.pcapng", f"{lab.directory}/snapshot.json"
    shown = decisions(engine, "--last", 8192, *words)
    trace(engine, "--last", 8192, "--write", capture, *words)
    sockets = lab.router.run(engine.binary, "sockets", "-j", "--interfaces", "--control", engine.control).stdout
    pathlib.Path(snapshot).write_text(sockets)
    # Without privilege and without a network namespace that has anything in it.
    replay = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", engine.binary, "replay", "-j", "/dev/stdin",
              "--sockets", "/dev/fd/9", *engine.target.words()]
    pathlib.Path(lab.directory).chmod(0o755)
    replay[replay.index("/dev/stdin")], replay[replay.index("/dev/fd/9")] = capture, snapshot
    done = subprocess.run(["unshare", "--net", *replay], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return shown, [json.loads(line) for line in done.stdout.splitlines()], capture


def without(decision, *keys):
    return json.dumps({key: value for key, value in decision.items() if key not in keys})


@pytest.mark.load
def test_what_is_written_under_load_replays_to_the_same(lab, make_engine):
    """TCP and UDP of both families, hits and misses, marks; byte for byte but for time and source."""
    lab.router.run("nft", "-f", "-", text="""
        table inet marks {
            chain before { type filter hook prerouting priority raw; iifname "lan0" meta mark set 0xa0; }
        }""")
    lab.know_each_other()
    for family in (4, 6):
        lab.listen("udp", ON_PORT, family=family)
    engine = make_engine("install", lab, Target("udp", 0, on_port=ON_PORT, mark="0x1/0xff", queues=2, options=("--proto", "tcp")))
    held = held_connections(lab)
    mac = json.loads(lab.router.run("ip", "-j", "link", "show", "lan0").stdout)[0]["address"]
    lab.router.sh(f"ip route add 198.18.0.0/15 via {CLIENT[4]}")
    flood = lab.client.start(lab.traffic, "flood", "--kind", "syn", "--to", endpoint(ASKED[4], 81), "--device", "lan0",
                             "--mac", mac, "--packets", 2000, "--pps", 5000, "--seconds", 10)
    for family in (4, 6):
        answer = lab.ask("udp", endpoint(ASKED[family], PORT), "--count", 1000, "--window", 32)
        assert answer["answered"] == 1000, answer
    assert flood.popen.wait(30) == 0
    for connection, accepted in held:
        connection.sendall(b"x" * 100)
        assert accepted.recv(100)
    wait_until(lambda: settled(engine), 10)
    shown, again, _ = write_and_replay(lab, engine)
    assert len(shown) == len(again) >= 4000
    reasons = {d["reason"] for d in shown}
    assert {"listener", "no_socket", "established"} <= reasons, reasons
    # The first packets of the held connections met their listener, which later ones do not.
    differ = [(a, b) for a, b in zip(shown, again) if without(a, "time", "source") != without(b, "time", "source")]
    young = [a for a, b in differ if a["packet"]["proto"] == "tcp" and a["packet"]["dport"] == 90]
    assert len(differ) == len(young), [d for d in differ if d[0] not in young][:1]
    assert len(young) <= 4 * len(held)
    assert all(a["verdict"] == b["verdict"] for a, b in differ)


def held_connections(lab):
    """Transparent connections that stay: (client's, router's) sockets."""
    held = []
    with lab.router.entered():
        listener = socket.socket()
    listener.setsockopt(socket.IPPROTO_IP, 19, 1)
    listener.bind(("", ON_PORT))
    listener.listen()
    for _ in range(5):
        with lab.client.entered():
            client = socket.socket()
        client.settimeout(5)
        client.connect((ASKED[4], 90))
        held.append((client, listener.accept()[0]))
    listener.close()
    return held


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
def test_tshark_shows_the_decision(lab, make_engine):
    lab.listen("udp", ON_PORT)
    engine = make_engine("install", lab, Target("udp", PORT, on_port=ON_PORT))
    ask(lab, 20)
    wait_until(lambda: settled(engine), 5)
    shown, again, capture = write_and_replay(lab, engine)
    fields = ["frame.comment", "frame.interface_name", "nflog.ifindex_indev", "ip.dst", "udp.dstport", "udp.srcport"]
    words = [word for field in fields for word in ("-e", field)]
    done = subprocess.run(["tshark", "-r", capture, "-T", "fields", *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert len(rows) == len(shown) == 20
    index = json.loads(lab.router.run("ip", "-j", "link", "show", "lan0").stdout)[0]["ifindex"]
    for row, decision in zip(rows, shown):
        comment = json.loads(row[0].replace('\\"', '"'))
        assert without(comment, "time") == without(decision, "time", "steps", "kernel")
        assert row[1:5] == ["lan0", str(index), ASKED[4], str(PORT)]
        assert row[5] == str(decision["packet"]["sport"])
