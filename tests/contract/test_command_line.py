# SPDX-License-Identifier: GPL-3.0-or-later
"""What users and scripts can rely on, whatever the network: exit statuses, help, and how an error is said."""
import os
import pty
import re
import shlex
import struct
import subprocess

import pytest

from lab import wait_until

COMMANDS = ["run", "explain", "doctor", "report", "sockets", "stats", "trace", "replay", "ruleset", "bench"]
EXPLAIN = ["explain", "tcp", "10.0.1.99:40000", "10.0.2.99:8080", "--iif", "lan0"]
RUN = ["run", "--tproxy-mark", "0x1", "--on-port", "1090"]
INSTALL = ["run", "--install", "--on-port", "1090", "--tproxy-mark", "0x1"]


def check_error(done, status, *names):
    """One line that says what failed and why, perhaps one with the remedy; nothing on standard output."""
    assert done.returncode == status, done
    lines = done.stderr.splitlines()
    assert 1 <= len(lines) <= 2, done.stderr
    assert re.fullmatch(r"utproxy: .+: .+", lines[0]), done.stderr
    assert done.stdout == ""
    for name in names:
        assert name in lines[0], done.stderr


def example_of(help_text):
    """The last block of a help text: its lines, without the indentation."""
    block = help_text.rstrip("\n").split("\n\n")[-1].splitlines()
    return [line.strip() for line in block if line.strip().startswith("utproxy ")]


@pytest.mark.parametrize("words", [["--help"], *([c, "--help"] for c in COMMANDS)], ids=lambda w: w[0])
def test_help_ends_with_an_example(call, words):
    done = call(*words)
    assert done.returncode == 0 and done.stderr == ""
    examples = example_of(done.stdout)
    assert examples and done.stdout.rstrip("\n").endswith(examples[-1])
    assert max(len(line) for line in done.stdout.splitlines()) <= 110


def examples(call, command):
    return [shlex.split(line)[1:] for line in example_of(call(command, "--help").stdout)]


@pytest.mark.parametrize("command,status", [("explain", 0), ("doctor", 1), ("report", 0), ("sockets", 0), ("ruleset", 0), ("replay", 0)])
def test_example_works(call, space, utproxy, tmp_path, command, status):
    """As it stands, in a folder with the files that it names. The doctor has something to find here."""
    (tmp_path / "decisions.pcapng").write_bytes(struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101))
    (tmp_path / "snapshot.json").write_text("")
    for words in examples(call, command):
        words = [word.replace("/tmp/", f"{tmp_path}/") for word in words]
        done = subprocess.run(space.wrap([utproxy, *words]), capture_output=True, text=True, timeout=30, cwd=tmp_path)
        assert done.returncode == status and not done.stderr, (words, done)


