# SPDX-License-Identifier: GPL-3.0-or-later
"""The JSON of a decision, against sockets that the test opens."""
import json
import re
import socket

import pytest

SOURCE, ASKED = {4: "10.77.1.2:40000", 6: "[fd77:1::2]:40000"}, {4: "203.0.113.80:8080", 6: "[2001:db8::80]:8080"}
LADDR = {4: "10.77.1.1", 6: "fd77:1::1"}
WORDS = ["--iif", "lan0", "--on-port", "12345", "--tproxy-mark", "0x1"]
VERDICTS = {"accept", "drop"}
REASONS = {"established", "time_wait", "time_wait_reopened", "listener", "no_socket", "not_transparent", "header_truncated",
           "fragment", "not_tcp_or_udp"}
STEPS = ["established", "time_wait", "laddr", "listener", "transparent", "mark", "route", "delivery"]
SOCKET_KEYS = {"family", "proto", "state", "local", "peer", "iif", "transparent", "cookie", "inode", "so_mark"}
PACKET_KEYS = {"family", "proto", "src", "sport", "dst", "dport", "iif", "flags", "mark"}


@pytest.fixture
def listener(space):
    """listener(family, protocol, transparent) opens one on every address, port 12345, SO_MARK 0x111."""
    opened = []

    def make(family, protocol, transparent=True):
        inet = socket.AF_INET if family == 4 else socket.AF_INET6
        with space.entered():
            s = socket.socket(inet, socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM)
        opened.append(s)
        if transparent:
            s.setsockopt(*((socket.IPPROTO_IP, 19) if family == 4 else (socket.IPPROTO_IPV6, 75)), 1)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 0x111)
        s.bind(("", 12345))
        if protocol == "tcp":
            s.listen()
        return s

    yield make
    for s in opened:
        s.close()


def explain(call, protocol, family, *words):
    done = call("explain", "-j", protocol, SOURCE[family], ASKED[family], *WORDS, *words)
    assert done.returncode == 0 and done.stderr == "", done
    assert done.stdout.count("\n") == 1
    return check_shape(json.loads(done.stdout))


def check_shape(decision):
    assert decision["verdict"] in VERDICTS and decision["reason"] in REASONS
    assert re.fullmatch(r"0x[0-9a-f]+", decision["mark"])
    assert decision["source"] in ("mirror", "exact")
    assert PACKET_KEYS <= set(decision["packet"])
    assert decision["socket"] is None or SOCKET_KEYS <= set(decision["socket"])
    assert ("laddr" in decision) == ("lport" in decision)
    order = [STEPS.index(step["step"]) for step in decision["steps"]]
    assert order == sorted(order) and order
    for step in decision["steps"]:
        assert isinstance(step["why"], str) and step["why"] and "result" in step
        for candidate in step.get("candidates", []):
            assert {"local", "score", "transparent", "chosen", "why"} <= set(candidate)
        assert ("candidates" in step) <= (step["step"] == "listener")
    return decision


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_listener(call, listener, protocol, family):
    opened = listener(family, protocol)
    decision = explain(call, protocol, family)
    assert (decision["verdict"], decision["reason"], decision["mark"]) == ("accept", "listener", "0x1")
    assert (decision["laddr"], decision["lport"]) == (LADDR[family], 12345)
    chosen = decision["socket"]
    assert chosen["transparent"] is True and chosen["proto"] == protocol and chosen["so_mark"] == "0x111"
    assert chosen["local"] == ("0.0.0.0:12345" if family == 4 else "[::]:12345")
    # SO_COOKIE; an observer's number for the socket, the same for everybody
    assert chosen["cookie"] == int.from_bytes(opened.getsockopt(socket.SOL_SOCKET, 57, 8), "little")
    assert decision["packet"]["flags"] == ("S" if protocol == "tcp" else "")
    candidates = [c for s in decision["steps"] if s["step"] == "listener" for c in s["candidates"]]
    assert [c["local"] for c in candidates if c["chosen"]] == [chosen["local"]]


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_misses(call, listener, protocol, family):
    nobody = explain(call, protocol, family, "--mark", "0xa0")
    assert (nobody["verdict"], nobody["reason"], nobody["socket"], nobody["mark"]) == ("drop", "no_socket", None, "0xa0")
    listener(family, protocol, transparent=False)
    opaque = explain(call, protocol, family)
    assert (opaque["verdict"], opaque["reason"]) == ("drop", "not_transparent")
    assert opaque["socket"]["transparent"] is False
    passed = explain(call, protocol, family, "--on-miss", "accept", "--mark", "0xa0")
    assert (passed["verdict"], passed["reason"], passed["mark"]) == ("accept", "not_transparent", "0xa0")


