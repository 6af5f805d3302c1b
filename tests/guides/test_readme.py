# SPDX-License-Identifier: GPL-3.0-or-later
"""Each command of the README's blocks is typed as it is printed, on the router of a network of its own for each block. Where a
block asks utproxy and starts none, the README's "all of it by utproxy" runs. Commands stand here only where they are not run."""
import signal
import subprocess
import sys

import pytest

from lab import wait_until
from printed import PAGE, README, ROOT, guides, indented_blocks
from stock import need

TEXT = README.read_text()
BLOCKS = indented_blocks(TEXT)
PROGRAMS = {"utproxy", "ip", "iptables", "nft", "sudo", "cd", "haproxy", "systemctl", "meson", "ninja", "tools/demo", "tools/check",
            "tools/package"}
NOT_RUN = {
    "tools/demo": "tests/system/test_demo.py runs it",
    "tools/check": "it runs this test",
    "tools/package": "tests/package/test_debian.py runs it",
    "sudo apt install ./build-package/utproxy_*.deb": "tests/package/test_debian.py does, in a root file system of its own",
    "meson setup build --buildtype=release -Dtests=false -Dbenchmarks=false": "tests/package/installing.py sets up a build",
    "ninja -C build && sudo meson install -C build": "tests/package/test_install.py, into a directory of its own",
    "sudo systemctl enable --now utproxy": "no service manager is in a test's namespace",
    "utproxy run --take-over ...          # beside the running one, with the same --control":
        "the dots are the running one's words; tests/system/test_take_over.py does it",
    "systemctl restart utproxy            # the same with the systemd unit, also after an upgrade":
        "no service manager is in a test's namespace",
    "utproxy bench": "takes half a minute of all processors; tests/contract/test_bench.py runs it shortened",
}
SHOWN = {  # what is printed by something, by its first words
    "conversation": "tools/demo, which tests/system/test_demo.py runs",
    "# utproxy doctor": "a router without an `ip rule`, as in the guide for debugging a kernel TPROXY",
    "03:04:05.123": "trace, whose text tests/tools/trace_text_test.cc has",
}
FILE = "# /etc/utproxy/utproxy.toml"
NFT = """
nft add table inet mangle
nft 'add chain inet mangle prerouting { type filter hook prerouting priority mangle; }'
"""
ASKING = """
import socket, time
asked = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while True:
    asked.sendto(b"question", ("9.9.9.9", 53))
    time.sleep(0.05)
"""


def commands(block):
    return all(line.split()[0] in PROGRAMS for line in block if line.strip())


TYPED = [block for block in BLOCKS if commands(block) and not all(line in NOT_RUN for line in block)]


def test_every_block_is_known():
    for block in BLOCKS:
        shown = any(block[0].startswith(words) for words in [*SHOWN, FILE])
        assert commands(block) != shown, block
    assert len(TYPED) >= 12


def test_what_is_not_run_is_there():
    lines = {line for block in BLOCKS for line in block}
    assert set(NOT_RUN) <= lines


def by_utproxy():
    """The line that the README gives for all of it."""
    after = TEXT.partition("or all of it by utproxy")[2]
    return next(line.strip() for line in after.splitlines() if line.startswith("    utproxy run "))


def stays(line):
    """Whether a command is ended by Ctrl-C only."""
    if line.startswith("utproxy trace"):
        return not any(word in line for word in (" --last ", " --until ", " --count "))
    return line.endswith("&") or ("utproxy run " in line and " --check " not in line)


@pytest.fixture
def router(place):
    """The router, with a client that asks a server which no listener answers for, and the README's file."""
    place.home()
    place.router.sh(NFT)
    file = next("\n".join(block) for block in BLOCKS if block[0] == FILE)
    place.write("/etc/utproxy/utproxy.toml", file)
    place.client.start(sys.executable, "-c", ASKING, name="asking")
    return place.router


@pytest.mark.parametrize("block", TYPED, ids=lambda block: block[0].split("#")[0].strip())
def test_block(place, router, block):
    if any(line.startswith("haproxy") for line in block):
        need("haproxy")
    if not any("utproxy run " in line for line in block) and any(line.startswith("utproxy") for line in block):
        router.terminal(by_utproxy())
        # The client's packets are there to be looked at.
        wait_until(lambda: router.type("utproxy trace --last 1").stdout, 10, "a decision")
    for line in block:
        if line in NOT_RUN or not line.strip():
            continue
        if line.startswith("cd "):
            place.cwd = line.split()[1]
        elif stays(line):
            router.terminal(line.removesuffix("&"))
        else:
            done = router.type(line)
            # What doctor finds is that nobody listens.
            assert done.returncode == ("doctor" in line), f"{line}: {done.stdout}{done.stderr}"
    daemons = [process for process in router.started if "utproxy run" in process.argv[-1]]
    assert daemons or not any("utproxy run " in line and stays(line) for line in block)
    assert [process.stop(signal.SIGINT) for process in daemons] == [0] * len(daemons), [each.err() for each in daemons]


def test_the_index_names_each_guide():
    rows = TEXT.partition("## Guides")[2].partition("\n## ")[0]
    assert [title.lower() for title in guides()] == \
        [row.split("|")[1].strip().lower() for row in rows.splitlines() if row.startswith("| ") and "guide |" not in row]
    assert PAGE.name.removesuffix(".7.scd") in rows


def test_the_diagrams_are_what_their_source_draws(tmp_path):
    source = ROOT / "tools" / "docs" / "diagrams.py"
    subprocess.run([sys.executable, "-B", source, tmp_path], check=True)
    drawn = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert drawn == {path.name: path.read_text() for path in (source.parent / "diagrams").iterdir()}
    shown = TEXT + (ROOT / "src" / "README.md").read_text()
    for name in drawn:
        assert f"tools/docs/diagrams/{name})" in shown
