# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong with a configuration is said with its place, and leaves a running daemon as it was."""
import json
import os
import pathlib
import re
import signal
import subprocess
import textwrap

import pytest

from lab import wait_until  # conftest.py knows where it is

GOOD = """\
log_level = "info"
install = true
[[target]]
name = "dns"
queues = "0:1"
on_port = 1090
mark = "0x1/0x1"
match = { proto = "udp", dport = 53, iif = "lan0" }
[[target]]
name = "web"
queues = 2
on_port = 1091
mark = "0x2/0x2"
match = { proto = "tcp", dport = [80, 443] }
"""

# name: (what of GOOD is replaced, by what, the mistake's line and column, words of the message)
MISTAKES = {
    "no-toml": ("queues = 2", "queues = = 2", "11:10", ["TOML"]),
    "string-without-end": ('name = "web"', 'name = "web', "10:12", ["TOML"]),
    "header-without-end": ("[[target]]\nname = \"web\"", "[[target]\nname = \"web\"", "9:", ["TOML"]),
    "key-twice": ("queues = 2", "queues = 2\nqueues = 3", "12:", ["TOML", "queues"]),
    "not-utf-8": ('name = "web"', 'name = "w\udcffb"', "10:9", ["TOML", "utf-8"]),
    "unknown-key-on-top": ("log_level", "log_levle", "1:1", ["log_levle", "log_level"]),
    "unknown-key": ("on_port = 1091", "on_prot = 1091", "12:1", ["on_prot", "on_port"]),
    "unknown-key-in-match": ("dport = 53", "dprot = 53", "8:26", ["dprot", "dport"]),
    "daemons-key-in-target": ("queues = 2", 'control = "/x"', "11:1", ["control", "[[target]]"]),
    "targets-key-on-top": ("install = true", 'name = "x"', "2:1", ["name", "[[target]]"]),
    "matchs-key-in-target": ("queues = 2", "dport = 80", "11:1", ["dport", "match"]),
    "one-bracket": ("[[target]]\nname = \"web\"", "[target.web]\nname = \"web\"", "9:9", ["web", "unknown key"]),
    "port-out-of-range": ("on_port = 1091", "on_port = 70000", "12:11", ["on_port 70000", "65535"]),
    "port-no-number": ("on_port = 1091", 'on_port = "http"', "12:11", ["on_port http"]),
    "port-a-float": ("on_port = 1091", "on_port = 1.5", "12:11", ["on_port"]),
    "dport-out-of-range": ("[80, 443]", "[80, 66000]", "14:39", ["dport 66000", "65535"]),
    "dports-wrong-way-round": ("[80, 443]", '["90-80"]', "14:35", ["dport 90-80"]),
    "mark-too-large": ('mark = "0x2/0x2"', "mark = 0x100000000", "13:8", ["mark", "32 bits"]),
    "mark-outside-of-mask": ('mark = "0x2/0x2"', 'mark = "0x4/0x2"', "13:8", ["mark 0x4/0x2", "mask"]),
    "mark-missing": ('mark = "0x2/0x2"\n', "", "9:1", ["mark"]),
    "marks-that-contradict": ('mark = "0x2/0x2"', 'mark = "0x1/0x3"\ntable = 101', "13:8", ["0x1/0x3", "dns", "line 3"]),
    "queues-overlap": ("queues = 2", "queues = \"1:2\"", "11:10", ["queue 1", "dns", "line 3"]),
    "queue-out-of-range": ("queues = 2", "queues = 65536", "11:10", ["queues 65536"]),
    "queues-wrong-way-round": ("queues = 2", 'queues = "3:2"', "11:10", ["queues 3:2"]),
    "too-many-queues": ("queues = 2", 'queues = "2:300"', "11:10", ["256"]),
    "name-twice": ('name = "web"', 'name = "dns"', "10:8", ["dns", "line 3"]),
    "name-with-control-character": ('name = "web"', r'name = "w\u001b[2J"', "10:8", ["name"]),
    "name-missing": ('name = "web"\n', "", "9:1", ["name"]),
    "wrong-family": ("dport = [80, 443]", 'src = "10.0.0.0/8", dst = "fd00::/8"', "14:52", ["dst fd00::/8", "src"]),
    "two-addresses-of-a-family": ("on_port = 1091", 'on_ip = ["10.0.0.1", "10.0.0.2"]', "12:22", ["on_ip 10.0.0.2"]),
    "address-of-none": ("on_port = 1091", 'on_ip = "10.0.0.256"', "12:9", ["on_ip 10.0.0.256"]),
    "prefix-too-long": ("dport = [80, 443]", 'not_dst = "10.0.0.0/33"', "14:36", ["not_dst 10.0.0.0/33"]),
    "interface-too-long": ('iif = "lan0"', 'iif = "an-interface-too-long"', "8:44", ["iif"]),
    "systems-own-table": ("queues = 2", "queues = 2\ntable = 255", "12:9", ["table 255"]),
    "flag-no-boolean": ("queues = 2", 'queues = 2\nfail_open = "yes"', "12:13", ["fail_open", "true or false"]),
    "word-of-no-choice": ("queues = 2", 'queues = 2\non_miss = "maybe"', "12:11", ["on_miss maybe"]),
    "exclusion-without-local-output": ("queues = 2", "queues = 2\nexclude_uid = 0", "12:15", ["exclude_uid", "local_output"]),
    "no-port-at-all": ("on_port = 1091", "on_port = []", "12:11", ["on_port", "empty array"]),
    "no-interface-at-all": ('iif = "lan0"', "iif = []", "8:44", ["iif", "empty array"]),
    "control-path-too-long": ('log_level = "info"', f'control = "/{"x" * 107}"', "1:11", ["control /x", "1 to 107 bytes"]),
    "cpu-that-there-is-not": ("queues = 2", 'queues = 2\ncpu = "1023"', "12:7", ["cpu 1023", "online"]),
    "no-target": (GOOD, 'log_level = "info"\n', "1:1", ["[[target]]"]),
}


