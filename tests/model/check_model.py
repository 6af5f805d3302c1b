#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Has spin search the socket table's protocol for a lookup that goes wrong.

Usage: check_model.py MODEL [OPERATIONS]

OPERATIONS (2): how many of the writer's a lookup may meet. 3 takes minutes and gigabytes.

The model must hold, in all its states. Then each guarantee is left out in turn (the model's BREAK_* switches), and spin
must find fault every time: a model that cannot fail proves nothing. Exit 1 where either is not so, 77 (meson's "skipped")
where spin or a C compiler is missing.
"""
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

PAN_FLAGS = ["-O2", "-w", "-DSAFETY", "-DCOLLAPSE", "-DNOFAIR", "-DMEMLIM=6000", "-DVECTORSZ=512"]


def search(model, macros, directory):
    """(errors, states, what pan said); raises where the search did not run to its end."""
    directory.mkdir()
    subprocess.run(["spin", "-a", *[f"-D{macro}" for macro in macros], model], cwd=directory, check=True,
                   stdout=subprocess.DEVNULL)
    subprocess.run(["cc", *PAN_FLAGS, "-o", "pan", "pan.c"], cwd=directory, check=True)
    said = subprocess.run(["./pan", "-m200000"], cwd=directory, check=True, capture_output=True, text=True).stdout
    if re.search(r"pan:\d+: invalid end state", said):
        raise RuntimeError(f"{macros}: the model itself is stuck:\n{said}")
    errors = re.search(r"errors: (\d+)", said)
    states = re.search(r"(\S+) states, stored", said)
    if not errors or not states or "max search depth too small" in said or "out of memory" in said:
        raise RuntimeError(f"{macros}: the search was cut short:\n{said}")
    return int(errors[1]), states[1], said


def main():
    model = str(pathlib.Path(sys.argv[1]).resolve())
    size = [f"DURING={sys.argv[2] if len(sys.argv) > 2 else 2}"]
    for tool in ("spin", "cc"):
        if not shutil.which(tool):
            print(f"SKIP: no {tool}")
            return 77
    switches = sorted(set(re.findall(r"\bBREAK_\w+", pathlib.Path(model).read_text())) - {"BREAK_"})
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="utproxy-model-") as scratch:
        errors, states, said = search(model, size, pathlib.Path(scratch) / "whole")
        print(f"as it is: {errors} errors in {states} states")
        if errors:
            wrong += 1
            print(said)
        for switch in switches:
            errors, states, _ = search(model, [*size, switch], pathlib.Path(scratch) / switch)
            print(f"{switch}: {'fault found' if errors else 'NO FAULT FOUND'} after {states} states")
            wrong += not errors
    return 1 if wrong or not switches else 0


if __name__ == "__main__":
    sys.exit(main())
