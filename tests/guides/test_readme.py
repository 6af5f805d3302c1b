# SPDX-License-Identifier: GPL-3.0-or-later
"""Each command of the README's blocks is typed as it is printed, on the router of a network of its own for each block. Commands
stand here only where they are not run, or where it is looked at what they promise."""
import json
import re
import subprocess
import sys

import pytest

from place import CLIENTS
from printed import FILE, PAGE, README, README_BLOCKS, ROOT, guides
from stock import need
from typed import CANNOT, commands, daemons, end_daemons, type_block, words

TEXT = README.read_text()
ELSEWHERE = {  # Where a line is run, by words that stand there.
    "tools/demo": ("tests/system/test_demo.py", '"tools" / "demo-walk.py"'),
    "tools/check": ("tools/check", "tests/guides"),
    "tools/package": ("tests/package/test_debian.py", '"tools/package"'),
    "sudo apt install ./build-package/utproxy_*.deb": ("tests/package/test_debian.py", '"dpkg", "--install"'),
    "meson setup build --buildtype=release -Dtests=false -Dbenchmarks=false":
        ("tests/guides/test_install_block.py", '"meson setup build "'),
    "ninja -C build && sudo meson install -C build": ("tests/guides/test_install_block.py", '"meson setup build "'),
    "utproxy bench": ("tests/guides/test_readme.py", "def test_bench_as_printed("),
}
LINES = {words(line) for block in README_BLOCKS for line in block}
LEFT = {*ELSEWHERE, *CANNOT}
SHOWN = {  # what is printed by something, by its first words
    "conversation": "tools/demo, which tests/system/test_demo.py runs",
    "# utproxy doctor": "a router without an `ip rule`, as in the guide for debugging a kernel TPROXY",
    "03:04:05.123": "trace, whose text tests/tools/trace_text_test.cc has",
}
TYPED = [block for block in README_BLOCKS if commands(block) and not all(words(line) in LEFT for line in block)]


def block_with(text):
    [block] = [block for block in README_BLOCKS if any(text in line for line in block)]
    return block


def test_every_block_is_known():
    for block in README_BLOCKS:
        shown = any(block[0].startswith(first) for first in [*SHOWN, FILE])
        assert commands(block) != shown, block
    assert len(TYPED) >= 13


@pytest.mark.parametrize("line", ELSEWHERE)
def test_run_elsewhere(line):
    assert line in LINES
    path, there = ELSEWHERE[line]
    assert there in (ROOT / path).read_text()


@pytest.mark.parametrize("line", [line for line in CANNOT if line in LINES])
def test_run_nowhere(line):
    pytest.skip(f"not typed: {CANNOT[line]}")


@pytest.mark.parametrize("block", TYPED, ids=lambda block: words(block[0]))
def test_block(place, router, block):
    """That of "Another process in its place" beside the one that the block about a file has started, which it must end."""
    takes_over = block == block_with("systemctl restart")
    if takes_over:
        router.terminal(next(line for line in block_with("utproxy run --config /etc/") if "--check" not in line))
    type_block(place, block, LEFT)
    if takes_over:
        old, new = daemons(router)
        assert old.popen.wait(20) == 0 and new.alive()
        losses = json.loads(router.type("utproxy stats -j").stdout)["losses"]
        assert losses and not any(losses.values())
    end_daemons(router)


@pytest.mark.load
def test_bench_as_printed(place):
    done = subprocess.run(place.router.wrap(["bash", "-e", "-c", "utproxy bench"]), capture_output=True, text=True, timeout=500)
    assert (done.returncode, done.stderr) == (0, ""), done
    assert "Gbit/s" in done.stdout


def test_several_listeners(place):
    """The block of that section, with a HAProxy at each port and clients: each goes to one port, those of one that ends to the
    others, and all to the backup where none is left."""
    need("haproxy")
    [line] = block_with("--backup-port")
    ports = [int(port) for port in re.search(r"--on-port ([\d,]+)", line)[1].split(",")]
    backup = int(re.search(r"--backup-port (\d+)", line)[1])
    proxies = {}
    for port in [*ports, backup]:
        place.router.type(f"sed s/:1080/:{port}/ haproxy-plain.cfg > /run/{port}.cfg")
        proxies[port] = place.router.terminal(f"haproxy -db -f /run/{port}.cfg")
    place.router.terminal(line)

    def packets():
        [target] = json.loads(place.router.type("utproxy stats -j").stdout)["targets"].values()
        return {each["port"]: each["packets"] for each in target["on_ports"]}

    def port_of(address):
        before = packets()
        done = place.client.run(need("curl"), "-sS", "-m", "5", "--interface", address, "http://203.0.113.80/")
        assert done.stdout == "hello\n" and place.web.seen()[-1][-1] == address
        [port] = [port for port, number in packets().items() if number > before[port]]
        return port

    before = {address: port_of(address) for address in CLIENTS}
    assert 1 < len(set(before.values())) and set(before.values()) <= set(ports)
    gone = before[CLIENTS[0]]
    rest = set(ports) - {gone}
    proxies[gone].stop()
    after = {address: port_of(address) for address in CLIENTS}
    assert all(after[a] == before[a] if before[a] != gone else after[a] in rest for a in CLIENTS)
    for port in rest:
        proxies[port].stop()
    assert {port_of(address) for address in CLIENTS} == {backup}
    end_daemons(place.router)


def spans():
    """Commands within the README's sentences: what stands between backquotes and begins with utproxy and a command."""
    found = re.findall(r"(?<!`)`(utproxy [a-z][^`]*)`(?!`)", re.sub(r"\n", " ", TEXT))
    return sorted(set(" ".join(each.split()) for each in found))


@pytest.mark.parametrize("span", spans())
def test_words_within_sentences(utproxy, span):
    """The command and each of its options exist."""
    _, command, *rest = span.split()
    text = subprocess.run([utproxy, command, "--help"], capture_output=True, text=True, check=True).stdout
    for word in rest:
        assert not word.startswith("-") or re.search(rf"(^|\s){re.escape(word)}\b", text), (span, word)


@pytest.mark.parametrize("line", sorted(set(re.findall(r"`([\w./-]+ --help)`", TEXT)) - {"utproxy --help"}))
def test_help_of_programs(build_dir, line):
    program = line.split()[0]
    path = build_dir / program.removeprefix("build/") if program.startswith("build/") else ROOT / program
    done = subprocess.run([path, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and len(done.stdout.splitlines()) > 3, done


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
