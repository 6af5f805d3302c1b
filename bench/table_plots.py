# SPDX-License-Identifier: GPL-3.0-or-later
"""Draws table_report.py's figures as SVG, by hand: bars need no library."""
import html
import math
import statistics

INK, FAINT, OURS, THEIRS = "#222", "#ccc", "#1b7837", "#8c8c8c"


def time_of(figures, name):
    """The median of a case, in ns a lookup. A thread that waits for a lock uses no CPU time."""
    contender, _, _, _, changes, _ = name.split("/")
    waits = "mutex" in contender or "tbb" in contender
    return statistics.median(figures[name]["real" if waits and changes != "changes:0" else "cpu"])


def text(x, y, words, anchor="start", size=12):
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{INK}">{html.escape(words)}</text>'


def bar(x, y, width, height, colour):
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.5):.1f}" height="{max(height, 0.5):.1f}" fill="{colour}"/>'


def page(width, height, parts):
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
            f'font-family="sans-serif"><rect width="100%" height="100%" fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n")


def lookups(figures, contenders, entries):
    """Horizontal bars: each contender without writer and, where it can have one, at 100,000 changes a second."""
    rows = []
    for contender in contenders:
        for changes in (0, 100_000):
            name = f"{contender}/{entries}/hit/v4/changes:{changes}/readers:1"
            if name in figures:
                label = contender + (", writer at 100k/s" if changes else "")
                rows.append((label, time_of(figures, name), OURS if contender.startswith("table") else THEIRS))
    longest = max(value for _, value, _ in rows)
    left, width, step = 290, 760, 24
    parts = [text(12, 24, f"ns a lookup, {entries:,} sockets, IPv4 hits, one reader", size=14)]
    for i, (label, value, colour) in enumerate(rows):
        y = 40 + i * step
        length = value / longest * (width - left - 60)
        parts += [text(left - 8, y + 14, label, "end"), bar(left, y, length, step - 6, colour),
                  text(left + length + 6, y + 14, f"{value:.0f}")]
    return page(width, 52 + len(rows) * step, parts)


def pauses(pause):
    """How many lookups took how long, on two logarithmic scales; above, while the table that is read grows."""
    width, height, left, top = 760, 250, 60, 34
    bins = [2 ** n for n in range(4, 18)]
    step = (width - left - 20) / len(bins)
    parts = []
    titles = [("growing", "A reader's lookups while the table doubles (without times in which it had no processor)"),
              ("other_table", "The same while another table grows: what the machine itself does")]
    for row, (name, title) in enumerate(titles):
        base = top + row * height + height - 60
        counts = {int(ns): count for ns, count in pause[name]["lookups"].items()}
        decades = math.ceil(math.log10(max(counts.values()) + 1))
        unit = (height - 90) / decades
        parts.append(text(12, top + row * height - 10, title, size=14))
        for decade in range(decades + 1):
            y = base - decade * unit
            parts += [bar(left, y, width - left - 20, 0.5, FAINT), text(left - 6, y + 4, f"{10 ** decade:,}", "end", 10)]
        for i, ns in enumerate(bins):
            count = sum(n for at, n in counts.items() if at == ns or (i == 0 and at < ns) or (i + 1 == len(bins) and at > ns))
            x = left + i * step
            if count:
                tall = (math.log10(count) + 0.15) * unit
                parts.append(bar(x + 2, base - tall, step - 4, tall, OURS if row == 0 else THEIRS))
            label = f"{ns} ns" if ns < 1024 else f"{ns / 1000:.0f} µs"
            parts.append(text(x, base + 14, label, "middle", 10))
        worst = pause[name]["worst_ns"] / 1000
        parts.append(text(width - 20, base + 30, f"worst {worst:.0f} µs; {pause[name]['rebuilds']} rebuilds", "end"))
    return page(width, top + 2 * height, parts)
