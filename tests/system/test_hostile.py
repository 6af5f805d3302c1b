# SPDX-License-Identifier: GPL-3.0-or-later
"""Ten thousand hostile exchanges with the control socket (hostile.py): random bytes, half requests, huge ones, many connections
at once, answers that nobody reads. The daemon decides on with nothing lost, answers root, and tells a stranger nothing. How
fast it decides meanwhile is measured by bench/hostile.py."""
import os
import pathlib

import pytest

from engine import Target
from hostile import Attack
from lab import ASKED, endpoint, wait_until

PORT, ON_PORT, EXCHANGES, ATTACKERS = 8080, 12345, 10000, 4
STRANGER, MEMBER, GROUP = 4711, 4712, 1  # the group is `daemon`
pytestmark = pytest.mark.load


@pytest.fixture
def engine(lab, make_engine):
    os.chmod(lab.directory, 0o755)
    lab.listen("udp", ON_PORT)
    return make_engine("install", lab, Target("udp", PORT, on_port=ON_PORT, options=("--user", "nobody", "--control-group", "daemon")))


def held_by(engine):
    """(descriptors, threads)"""
    process = pathlib.Path(f"/proc/{engine.process.pid}")
    return len(os.listdir(process / "fd")), len(os.listdir(process / "task"))


def under_attack(lab, engine, uid, groups, exchanges=EXCHANGES):
    """Asks and is answered until the attack is over; every packet counted. Returns what attackers say, and how many datagrams."""
    before, held = engine.stats(), held_by(engine)
    attack = Attack(engine.control, uid, uid, groups, ATTACKERS, exchanges // ATTACKERS)
    try:
        rounds, most = 0, held
        while attack.going_on() or rounds == 0:
            answer = lab.ask("udp", endpoint(ASKED[4], PORT), "--count", 500, "--window", 16)
            assert (answer["answered"], answer["errors"]) == (500, {}), answer
            rounds += 1
            most = tuple(map(max, most, held_by(engine)))
            assert engine.stats()["packets"] == before["packets"] + 500 * rounds  # root's question
        said = attack.results()
    finally:
        attack.end()
    after = engine.stats()
    assert after["verdicts"]["accept"] == before["verdicts"]["accept"] + 500 * rounds
    assert after["losses"] == before["losses"] and sum(after["reasons"].values()) == after["packets"]
    assert most[0] <= held[0] + 60 and most[1] <= held[1] + 17, (held, most)
    wait_until(lambda: all(now <= then for now, then in zip(held_by(engine), held)), 15, lambda: f"{held_by(engine)} to be {held} again")
    assert sum(result["exchanges"] for result in said) >= exchanges
    return said


@pytest.mark.parametrize("mode", [0o660, 0o666])
def test_by_a_stranger(lab, engine, mode):
    """With the socket's file open to all, too: the kernel tells who it is."""
    os.chmod(engine.control, mode)
    said = under_attack(lab, engine, STRANGER, [])
    heard = {line for result in said for line in result["heard"]}
    if mode == 0o660:
        assert heard == set() and all(result["counts"] == {"connect: PermissionError": result["exchanges"]} for result in said)
    else:
        assert heard and all('{"error":' in line and "permission denied" in line for line in heard if len(line) > 1), heard
        assert {line for line in heard if len(line) == 1} <= {"{"}


def test_by_a_member_of_the_group(lab, engine):
    """Who may read, and reads as badly as can be."""
    said = under_attack(lab, engine, MEMBER, [GROUP], 2000)
    heard = [line for result in said for line in result["heard"]]
    assert any(line.startswith('{"begin":true}') for line in heard) and any("error" in line for line in heard), heard
