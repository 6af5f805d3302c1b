# SPDX-License-Identifier: GPL-3.0-or-later
"""What the running daemon has given up, and who may ask it: as its own user, which here is `nobody`."""
import json
import os
import pathlib
import pwd
import socket
import threading

import pytest

from configured import Configured
from engine import Target, Utproxy, leftovers
from lab import ASKED, endpoint

PORT, ON_PORT = 8080, 12345
NOBODY = pwd.getpwnam("nobody")
STRANGER = 4711  # neither root's nor nobody's, in no group of theirs
CAP_NET_ADMIN = 1 << 12


def target(*options, protocol="udp"):
    return Target(protocol, PORT, on_port=ON_PORT, options=("--user", "nobody", *options))


def status_of(engine):
    """/proc/PID/status of each of its threads, by name."""
    found = {}
    for task in pathlib.Path(f"/proc/{engine.process.pid}/task").iterdir():
        lines = (line.split(":", 1) for line in (task / "status").read_text().splitlines())
        facts = {key: value.strip() for key, value in lines}
        found[f"{facts['Name']}-{task.name}"] = facts
    return found


@pytest.fixture
def open_lab(lab):
    """Its directory lets users other than root pass."""
    os.chmod(lab.directory, 0o755)
    return lab


def ask(path, words=b'{"command": "stats"}\n', seconds=5):
    """All that the control socket answers; b"" where it closes without a word."""
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(seconds)
        s.connect(path)
        try:
            s.sendall(words)
        except (BrokenPipeError, ConnectionResetError):
            pass
        answer = b""
        while True:
            try:
                piece = s.recv(65536)
            except ConnectionResetError:
                break
            if not piece:
                break
            answer += piece
    return answer


