#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Draws the diagrams of README.md and src/README.md: tools/docs/diagrams.py DIRECTORY writes packet.svg and threads.svg there
(without it, into tools/docs/diagrams, where the committed ones are; a test compares)."""
import pathlib
import sys
from xml.sax.saxutils import escape

INK, KERNEL, OURS, THEIRS, FAST = "#24292f", "#eef1f4", "#d9ecff", "#fff3d6", "#1a7f37"
LINE = 17  # pixels from one line of text to the next


class Drawing:
    def __init__(self, width, height, title):
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
            f'font-family="sans-serif" font-size="13" role="img">',
            f"<title>{escape(title)}</title>",
            '<defs>' + "".join(
                f'<marker id="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
                f'orient="auto-start-reverse"><path d="M0 0 L8 4 L0 8 z" fill="{colour}"/></marker>'
                for name, colour in (("ink", INK), ("fast", FAST))) + "</defs>",
            '<rect width="100%" height="100%" fill="white"/>']

    def frame(self, x, y, width, height, label):
        """A place that has others in it."""
        self.parts.append(f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="8" fill="none" stroke="#8c959f" '
                          'stroke-dasharray="5 4"/>')
        self.text(x + 10, y + 18, label, weight="bold")

    def box(self, x, y, width, height, heading, *lines, fill=KERNEL):
        self.parts.append(f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" fill="{fill}" stroke="{INK}"/>')
        top = y + (height - LINE * len(lines)) / 2 + 4
        for number, line in enumerate((heading, *lines)):
            self.text(x + width / 2, top + LINE * number, line, anchor="middle", weight="normal" if number else "bold")

    def text(self, x, y, text, anchor="start", weight="normal", colour=INK):
        self.parts.append(f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-weight="{weight}" fill="{colour}">'
                          f"{escape(text)}</text>")

    def arrow(self, *points, label="", at=None, anchor="middle", fast=False, dashed=False, both=False):
        """Through all points; its label at `at`, else above the middle of the first stretch."""
        name, colour = ("fast", FAST) if fast else ("ink", INK)
        way = " ".join(f"{x},{y}" for x, y in points)
        self.parts.append(f'<polyline points="{way}" fill="none" stroke="{colour}" stroke-width="1.6" '
                          f'marker-end="url(#{name})"' + (f' marker-start="url(#{name})"' if both else "")
                          + (' stroke-dasharray="3 3"' if dashed else "") + "/>")
        if label:
            (x1, y1), (x2, y2) = points[:2]
            x, y = at or ((x1 + x2) / 2, (y1 + y2) / 2 - 6)
            for number, line in enumerate(label.split("\n")):
                self.text(x, y + LINE * number, line, anchor=anchor, colour=colour)

    def svg(self):
        return "\n".join(self.parts) + "\n</svg>\n"


def packet():
    d = Drawing(980, 470, "A packet's way through hooks, queue, verdict, routing and socket lookup")
    d.frame(10, 14, 960, 168, "utproxy, in user space")
    d.box(40, 50, 190, 70, "mirror of sockets", "by sock_diag, lock-free", "to read", fill=OURS)
    d.box(290, 50, 330, 70, "decision", "established → TIME_WAIT → listener", "→ transparent? → mark", fill=OURS)
    d.box(680, 50, 260, 70, "flow entry", "this flow: this listener's socket", "(where its port or address differs)", fill=OURS)
    d.arrow((230, 85), (290, 85))
    d.arrow((620, 85), (680, 85))
    d.frame(10, 208, 960, 250, "Linux")
    d.box(40, 245, 190, 52, "sockets of the kernel", "exact answers", fill=KERNEL)
    d.arrow((330, 120), (330, 271), (230, 271), both=True, dashed=True, label="asked about\nthis packet", at=(322, 220), anchor="end")
    d.arrow((135, 245), (135, 120), dashed=True)
    d.box(40, 345, 120, 62, "ingress", "lan0,", "defragmentation")
    d.box(245, 345, 170, 62, "PREROUTING", "mangle: rule", "queue / NFQUEUE")
    d.box(490, 345, 170, 62, "routing", "ip rule fwmark →", "local default dev lo")
    d.box(735, 345, 205, 62, "socket lookup", "sk_lookup program reads", "the flow's entry")
    d.box(735, 235, 205, 58, "the proxy's socket", "asked address as its own,", "client's as its peer", fill=THEIRS)
    d.arrow((160, 376), (245, 376))
    d.arrow((415, 376), (490, 376))
    d.arrow((660, 376), (735, 376), label="local", at=(697, 368))
    d.arrow((838, 345), (838, 293))
    d.arrow((375, 345), (375, 120), label="headers", at=(368, 315), anchor="end")
    d.arrow((470, 120), (470, 322), (400, 322), (400, 345), label="verdict: accept\nwith the mark,\nor drop", at=(478, 240),
            anchor="start")
    d.arrow((710, 120), (710, 330), (770, 330), (770, 345), label="map", at=(703, 250), anchor="end")
    d.arrow((290, 407), (290, 437), (575, 437), (575, 407), fast=True, at=(590, 428), anchor="start",
            label="--fast-path divert: rules mark established TCP and\nknown UDP flows; these are not queued")
    return d.svg()


def threads():
    d = Drawing(980, 470, "utproxy's threads and the socket table")
    d.frame(10, 14, 960, 392, "utproxy")
    d.box(40, 50, 240, 80, "utproxy-mirror", "dumps, destroy events,", "workers' answers:", "the table's one writer", fill=OURS)
    d.box(370, 50, 230, 80, "socket table", "buckets of 16 tags, one", "cache line an entry;", "readers take no lock", fill=THEIRS)
    d.box(690, 50, 250, 80, "worker, one a queue", "recvmmsg 64 → decide → ask", "→ flow entries →", "verdicts in one send", fill=OURS)
    d.arrow((280, 90), (370, 90), label="writes")
    d.arrow((690, 90), (600, 90), label="reads")
    d.arrow((750, 130), (750, 160), (160, 160), (160, 130), label="feed: what the kernel answered, bounded", at=(520, 154))
    d.box(40, 190, 240, 58, "utproxy-ifaces", "interfaces and their addresses", fill=OURS)
    d.box(370, 190, 230, 58, "interface snapshot", "replaced whole", fill=THEIRS)
    d.arrow((280, 219), (370, 219), label="writes", at=(312, 213))
    d.arrow((690, 110), (645, 110), (645, 219), (600, 219))
    d.box(690, 190, 250, 58, "flight recorder, one a worker", "its last 8,192 decisions", fill=THEIRS)
    d.arrow((860, 130), (860, 190), label="writes", at=(868, 166), anchor="start")
    d.box(690, 320, 250, 66, "utproxy-ctl, one a client", "trace, stats, sockets:", "nobody waits for them", fill=OURS)
    d.arrow((860, 320), (860, 248), label="reads", at=(868, 290), anchor="start")
    d.box(40, 320, 240, 66, "main", "signals, reloads,", "idle flow entries, losses", fill=OURS)
    d.box(370, 320, 230, 66, "utproxy-fast", "with --fast-path: keeps", "the rules' sets", fill=OURS)
    d.arrow((440, 320), (440, 290), (350, 290), (350, 112), (280, 112), label="what changed?", at=(406, 284), dashed=True)
    d.frame(10, 420, 960, 40, "")
    for x, text in ((160, "sock_diag, rtnetlink"), (485, "nftables"), (815, "NFQUEUE, sk_lookup maps")):
        d.text(x, 445, text, anchor="middle")
    d.text(20, 445, "Linux", weight="bold")
    d.arrow((20, 432), (20, 90), (40, 90))
    d.arrow((485, 386), (485, 430))
    d.arrow((955, 430), (955, 90), (940, 90), both=True)
    return d.svg()


DIAGRAMS = {"packet.svg": packet, "threads.svg": threads}


def main():
    directory = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).resolve().parent / "diagrams"
    for name, draw in DIAGRAMS.items():
        (directory / name).write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main()
