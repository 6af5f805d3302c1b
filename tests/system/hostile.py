# SPDX-License-Identifier: GPL-3.0-or-later
"""Clients of the control socket that mean no good, as processes of another user."""
import collections
import contextlib
import json
import os
import random
import signal
import socket
import time
import traceback

NEWLINE = b"\n"
REQUESTS = [b'{"command": "stats"}', b'{"command": "trace", "last": 8000}', b'{"command": "sockets"}', b'{"command": "trace"}',
            b'{"command": {"command": "stats"}}', b'{"command": "stop"}', b'{"command": "stats", "command": "trace"}', b"[" * 4000]
HELD = 60  # connections that each attacker leaves open
WAIT = 0.05  # seconds that it waits for anything


def request(dice):
    """Bytes, and whether a right server could ever answer them with more than an error."""
    whole = dice.choice(REQUESTS)
    return dice.choice((
        dice.randbytes(dice.randrange(1, 60000)),
        dice.randbytes(dice.randrange(1, 4000)) + NEWLINE,
        whole[:dice.randrange(len(whole))],
        whole[:dice.randrange(len(whole))] + NEWLINE,
        (whole + NEWLINE) * 200,
        whole + b" " * (1 << 20) + NEWLINE,
        whole + NEWLINE,
        b"",
    ))


class Attacker:
    def __init__(self, path, seed):
        self.path, self.dice = path, random.Random(seed)
        self.held = collections.deque()
        self.counts = collections.Counter()
        self.heard = set()  # beginnings of what was answered

    def exchange(self):
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(WAIT)
        try:
            s.connect(self.path)
        except OSError as error:
            self.counts[f"connect: {type(error).__name__}"] += 1
            s.close()
            return
        self.counts["connected"] += 1
        with contextlib.suppress(OSError):
            s.send(request(self.dice))
            if self.dice.random() < 0.2:
                s.shutdown(socket.SHUT_WR)
        how = self.dice.randrange(4)
        if how == 0:
            self.hear(s, 1 << 16)
        if how in (0, 1):
            s.close()
            return
        self.held.append(s)  # half of what it said, and no reading
        if len(self.held) > HELD:
            slow = self.held.popleft()
            self.hear(slow, 1)  # a byte at a time, if that
            slow.close()

    def hear(self, s, size):
        with contextlib.suppress(OSError):
            answer = s.recv(size)
            if answer:
                self.heard.add(answer[:80].decode(errors="replace"))
                self.counts["answered"] += 1

    def attack(self, count, seconds):
        """Until both `count` exchanges and `seconds` are over."""
        end, done = time.monotonic() + seconds, 0
        while done < count or time.monotonic() < end:
            self.exchange()
            done += 1
        for s in self.held:
            self.hear(s, 1 << 16)
            s.close()
        return {"exchanges": done, "counts": dict(self.counts), "heard": sorted(self.heard)}


class Attack:
    """Attackers at work, each a process of this user. `results()` waits for their end."""

    def __init__(self, path, uid, gid, groups, attackers=4, count=0, seconds=0.0):
        self.running = {}
        for number in range(attackers):
            reader, writer = os.pipe()
            child = os.fork()
            if child == 0:
                self._become(uid, gid, groups, writer, path, number, count, seconds)
            os.close(writer)
            self.running[child] = reader

    @staticmethod
    def _become(uid, gid, groups, writer, path, number, count, seconds):
        try:
            os.setgroups(groups)
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            os.write(writer, json.dumps(Attacker(path, number).attack(count, seconds)).encode())
        except BaseException:  # the parent's fixtures are not the child's to end
            traceback.print_exc()
        finally:
            os._exit(0)

    def going_on(self):
        """Whether any still works."""
        return any(os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None for pid in self.running)

    def results(self):
        found = []
        for pid, reader in list(self.running.items()):
            with os.fdopen(reader, "rb") as pipe:
                text = pipe.read()
            os.waitpid(pid, 0)
            del self.running[pid]
            found.append(json.loads(text))
        return found

    def end(self):
        for pid in list(self.running):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(self.running.pop(pid))
