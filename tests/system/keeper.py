# SPDX-License-Identifier: GPL-3.0-or-later
"""As much of a service manager as utproxy goes by: takes the descriptors that it is to keep (FDSTORE=1 of sd_notify(3)), and
starts the next process with them (LISTEN_FDS), as systemd does where a unit has FileDescriptorStoreMax=."""
import array
import os
import pathlib
import socket
import threading

from lab import Process, wait_until

FIRST_FD = 3  # SD_LISTEN_FDS_START


class Keeper:
    def __init__(self, lab):
        self.lab = lab
        os.chmod(lab.directory, 0o755)
        self.path = str(pathlib.Path(lab.directory) / "keeper.sock")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        os.chmod(self.path, 0o777)
        self.kept, self.states = {}, []  # name: descriptor; everything else that was said
        self._stop = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        while True:
            text, ancillary, _, _ = self.socket.recvmsg(65536, 4096)
            if self._stop:
                return
            fds = array.array("i")
            for level, kind, data in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    fds.frombytes(data[:len(data) - len(data) % fds.itemsize])
            words = dict(line.split("=", 1) for line in text.decode().splitlines() if "=" in line)
            name = words.get("FDNAME", "")
            if "FDSTOREREMOVE" in words:
                if name in self.kept:
                    os.close(self.kept.pop(name))
            elif "FDSTORE" in words:
                assert len(fds) == 1 and name not in self.kept, (text, self.kept)
                self.kept[name] = fds[0]
            else:
                self.states.append(words)

    def start(self, argv):
        """A process in the router's namespace, with what is kept."""
        names, fds = list(self.kept), list(self.kept.values())
        # From the shell on, since LISTEN_PID is the process's own.
        moves = " ".join(f"{FIRST_FD + i}<&{fd + 100}" for i, fd in enumerate(fds))
        passed = []
        for fd in fds:
            os.dup2(fd, fd + 100, inheritable=True)
            passed.append(fd + 100)
        closes = " ".join(f"{fd}<&-" for fd in passed)
        script = f'LISTEN_PID=$$ LISTEN_FDS={len(fds)} LISTEN_FDNAMES={":".join(names)} NOTIFY_SOCKET={self.path} ' \
                 f'exec "$@" {moves} {closes}'
        shell = ["bash", "-c", script, "bash", *argv]
        process = Process(self.lab.router.wrap(shell), self.lab.directory, "kept", pass_fds=passed)
        self.lab.router.processes.append(process)
        for fd in passed:
            os.close(fd)
        return process

    def launch(self, engine):
        """Starts `engine`, or the next one in its place, and waits until it is ready and all it wants kept is kept."""
        self.states.clear()
        engine.process = self.start(engine.argv())
        wait_until(engine._is_ready, 20, "utproxy: ready")
        wait_until(lambda: any("READY" in words for words in list(self.states)), 10, "READY=1")
        return engine

    def close(self):
        """As when systemd stops the service for good: what nobody else has ends."""
        self._stop = True
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
            s.connect(self.path)
            s.send(b"END=1")
        self._thread.join()
        self.forget()
        self.socket.close()

    def forget(self):
        while self.kept:
            os.close(self.kept.popitem()[1])