def as_user(uid, gid, groups, function, *arguments):
    """What `function` returns, or the exception's name, in a process of that user."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups(groups)
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            try:
                value = function(*arguments)
            except OSError as error:
                value = type(error).__name__
            os.write(writer, json.dumps(value if not isinstance(value, bytes) else value.decode()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return json.loads(text)


@pytest.mark.parametrize("kind", ["rules", "install", "divert"])
def test_it_has_what_it_needs_and_no_more(open_lab, make_engine, kind):
    """And does its work with that: TCP and UDP, each of which is steered, then ends and leaves nothing."""
    for protocol in ("tcp", "udp"):
        open_lab.listen(protocol, ON_PORT)
    engine = make_engine(kind, open_lab, target(protocol="udp"))
    answer = open_lab.ask("udp", endpoint(ASKED[4], PORT), "--count", 10)
    assert (answer["answered"], answer["errors"]) == (10, {}), answer
    threads = status_of(engine)
    assert len(threads) >= 4, threads
    for name, facts in threads.items():
        assert int(facts["CapEff"], 16) == int(facts["CapPrm"], 16) == CAP_NET_ADMIN, name
        assert int(facts["CapBnd"], 16) == int(facts["CapAmb"], 16) == int(facts["CapInh"], 16) == 0, name
        assert (facts["Seccomp"], facts["NoNewPrivs"]) == ("2", "1"), name
        assert set(facts["Uid"].split()) == {str(NOBODY.pw_uid)}, name
        assert set(facts["Gid"].split()) == {str(NOBODY.pw_gid)} and facts["Groups"] == "", name
    losses = engine.stats()["losses"]
    assert "queue_full" in losses and engine.stats()["queues"][0]["depth"] == 0  # root's file, kept open
    assert engine.stop() == 0
    if kind != "rules":
        assert leftovers(open_lab.router) == []


def test_control_socket_belongs_to_the_group(open_lab, make_engine):
    engine = make_engine("install", open_lab, target("--control-group", "daemon"))
    facts = os.stat(engine.control)
    daemon = 1
    assert (facts.st_uid, facts.st_gid, facts.st_mode & 0o777) == (NOBODY.pw_uid, daemon, 0o660)
    assert b'"end":true' in ask(engine.control)
    for uid, gid, groups in ((NOBODY.pw_uid, NOBODY.pw_gid, []), (STRANGER, daemon, []), (STRANGER, STRANGER, [daemon]),
                             (STRANGER, STRANGER, list(range(5000, 5100)) + [daemon])):
        assert '"end":true' in as_user(uid, gid, groups, ask, engine.control), (uid, gid)
    assert as_user(STRANGER, STRANGER, [5000], ask, engine.control) == "PermissionError"
    # Were the file's mode changed, the kernel's word on who it is would still keep them out.
    os.chmod(engine.control, 0o666)
    answer = as_user(STRANGER, STRANGER, list(range(5000, 5100)), ask, engine.control)
    assert "permission denied" in answer and "uptime" not in answer


def test_group_leaves_room_for_root(open_lab, make_engine):
    engine = make_engine("install", open_lab, target("--control-group", "daemon"))

    def hold():
        held = []
        for _ in range(16):
            s = socket.socket(socket.AF_UNIX)
            s.settimeout(5)
            s.connect(engine.control)
            held.append(s)
        refused = sum("clients already" in s.recv(4096).decode() for s in held)
        return [refused, ask_root_from_parent()]

    reader, writer = os.pipe()
    done_reader, done_writer = os.pipe()

    def ask_root_from_parent():
        os.write(writer, b"x")
        return os.read(done_reader, 1).decode()

    result = []
    thread = threading.Thread(target=lambda: result.append(as_user(STRANGER, 1, [], hold)))
    thread.start()
    os.read(reader, 1)
    answer = ask(engine.control)
    os.write(done_writer, b"y")
    thread.join()
    for descriptor in (reader, writer, done_reader, done_writer):
        os.close(descriptor)
    assert b'"end":true' in answer
    assert result == [[4, "y"]]


HOSTILE = [b"", b"\n", b"{", b'{"command": "stats"}\n', b'{"command": "trace", "last": 8000}\n', b"\0" * 100000,
           b'{"command": "sockets"}\n' * 1000, b'[' * 4000 + b"\n", b'{"command": {"command": "stats"}}\n', b"\xff\xfe\n"]


def hostile_exchanges(path, count):
    """How many were let in, how many read anything but a refusal."""
    connected = leaked = 0
    for number in range(count):
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(5)
        try:
            s.connect(path)
            connected += 1
            s.send(HOSTILE[number % len(HOSTILE)], socket.MSG_DONTWAIT)
            answer = s.recv(4096) if number % 3 else b""
            leaked += answer != b"" and b"permission denied" not in answer
        except OSError:
            pass
        s.close()
    return [connected, leaked]


@pytest.mark.parametrize("mode", [0o660, 0o666])
def test_ten_thousand_hostile_exchanges(open_lab, make_engine, mode):
    """By a user without rights: nothing is read, nothing stops, root is answered meanwhile, packets are decided as ever."""
    open_lab.listen("udp", ON_PORT)
    engine = make_engine("install", open_lab, target())
    os.chmod(engine.control, mode)
    before = engine.stats()
    fds = len(os.listdir(f"/proc/{engine.process.pid}/fd"))
    hostile = []
    thread = threading.Thread(
        target=lambda: hostile.append(as_user(STRANGER, STRANGER, [], hostile_exchanges, engine.control, 10000)))
    thread.start()
    rounds = 0
    while thread.is_alive() or rounds == 0:
        answer = open_lab.ask("udp", endpoint(ASKED[4], PORT), "--count", 10)
        assert (answer["answered"], answer["errors"]) == (10, {}), answer
        rounds += 1
        assert b'"end":true' in ask(engine.control)
    thread.join()
    connected, leaked = hostile[0]
    assert (connected, leaked) == ((0 if mode == 0o660 else 10000), 0)
    after = engine.stats()
    assert after["packets"] == before["packets"] + 10 * rounds
    assert after["verdicts"]["accept"] == before["verdicts"]["accept"] + 10 * rounds
    assert after["losses"] == before["losses"]
    assert engine.process.alive() and len(os.listdir(f"/proc/{engine.process.pid}/fd")) <= fds + 2
    assert len(status_of(engine)) <= 8


def test_user_that_is_not_there(lab, utproxy):
    done = lab.router.run(utproxy, "run", "--user", "no-such-user", check=False)
    assert done.returncode == 2 and "--user no-such-user: no user of this name" in done.stderr


def test_reload_as_its_user(open_lab, utproxy):
    """With users looked up by name, new queues, rules and the fast path: all that a reload can do is within its rights."""
    text = """
        user = "nobody"
        [[target]]
        name = "{name}"
        install = true
        queues = "{queues}"
        on_port = 12345
        mark = "0x1/0x1"
        {more}
        match = {{ proto = "udp", dport = 8080, iif = "lan0" }}
        """
    open_lab.listen("udp", ON_PORT)
    daemon = Configured(open_lab, utproxy, text.format(name="a", queues="0:0", more=""))
    more = 'local_output = true\nexclude_uid = ["proxy", "daemon"]\nfast_path = "divert"\ncpu = "0"'
    said = daemon.reload(text.format(name="b", queues="1:2", more=more))
    assert "restart" not in said, said
    answer = open_lab.ask("udp", endpoint(ASKED[4], PORT), "--count", 10)
    assert (answer["answered"], answer["errors"]) == (10, {}), answer
    said = daemon.reload(text.format(name="b", queues="1:2", more=more).replace('"nobody"', '"daemon"'))
    assert "user, control_group and seccomp: change with a restart" in said
    assert daemon.stop() == 0
    assert leftovers(open_lab.router) == []


def test_started_as_a_user(open_lab, utproxy):
    """As a unit with User= does it: with a few capabilities and no root. What it can't count without the right it says."""
    capabilities = "+net_admin,+bpf,+perfmon"
    words = ["setpriv", f"--reuid={NOBODY.pw_uid}", f"--regid={NOBODY.pw_gid}", "--clear-groups"]
    os.chown(open_lab.directory, NOBODY.pw_uid, NOBODY.pw_gid)
    open_lab.listen("udp", ON_PORT)
    for more, counts in (("", False), (",+dac_read_search", True)):
        had = capabilities + more
        engine = Utproxy(open_lab, Target("udp", PORT, on_port=ON_PORT), "install", utproxy)
        argv = [*words, f"--inh-caps={had}", f"--ambient-caps={had}", *engine.argv()]
        engine.argv = lambda argv=argv: argv
        engine.start()
        answer = open_lab.ask("udp", endpoint(ASKED[4], PORT), "--count", 10)
        assert (answer["answered"], answer["errors"]) == (10, {}), answer
        for name, facts in status_of(engine).items():
            assert int(facts["CapEff"], 16) == int(facts["CapPrm"], 16) == CAP_NET_ADMIN, name
            assert int(facts["CapInh"], 16) == int(facts["CapAmb"], 16) == 0, name
        assert ("can't be counted" in engine.process.err()) != counts, engine.process.err()
        assert engine.stop() == 0
        assert leftovers(open_lab.router) == [] and not os.path.exists(engine.control)
