# SPDX-License-Identifier: GPL-3.0-or-later
"""A router with a transparent proxy on it, healthy to begin with, and what `utproxy doctor` says of it."""
import contextlib
import json
import os
import pathlib
import signal

from lab import ASKED, endpoint, wait_until

PORT, ON_PORT = 8080, 12345
NFT_RULES = f"""
    table inet users {{
        chain pre {{
            type filter hook prerouting priority mangle;
            iifname "lan0" tcp dport {PORT} TPROXY to :{ON_PORT} meta mark set 0x1 accept
        }}
    }}"""


class Router:
    """A router with the kernel's xt_TPROXY or nft tproxy, and a proxy on it, healthy to begin with."""

    def __init__(self, lab, program, kind="xt", families=(4, 6), protocol="tcp", iif="lan0"):
        self.lab, self.program, self.kind, self.families, self.protocol = lab, program, kind, families, protocol
        self.space = lab.router
        self.listener = None
        self.iif = iif
        self.busy = []  # sockets that stay open
        self.size = 300  # of datagrams
        self.service = self.engine = None
        self.words = []  # the target, where doctor has to be told
        self.started = []  # what a fix started

    def sh(self, text):
        return self.space.sh(text)

    def rules(self):
        for family, ip in ((4, "ip"), (6, "ip -6")):
            if family in self.families:
                any_address = "0.0.0.0/0" if family == 4 else "::/0"
                self.sh(f"{ip} rule add fwmark 0x1/0x1 lookup 100\n{ip} route add local {any_address} dev lo table 100")
        if self.kind == "nft":
            only = "tproxy" if self.families == (4, 6) else "tproxy ip"
            self.space.run("nft", "-f", "-", text=NFT_RULES.replace("TPROXY", only))
            return
        for family, tool in ((4, "iptables"), (6, "ip6tables")):
            if family in self.families:
                self.sh(f"{tool} -t mangle -A PREROUTING -i {self.iif} -p {self.protocol} --dport {PORT} "
                        f"-j TPROXY --on-port {ON_PORT} --tproxy-mark 0x1/0x1")

    def listen(self, *options, **words):
        words.setdefault("family", "dual" if 6 in self.families else 4)
        self.listener = self.lab.listen(self.protocol, words.pop("port", ON_PORT), *options, **words)

    def set_up(self):
        self.rules()
        self.listen()
        return self

    def works(self, family=4, seconds=4):
        to = endpoint(ASKED[family], PORT)
        if self.protocol == "tcp":
            answer = self.lab.ask("tcp", to, "--min", 100, "--max", 300, "--timeout-ms", int(seconds * 1000))
            return answer["ok"] == 1 and self.seen()
        return self.lab.ask("udp", to, "--count", 3, "--min", self.size, "--max", self.size)["answered"] == 3

    def seen(self):
        """The proxy has had connections, so they did not go direct."""
        return len(self.listener.json_lines()) > 1

    def doctor(self, *words):
        done = self.space.run(self.program, "doctor", "-j", *self.words, *words, check=False)
        assert done.stderr == "" and done.returncode in (0, 1), done
        answer = json.loads(done.stdout)
        assert answer["ok"] == (done.returncode == 0)
        for finding in answer["findings"]:
            assert set(finding) == {"id", "severity", "where", "cause", "fix"}, finding
        return answer["findings"]

    def errors(self):
        return sorted({f["id"] for f in self.doctor() if f["severity"] == "error"})

    def paste(self, command):
        """Into a root shell of the router's. One that stays, as `utproxy run` does, goes on in the background."""
        if command.startswith("utproxy "):
            command = f"{pathlib.Path(self.program).parent}/{command}"
        if f"{self.program} run" in command:
            process = self.space.start("sh", "-c", command + f" --control {self.lab.directory}/fixed.sock", name="fix")
            wait_until(lambda: "utproxy: ready" in process.err(), 20, lambda: f"{command}: {process.err()}")
            self.started.append(process)
            return
        if "/etc/nftables.conf" in command:
            copy = pathlib.Path(self.lab.directory) / "nftables.conf"
            copy.write_text("flush ruleset\ntable inet other { }\n")
            command = f"unshare -m sh -c 'mount --bind {copy} /etc/nftables.conf && sh {self.script(command)}'"
        done = self.space.run("sh", "-c", command, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"

    def script(self, command):
        path = pathlib.Path(self.lab.directory) / "pasted.sh"
        path.write_text(command)
        return path

    def close(self):
        for made in self.busy:
            made.close()
        for process in self.started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.popen.wait(20)
        if self.engine and self.engine.process.alive():
            self.engine.stop()

    def mend(self):
        """Pastes the fix of every error, until there is none, as the commands of one finding may uncover another."""
        for _ in range(4):
            wrong = [f for f in self.doctor() if f["severity"] == "error"]
            if not wrong:
                return
            for fix in dict.fromkeys(f["fix"] for f in wrong):
                self.paste(fix)
        assert not self.errors(), self.doctor()