def with_mistake(name):
    old, new, _, _ = MISTAKES[name]
    assert GOOD.count(old) == 1
    return GOOD.replace(old, new)


def write(path, text):
    path.write_bytes(text.encode(errors="surrogateescape"))


def check_lines(lines, path, name):
    """One for the mistake, with its place."""
    _, _, place, words = MISTAKES[name]
    found = [line for line in lines if line.startswith(f"utproxy: {path}:{place}") and all(word in line for word in words)]
    assert len(found) == 1, (name, lines)
    assert re.match(rf"utproxy: {re.escape(str(path))}:\d+:\d+: .+: .+", found[0]), found
    return found


def rules_of(space):
    words = (["nft", "-s", "list", "ruleset"], ["ip", "rule"], ["ip", "-6", "rule"], ["ip", "route", "show", "table", "all"])
    return [space.run(*w).stdout for w in words]


class Daemon:
    def __init__(self, space, utproxy, folder):
        self.path, self.control = folder / "utproxy.toml", str(folder / "control.sock")
        self.log = folder / "log"
        write(self.path, GOOD)
        with open(self.log, "w") as log:
            self.popen = subprocess.Popen(space.wrap([utproxy, "run", "--config", str(self.path), "--control", self.control]),
                                          stderr=log)
        wait_until(lambda: "utproxy: ready" in self.log.read_text(), 20, self.log.read_text)

    def hang_up(self, answer):
        before = len(self.log.read_text())
        self.popen.send_signal(signal.SIGHUP)
        wait_until(lambda: answer in self.log.read_text()[before:], 20, lambda: self.log.read_text()[before:])
        return self.log.read_text()[before:].splitlines()


@pytest.fixture(scope="module")
def daemon(space, utproxy, tmp_path_factory):
    made = Daemon(space, utproxy, tmp_path_factory.mktemp("config"))
    yield made
    made.popen.terminate()
    assert made.popen.wait(30) == 0