def test_dual_stack_listener(call, listener, space):
    with space.entered():
        s = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    with s:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        s.setsockopt(socket.IPPROTO_IPV6, 75, 1)
        s.bind(("::", 12345))
        s.listen()
        decision = explain(call, "tcp", 4)
        assert decision["reason"] == "listener" and decision["packet"]["family"] == "ipv4"


def test_mark_formula(call, listener):
    listener(4, "udp")
    done = call("explain", "-j", "udp", SOURCE[4], ASKED[4], "--iif", "lan0", "--on-port", "12345", "--tproxy-mark",
                "0x101/0x1", "--mark", "0x300")
    assert json.loads(done.stdout)["mark"] == "0x201"


def test_no_on_port_is_the_packets_own(call):
    done = call("explain", "-j", "udp", SOURCE[4], ASKED[4], "--iif", "lan0", "--tproxy-mark", "1")
    assert json.loads(done.stdout)["lport"] == 8080


def test_on_ip(call):
    done = call("explain", "-j", "tcp", SOURCE[4], ASKED[4], "--iif", "lan0", "--tproxy-mark", "1", "--on-ip", "192.0.2.7")
    assert json.loads(done.stdout)["laddr"] == "192.0.2.7"


def test_batch(call, listener):
    """One object a line, in order, whatever the lines are."""
    listener(4, "tcp")
    lines = [f"tcp {SOURCE[4]} {ASKED[4]} --iif lan0", f"udp {SOURCE[4]} {ASKED[4]} --iif lan0",
             f"tcp {SOURCE[6]} {ASKED[6]} --iif lan0 --flags SA --mark 0x5", f"tcp {SOURCE[4]} {ASKED[4]} --iif lan0 --flags FRPAU"]
    done = call("explain", "-j", "--batch", "--on-port", "12345", "--tproxy-mark", "0x1", text="\n".join(lines * 50) + "\n")
    assert done.returncode == 0, done.stderr
    answers = [check_shape(json.loads(line)) for line in done.stdout.splitlines()]
    assert len(answers) == 200
    assert [a["reason"] for a in answers] == ["listener", "no_socket", "no_socket", "listener"] * 50
    assert set(answers[2]["packet"]["flags"]) == set("SA") and answers[2]["packet"]["mark"] == "0x5"
    assert set(answers[3]["packet"]["flags"]) == set("FRPAU")


def test_text_and_json_agree(call, listener):
    listener(4, "tcp")
    text = call("explain", "tcp", SOURCE[4], ASKED[4], *WORDS).stdout
    for step in explain(call, "tcp", 4)["steps"]:
        assert step["why"] in " ".join(text.split()) or step["why"] in text


def test_sockets_exact(call, listener):
    """The kernel's sockets without a daemon, one object a line."""
    opened = listener(6, "udp")
    done = call("sockets", "-j", "--exact")
    assert done.returncode == 0, done.stderr
    sockets = [json.loads(line) for line in done.stdout.splitlines()]
    cookie = int.from_bytes(opened.getsockopt(socket.SOL_SOCKET, 57, 8), "little")
    mine = [s for s in sockets if s["cookie"] == cookie]
    assert len(mine) == 1 and SOCKET_KEYS <= set(mine[0])
    assert mine[0]["local"] == "[::]:12345" and mine[0]["transparent"] is True and mine[0]["so_mark"] == "0x111"
