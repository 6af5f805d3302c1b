# SPDX-License-Identifier: GPL-3.0-or-later
"""The network that utproxy-guides(7) names, and terminals in it.

    client  lan0 ======== lan0  router  wan0 ======== wan0  internet
    192.168.1.7/24      192.168.1.1/24  198.51.100.2/24   198.51.100.1/24, 203.0.113.80 (web), 9.9.9.9 (names)
    container eth0 ====== br0 of the router, 10.88.0.1/16
    10.88.0.2/16

All of them share a view of the file system of their own, in which /etc, /var, /usr/local and /run may be written to and
/usr/share/doc/utproxy/examples is tools/examples, so that commands run as they are printed and nothing is left behind.
"""
import atexit
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile

import pytest

from lab import Netns, Process, wait_until
from printed import ROOT

SHARED = "/usr/share/doc/utproxy/examples"
CLIENTS = [f"192.168.1.{7 + n}" for n in range(16)]
NAMES = ["example.org. 60 IN A 203.0.113.80", "example.org. 60 IN AAAA 2001:db8:99::80"]

VIEW = f"""
mount --make-rprivate /
mount -t tmpfs none {{scratch}}
for d in etc var usr/local usr/share/doc; do
    mkdir -p {{scratch}}/$d {{scratch}}/work/$d
    mount -t overlay none -o lowerdir=/$d,upperdir={{scratch}}/$d,workdir={{scratch}}/work/$d /$d
done
mkdir -p {SHARED} {{scratch}}/bin {{scratch}}/home
mount --bind {ROOT}/tools/examples {SHARED}
mount -o remount,bind,ro {SHARED}
mount -t tmpfs none /run
rm -f /etc/resolv.conf
echo nameserver 9.9.9.9 > /etc/resolv.conf
ln -s {{program}} {{scratch}}/bin/utproxy
printf '#!/bin/sh\\nexec "$@"\\n' > {{scratch}}/bin/sudo
chmod +x {{scratch}}/bin/sudo
echo ready
exec sleep infinity
"""

ROUTER = """
    ip link add wan0 type veth peer name wan0 netns {internet}
    ip link add lan0 type veth peer name lan0 netns {client}
    ip address add 192.168.1.1/24 dev lan0
    ip address add 198.51.100.2/24 dev wan0
    ip address add fd00:1::1/64 dev lan0 nodad
    ip address add fd00:2::2/64 dev wan0 nodad
    ip link set lan0 up
    ip link set wan0 up
    ip route add default via 198.51.100.1
    ip -6 route add default via fd00:2::1
"""
INTERNET = """
    ip address add 198.51.100.1/24 dev wan0
    ip address add fd00:2::1/64 dev wan0 nodad
    ip address add 203.0.113.80/32 dev lo
    ip address add 2001:db8:99::80/128 dev lo nodad
    ip address add 9.9.9.9/32 dev lo
    ip link set wan0 up
    ip route add default via 198.51.100.2
    ip -6 route add default via fd00:2::2
"""
CLIENT = """
    ip link set lan0 up
    ip address add fd00:1::7/64 dev lan0 nodad
    ip -6 route add default via fd00:1::1
""" + "".join(f"ip address add {address}/24 dev lan0\n" for address in CLIENTS) + "ip route add default via 192.168.1.1\n"


