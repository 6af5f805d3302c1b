# SPDX-License-Identifier: GPL-3.0-or-later
"""Draws the lab's figures as SVG: a panel a case, a bar a contestant, lines from the lowest to the highest round."""
import pathlib
import statistics
import sys

sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent))
from table_plots import INK, OURS, THEIRS, bar, page, text  # noqa: E402

LEFT, WIDTH, STEP, COLUMNS = 140, 440, 18, 2


def panel(x, y, case, runs):
    values = {name: [figure["value"] for figure in figures] for name, figures in runs.items() if figures}
    longest = max(max(v) for v in values.values()) or 1
    unit = (WIDTH - LEFT - 70) / longest
    parts = [text(x, y + 14, f"{case.name}, {case.unit}" + (" (less is better)" if case.better == "less" else ""), size=13)]
    for i, (name, figures) in enumerate(values.items()):
        top, median = y + 24 + i * STEP, statistics.median(figures)
        parts += [text(x + LEFT - 6, top + 11, name, "end", 11),
                  bar(x + LEFT, top, median * unit, STEP - 6, OURS if name.startswith("utproxy") else THEIRS),
                  bar(x + LEFT + min(figures) * unit, top + STEP / 2 - 3.5, (max(figures) - min(figures)) * unit, 1, INK),
                  text(x + LEFT + max(figures) * unit + 6, top + 11, f"{median:,.0f}" if median >= 100 else f"{median:.1f}", size=11)]
    return parts, 34 + len(values) * STEP


def draw(cases, results):
    """The page, of the cases that have figures."""
    tops, parts = [12] * COLUMNS, []
    for case in cases:
        if not any(results.get(case.name, {}).values()):
            continue
        column = tops.index(min(tops))
        drawn, height = panel(12 + column * WIDTH, tops[column], case, results[case.name])
        parts += drawn
        tops[column] += height
    return page(12 + COLUMNS * WIDTH, max(tops) + 12, parts)
