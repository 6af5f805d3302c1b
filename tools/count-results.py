#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads what a test tool reported and prints three numbers, "PASSED FAILED SKIPPED", then a line per skip.

Usage: count-results.py meson FILE    a build directory's meson-logs/testlog.json
       count-results.py pytest FILE   pytest's output, with -ra
       count-results.py summary FILE  a script's output that ends with "N passed, N failed, N skipped"
A report that is missing or cut short counts as a failure.
"""
import json
import pathlib
import re
import sys


def of_gtest(result, stdout):
    """GoogleTest's own numbers where the program printed them; otherwise the program is one test."""
    def number(word):
        found = re.findall(rf"^\[ *{word} *\] (\d+) test", stdout, re.MULTILINE)
        return int(found[-1]) if found else 0

    passed, failed, skipped = number("PASSED"), number("FAILED"), number("SKIPPED")
    if passed + failed + skipped == 0:
        return (result == "OK", result not in ("OK", "SKIP"), result == "SKIP")
    if result != "OK" and failed == 0:
        failed = 1  # it ended badly after its last test, or a sanitizer spoke
    return passed, failed, skipped


def gtest_skips(stdout):
    """Why tests of a GoogleTest program, or the whole of it, were skipped."""
    reasons = re.findall(r"Skipped\n(.*)|^SKIP:? *(.*)$", stdout, re.MULTILINE)
    return sorted({a or b for a, b in reasons} - {""})


def meson(text):
    totals, skips = [0, 0, 0], []
    for line in text.splitlines():
        record = json.loads(line)
        stdout = record.get("stdout") or ""
        counts = of_gtest(record["result"], stdout)
        totals = [total + int(count) for total, count in zip(totals, counts)]
        if counts[2]:
            said = "; ".join(gtest_skips(stdout)) or "no reason given"
            skips.append(f"{record['name']}: {counts[2]} skipped: {said}")
    return totals, skips


def pytest(text):
    summary = re.findall(r"^=*\s*((?:\d+ [a-z]+(?:, )?)+) in [\d.]+s", text, re.MULTILINE)
    if not summary:
        return [0, 1, 0], []
    counts = {word.rstrip("s"): int(n) for n, word in re.findall(r"(\d+) ([a-z]+)", summary[-1])}
    failed = counts.get("failed", 0) + counts.get("error", 0)
    skips = re.findall(r"^SKIPPED (.*)$", text, re.MULTILINE)
    return [counts.get("passed", 0), failed, counts.get("skipped", 0)], skips


def summary(text):
    """A script of ours that says its numbers in its last line, and SKIPPED with a reason before."""
    last = re.fullmatch(r"(\d+) passed, (\d+) failed, (\d+) skipped", (text.splitlines() or [""])[-1])
    if not last:
        return [0, 1, 0], []
    return [int(number) for number in last.groups()], re.findall(r"^SKIPPED (.*)$", text, re.MULTILINE)


def main():
    kind, path = sys.argv[1:]
    try:
        totals, skips = {"meson": meson, "pytest": pytest, "summary": summary}[kind](pathlib.Path(path).read_text())
    except (OSError, ValueError) as problem:
        totals, skips = [0, 1, 0], [f"{path}: {problem}"]
    print(*totals)
    print("\n".join(skips))


if __name__ == "__main__":
    main()
