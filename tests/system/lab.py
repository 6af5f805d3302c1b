# SPDX-License-Identifier: GPL-3.0-or-later
"""Network namespaces to test in: a client, a router, on request a server behind the router.

    client  lan0 ======== lan0  router  wan0 ======== wan0  server
    10.77.1.2/24        10.77.1.1/24  10.77.2.1/24    10.77.2.2/24, 203.0.113.80/32
    fd77:1::2/64        fd77:1::1/64  fd77:2::1/64    fd77:2::2/64, 2001:db8:99::80/128

What clients ask for (203.0.113.80, 2001:db8:99::80) is not the router's. Names carry the process id, everything is
removed by Lab.close(), which also runs when the interpreter ends.
"""
import atexit
import contextlib
import ctypes
import fcntl
import itertools
import json
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time

CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count()

CLIENT = {4: "10.77.1.2", 6: "fd77:1::2"}
ROUTER = {4: "10.77.1.1", 6: "fd77:1::1"}  # the first address of the router's lan0
OTHER = {4: "10.77.9.9", 6: "fd77:9::9"}  # an address on the router's lo
ASKED = {4: "203.0.113.80", 6: "2001:db8:99::80"}
TRANSPARENT = {4: (socket.IPPROTO_IP, 19), 6: (socket.IPPROTO_IPV6, 75)}  # the level and option of IP_TRANSPARENT
PATIENCE = float(os.environ.get("UTPROXY_PATIENCE", "1"))  # how much slower than usual the machine may be
SOURCES = 32  # how many addresses the client has in each family


def source(family, number):
    """The client's number-th address, 0 .. SOURCES-1; number 0 is CLIENT[family]."""
    return f"10.77.1.{2 + number}" if family == 4 else f"fd77:1::{2 + number:x}"


def endpoint(address, port):
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def wait_until(condition, seconds=10.0, what="a condition"):
    """Polls until `condition()` is true and returns its value; fails after `seconds`, times PATIENCE. `what` may be a
    function."""
    seconds *= PATIENCE
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds} s in vain for {what() if callable(what) else what}")
        time.sleep(0.01)


class Process:
    """A program in a namespace, its output in files, ended by its pid. In a session of its own: a terminal's Ctrl-C is for the
    test, which ends in its order what it started."""

    def __init__(self, argv, directory, name, pass_fds=()):
        self.argv = [str(word) for word in argv]
        stem = pathlib.Path(directory) / f"{name}-{next(_numbers)}"
        self.out_path, self.err_path = stem.with_suffix(".out"), stem.with_suffix(".err")
        with open(self.out_path, "wb") as out, open(self.err_path, "wb") as err:
            self.popen = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                                          start_new_session=True, pass_fds=pass_fds)

    @property
    def pid(self):
        return self.popen.pid

    def out(self):
        return self.out_path.read_text(errors="replace")

    def err(self):
        return self.err_path.read_text(errors="replace")

    def json_lines(self, event=None):
        lines = [json.loads(line) for line in self.out().splitlines(keepends=True) if line.endswith("\n")]
        return [line for line in lines if event is None or line["event"] == event]

    def wait_event(self, event, seconds=10.0):
        def found():
            if self.json_lines(event):
                return True
            if self.popen.poll() is not None:
                raise AssertionError(f"{self.argv} ended with {self.popen.returncode}: {self.err()}")
            return False

        wait_until(found, seconds, f"{event} from {self.argv}")
        return self.json_lines(event)[-1]

    def alive(self):
        return self.popen.poll() is None

    def stop(self, number=signal.SIGTERM, seconds=20.0):
        """Sends the signal and returns the exit status; a process that stays gets SIGKILL, and that is a failure."""
        if self.alive():
            self.popen.send_signal(number)
        try:
            return self.popen.wait(seconds * PATIENCE)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
            raise AssertionError(f"{self.argv} did not end within {seconds} s of signal {number}: {self.err()}")

    def summary(self):
        """Ends a traffic program and returns what it says last."""
        self.stop()
        lines = self.json_lines("summary")
        assert lines, f"{self.argv} gave no summary: {self.err()}"
        return lines[-1]


class Netns:
    def __init__(self, name, directory):
        self.name = name
        self.directory = directory
        self.path = f"/run/netns/{name}"
        self.processes = []

    def create(self):
        """Apart from the constructor, so that whoever is interrupted here can already close()."""
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        return self

    def wrap(self, argv):
        # nsenter and not `ip netns exec`: it leaves the mounts alone, so it works in a plain chroot too.
        return ["nsenter", f"--net={self.path}", *[str(word) for word in argv]]

    def run(self, *argv, check=True, text=None):
        done = subprocess.run(self.wrap(argv), input=text, capture_output=True, text=True, timeout=120)
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(map(str, argv))}: exit {done.returncode}: {done.stderr}{done.stdout}")
        return done

    def links_ready(self):
        """The kernel starts a link's queue and adds its IPv6 routes some time after it was set up, late on a busy machine;
        until then packets are lost."""
        links = [link for link in json.loads(self.run("ip", "-j", "address").stdout) if link["ifname"] != "lo"]
        local = self.run("ip", "-6", "route", "show", "table", "local").stdout
        return all(
            link["operstate"] == "UP" and link["qdisc"] != "noop"
            and all(f"local {a['local']} " in local for a in link["addr_info"] if a["family"] == "inet6")
            for link in links)

    def sh(self, script):
        """A shell script, every line of which must succeed; returns its standard output."""
        return self.run("sh", "-e", text=script).stdout

    def start(self, *argv, name=None):
        process = Process(self.wrap(argv), self.directory, name or pathlib.Path(str(argv[0])).name)
        self.processes.append(process)
        return process

    @contextlib.contextmanager
    def entered(self):
        """This thread is in the namespace while the block runs: sockets opened there stay there."""
        with open("/proc/self/ns/net") as home, open(self.path) as target:
            _setns(target.fileno())
            try:
                yield
            finally:
                _setns(home.fileno())

    def read(self, path):
        """A file below /proc/net or /proc/sys/net as it is in this namespace."""
        return self.run("cat", path).stdout

    def close(self):
        for process in self.processes:
            if process.alive():
                process.popen.kill()
                process.popen.wait()
        subprocess.run(["ip", "netns", "delete", self.name], check=False, capture_output=True)


