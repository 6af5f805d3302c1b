# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes on during the soak: senders, each of which counts what it sent, and disturbances. Each is a thread that repeats a
thing until the end; whatever raises an exception ends the run."""
import json
import random
import signal
import subprocess
import sys
import threading
import time

from lab import ASKED, SOURCES, endpoint, source
from soak_place import FIRST_PORT, FLOOD_PORT, LAST_PORT, ON_PORT, ROOM, SOURCE_LIST, WEB_PORT, configuration

OTHERS = """
    table inet other {
        set addresses { type ipv4_addr; elements = { 192.0.2.1, 192.0.2.2 } }
        chain c { type filter hook prerouting priority -300; policy accept; ip saddr @addresses drop; }
    }
"""
# Allocates and frees, and reads a file over and over: in a full cgroup each page read is another's page given up.
PRESSURE = """
import mmap, random, resource, sys, time
path, room = sys.argv[1], int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_AS, (room * 3, room * 3))
open("/proc/self/oom_score_adj", "w").write("1000")
with open(path, "wb") as f:
    for _ in range(room >> 20):
        f.write(bytes(1 << 20))
while True:
    held = mmap.mmap(-1, random.randrange(room // 8, room // 2))
    for at in range(0, len(held), 4096):
        held[at] = 1
    with open(path, "rb", buffering=0) as f:
        while f.read(1 << 20):
            time.sleep(0.03)
    held.close()
    time.sleep(0.5)
"""


class Repeated(threading.Thread):
    """Runs `function` until the end, every `period` seconds or at once again."""

    def __init__(self, name, function, period=0.0):
        super().__init__(name=name, daemon=True)
        self.function, self.period, self.times, self.error = function, period, 0, None
        self.stopping = threading.Event()

    def run(self):
        try:
            while not self.stopping.wait(self.period):
                self.function()
                self.times += 1
        except Exception as error:  # whatever it is, the main thread says it
            self.error = error


class Traffic:
    """`sent`: packets by target, as the senders tell; connections are not packets, and told apart."""

    def __init__(self, place, chunk):
        self.place, self.lab, self.chunk = place, place.lab, chunk
        self.sent = {"flood": 0, "flap": 0, "ports_udp": 0}
        self.unsent = {"ports_udp": 0}
        self.connections = {"web": [0, 0], "ports": [0, 0]}  # good ones, failed ones
        self.flood_received = 0
        self.mac = place.mac("lan1")
        self.running = []
        tens = ",".join(endpoint(ASKED[4], port) for port in range(FIRST_PORT, LAST_PORT, 2))
        self.many = tens

    def run(self, space, *argv, seconds):
        """Starts a program, waits for its end, and returns what it says last."""
        process = space.start(*argv, name="traffic")
        self.running.append(process)
        process.popen.wait(seconds + 60)
        self.running.remove(process)
        said = process.json_lines("summary")
        assert said, f"{process.argv[:4]}: {process.popen.returncode} {process.err()}"
        space.processes.remove(process)
        process.out_path.unlink()
        process.err_path.unlink()
        return said[-1]

    def flood(self):
        """As fast as they are received; another set of flows each time, and another receiver."""
        said = self.run(self.lab.client, self.place.load, "datagrams", "--client", self.lab.client.path, "--router",
                        self.lab.router.path, "--to", endpoint(ASKED[4], FLOOD_PORT), "--port", ON_PORT["flood"], "--from",
                        SOURCE_LIST, "--flows", 64, "--seconds-ms", self.chunk * 1000, seconds=self.chunk)
        self.sent["flood"] += said["sent"]
        self.flood_received += said["sent"] - said["lost"]

    def flap(self):
        said = self.run(self.lab.client, self.lab.traffic, "flood", "--kind", "udp", "--to", endpoint(ASKED[4], FLOOD_PORT),
                        "--device", "lan1", "--mac", self.mac, "--seconds", self.chunk, "--pps", 300, "--seed",
                        random.randrange(1 << 30), seconds=self.chunk)
        self.sent["flap"] += said["sent"]

    def ports_udp(self):
        said = self.run(self.lab.client, self.lab.traffic, "udp-client", "--to", self.many, "--no-answer", "--pause-us", 600,
                        "--min", 40, "--max", 1000, "--count", 1000000, "--seconds", self.chunk, seconds=self.chunk)
        self.sent["ports_udp"] += said["sent"] - sum(said["errors"].values())
        self.unsent["ports_udp"] += sum(said["errors"].values())

    def converse(self, name, port, family, count):
        sources = ",".join(endpoint(source(family, n), 0) for n in range(SOURCES))
        said = self.run(self.lab.client, self.lab.traffic, "tcp-client", "--to", endpoint(ASKED[family], port), "--from",
                        sources, "--connections", count, "--concurrency", 8, "--min", 200, "--max", 200000, "--timeout-ms",
                        3000, "--keep-going", "--seconds", self.chunk, seconds=self.chunk)
        self.connections[name][0] += said["ok"]
        self.connections[name][1] += said["failed"]

    def web(self):
        said = self.run(self.lab.client, self.place.load, "connect", "--to", endpoint(ASKED[4], WEB_PORT), "--from",
                        SOURCE_LIST, "--threads", 2, "--seconds-ms", 400, seconds=10)
        self.connections["web"][0] += said["count"]
        self.connections["web"][1] += said["failed"]

    def ports_tcp(self):
        self.converse("ports", random.randrange(FIRST_PORT, LAST_PORT + 1), random.choice((4, 6)), 60)

    def end(self):
        """Ends what tells its counts on a signal; the others' time is short."""
        for process in list(self.running):
            if process.alive() and self.lab.traffic in process.argv:
                process.popen.send_signal(signal.SIGTERM)


class Disturbances:
    def __init__(self, place):
        self.place, self.lab = place, place.lab
        self.listeners = {name: place.listen(name) for name in ("web", "ports", "flap")}
        self.halved = False
        self.clock_offsets = set()
        self.doctor_said = set()
        self.pressing = None
        self.lab.router.run("nft", "-f", "-", text=OTHERS)

    def restart_listener(self):
        """Killed, missed for a moment, started again."""
        name = random.choice(sorted(self.listeners))
        for process in self.listeners[name]:
            process.popen.kill()
            process.popen.wait()
            self.lab.router.processes.remove(process)
        time.sleep(random.choice((0, 0.05, 0.5)))
        self.listeners[name] = self.place.listen(name)

    def reload_rules(self):
        """Another program's rules: its set anew, its chain away and back, its whole table anew."""
        self.lab.router.run("nft", "-f", "-", text=random.choice((
            "flush set inet other addresses; add element inet other addresses { 192.0.2.7 }",
            "delete chain inet other c\nadd chain inet other c { type filter hook prerouting priority -300; policy accept; }",
            "delete table inet other\n" + OTHERS)))

    def flap(self):
        self.lab.router.run("ip", "link", "set", "lan1", "down")
        time.sleep(0.3)
        self.lab.router.run("ip", "link", "set", "lan1", "up")

    def reload(self):
        self.halved = not self.halved
        self.place.daemon.reload(configuration(self.halved))

    def press(self):
        """Keeps the hog running; where it was ended for want of memory, another one."""
        if self.pressing and self.pressing.poll() is None:
            return
        words = [sys.executable, "-c", PRESSURE, f"{self.lab.directory}/read-over-and-over", str(ROOM)]
        self.pressing = subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        self.place.cgroup.enter(self.pressing.pid)

    def look(self):
        """Readers of every kind, some of which go away in the middle."""
        control = ("--control", self.place.daemon.control)
        words = random.choice((["stats"], ["doctor", "-j"], ["sockets", "-j"], ["trace", "-j", "--last", "50"],
                               ["trace", "proto tcp"], ["stats", "--watch"], ["trace", "-j", "--count", "100"]))
        reader = self.lab.router.start(self.place.utproxy, *words, *control, name="reader")
        try:
            reader.popen.wait(random.choice((0.5, 3)))
        except subprocess.TimeoutExpired:
            reader.stop(random.choice((signal.SIGTERM, signal.SIGKILL)))
        if words[0] == "doctor" and reader.popen.returncode in (0, 1) and reader.out():
            self.doctor_said.update(finding["id"] for finding in json.loads(reader.out())["findings"])
        self.lab.router.processes.remove(reader)
        reader.out_path.unlink()
        reader.err_path.unlink()

    def see_clock(self):
        """By how many days the daemon's wall clock is off: the steps have reached it."""
        done = self.lab.router.run(self.place.utproxy, "trace", "-j", "--last", 1, "--control", self.place.daemon.control)
        for line in done.stdout.splitlines():
            day = int(json.loads(line)["time"][8:10])
            self.clock_offsets.add((day - time.gmtime().tm_mday + 15) % 30 - 15)

    def end(self):
        if self.pressing:
            self.pressing.kill()
            self.pressing.wait()
