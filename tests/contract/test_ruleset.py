# SPDX-License-Identifier: GPL-3.0-or-later
"""`ruleset print|install|remove`: the same as what --install stands for."""
import pytest

WORDS = ["--proto", "udp", "--dport", "53", "--iif", "lan0", "--on-port", "1090", "--tproxy-mark", "0x1"]


FAST = ["--fast-path", "divert", "--on-miss", "accept"]
both = pytest.mark.parametrize("words", [WORDS, WORDS + FAST, WORDS + ["--proto", "tcp", "--local-output"] + FAST[:2],
                                         WORDS + ["--divert-replies"]],
                               ids=["plain", "fast_path", "fast_path_all", "replies"])


def state(space):
    parts = [space.run("nft", "-s", "list", "ruleset").stdout]
    for family in ("-4", "-6"):
        parts += [space.run("ip", family, "rule").stdout, space.run("ip", family, "route", "show", "table", "all").stdout]
    return "\n".join(parts)


@both
def test_install_and_remove(call, space, words):
    """Installing twice is the same as once, removing what is not there is no error, and all of it goes."""
    before = state(space)
    done = call("ruleset", "install", *words)
    assert done.returncode == 0, done.stderr
    installed = state(space)
    assert "table inet utproxy" in installed and installed.count("lookup 100") == 2
    assert call("ruleset", "install", *words).returncode == 0
    assert state(space) == installed
    for _ in range(2):
        done = call("ruleset", "remove", *words)
        assert done.returncode == 0, done.stderr
        assert state(space) == before


def test_print_changes_nothing(call, space):
    before = state(space)
    done = call("ruleset", "print", *WORDS)
    assert done.returncode == 0 and done.stderr == ""
    for word in ("nft", "ip rule add", "ip -6 rule add", "local", "table 100", "fwmark 0x1", "queue"):
        assert word in done.stdout, word
    assert state(space) == before


@both
def test_what_is_printed_does_the_same(call, space, words):
    """Pasted into a shell, the printed commands have the rules and routes that install makes."""
    if space.run("nft", "-c", "add table inet t; add chain inet t c; add rule inet t c queue num 0", check=False).returncode:
        pytest.skip("this kernel has no nft queue expression, so nft cannot be given the printed rule")
    before = state(space)
    printed = call("ruleset", "print", *words).stdout
    space.run("sh", "-e", text=printed)
    pasted = state(space)
    assert call("ruleset", "remove", *words).returncode == 0
    assert state(space) == before
    assert call("ruleset", "install", *words).returncode == 0
    assert state(space) == pasted
    assert call("ruleset", "remove", *words).returncode == 0
