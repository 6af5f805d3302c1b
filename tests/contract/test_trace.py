# SPDX-License-Identifier: GPL-3.0-or-later
"""trace and replay where there is no daemon: usage, and captures that anybody can make."""
import json
import struct

import pytest

from test_command_line import check_error

SNAPSHOT = {"family": "ipv4", "proto": "udp", "state": "UNCONNECTED", "local": "0.0.0.0:1090", "peer": "0.0.0.0:0", "iif": "",
            "transparent": True, "cookie": 5, "inode": 7, "so_mark": "0x0"}
TARGET = ["--on-port", "1090", "--tproxy-mark", "0x1"]


def udp_packet(dport):
    udp = struct.pack("!HHHH", 4000, dport, 8, 0)
    return struct.pack("!BBHHHBBH4B4B", 0x45, 0, 28, 1, 0, 64, 17, 0, 10, 77, 1, 2, 203, 0, 113, 80) + udp


def pcap(link, *frames):
    head = struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, link)
    return head + b"".join(struct.pack("=IIII", 1, i, len(f), len(f)) + f for i, f in enumerate(frames))


@pytest.fixture
def files(tmp_path):
    capture, snapshot = tmp_path / "capture.pcap", tmp_path / "snapshot.json"
    capture.write_bytes(pcap(101, udp_packet(53), udp_packet(54)))
    snapshot.write_text(json.dumps(SNAPSHOT) + "\n")
    return capture, snapshot


def test_replay(call, files):
    capture, snapshot = files
    done = call("replay", "-j", capture, "--sockets", snapshot, *TARGET, "--on-ip", "192.0.2.1")
    assert done.returncode == 0 and done.stderr == "", done
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["packet"]["dport"] for line in lines] == [53, 54]
    assert all((line["verdict"], line["reason"], line["mark"], line["source"]) == ("accept", "listener", "0x1", "mirror")
               for line in lines)
    text = call("replay", capture, "--sockets", snapshot, *TARGET).stdout.splitlines()
    assert len(text) == 2 and all("accept" in line and "203.0.113.80:5" in line for line in text)


def test_replay_says_what_it_does_not_know(call, files):
    capture, snapshot = files
    done = call("replay", "-j", capture, "--sockets", snapshot, *TARGET)
    assert done.returncode == 0 and "for 2 packets the ingress interface's address is not known" in done.stderr


@pytest.mark.parametrize("content,names", [(b"no capture", "capture.pcap"), (pcap(127, b"x"), "link type"),
                                           (pcap(101, udp_packet(53))[:-4], "capture.pcap")])
def test_replay_of_what_is_no_capture(call, files, content, names):
    capture, snapshot = files
    capture.write_bytes(content)
    done = call("replay", "-j", capture, "--sockets", snapshot, *TARGET)
    check_error(done, 1, names)


@pytest.mark.parametrize("content", ["nonsense", "[]", '{"family": "ipv4"}', "[" * 100000])
def test_replay_of_what_is_no_snapshot(call, files, content):
    capture, snapshot = files
    snapshot.write_text("\n" + content)
    check_error(call("replay", capture, "--sockets", snapshot, *TARGET), 1, "snapshot.json", "line 2")


@pytest.mark.parametrize("words,names", [
    (["trace", "proto", "tpc"], ["FILTER", "column 7", "tpc"]),
    (["trace", "(queue 1"], ["FILTER", "column 1"]),
    (["trace", "--count", "0"], ["--count"]),
    (["trace", "--last", "x"], ["--last"]),
    (["trace", "--last", "3", "--count", "3"], ["--count"]),
    (["trace", "--until", "sometime"], ["--until"]),
    (["trace", "--nflog", "70000"], ["--nflog"]),
    (["trace", "--nflog", "5", "--last", "3"], ["--last"]),
    (["trace", "--on-port", "1090"], ["--on-port"]),
    (["trace", "-j", "--write", "/tmp/x"], ["--json"]),
    (["replay", "x.pcap"], ["--sockets"]),
    (["replay", "--sockets", "x"], ["CAPTURE"]),
    (["sockets", "--interfaces"], ["--interfaces"]),
])
def test_wrong_usage(call, words, names):
    check_error(call(*words), 2, *names)


@pytest.mark.parametrize("words,names", [
    (["trace", "--control", "/nonexistent/socket"], ["/nonexistent/socket"]),
    (["trace", "--control", "/nonexistent/socket", "--write", "/nonexistent/file"], ["/nonexistent/file"]),
    (["replay", "/nonexistent/capture", "--sockets", "/dev/null"], ["/nonexistent/capture"]),
    (["replay", "/dev/null", "--sockets", "/nonexistent/snapshot"], ["/nonexistent/snapshot"]),
])
def test_what_is_not_there(call, words, names):
    check_error(call(*words), 1, *names)


def test_sockets_with_interfaces_is_a_snapshot(call):
    done = call("sockets", "-j", "--exact", "--interfaces")
    assert done.returncode == 0
    interfaces = {line["interface"]: line for line in map(json.loads, done.stdout.splitlines()) if "interface" in line}
    assert interfaces["lan0"]["primary4"] == "10.77.1.1" and interfaces["lan0"]["primary6"] == "fd77:1::1"
    assert interfaces["lan0"]["index"] > 0
