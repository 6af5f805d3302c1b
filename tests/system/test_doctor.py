# SPDX-License-Identifier: GPL-3.0-or-later
"""`utproxy doctor` on healthy routers, on routers broken in each way that it knows, and in two of them at once."""
import itertools
import json
import random

import pytest

from doctor_router import ON_PORT, PORT
from engine import Target
from faults import FAKED, FAULTS
from lab import wait_until


def broken(make_router, fault):
    router = make_router(server=fault.server, kind=fault.kind, families=fault.families, protocol=fault.protocol, iif=fault.iif)
    if fault.before:
        fault.before(router)
    else:
        router.set_up()
    assert router.errors() == [], router.doctor()
    fault.do(router)
    return router


def named(findings, severity):
    return {f["id"] for f in findings if f["severity"] == severity}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id)
def test_fault(make_router, fault):
    """It is named, nothing else is, and what doctor says to type mends it."""
    router = broken(make_router, fault)
    findings = router.doctor()
    assert fault.id in named(findings, fault.severity), findings
    assert named(findings, "error") <= {fault.id}, findings
    if fault.breaks:
        assert not router.works(6 if fault.id == "ipv6_missing" else 4, seconds=1.5), "nothing is broken"
    if fault.severity == "error":
        router.mend()
    else:
        router.paste(next(f["fix"] for f in findings if f["id"] == fault.id))
    for family in router.families:
        if fault.protocol == "tcp" or family == 4:
            assert router.works(family), router.doctor()


@pytest.mark.parametrize("families", [(4,), (4, 6)], ids=["v4", "dual"])
@pytest.mark.parametrize("kind", ["xt", "nft"])
def test_healthy_kernel(make_router, kind, families):
    router = make_router(kind=kind, families=families).set_up()
    assert router.doctor() == []
    assert router.works(families[-1])
    assert router.errors() == []


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("kind", ["rules", "install"])
def test_healthy_utproxy(lab, make_engine, utproxy, kind, protocol):
    lab.listen(protocol, ON_PORT, family="dual")
    engine = make_engine(kind, lab, Target(protocol, PORT, on_port=ON_PORT))
    for words in ([], ["--control", engine.control], ["--on-port", str(ON_PORT), "--tproxy-mark", "0x1/0x1", "--queue-num", "0"]):
        done = lab.router.run(utproxy, "doctor", "-j", *words, check=False)
        answer = json.loads(done.stdout)
        assert answer["ok"] and done.returncode == 0, answer


def state(space):
    parts = [space.run("nft", "-s", "list", "ruleset").stdout, space.run("ip", "address").stdout]
    for family in ("-4", "-6"):
        parts += [space.run("ip", family, "rule").stdout, space.run("ip", family, "route", "show", "table", "all").stdout]
    return "\n".join(parts)


def test_changes_nothing(make_router):
    router = make_router().set_up()
    before = state(router.space)
    router.doctor()
    assert state(router.space) == before


# Two at once. Of these each touches another part of the router; left out are, beside the faults that need a set-up of their
# own or a kernel with flowtables, pairs of which one leaves no place for the other: there is one listener to be absent, opaque or elsewhere; no rule
# to be overtaken, and no marked packet to be refused, where there is no rule; IPv6 alone lacks a rule only where IPv4 has one;
# and IPv4's rule and route are looked at before IPv6's.
PAIRABLE = [f for f in FAULTS if f.before is None and f.id not in ("rule_removed", "listener_address", "fd_limit", "flow_offload")]
GROUPS = [{"no_listener", "not_transparent", "listener_on_port_exposed", "loop"},
          {"no_fwmark_rule", "mark_overlap", "src_valid_mark", "ipv6_missing", "rp_filter", "no_local_route"}]


def exclude_each_other(a, b):
    return any(a.id in group and b.id in group for group in GROUPS)


def draw_pairs(count):
    pairs = [p for p in itertools.combinations(PAIRABLE, 2) if not exclude_each_other(*p)]
    return random.Random("two at once").sample(pairs, count)


@pytest.mark.parametrize("pair", draw_pairs(20), ids=lambda pair: "+".join(f.id for f in pair))
def test_two_at_once(make_router, pair):
    router = make_router(server=any(f.server for f in pair))
    router.set_up()
    # First those that show by packets which the other fault may not let through.
    for fault in sorted(pair, key=lambda f: f.id not in ("rp_filter", "listener_on_port_exposed")):
        fault.do(router)
    assert {f.id for f in pair} <= set(router.errors()), router.doctor()


def test_every_id_has_a_test():
    ids = {"br_netfilter", "src_valid_mark", "no_fwmark_rule", "no_local_route", "rule_removed", "own_traffic_not_proxied",
           "loop", "listener_address", "no_listener", "not_transparent", "reply_bind_conflict", "input_policy",
           "mark_overlap", "ipv6_missing", "rp_filter", "own_services_matched", "conntrack_full", "socket_match_hijack",
           "kernel_feature_missing", "queue_unbound", "queue_overflow", "ruleset_reload_loss", "fd_limit",
           "flow_offload", "fragments", "listener_on_port_exposed"}
    assert {f.id for f in FAULTS} | set(FAKED) == ids


def test_watch(make_router):
    """A rule that goes is told, and that it is back."""
    router = make_router().set_up()
    process = router.space.start(router.program, "doctor", "--watch", "-j", name="watch")
    lines = lambda: [json.loads(line) for line in process.out().splitlines()]  # noqa: E731
    wait_until(lambda: len(lines()) == 1, 10, "the first look")
    router.sh("ip rule del fwmark 0x1/0x1 lookup 100")
    wait_until(lambda: any(c.get("id") == "rule_removed" and c["event"] == "appeared" for c in lines()[1:]), 10, process.out)
    router.sh("ip rule add fwmark 0x1/0x1 lookup 100")
    wait_until(lambda: any(c.get("id") == "rule_removed" and c["event"] == "mended" for c in lines()[1:]), 10, process.out)
    router.listener.stop()
    router.listen()
    wait_until(lambda: any(c["event"] in ("listener_restarted", "mended") for c in lines()[3:]), 10, process.out)
