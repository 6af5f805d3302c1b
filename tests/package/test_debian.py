# SPDX-License-Identifier: GPL-3.0-or-later
"""The Debian packages: built, free of what lintian calls errors and warnings, installed in a clean Debian 12, the
service's own command run there on packets, removed and purged with nothing left."""
import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys

import pytest

from installing import ROOT, run
from debian import Root, fields

pytestmark = pytest.mark.debian

# In the router's namespace: says what a client sent to another address, and from where.
RESOLVER = """
import socket
listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
listener.setsockopt(socket.IPPROTO_IP, 19, 1)  # IP_TRANSPARENT
listener.bind(("0.0.0.0", 1090))
print("bound", flush=True)
while True:
    data, client = listener.recvfrom(1000)
    print(data.decode(), client[0], flush=True)
"""
CLIENT = """
import socket
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"question", ("9.9.9.9", 53))
"""


@pytest.fixture(scope="module", autouse=True)
def needed():
    for program in ("dpkg-buildpackage", "dh", "lintian", "mmdebstrap", "unshare"):
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed")
    if os.geteuid() != 0:
        pytest.skip("a root file system needs root")


@pytest.fixture(scope="module")
def packages(build_dir):
    """{name: .deb}. Built in the same place each time, so that the compiler's cache knows it."""
    output = build_dir / "package"
    run([ROOT / "tools/package", "--no-install", "--output", output], timeout=1800)
    return {fields(deb)["Package"]: deb for deb in output.glob("*.deb")}


@pytest.fixture(scope="module")
def debian(packages, tmp_path_factory):
    depends = fields(packages["utproxy"])["Depends"] + ", iproute2, nftables"
    root = Root(tmp_path_factory.mktemp("debian") / "root", depends)
    root.before = root.files()
    shutil.copy(packages["utproxy"], root.path / "tmp/utproxy.deb")
    root.run("dpkg", "--install", "/tmp/utproxy.deb")
    yield root
    root.remove()


@pytest.fixture
def router():
    """The name of a network namespace whose lan0 leads to another one, which is named with "-client" behind."""
    name = f"utp-{os.getpid()}-deb"
    with contextlib.ExitStack() as stack:
        for namespace in (name, f"{name}-client"):
            run(["ip", "netns", "add", namespace])
            stack.callback(run, ["ip", "netns", "delete", namespace])
        run(["ip", "-n", name, "link", "add", "lan0", "type", "veth", "peer", "name", "lan0", "netns", f"{name}-client"])
        for namespace, address in ((name, "10.77.1.1/24"), (f"{name}-client", "10.77.1.2/24")):
            for words in (["link", "set", "lo", "up"], ["address", "add", address, "dev", "lan0"],
                          ["link", "set", "lan0", "up"]):
                run(["ip", "-n", namespace, *words])
        run(["ip", "-n", f"{name}-client", "route", "add", "default", "via", "10.77.1.1"])
        run(["ip", "netns", "exec", name, "sysctl", "-qw", "net.ipv4.ip_forward=1"])
        yield name


@contextlib.contextmanager
def running(command, ready, **options):
    """A process, from its line that begins with `ready` on; killed at the end where it still runs."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    try:
        said = []
        for line in process.stdout:
            said.append(line)
            if line.startswith(ready):
                break
        else:
            pytest.fail(f"{command}: ended with {process.wait()}: {''.join(said)}")
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def service_command(root, keyword):
    unit = (root.path / "lib/systemd/system/utproxy.service").read_text()
    return [shlex.split(line) for line in re.findall(rf"^{keyword}=(.*)$", unit, re.MULTILINE)]


def test_both_packages(packages):
    assert {"utproxy", "libutproxy-dev"} <= set(packages)


def test_configuration_is_a_conffile(packages):
    assert run(["dpkg-deb", "--info", packages["utproxy"], "conffiles"]) == "/etc/utproxy/utproxy.toml\n"


def test_upgrade_restarts_what_runs(packages, tmp_path):
    """By a restart, which queues, rules and flows outlive in systemd's hands, with no stop before it; a removal stops it."""
    run(["dpkg-deb", "--control", packages["utproxy"], tmp_path / "control"])
    scripts = {path.name: path.read_text() for path in (tmp_path / "control").glob("p*")}
    assert "_dh_action=restart" in scripts["postinst"] and "deb-systemd-invoke $_dh_action 'utproxy.service'" in scripts["postinst"]
    assert re.search(r'"\$1" = remove \][^\n]*\n\s*deb-systemd-invoke stop \'utproxy.service\'', scripts["prerm"]), scripts
    assert "preinst" not in scripts


def test_unit_is_valid(debian):
    # Without looking for the manual pages, which needs man.
    assert debian.run("systemd-analyze", "verify", "--man=no", "/lib/systemd/system/utproxy.service") == ""


def test_unit_gives_up_what_it_can(debian):
    """Of 100, the less the safer; what is left are the capabilities and the networks that the daemon is for."""
    debian.run("systemd-analyze", "security", "--offline=yes", "--threshold=20", "/lib/systemd/system/utproxy.service")


def test_user_is_there_and_service_is_not_enabled(debian):
    assert re.search(r"^utproxy:[^:]*:\d+:\d+:.*:/usr/sbin/nologin$", (debian.path / "etc/passwd").read_text(), re.MULTILINE)
    assert not list((debian.path / "etc/systemd/system").glob("*.wants/utproxy.service"))


def test_service_command_redirects_and_doctor_finds_nothing(debian, router):
    (start,), reloads = service_command(debian, "ExecStart"), service_command(debian, "ExecReload")
    (debian.path / "run/utproxy").mkdir(exist_ok=True)  # as RuntimeDirectory= has systemd do
    resolver = ["ip", "netns", "exec", router, sys.executable, "-c", RESOLVER]
    with running(resolver, "bound") as listener, \
         running(debian.command(*start, namespace=router), "utproxy: ready") as daemon:
        run(["ip", "netns", "exec", f"{router}-client", sys.executable, "-c", CLIENT])
        assert listener.stdout.readline() == "question 10.77.1.2\n"
        answer = json.loads(debian.run("utproxy", "doctor", "-j", namespace=router))
        assert answer["ok"], answer
        assert json.loads(debian.run("utproxy", "stats", "-j", namespace=router))
        # The unit's first word of a reload; the second is a signal.
        debian.run(*reloads[0], namespace=router)
        daemon.send_signal(signal.SIGHUP)
        assert "reloaded" in daemon.stdout.readline()
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(timeout=20) == 0
    assert "utproxy" not in debian.run("nft", "list", "ruleset", namespace=router)


def test_changed_configuration_survives_removal(debian):
    """After the tests above: what purging leaves is looked at last."""
    configuration = debian.path / "etc/utproxy/utproxy.toml"
    configuration.write_text(configuration.read_text() + "# changed\n")
    debian.run("dpkg", "--remove", "utproxy")
    assert configuration.exists() and not (debian.path / "usr/sbin/utproxy").exists()
    debian.run("dpkg", "--install", "/tmp/utproxy.deb")
    assert configuration.read_text().endswith("# changed\n")


def test_purged_leaves_nothing(debian):
    debian.run("dpkg", "--purge", "utproxy")
    after = debian.files()
    changed = {path: (debian.before.get(path), after.get(path)) for path in set(debian.before) | set(after)
               if debian.before.get(path) != after.get(path)}
    assert not changed
    assert "utproxy" not in debian.run("dpkg-query", "--show")
