# SPDX-License-Identifier: GPL-3.0-or-later
import os
import pathlib
import subprocess
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "system"))
from lab import Netns, wait_until  # noqa: E402


@pytest.fixture(scope="session")
def space():
    """An empty namespace, so that nothing said here can touch or depend on the machine's own network."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    made = Netns(f"utp-{os.getpid()}-contract", "/nonexistent")  # nothing here runs in the background
    try:
        made.create().sh("""
            ip link set lo up
            ip link add lan0 type veth peer name far0
            ip link set far0 up
            ip address add 10.77.1.1/24 dev lan0
            ip address add fd77:1::1/64 dev lan0 nodad
            ip link set lan0 up
        """)
        wait_until(made.links_ready, 20, "the namespace's links to come up")
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def call(space, utproxy):
    """call("run", "--on-port", "1", text="stdin") -> CompletedProcess, in the namespace."""

    def run(*words, text="", environment=None):
        return subprocess.run(space.wrap([utproxy, *words]), input=text, capture_output=True, text=True, timeout=30,
                              env=dict(os.environ, **(environment or {})))

    return run