def _setns(descriptor):
    if _libc.setns(descriptor, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def offloads_off(device):
    """Every packet has the bytes on the wire, its checksum included. Runs in the device's namespace."""
    siocethtool = 0x8946
    for command in (0x17, 0x1F, 0x24, 0x2C):  # STXCSUM, STSO, SGSO, SGRO
        value = ctypes.create_string_buffer(struct.pack("II", command, 0))
        request = struct.pack("16sP", device.encode(), ctypes.addressof(value))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s, contextlib.suppress(OSError):
            fcntl.ioctl(s, siocethtool, request.ljust(40, b"\0"))


class Lab:
    def __init__(self, traffic, server=False):
        self.traffic = str(traffic)
        self.directory = tempfile.mkdtemp(prefix=f"utp-{os.getpid()}-")
        self.stem = f"utp-{os.getpid()}-{next(_numbers)}"
        self.spaces = []
        atexit.register(self.close)
        try:
            self.client = self._space("client")
            self.router = self._space("router")
            self.server = self._space("server") if server else None
            self._wire()
        except BaseException:
            self.close()
            raise

    def _space(self, role):
        space = Netns(f"{self.stem}-{role}", self.directory)
        self.spaces.append(space)
        space.create().sh("""
            ip link set lo up
            for d in all default; do
              echo 0 > /proc/sys/net/ipv4/conf/$d/rp_filter
              echo 0 > /proc/sys/net/ipv4/conf/$d/src_valid_mark
              echo 0 > /proc/sys/net/ipv6/conf/$d/accept_dad
              echo 0 > /proc/sys/net/ipv6/conf/$d/accept_ra
            done
            echo 1 > /proc/sys/net/ipv4/ip_forward
            echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
        """)
        return space

    def _wire(self):
        addresses = "\n".join(
            f"address add {source(4, n)}/24 dev lan0\naddress add {source(6, n)}/64 dev lan0 nodad" for n in range(SOURCES))
        self.client.sh(f"""
            ip link add lan0 type veth peer name lan0 netns {self.router.name}
            ip -batch - <<END
{addresses}
link set lan0 up
END
        """)
        self.router.sh(f"""
            ip address add {ROUTER[4]}/24 dev lan0
            ip address add {ROUTER[6]}/64 dev lan0 nodad
            ip address add {OTHER[4]}/32 dev lo
            ip address add {OTHER[6]}/128 dev lo nodad
            ip link set lan0 up
        """)
        self.client.sh(f"ip route add default via {ROUTER[4]}\nip -6 route add default via {ROUTER[6]}")
        if self.server:
            self._wire_server()
        for space in self.spaces:
            wait_until(space.links_ready, 20, f"the links of {space.name} to come up")

    def _wire_server(self):
        self.router.sh(f"""
            ip link add wan0 type veth peer name wan0 netns {self.server.name}
            ip address add 10.77.2.1/24 dev wan0
            ip address add fd77:2::1/64 dev wan0 nodad
            ip link set wan0 up
        """)
        self.server.sh(f"""
            ip address add 10.77.2.2/24 dev wan0
            ip address add fd77:2::2/64 dev wan0 nodad
            ip address add {ASKED[4]}/32 dev lo
            ip address add {ASKED[6]}/128 dev lo nodad
            ip link set wan0 up
            ip route add default via 10.77.2.1
            ip -6 route add default via fd77:2::1
        """)
        self.router.sh("ip route add default via 10.77.2.2\nip -6 route add default via fd77:2::2")

    def know_each_other(self):
        """Client and router need not ask for each other's hardware address: that would let packets overtake others."""
        for space, other, addresses in ((self.client, self.router, ROUTER), (self.router, self.client, CLIENT)):
            link = json.loads(other.run("ip", "-j", "link", "show", "lan0").stdout)[0]["address"]
            for address in addresses.values():
                space.run("ip", "neighbour", "replace", address, "lladdr", link, "dev", "lan0", "nud", "permanent")

    def listen(self, protocol, port, *options, family=4, bind=None, space=None, report=True):
        """A transparent listener (traffic/*_listen.cc); returns when it listens."""
        words = [self.traffic, f"{protocol}-listen", "--family", family, "--port", port, *options]
        if bind:
            words += ["--bind", bind]
        if report:
            words.append("--report")
        process = (space or self.router).start(*words, name=f"{protocol}-listen")
        process.wait_event("ready")
        return process

    def ask(self, protocol, to, *options, space=None, seconds=120):
        """Runs a client to its end and returns its summary, with the lines of its connections as "reports"."""
        words = [self.traffic, f"{protocol}-client", "--to", to, *options]
        process = (space or self.client).start(*words, name=f"{protocol}-client")
        process.popen.wait(seconds)
        lines = process.json_lines("summary")
        assert lines, f"{process.argv} gave no summary: {process.err()}"
        return dict(lines[-1], reports=process.json_lines("connection"), exit=process.popen.returncode)

    def close(self):
        atexit.unregister(self.close)
        for space in self.spaces:
            space.close()
        shutil.rmtree(self.directory, ignore_errors=True)
