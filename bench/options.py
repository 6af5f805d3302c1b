# SPDX-License-Identifier: GPL-3.0-or-later
"""What the command lines of the benches that send a paced flood have in common."""
import argparse
import os
import pathlib
import sys

SKIPPED = 77  # the exit status that Meson takes for a skipped test


def parser(doc, rounds, pps, pps_help=None):
    """BUILD_DIR, --rounds, --pps and --tiny; the caller adds its own."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("build", type=lambda path: pathlib.Path(path).resolve())
    made.add_argument("--rounds", type=int, default=rounds)
    made.add_argument("--pps", type=int, default=pps, help=pps_help)
    made.add_argument("--tiny", action="store_true", help="one short round, whatever its figures are")
    return made


def read(made):
    """The options; ends the program where it is not root's."""
    options = made.parse_args()
    if os.geteuid() != 0:
        print(f"{pathlib.Path(sys.argv[0]).name}: needs root, for network namespaces")
        sys.exit(SKIPPED)
    return options