def state_of(call, space, daemon):
    """Statistics but for what time changes, and rules."""
    stats = json.loads(call("stats", "-j", "--control", daemon.control).stdout)
    return [{key: stats[key] for key in ("configuration", "packets", "targets", "queues", "losses")}, rules_of(space)]


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake(call, space, daemon, name):
    before = state_of(call, space, daemon)
    write(daemon.path, with_mistake(name))
    try:
        told = check_lines(daemon.hang_up("reload refused"), daemon.path, name)
        assert state_of(call, space, daemon) == before
        done = call("run", "--check", "--config", str(daemon.path))
        assert (done.returncode, done.stdout) == (2, "")
        assert check_lines(done.stderr.splitlines(), daemon.path, name) == told
        # Whoever starts with it gets the same, and no daemon.
        assert call("run", "--config", str(daemon.path), "--control", daemon.control + ".2").stderr == done.stderr
        assert state_of(call, space, daemon) == before
    finally:
        write(daemon.path, GOOD)


def test_check_is_as_strict_with_options(call, tmp_path):
    """As with a file: what `run` would fail for, or warn of."""
    for words, told in (("--cpu 1023", "--cpu 1023: must be online"), (f"--control /{'x' * 107}", "must be a path of 1 to 107 bytes")):
        for check in (["--check"], []):
            done = call("run", *check, "--on-port", "1", *words.split())
            assert done.returncode == 2 and told in done.stderr.splitlines()[0], done
    assert call("run", "--check", "--queue-balance", "0:1", "--cpu", "0,0,1023").returncode == 0  # of a worker that there is not
    assert call("run", "--check", "--control", "/" + "x" * 106).returncode == 0


def test_check_warns_of_loops(call, utproxy, tmp_path):
    """In the words of the daemon, which it says when it is ready."""
    if os.geteuid() != 0:
        pytest.skip("makes a network namespace, which needs root")
    path, log = tmp_path / "utproxy.toml", tmp_path / "log"
    write(path, '[[target]]\nname = "own"\ninstall = true\nqueues = 7\non_port = 1090\nmark = 4\nlocal_output = true\n')
    done = call("run", "--check", "--config", str(path))
    [line] = done.stderr.splitlines()
    assert done.returncode == 0 and "target 'own': local output without an exclusion" in line
    with open(log, "w") as out:
        # In a namespace of its own, as another holds the ruleset of the tests'.
        own = ["unshare", "--net", "sh", "-ec", 'ip link set lo up; exec "$@"', "sh"]
        running = subprocess.Popen([*own, utproxy, "run", "--config", path, "--control", tmp_path / "c"], stderr=out)
    try:
        wait_until(lambda: "utproxy: ready" in log.read_text(), 20, log.read_text)
        assert log.read_text().splitlines().count(line) == 1, log.read_text()
    finally:
        running.terminate()
        assert running.wait(30) == 0, log.read_text()
    write(path, path.read_text() + "exclude_mark = 8\n")
    assert call("run", "--check", "--config", str(path)).stderr == ""


def test_there_are_thirty():
    assert len(MISTAKES) >= 30


def test_all_mistakes_are_told_at_once(call, tmp_path):
    """Each with its place, in the order of the file."""
    together = ["unknown-key-on-top", "port-out-of-range", "queues-overlap", "dport-out-of-range"]
    text = GOOD
    for name in together:
        text = text.replace(*MISTAKES[name][:2])
    path = tmp_path / "utproxy.toml"
    write(path, text)
    done = call("run", "--check", "--config", str(path))
    assert done.returncode == 2
    places = [re.match(rf"utproxy: {re.escape(str(path))}:(\d+):(\d+): ", line) for line in done.stderr.splitlines()]
    found = [tuple(map(int, match.groups())) for match in places if match]
    assert len(found) == len(together) and found == sorted(found), done.stderr


