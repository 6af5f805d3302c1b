# SPDX-License-Identifier: GPL-3.0-or-later
"""The mark is (old & ~mask) ^ value: what the packet carried outside the mask stays."""
import pytest

from engine import KINDS, Target
from lab import ASKED, endpoint, wait_until

# old mark, --tproxy-mark, what arrives
MARKS = [
    (0x0, "0x1", 0x1),
    (0xAB42, "0x1/0xff", 0xAB01),
    (0xAB40, "0x1/0x1", 0xAB41),
    (0xFFFFFFFE, "0x1/0xf", 0xFFFFFFF1),
    (0x300, "0x101/0x1", 0x201),  # a bit of the value outside the mask flips
]


@pytest.mark.parametrize("old,words,arrives", MARKS, ids=[f"{old:x}_{w.replace('/', '_')}" for old, w, _ in MARKS])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("kind", KINDS)
def test_mark(lab, make_engine, kind, protocol, old, words, arrives):
    lab.router.run("nft", "-f", "-", text=f"""
        table inet marks {{
            chain before {{ type filter hook prerouting priority raw; iifname "lan0" meta mark set {old:#x}; }}
            chain input {{
                type filter hook input priority filter;
                iifname "lan0" meta mark {arrives:#x} counter
                iifname "lan0" meta l4proto {protocol} meta mark != {arrives:#x} counter
            }}
        }}""")
    listener = lab.listen(protocol, 1090)
    make_engine(kind, lab, Target(protocol, 8053, on_port=1090, mark=words))
    answer = lab.ask(protocol, endpoint(ASKED[4], 8053))
    assert answer["exit"] == 0, answer
    assert listener.summary().get("ok", 1) == 1

    def counters():
        lines = lab.router.run("nft", "list", "chain", "inet", "marks", "input").stdout.splitlines()
        return [int(line.split("packets ")[1].split()[0]) for line in lines if "packets" in line]

    right, wrong = wait_until(lambda: counters()[0] and counters(), 3, "a packet with the mark")
    assert right > 0 and wrong == 0
