# SPDX-License-Identifier: GPL-3.0-or-later
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]


def run(command, **options):
    """Runs it to its end and returns what it wrote; where it fails, that is the failure's text."""
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors="replace", check=False, **options)
    assert done.returncode == 0, f"{command}: exit {done.returncode}\n{done.stdout[-6000:]}"
    return done.stdout
