# SPDX-License-Identifier: GPL-3.0-or-later
"""Draws the soak's samples as SVG: a panel a series, over time."""
import pathlib
import sys

sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent.parent / "bench"))
from table_plots import FAINT, INK, OURS, bar, page, text  # noqa: E402

PANELS = {"packets": "packets decided", "lost": "packets lost, all counted", "rss_kb": "resident memory, MB",
          "anon_kb": "of that its own (anonymous), MB", "descriptors": "descriptors", "threads": "threads",
          "flow_entries": "flow entries", "bpf_kb": "BPF maps, MB", "bpf_elements": "elements in BPF maps",
          "mirror_sockets": "sockets in the mirror"}
WIDTH, HEIGHT, LEFT, COLUMNS = 440, 120, 70, 2


def panel(x, y, name, samples):
    scale = 1024 if name.endswith("_kb") else 1
    values = [sample[name] / scale for sample in samples]
    top, last = max(values) or 1, samples[-1]["s"] or 1
    left, base, height = x + LEFT, y + HEIGHT - 22, HEIGHT - 48
    points = " ".join(f"{left + sample['s'] / last * (WIDTH - LEFT - 16):.1f},{base - value / top * height:.1f}"
                      for sample, value in zip(samples, values))
    return [text(x, y + 14, PANELS[name], size=13), bar(left, base, WIDTH - LEFT - 16, 1, FAINT),
            text(left - 6, base - height + 8, f"{top:,.0f}", "end", 11), text(left - 6, base + 4, "0", "end", 11),
            text(x + WIDTH - 16, base + 15, f"{last / 60:.0f} min", "end", 11),
            bar(left + (WIDTH - LEFT - 16) / 3, base - height, 1, height, FAINT),
            f'<polyline points="{points}" fill="none" stroke="{OURS if name != "lost" else INK}" stroke-width="1.5"/>']


def draw(samples):
    """The page; the grey upright is where judging begins."""
    parts = []
    for i, name in enumerate(PANELS):
        parts += panel(12 + i % COLUMNS * WIDTH, 12 + i // COLUMNS * HEIGHT, name, samples)
    return page(12 + COLUMNS * WIDTH, 24 + -(-len(PANELS) // COLUMNS) * HEIGHT, parts)
