# SPDX-License-Identifier: GPL-3.0-or-later
"""Every packet of the soak accounted for. Three count them: nft's counters before the queue and after it (`came`, `in`), the
kernel's queue (packets it gave a number, packets it dropped), the daemon.

What is flushed by the kernel has been counted as decided too, by its verdict. When another program puts a chain in front of the
queue's, packets that wait are queued by the kernel once more: the daemon sees them twice, the second time with their mark, and
counts that as `marked_before`."""
from soak_place import MATCHES, QUEUES


def settled(place):
    return all(queue.get("depth", 0) == 0 for queue in place.daemon.stats()["queues"])


def target_books(name, stats, came, queues):
    """Of one target: what came in, what was decided, what the kernel's queue lost."""
    target = stats["targets"][name]
    lost = sum(queues[number]["dropped"] + queues[number]["user_dropped"] for number, of in QUEUES.items() if of == name)
    return {**came[name], "packets": target["packets"], "queued_again": target["verdicts"]["marked_before"],
            "lost_by_queue": lost, "accepted": target["verdicts"]["accept"], "dropped": target["verdicts"]["drop"],
            "reasons": {reason: count for reason, count in target["reasons"].items() if count}}


def rest(stats, books, came):
    """`ports`, whose queues and targets come and go: all that is none of the others'."""
    losses = stats["losses"]["queue_full"] + stats["losses"]["netlink_overrun"]
    whole = {"packets": stats["packets"], "queued_again": stats["verdicts"]["marked_before"], "lost_by_queue": losses,
             "accepted": stats["verdicts"]["accept"], "dropped": stats["verdicts"]["drop"]}
    return {**came["ports"], **{key: value - sum(b[key] for b in books.values()) for key, value in whole.items()}}


def balance(books, flushed):
    """What does not add up; adds to the books what follows from them."""
    faults, undelivered = [], 0
    for name, b in books.items():
        decided = b["packets"] - b["queued_again"]  # packets, each once
        carried = b["came"] - decided - b["lost_by_queue"]
        b["past_the_queue" if name == "web" else "unexplained"] = carried
        if carried < 0 or (carried and name != "web"):
            faults.append(f"{name}: {b['came']} came in, {decided} were decided, {b['lost_by_queue']} lost by the queue")
        if b["leaked"]:
            faults.append(f"{name}: {b['leaked']} packets passed by")
        b["undelivered"] = b["accepted"] - b["queued_again"] + (carried if name == "web" else 0) - b["in"]
        undelivered += b["undelivered"]
    # Packets that are reinjected while a chain goes can get lost in the kernel with no error: it is hooks' numbers that
    # it remembers of a packet. And what was flushed may have been dropped anyway.
    if not -flushed / 100 - 10 <= undelivered - flushed <= flushed / 100 + 10:
        faults.append(f"{undelivered} accepted packets were not delivered, {flushed} are counted as flushed or gone with their interface")
    return faults


def sender_faults(traffic, books, before):
    """The senders' word: each packet that left came in, but for what the link dropped before any rule."""
    faults = []
    for name, link in (("flood", "lan0"), ("flap", "lan1")):
        sent, came = traffic.sent[name], books[name]["came"]
        if not sent - before[link] <= came <= sent:
            faults.append(f"{name}: {sent} sent, {came} came in, {before[link]} dropped by {link}")
    return faults


def account(place, traffic):
    stats, came, queues = place.daemon.stats(), place.counters(), place.kernel_queues()
    before, losses = place.dropped_before(), stats["losses"]
    books = {name: target_books(name, stats, came, queues) for name in MATCHES if name != "ports"}
    books["ports"] = rest(stats, books, came)
    faults = balance(books, losses["flushed"] + losses["interface_down"]) + sender_faults(traffic, books, before)
    if not stats["packets"] == sum(stats["reasons"].values()) == stats["verdicts"]["accept"] + stats["verdicts"]["drop"]:
        faults.append(f"{stats['packets']} packets, {stats['reasons']}, {stats['verdicts']}")
    for queue in stats["queues"]:
        kernel = queues[queue["queue"]]
        if kernel["queued"] != queue["packets"] + kernel["user_dropped"]:
            faults.append(f"queue {queue['queue']}: the kernel queued {kernel}, {queue['packets']} were decided")
    return {"packets": stats["packets"], "reasons": {k: v for k, v in stats["reasons"].items() if v},
            "losses": {k: v for k, v in losses.items() if v}, "targets": books, "sent": traffic.sent, "unsent": traffic.unsent,
            "flood_received": traffic.flood_received, "connections": traffic.connections, "dropped_before": before,
            "faults": faults, "stats": stats}