class Space(Netns):
    """A namespace whose commands have the place's view of the file system."""

    def __init__(self, name, place):
        super().__init__(name, place.directory)
        self.place = place
        self.started = []

    def wrap(self, argv):
        bin_directory = f"{self.place.scratch}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return ["nsenter", f"--net={self.path}", f"--mount=/proc/{self.place.view.pid}/ns/mnt", f"--wdns={self.place.cwd}",
                "env", f"PATH={bin_directory}", "COLUMNS=80", *[str(word) for word in argv]]

    def setup(self, script):
        """A script without the place's view, in which the namespaces have no names."""
        done = subprocess.run([*super().wrap(["sh", "-e"])], input=script, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr

    def type(self, text):
        """A shell's commands, until one fails. Returns what subprocess.run() does."""
        return subprocess.run(self.wrap(["bash", "-e", "-c", text]), stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=120)

    def terminal(self, line):
        """A command that stays: returns when it listens, reads packets' copies, says that it is ready, or has said something."""
        before = self._ears()
        process = Process(self.wrap(["bash", "-c", f"exec {line}"]), self.directory, "terminal")
        self.processes.append(process)
        self.started.append(process)

        def hears():
            if process.popen.poll() is not None:
                return True
            if "utproxy run " in line:
                return "utproxy: ready" in process.err()
            return self._ears() != before or process.out_path.stat().st_size or self._written(line)

        wait_until(hears, 30, lambda: f"{line!r} to be ready: {process.err()}{process.out()}")
        assert process.popen.poll() in (None, 0), f"{line}: {process.err()}{process.out()}"
        return process

    def _written(self, line):
        """Whether the file that the line writes has something in it."""
        words = line.split()
        name = words[words.index("--write") + 1] if "--write" in words else None
        return name and self.run("test", "-s", name, check=False).returncode == 0

    def _ears(self):
        """Listening sockets, and those that read copies of packets."""
        groups = self.run("cat", "/proc/net/netfilter/nfnetlink_log", check=False).stdout
        return self.run("ss", "-Hlntu").stdout, groups


class Place:
    def __init__(self, program):
        self.directory = tempfile.mkdtemp(prefix=f"utp-{os.getpid()}-")
        os.chmod(self.directory, 0o755)
        self.scratch = pathlib.Path(self.directory) / "scratch"
        self.scratch.mkdir()
        self.cwd = SHARED
        self.view = None
        self.spaces = []
        atexit.register(self.close)
        try:
            self._make(program)
        except BaseException:
            self.close()
            raise

    def _make(self, program):
        # The view must not hold files of /run: namespaces are made from outside of it.
        names = {role: f"utp-{os.getpid()}-{role}-{pathlib.Path(self.directory).name[-4:]}"
                 for role in ("client", "router", "internet", "container")}
        self.view = Process(["unshare", "--mount", "sh", "-ec", VIEW.format(scratch=self.scratch, program=program)],
                            self.directory, "view")
        wait_until(lambda: "ready" in self.view.out() or not self.view.alive(), 20, "a view of the file system")
        assert self.view.alive(), self.view.err()
        self.client, self.router, self.internet, self.container = (Space(name, self) for name in names.values())
        self.spaces = [self.client, self.router, self.internet, self.container]
        for space in self.spaces:
            space.create().sh("""
                ip link set lo up
                for d in all default; do
                    echo 0 > /proc/sys/net/ipv6/conf/$d/accept_dad
                    echo 0 > /proc/sys/net/ipv4/conf/$d/rp_filter
                done
                echo 1 > /proc/sys/net/ipv4/ip_forward
                echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
            """)
        self.router.setup(ROUTER.format(**{role: names[role] for role in ("client", "internet")}))
        self.internet.sh(INTERNET)
        self.client.sh(CLIENT)
        self._wait()

    def _wait(self):
        for space in self.spaces:
            wait_until(space.links_ready, 20, f"the links of {space.name} to come up")

    def add_bridge(self, calls_iptables):
        """A container behind the router's br0, its addresses hidden behind the router's. `calls_iptables`: br_netfilter's for the
        router, 0 or 1."""
        switch = "/proc/sys/net/bridge/bridge-nf-call-ip"
        if self.router.run("test", "-e", f"{switch}tables", check=False).returncode == 0:
            self.router.sh("".join(f"echo {calls_iptables} > {switch}{word}\n" for word in ("tables", "6tables")))
        elif calls_iptables:
            pytest.skip("br_netfilter is not loaded")
        self.router.setup(f"""
            ip link add br0 type bridge
            ip address add 10.88.0.1/16 dev br0
            ip link set br0 up
            ip link add veth0 type veth peer name eth0 netns {self.container.name}
            ip link set veth0 master br0 up
            nft add table ip nat
            nft 'add chain ip nat post {{ type nat hook postrouting priority srcnat; }}'
            nft add rule ip nat post oifname wan0 masquerade
        """)
        self.container.sh("""
            ip address add 10.88.0.2/16 dev eth0
            ip link set eth0 up
            ip route add default via 10.88.0.1
        """)
        self._wait()

    def write(self, path, text):
        """A file of this place's view."""
        self.router.run("sh", "-c", f"mkdir -p $(dirname {path}) && cat > {path}", text=text)

    def space(self, where):
        return getattr(self, where)

    def home(self):
        """From here on commands are typed where files may be written."""
        self.cwd = self.scratch / "home"

    def interrupt(self):
        """Ctrl-C in all terminals, the last one first; returns how each ended that had not before, {command: status}."""
        ended = {}
        for space in self.spaces:
            for process in reversed(space.started):
                if process.alive():
                    ended[process.argv[-1].removeprefix("exec ")] = process.stop(signal.SIGINT)
        return ended

    def close(self):
        atexit.unregister(self.close)
        for space in self.spaces:
            space.close()
        if self.view is not None and self.view.alive():
            self.view.popen.kill()
            self.view.popen.wait()
        shutil.rmtree(self.directory, ignore_errors=True)
