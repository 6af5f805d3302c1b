# SPDX-License-Identifier: GPL-3.0-or-later
"""Numbered datagrams at a steady rate from the client, and who gets each: the listener in the router, or the server that
they were sent to, which is a leak. Nobody answers."""
import socket
import struct
import threading
import time

from lab import ASKED, TRANSPARENT

SO_RCVBUFFORCE = 33


class Flow:
    """From one socket to one port, every `interval` seconds."""

    def __init__(self, lab, port, on_port, interval=0.002, family=4):
        self.sent, self.proxied, self.leaked = {}, {}, {}  # number: CLOCK_MONOTONIC
        self._interval, self._to = interval, (ASKED[family], port)
        kind = socket.AF_INET if family == 4 else socket.AF_INET6
        with lab.router.entered():
            self._listener = socket.socket(kind, socket.SOCK_DGRAM)
            self._listener.setsockopt(*TRANSPARENT[family], 1)
            self._listener.bind(("", on_port))
        with lab.server.entered():
            self._server = socket.socket(kind, socket.SOCK_DGRAM)
            self._server.bind(self._to)
        with lab.client.entered():
            self._client = socket.socket(kind, socket.SOCK_DGRAM)
        for s in (self._listener, self._server):
            s.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
            s.settimeout(0.05)
        self._stop = threading.Event()
        self._end = threading.Event()
        self._sender = threading.Thread(target=self._send)
        self._readers = [threading.Thread(target=self._read, args=arguments)
                         for arguments in ((self._listener, self.proxied), (self._server, self.leaked))]

    def __enter__(self):
        for thread in (*self._readers, self._sender):
            thread.start()
        return self

    def __exit__(self, *_):
        self.finish()

    def finish(self):
        """Sends no more; returns when what is on its way has come."""
        self._stop.set()
        self._sender.join()
        time.sleep(0.3)
        self._end.set()
        for thread in self._readers:
            thread.join()
        for s in (self._listener, self._server, self._client):
            s.close()

    def _send(self):
        number, due = 0, time.monotonic()
        while not self._stop.is_set():
            now = time.monotonic()
            if now < due:
                time.sleep(due - now)
            due += self._interval
            self.sent[number] = time.monotonic()
            try:
                self._client.sendto(struct.pack("!Q", number), self._to)
            except ConnectionRefusedError:  # an answer to an earlier one
                del self.sent[number]
                continue
            number += 1

    def _read(self, s, arrived):
        while not self._end.is_set():
            try:
                data = s.recv(64)
            except TimeoutError:
                continue
            arrived[struct.unpack("!Q", data)[0]] = time.monotonic()

    def first_proxied_after(self, moment):
        """When the first datagram that was sent after `moment` came to the listener; None where none has."""
        return min((at for n, at in list(self.proxied.items()) if self.sent.get(n, 0) > moment), default=None)

    def between(self, counts, begin, end):
        """How many of those that were sent meanwhile."""
        return sum(1 for n in list(counts) if begin < self.sent.get(n, 0) < end)

    def lost(self):
        return len(self.sent) - len(self.proxied) - len(self.leaked)