def test_examples_that_need_a_daemon_work(call, space, utproxy, tmp_path):
    """That of `run` makes it; only its socket is another one, lest it be that of a daemon on this machine."""
    control = ["--control", str(tmp_path / "control.sock")]
    [run] = examples(call, "run")
    daemon = subprocess.Popen(space.wrap([utproxy, *run, *control]), stderr=subprocess.PIPE, text=True)
    try:
        assert daemon.stderr.readline().startswith("utproxy: ready")
        for words in examples(call, "stats"):
            assert call(*words, *control).returncode == 0, words
        copies, live = examples(call, "trace")
        for words, ready in ((live, None), (copies, "/proc/net/netfilter/nfnetlink_log")):
            trace = subprocess.Popen(space.wrap([utproxy, *words, *control]), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            try:
                if ready:
                    group = words[words.index("--nflog") + 1]
                    wait_until(lambda: any(line.split()[0] == group for line in space.read(ready).splitlines()), 20)
                else:
                    with pytest.raises(subprocess.TimeoutExpired):  # it waits for packets
                        trace.wait(1)
                assert trace.poll() is None, trace.stderr.read()
            finally:
                trace.kill()
                trace.wait()
    finally:
        daemon.terminate()
        assert daemon.wait(30) == 0
        daemon.stderr.close()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_wrapped_once(call, command):
    """Each line of the paragraph that says what a command does is as full as the next word allows."""
    lines = call(command, "--help").stdout.split("\n\n")[1].splitlines()
    assert lines and all(len(line) <= 80 for line in lines)
    for line, following in zip(lines, lines[1:]):
        assert len(line) + 1 + len(following.split()[0]) > 80, line


def test_program_help_names_every_command(call):
    text = call("--help").stdout
    for command in COMMANDS:
        assert re.search(rf"^ +{command} ", text, re.MULTILINE), command


def test_version(call):
    done = call("--version")
    assert done.returncode == 0 and re.fullmatch(r"utproxy \d+\.\d+\.\d+\n", done.stdout)


def test_no_command_is_wrong_usage(call):
    done = call()
    assert done.returncode == 2 and done.stdout == "" and done.stderr


@pytest.mark.parametrize("words,names", [
    (["frobnicate"], ["frobnicate"]),
    (["--frobnicate"], ["--frobnicate"]),
    (["run", "--frobnicate"], ["--frobnicate"]),
    (["explain", "--frobnicate"], ["--frobnicate"]),
    (["stats", "--frobnicate"], ["--frobnicate"]),
    (["sockets", "--frobnicate"], ["--frobnicate"]),
    ([*RUN, "surplus"], ["surplus"]),
    ([*RUN, "--queue-num"], ["--queue-num"]),
    (["run", "--on-port", "70000", "--tproxy-mark", "0x1"], ["--on-port", "70000"]),
    (["run", "--on-port", "-1", "--tproxy-mark", "0x1"], ["--on-port", "-1"]),
    (["run", "--on-port", "http", "--tproxy-mark", "0x1"], ["--on-port", "http"]),
    (["run", "--on-port", "1090x", "--tproxy-mark", "0x1"], ["--on-port", "1090x"]),
    (["run", "--on-port", "", "--tproxy-mark", "0x1"], ["--on-port"]),
    (["run", "--on-port", "1", "--tproxy-mark", "0x100000000"], ["--tproxy-mark", "0x100000000", "32"]),
    (["run", "--on-port", "1", "--tproxy-mark", "4294967296"], ["--tproxy-mark", "32"]),
    (["run", "--on-port", "1", "--tproxy-mark", "0x1/0x1ffffffff"], ["--tproxy-mark", "32"]),
    (["run", "--on-port", "1", "--tproxy-mark", "one"], ["--tproxy-mark", "one"]),
    (["run", "--on-port", "1", "--tproxy-mark", "0x1/"], ["--tproxy-mark"]),
    ([*RUN, "--on-ip", "10.0.0.256"], ["--on-ip", "10.0.0.256"]),
    ([*RUN, "--on-ip", "10.0.0.1", "--on-ip", "10.0.0.2"], ["--on-ip", "10.0.0.2"]),
    ([*RUN, "--queue-num", "65536"], ["--queue-num", "65536"]),
    ([*RUN, "--queue-balance", "3:1"], ["--queue-balance", "3:1"]),
    ([*RUN, "--queue-balance", "0"], ["--queue-balance", "0"]),
    ([*RUN, "--queue-maxlen", "many"], ["--queue-maxlen", "many"]),
    ([*RUN, "--copy-range", "70000"], ["--copy-range", "70000"]),
    ([*RUN, "--rcvbuf", "-5"], ["--rcvbuf", "-5"]),
    ([*RUN, "--cpu", "a"], ["--cpu", "a"]),
    ([*RUN, "--on-miss", "maybe"], ["--on-miss", "maybe"]),
    ([*RUN, "--steer", "maybe"], ["--steer", "maybe"]),
    ([*RUN, "--fast-path", "maybe"], ["--fast-path", "maybe"]),
    ([*RUN, "--dport", "53"], ["--dport", "--install"]),
    ([*INSTALL, "--proto", "sctp"], ["--proto", "sctp"]),
    ([*INSTALL, "--dport", "70000"], ["--dport", "70000"]),
    ([*INSTALL, "--dport", "90-80"], ["--dport", "90-80"]),
    ([*INSTALL, "--iif", "an-interface-too-long"], ["--iif", "an-interface-too-long"]),
    ([*INSTALL, "--src", "10.0.0.0/33"], ["--src", "10.0.0.0/33"]),
    ([*INSTALL, "--not-dst", "fd00::/129"], ["--not-dst", "fd00::/129"]),
    ([*INSTALL, "--src", "10.0.0.0/8", "--dst", "fd00::/8"], ["--dst", "fd00::/8"]),
    ([*INSTALL, "--table", "-1"], ["--table", "-1"]),
    ([*INSTALL, "--exclude-mark", "0x1"], ["--exclude-mark", "--local-output"]),
    (["explain"], ["explain"]),
    (["explain", "icmp", "10.0.0.1:1", "10.0.0.2:2"], ["icmp"]),
    (["explain", "tcp", "10.0.0.1:1"], []),
    (["explain", "tcp", "10.0.0.1:70000", "10.0.0.2:2"], ["10.0.0.1:70000"]),
    (["explain", "tcp", "10.0.0.1:1", "[fd00::2]:2", "--iif", "lan0"], ["[fd00::2]:2"]),
    (["explain", "tcp", "10.0.0.1:1", "fd00::2"], ["fd00::2"]),
    ([*EXPLAIN, "--flags", "SX"], ["--flags", "SX"]),
    ([*EXPLAIN, "--mark", "0x1ffffffff"], ["--mark"]),
    ([*EXPLAIN, "--on-port", "70000"], ["--on-port", "70000"]),
], ids=lambda w: " ".join(w)[-60:] if isinstance(w, list) else None)
def test_wrong_usage(call, space, words, names):
    """Exit 2; the error names the option and its value, and nothing has been changed."""
    before = space.run("nft", "list", "ruleset").stdout + space.run("ip", "rule").stdout
    check_error(call(*words), 2, *names)
    assert space.run("nft", "list", "ruleset").stdout + space.run("ip", "rule").stdout == before


@pytest.mark.parametrize("words,names", [
    (["stats", "--control", "/dev/null/control.sock"], ["/dev/null/control.sock"]),
    (["stats", "-j", "--control", "/dev/null/control.sock"], ["/dev/null/control.sock"]),
    (["sockets", "--control", "/dev/null/control.sock"], ["/dev/null/control.sock"]),
    ([*RUN, "--control", "/dev/null/control.sock"], ["/dev/null"]),
    ([*INSTALL, "--control", "/dev/null/control.sock"], ["/dev/null"]),
    (["explain", "tcp", "10.0.0.1:1", "10.0.0.2:2", "--iif", "nosuch0"], ["nosuch0"]),
], ids=lambda w: " ".join(w)[-60:] if isinstance(w, list) else None)
def test_what_could_not_be_done(call, space, words, names):
    """Exit 1 (2 where the word itself is at fault), and what was begun is undone."""
    before = space.run("nft", "list", "ruleset").stdout + space.run("ip", "rule").stdout
    done = call(*words)
    check_error(done, 2 if "nosuch0" in words and done.returncode == 2 else 1, *names)
    assert space.run("nft", "list", "ruleset").stdout + space.run("ip", "rule").stdout == before


@pytest.mark.parametrize("steer", ["auto", "none"])
@pytest.mark.parametrize("lost", ["net_admin", "all"])
def test_missing_privilege_is_named_first(space, utproxy, lost, steer):
    """Whatever else fails without it, and whatever else is wrong, as the path of the control socket here."""
    words = ["setpriv", f"--bounding-set=-{lost}", utproxy, *RUN, "--steer", steer, "--control", "/dev/null/control.sock"]
    done = subprocess.run(space.wrap(words), capture_output=True, text=True, timeout=30)
    check_error(done, 1, "CAP_NET_ADMIN")
    assert "root" in done.stderr.splitlines()[1]


def on_terminal(space, words, environment):
    """What the program writes to a terminal."""
    master, slave = pty.openpty()
    done = subprocess.run(space.wrap(words), stdout=slave, stderr=subprocess.PIPE, timeout=30,
                          env=dict({k: v for k, v in os.environ.items() if k != "NO_COLOR"}, **environment))
    os.close(slave)
    try:
        text = os.read(master, 1 << 16)
    finally:
        os.close(master)
    assert done.returncode == 0, done.stderr
    return text


def test_colour_only_on_a_terminal(call, space, utproxy):
    assert "\x1b" not in call(*EXPLAIN).stdout
    assert b"\x1b[" in on_terminal(space, [utproxy, *EXPLAIN], {"TERM": "xterm"})
    assert b"\x1b" not in on_terminal(space, [utproxy, *EXPLAIN], {"TERM": "xterm", "NO_COLOR": "1"})


def test_full_disk_is_an_error(space, utproxy):
    with open("/dev/full", "w") as full:
        done = subprocess.run(space.wrap([utproxy, *EXPLAIN]), stdout=full, stderr=subprocess.PIPE, text=True, timeout=30)
    assert done.returncode == 1 and done.stderr.startswith("utproxy: ")


def test_more_queues_than_one_process_serves(call):
    done = call("run", "--queue-balance", "0:65535", "--on-port", "1090", "--control", "/tmp/utp-contract-queues.sock")
    assert done.returncode == 1
    assert done.stderr.startswith("utproxy: start queues: 65536 are more than the 256")
