# SPDX-License-Identifier: GPL-3.0-or-later
"""What systemd is told: ready, reloading, stopping, and that all is well only while every thread goes on."""
import contextlib
import ctypes
import os
import pathlib
import signal
import socket
import time

import pytest

from configured import Configured
from engine import Target
from lab import PATIENCE, wait_until

WATCHDOG_S = 4 * PATIENCE
PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_DETACH = 0x4206, 0x4207, 17
_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


class Manager:
    """The reading end of NOTIFY_SOCKET."""

    def __init__(self, directory):
        os.chmod(directory, 0o755)
        self.path = str(pathlib.Path(directory) / "notify.sock")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        os.chmod(self.path, 0o777)
        self.socket.setblocking(False)
        self.heard = []

    def words(self):
        with contextlib.suppress(BlockingIOError):
            while True:
                self.heard += [(time.monotonic(), line) for line in self.socket.recv(4096).decode().splitlines()]
        return [line for _, line in self.heard]

    def count(self, word):
        return self.words().count(word)

    def wait_for(self, word, more=0, seconds=10):
        before = self.count(word) if more else 0
        wait_until(lambda: self.count(word) > before + max(more - 1, 0), seconds, lambda: f"{word} among {self.words()}")


@contextlib.contextmanager
def held(tid):
    """That one thread stands still, as if stuck: signals would stop all of the process."""
    def ptrace(request):
        if _libc.ptrace(request, tid, None, None) != 0:
            raise OSError(ctypes.get_errno(), "ptrace")

    ptrace(PTRACE_SEIZE)
    ptrace(PTRACE_INTERRUPT)
    os.waitpid(tid, 0x40000000)  # __WALL
    try:
        yield
    finally:
        ptrace(PTRACE_DETACH)


def thread_named(pid, name):
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        if (task / "comm").read_text().strip() == name:
            return int(task.name)
    raise AssertionError(f"no thread {name}")


@pytest.fixture
def manager(lab, monkeypatch):
    manager = Manager(lab.directory)
    monkeypatch.setenv("NOTIFY_SOCKET", manager.path)
    monkeypatch.setenv("WATCHDOG_USEC", str(int(WATCHDOG_S * 1e6)))
    yield manager
    manager.socket.close()


@pytest.mark.parametrize("thread", ["queue-0", "queue-1", "utproxy-mirror", "utproxy-fast"])
def test_a_stuck_thread_ends_the_watchdogs_messages(lab, make_engine, manager, thread):
    target = Target("udp", 8080, on_port=12345, queues=2, options=("--user", "nobody"))
    engine = make_engine("divert", lab, target)
    manager.wait_for("READY=1")
    # Without a packet, for longer than it may be silent.
    began = time.monotonic()
    manager.wait_for("WATCHDOG=1", more=5, seconds=3 * WATCHDOG_S)
    assert time.monotonic() - began > WATCHDOG_S / 2
    with held(thread_named(engine.process.pid, thread)):
        name = {"queue-0": "queue 0", "queue-1": "queue 1", "utproxy-mirror": "the mirror of sockets",
                "utproxy-fast": "the fast path"}[thread]
        wait_until(lambda: f"{name}: its thread is stuck" in engine.process.err(), 3 * WATCHDOG_S, "the log to say so")
        before = manager.count("WATCHDOG=1")
        time.sleep(WATCHDOG_S)
        assert manager.count("WATCHDOG=1") == before
    manager.wait_for("WATCHDOG=1", more=2, seconds=3 * WATCHDOG_S)
    assert engine.process.err().count("its thread is stuck") == 1
    assert engine.stop() == 0


def test_a_stopped_process_says_nothing(lab, make_engine, manager):
    engine = make_engine("install", lab, Target("udp", 8080, on_port=12345))
    manager.wait_for("WATCHDOG=1")
    engine.process.popen.send_signal(signal.SIGSTOP)
    try:
        time.sleep(0.2)
        before = manager.count("WATCHDOG=1")
        time.sleep(WATCHDOG_S)
        assert manager.count("WATCHDOG=1") == before
    finally:
        engine.process.popen.send_signal(signal.SIGCONT)
    manager.wait_for("WATCHDOG=1", more=1, seconds=3 * WATCHDOG_S)


def test_life_of_a_service(lab, utproxy, manager):
    text = '[[target]]\nname = "a"\ninstall = true\nqueues = {}\non_port = 1\nmark = "1"\nmatch = {{ proto = "udp", dport = 53 }}\n'
    daemon = Configured(lab, utproxy, text.format(0))
    manager.wait_for("READY=1")
    assert any(word.startswith("STATUS=0 packets") for word in manager.words())
    daemon.reload(text.format(1))
    manager.wait_for("READY=1", more=1) if manager.count("READY=1") < 2 else None
    words = manager.words()
    reloading = words.index("RELOADING=1")
    assert words[reloading + 1].startswith("MONOTONIC_USEC=") and "READY=1" in words[reloading:]
    assert daemon.stop() == 0
    # Behind it the descriptors that were kept for a next process are given up.
    ending = manager.words()[manager.words().index("STOPPING=1"):]
    assert set(ending[1:]) <= {"FDSTOREREMOVE=1"} | {word for word in ending if word.startswith("FDNAME=")}, ending


def test_without_a_watchdog_there_are_no_messages_of_it(lab, make_engine, manager, monkeypatch):
    monkeypatch.delenv("WATCHDOG_USEC")
    engine = make_engine("install", lab, Target("udp", 8080, on_port=12345))
    manager.wait_for("STATUS=0 packets, 0 dropped, 0 lost; 1 queues", more=1, seconds=30)
    assert manager.count("WATCHDOG=1") == 0
    assert engine.stop() == 0
