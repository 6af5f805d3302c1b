# SPDX-License-Identifier: GPL-3.0-or-later
"""The guides, typed as they are printed."""
import os
import pathlib
import signal
import sys

import pytest

# The guides' programs are ended by Ctrl-C, which a job in a script's background ignores, and all that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

TESTS = pathlib.Path(__file__).resolve().parent.parent
for room in ("system", "proxies"):
    sys.path.insert(0, str(TESTS / room))
from place import Place  # noqa: E402
from stock import Nginx, Unbound  # noqa: E402
from place import NAMES  # noqa: E402
from printed import FILE_TEXT  # noqa: E402

# What knows example.org for the whole world, and what the router's own Unbound is told on top of the guides: to ask it, and not
# to look for signatures that it does not have.
WORLD = """
server:
    interface: 9.9.9.9
    access-control: 0.0.0.0/0 allow
"""
UPSTREAM = """
server:
    module-config: "iterator"
forward-zone:
    name: "."
    forward-addr: 9.9.9.9
"""


@pytest.fixture
def place(utproxy):
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    made = Place(utproxy)
    try:
        made.names = Unbound(made.internet, WORLD, data=NAMES).start()
        made.web = Nginx(made.internet, (80,))
        (made.web.root / "index.html").write_text("hello\n")
        made.web.start()
        made.write("/etc/unbound/unbound.conf.d/zz-test.conf", UPSTREAM)
        yield made
    finally:
        made.close()


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


@pytest.fixture
def router(place):
    """The router, with a client that asks a server which no listener answers for, and the README's file."""
    place.home()
    place.router.sh(NFT)
    place.write("/etc/utproxy/utproxy.toml", FILE_TEXT)
    place.client.start(sys.executable, "-c", ASKING, name="asking")
    return place.router