@pytest.mark.parametrize("kind,why", [("missing", "No such file"), ("folder", "not a regular file"), ("large", "too large")])
def test_files_that_cannot_be_read(call, space, daemon, kind, why):
    before = state_of(call, space, daemon)
    daemon.path.unlink()
    if kind == "folder":
        daemon.path.mkdir()
    elif kind == "large":
        write(daemon.path, "#" * (1 << 20) + "\n")
    try:
        [line] = [line for line in daemon.hang_up("reload refused") if why in line]
        assert line.startswith(f"utproxy: {daemon.path}: ")
        assert call("run", "--check", "--config", str(daemon.path)).returncode == 2
        assert state_of(call, space, daemon) == before
    finally:
        if kind == "folder":
            daemon.path.rmdir()
        write(daemon.path, GOOD)


def test_check_changes_nothing(call, space, tmp_path):
    before = rules_of(space)
    path = tmp_path / "utproxy.toml"
    write(path, GOOD)
    done = call("run", "--check", "--config", str(path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert rules_of(space) == before


def test_readmes_example_is_right(call, tmp_path):
    readme = (pathlib.Path(__file__).resolve().parents[2] / "README.md").read_text()
    block = re.search(r"^(    # /etc/utproxy/utproxy\.toml\n.*?)^\S", readme, re.MULTILINE | re.DOTALL)[1]
    path = tmp_path / "utproxy.toml"
    write(path, textwrap.dedent(block))
    done = call("run", "--check", "--config", str(path))
    assert (done.returncode, done.stderr) == (0, "")


def test_target_options_go_into_the_file(call, tmp_path):
    path = tmp_path / "utproxy.toml"
    write(path, GOOD)
    done = call("run", "--check", "--config", str(path), "--on-port", "5")
    assert done.returncode == 2 and "--on-port" in done.stderr.splitlines()[0] and "--config" in done.stderr.splitlines()[0]


def test_good_file_goes_on_after_bad_ones(call, daemon):
    number = json.loads(call("stats", "-j", "--control", daemon.control).stdout)["configuration"]
    daemon.hang_up("utproxy: reloaded")
    assert json.loads(call("stats", "-j", "--control", daemon.control).stdout)["configuration"] == number + 1


def test_explain_takes_a_target_of_the_file(call, tmp_path):
    path = tmp_path / "utproxy.toml"
    write(path, GOOD)
    packet = ["explain", "-j", "udp", "10.77.1.9:5000", "9.9.9.9:53", "--iif", "lan0", "--config", str(path)]
    answers = {name: json.loads(call(*packet, "--target", name).stdout) for name in ("dns", "web")}
    assert (answers["dns"]["lport"], answers["web"]["lport"]) == (1090, 1091)
    for words, why in ((["--target", "mail"], "dns, web"), ([], "several"), (["--target", "dns", "--on-port", "1"], "--on-port")):
        done = call(*packet, *words)
        assert done.returncode == 2 and why in done.stderr.splitlines()[0], done


def test_ruleset_takes_the_files_targets(call, tmp_path):
    path = tmp_path / "utproxy.toml"
    write(path, GOOD)
    text = call("ruleset", "print", "--config", str(path)).stdout
    assert "0x1/0x1" in text and "0x2/0x2" in text and "443" in text
    assert call("ruleset", "print", "--config", str(path), "--on-port", "1").returncode == 2


def test_doctor_takes_the_files_targets_and_the_daemons(call, daemon):
    """Whether the file is named, or the daemon that runs by it is found."""
    for words in (["--config", str(daemon.path)], []):
        said = call("doctor", *words).stdout
        for queues, port in (("queue 0-1", 1090), ("queue 2", 1091)):
            assert re.search(rf"^{queues}: .* to port {port}, ", said, re.MULTILINE), said
    done = call("doctor", "--config", str(daemon.path), "--on-port", "1")
    assert done.returncode == 2 and "--config" in done.stderr
