# SPDX-License-Identifier: GPL-3.0-or-later
"""Started and stopped ten times, with traffic: what the daemon took it gives back. In a build with -Db_sanitize=address also its
memory, as LeakSanitizer tells at each exit; for that the system call filter is off, as LeakSanitizer stops threads by ptrace."""
import os

import pytest

from configured import Configured
from engine import leftovers
from lab import ASKED, endpoint

CYCLES = 10
CONFIGURATION = """
seccomp = "off"
user = "nobody"
[[target]]
name = "dns"
install = true
queues = "0:1"
on_port = 12345
mark = "0x1/0x1"
match = {{ proto = "udp", dport = {dport}, iif = "lan0" }}
[[target]]
name = "web"
install = true
queues = 2
on_port = 12345
mark = "0x1/0x1"
fast_path = "divert"
match = {{ proto = "tcp", dport = 80, iif = "lan0" }}
"""


@pytest.fixture
def sanitized(utproxy):
    """Whether AddressSanitizer, and LeakSanitizer with it, is in the program."""
    with open(utproxy, "rb") as program:
        return b"__asan_init" in program.read()


@pytest.fixture
def lsan(monkeypatch):
    monkeypatch.setenv("ASAN_OPTIONS", "detect_leaks=1:exitcode=23:verify_asan_link_order=0")
    monkeypatch.setenv("LSAN_OPTIONS", "exitcode=23")


@pytest.fixture
def lab(lab):
    os.chmod(lab.directory, 0o777)  # what becomes another user ends with its control socket removed
    lab.listen("udp", 12345, family="dual", report=False)
    lab.listen("tcp", 12345, family="dual", report=False)
    return lab


def converse(lab, family, dport):
    answer = lab.ask("udp", endpoint(ASKED[family], dport), "--count", 200, "--window", 8)
    assert (answer["answered"], answer["errors"]) == (200, {}), answer
    answer = lab.ask("tcp", endpoint(ASKED[family], 80), "--connections", 20, "--concurrency", 5)
    assert (answer["ok"], answer["errors"]) == (20, {}), answer


def live(lab, utproxy):
    """One life: traffic, readers, another configuration, traffic, a refused configuration, the end. Returns exit and words."""
    daemon = Configured(lab, utproxy, CONFIGURATION.format(dport=53))
    converse(lab, 4, 53)
    for words in (["stats", "-j"], ["trace", "-j", "--last", 100], ["sockets", "-j"], ["doctor", "-j"]):
        done = lab.router.run(utproxy, *words, "--control", daemon.control, check=False)
        assert done.returncode == 0 or words[0] == "doctor", done.stderr
    daemon.reload(CONFIGURATION.format(dport=5353))
    converse(lab, 6, 5353)
    daemon.refuse("[[target]]\nqueues = 70000\n")
    return daemon.stop(), daemon.process.err()


def test_ten_lives(lab, utproxy, lsan):
    for number in range(CYCLES):
        status, said = live(lab, utproxy)
        assert status == 0 and "LeakSanitizer" not in said, (number, said)
        assert leftovers(lab.router) == [], number
        assert not os.path.exists(f"{lab.directory}/control.sock"), number


def test_a_leak_is_found(lab, utproxy, sanitized, build_dir, lsan):
    """The control of the above: one block that is lost on purpose."""
    if not sanitized:
        pytest.skip("needs a build with -Db_sanitize=address")
    library = build_dir / "tests" / "stress" / "libleaking.so"
    daemon = Configured(lab, utproxy, CONFIGURATION.format(dport=53), wrapper=("env", f"LD_PRELOAD={library}"))
    assert daemon.stop() == 23
    assert "LeakSanitizer" in daemon.process.err() and "4711 byte(s)" in daemon.process.err()
