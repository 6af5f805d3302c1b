# SPDX-License-Identifier: GPL-3.0-or-later
"""Blocks of commands that have no labels, typed on the router: those of the README and of commands' manual pages."""
import signal

from lab import wait_until
from printed import BY_UTPROXY
from stock import need

PROGRAMS = {"utproxy", "ip", "iptables", "nft", "sudo", "cd", "haproxy", "systemctl", "meson", "ninja", "tools/demo", "tools/check",
            "tools/package"}
NO_MANAGER = "no service manager is in a test's namespace"
CANNOT = {  # Lines that no test can type, and why not.
    "sudo systemctl enable --now utproxy": NO_MANAGER,
    "systemctl enable --now utproxy": NO_MANAGER,
    "systemctl restart utproxy": NO_MANAGER,
}


def words(line):
    """The command without its comment."""
    return line.partition("  #")[0].strip()


def commands(block):
    return all(line.split()[0] in PROGRAMS for line in block if line.strip())


def stays(line):
    """Whether a command is ended by Ctrl-C only."""
    if line.startswith("utproxy trace"):
        return not any(word in line for word in (" --last ", " --until ", " --count "))
    return line.endswith("&") or ("utproxy run " in line and " --check " not in line)


def daemons(router):
    return [process for process in router.started if "utproxy run" in process.argv[-1]]


def type_block(place, block, leave=()):
    """Types each line but those of `leave`. Where a block asks utproxy and starts none, the README's "all of it by utproxy" runs,
    and has decided a packet."""
    router = place.router
    block = [line for line in block if words(line) and words(line) not in leave]
    if any(line.startswith("haproxy") for line in block):
        need("haproxy")
    if not any("utproxy run " in line for line in block) and any(line.startswith("utproxy") for line in block):
        router.terminal(BY_UTPROXY)
        wait_until(lambda: router.type("utproxy trace --last 1").stdout, 10, "a decision")
    for line in block:
        if line.startswith("cd "):
            place.cwd = line.split()[1]
        elif stays(line):
            router.terminal(line.removesuffix("&"))
        else:
            done = router.type(line)
            # What doctor finds is that nobody listens.
            assert done.returncode == ("doctor" in line), f"{line}: {done.stdout}{done.stderr}"
    assert daemons(router) or not any("utproxy run " in line and stays(line) for line in block)


def end_daemons(router):
    """Ctrl-C for those that still run, each of which must end with 0, as those must have that have ended."""
    ended = [process.stop(signal.SIGINT) for process in daemons(router)]
    assert ended == [0] * len(ended), [each.err() for each in daemons(router)]
