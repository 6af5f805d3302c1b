# SPDX-License-Identifier: GPL-3.0-or-later
"""utproxy with a configuration file."""
import json
import pathlib
import signal

from lab import wait_until


class Configured:
    """The daemon in the router's namespace, by a file that tests rewrite."""

    def __init__(self, lab, binary, text, *options, wrapper=()):
        self.lab, self.binary = lab, binary
        self.path = pathlib.Path(lab.directory) / "utproxy.toml"
        self.control = str(pathlib.Path(lab.directory) / "control.sock")
        self.path.write_text(text)
        argv = [*wrapper, binary, "run", "--config", self.path, "--control", self.control, *options]
        self.process = lab.router.start(*argv, name="utproxy")
        wait_until(lambda: self.said("utproxy: ready") or not self.process.alive(), 20, "utproxy: ready")
        assert self.process.alive(), self.process.err()

    def said(self, words):
        """How often."""
        return self.process.err().count(words)

    def hang_up(self, text, answer):
        """Rewrites the file, sends SIGHUP and waits for a line with `answer`; returns what was said meanwhile."""
        before = self.process.err()
        self.path.write_text(text)
        self.process.popen.send_signal(signal.SIGHUP)

        def answered():
            assert self.process.alive(), self.process.err()
            return answer in self.process.err()[len(before):]

        wait_until(answered, 20, lambda: f"{answer!r} in {self.process.err()[len(before):]}")
        return self.process.err()[len(before):]

    def reload(self, text):
        return self.hang_up(text, "utproxy: reloaded: ")

    def refuse(self, text):
        return self.hang_up(text, "utproxy: reload refused")

    def stats(self):
        done = self.lab.router.run(self.binary, "stats", "-j", "--control", self.control)
        return json.loads(done.stdout)

    def stop(self, number=signal.SIGTERM):
        return self.process.stop(number)
