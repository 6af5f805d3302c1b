# SPDX-License-Identifier: GPL-3.0-or-later
"""What the daemon takes for its readers it gives back: after N of them it has what it had before, and after as many again the
same. What it has for long is bounded by its tables (src/README.md)."""
import json
import pathlib
import resource
import socket

import pytest

from configured import Configured
from lab import wait_until

SOCKETS = 12000
READERS = 12
CONFIGURATION = """
[[target]]
install = true
queues = "0:1"
on_port = 12345
mark = "0x1/0x1"
match = { proto = "udp", dport = 53, iif = "lan0" }
"""


def anonymous_kb(daemon):
    """What it has written to that is no file's."""
    text = pathlib.Path(f"/proc/{daemon.process.pid}/smaps_rollup").read_text()
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("Anonymous:")))


@pytest.fixture
def daemon(lab, utproxy):
    with open(utproxy, "rb") as program:
        text = program.read()
    if b"__asan_init" in text or b"__tsan_init" in text:
        pytest.skip("a sanitizer's allocator keeps what is freed")
    return Configured(lab, utproxy, CONFIGURATION)


@pytest.fixture
def many_sockets(lab):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = SOCKETS + 1000
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), max(hard, wanted)))
    made = []
    with lab.router.entered():
        for number in range(SOCKETS):
            made.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            made[-1].bind((f"127.{number >> 8 & 255}.{number & 255}.1", 9999))
    yield
    for one in made:
        one.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Reader:
    """Asks for all sockets, and reads on when it is told to: till then the daemon has them all for it."""

    def __init__(self, path):
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.settimeout(30)
        self.connection.connect(path)
        self.stream = self.connection.makefile("rb")
        assert json.loads(self.stream.readline()) == {"begin": True}
        self.connection.sendall(b'{"command": "sockets"}\n')
        assert "error" not in json.loads(self.stream.readline())  # the first one

    def finish(self):
        last = None
        count = 1
        for line in self.stream:
            last = line
            count += 1
        assert json.loads(last) == {"end": True} and count > SOCKETS
        self.connection.close()


def read_all_at_once(daemon):
    readers = [Reader(daemon.control) for _ in range(READERS)]
    for reader in readers:
        reader.finish()


def test_readers(daemon, many_sockets):
    """Each of them has a list of a megabyte, which is sorted in another one."""
    wait_until(lambda: daemon.stats()["mirror"]["sockets"] >= SOCKETS, 20, "the sockets to be known")
    daemon.stats()
    before = anonymous_kb(daemon)
    read_all_at_once(daemon)
    daemon.stats()
    once = anonymous_kb(daemon)
    read_all_at_once(daemon)
    daemon.stats()
    twice = anonymous_kb(daemon)
    assert once - before < 4096, (before, once, twice)
    assert twice - once < 1024, (before, once, twice)
