# SPDX-License-Identifier: GPL-3.0-or-later
"""Options that the system and the contract tests share.

    /usr/bin/python3 -m pytest tests/system --build-dir=build
    /usr/bin/python3 -m pytest tests/system --build-dir=build --only-kernel      # the control, without utproxy
    /usr/bin/python3 -m pytest tests/system --build-dir=build --shard=1/2
"""
import pathlib
import signal
import sys
import zlib

import pytest

sys.dont_write_bytecode = True
ROOT = pathlib.Path(__file__).resolve().parent.parent


def pytest_addoption(parser):
    parser.addoption("--build-dir", default="build", help="Meson build directory, relative to the source root or absolute")
    parser.addoption("--only-kernel", action="store_true", help="only what runs with the kernel's own TPROXY")
    parser.addoption("--one-of-each", metavar="WORD", help="of each test one case; another WORD, another choice")
    parser.addoption("--shard", default="1/1", help="I/N: the I-th of N parts, to run parts at the same time")


def pytest_configure(config):
    # SIGTERM and SIGHUP end a run the way Ctrl-C does: fixtures still take down what they set up.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)


@pytest.hookimpl(trylast=True)  # after -k and -m
def pytest_collection_modifyitems(config, items):
    part, parts = (int(word) for word in config.getoption("--shard").split("/"))
    keep = [i for i in items if zlib.crc32(i.nodeid.encode()) % parts == part - 1]
    if config.getoption("--only-kernel"):
        keep = [i for i in keep if "kernel" in i.nodeid.partition("[")[2].rstrip("]").split("-")]
    if config.getoption("--one-of-each"):
        keep = one_of_each(keep, config.getoption("--one-of-each"))
    dropped = [i for i in items if i not in keep]
    config.hook.pytest_deselected(items=dropped)
    items[:] = keep


def one_of_each(items, word):
    """Of the cases of each test one, in an order that `word` gives."""
    chosen = {}
    for item in sorted(items, key=lambda item: zlib.crc32(f"{word} {item.nodeid}".encode())):
        chosen.setdefault(item.nodeid.partition("[")[0], item)
    return [item for item in items if item in chosen.values()]


@pytest.fixture(scope="session")
def build_dir(pytestconfig):
    return (ROOT / pytestconfig.getoption("--build-dir")).resolve()


@pytest.fixture(scope="session")
def utproxy(build_dir):
    """The path of the binary under test, as a string."""
    path = build_dir / "tools" / "utproxy"
    if not path.exists():
        pytest.fail(f"{path} is not built")
    return str(path)
