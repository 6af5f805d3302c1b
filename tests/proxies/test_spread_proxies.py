# SPDX-License-Identifier: GPL-3.0-or-later
"""Three HAProxys and a fourth for need share the clients, by tools/examples/spread.toml."""
import re

import pytest

from lab import ASKED, SOURCES, endpoint, source, wait_until
from stock import HaProxy, Nginx, curl, errors_found, example, need

PORTS, BACKUP = [1090, 1091, 1092], 1099


def url(family, path):
    return f"http://{endpoint(ASKED[family], 80)}{path}"


class Proxies:
    """One at each port, which says so in what it answers."""

    def __init__(self, lab, family):
        self.lab, self.family = lab, family
        self.at = {port: self._start(port) for port in [*PORTS, BACKUP]}

    def _start(self, port):
        text = example("haproxy.cfg").replace(":1080", f":{port}")
        text = text.replace("    option transparent", f"    option transparent\n    http-response set-header x-proxy {port}")
        return HaProxy(self.lab.router, text, (port,)).start()

    def of(self, number):
        """The port of the one that answers the client's address of this number."""
        done = curl(self.lab.client, "-g", "--interface", source(self.family, number), "-w", "%header{x-proxy}",
                    url(self.family, "/hello"))
        return int(done.stdout.removeprefix("hello\n"))

    def of_all(self):
        return {number: self.of(number) for number in range(SOURCES)}


def test_the_example_names_the_proxies():
    assert f"on_port = {PORTS}" in example("spread.toml") and f"backup_port = {BACKUP}" in example("spread.toml")
    [words] = re.findall(r"for port in ([\d ]+);", example("spread.toml"))
    assert [int(word) for word in words.split()] == [*PORTS, BACKUP]


@pytest.mark.parametrize("family", [4, 6])
def test_clients_of_one_that_ends_alone_move(lab, intercept, family):
    origin = Nginx(lab.server).start()
    file = origin.generate("slow", 1_000_000)
    proxies = Proxies(lab, family)
    utproxy = intercept(lab, example("spread.toml"))
    assert errors_found(lab, utproxy) == []
    before = proxies.of_all()
    assert 1 < len(set(before.values())) and set(before.values()) <= set(PORTS)
    assert origin.clients() == {source(family, number) for number in range(SOURCES)}

    gone = before[0]
    stays = next(number for number, port in before.items() if port != gone)
    words = [need("curl"), "-sS", "-g", "-m", "60", "--noproxy", "*", "--interface", source(family, stays)]
    download = lab.client.start(*words, url(family, "/slow/slow"), name="curl")
    wait_until(lambda: download.out_path.stat().st_size, 20, "the download to begin")
    proxies.at[gone].process.stop(9)
    after = proxies.of_all()
    assert {number: port for number, port in after.items() if before[number] != gone} == \
        {number: port for number, port in before.items() if port != gone}
    assert {after[number] for number in before if before[number] == gone} <= set(PORTS) - {gone}
    proxies.at[gone].start()
    wait_until(lambda: proxies.of(0) == gone, 10, "its clients to come back")
    assert proxies.of_all() == before
    assert download.popen.wait(60) == 0 and download.out_path.read_bytes() == file.read_bytes()

    for port in PORTS:
        proxies.at[port].process.stop(9)
    assert set(proxies.of_all().values()) == {BACKUP}
    proxies.at[BACKUP].process.stop(9)
    assert curl(lab.client, "-g", "-m", "2", url(family, "/hello"), check=False).returncode == 28
