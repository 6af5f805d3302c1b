#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Breaks the socket table in each of many ways, and demands that its tests notice.

Usage: mutants.py [--threads] [--only REGEX] BUILD_DIR

Each mutant is a piece of the table's sources replaced by another; the piece must be there once. socket_table_steps is compiled
with it and must fail, but for mutants that are equivalent, which say why and must pass. With --threads, for builds with
-Db_sanitize=thread: socket_table_stress instead, and the mutants that only TSan can see. Exit 1 where one is not as it should be.
"""
import argparse
import concurrent.futures
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHAIN, WRITER, READER = (f"src/sockets/socket_table_{part}.cc" for part in ("chain", "writer", "reader"))
CORE, LAYOUT = "include/utproxy/socket_table_core.h", "include/utproxy/socket_table_layout.h"


class Mutant(NamedTuple):
    name: str
    path: str
    old: str
    new: str
    equivalent: str = ""  # why nobody can notice


UNLINK = "  Store(before.bucket->link, 0);\n  Touch(head);  // (B)\n"
STEPS = [
    # Stamps.
    Mutant("no stamp after a slot is cleared", CHAIN, "position.slot, 0);\n  Touch(head);  // (B)", "position.slot, 0);"),
    Mutant("no stamp between append and remove", WRITER, "    Touch(head);  // (E)\n", ""),
    Mutant("no stamp after an insert", WRITER, "  Touch(head);  // (B)\n  SetSize", "  SetSize"),
    Mutant("no stamp after a gap is filled", CHAIN, "      Touch(head);  // (E)\n", ""),
    Mutant("no stamp after the last slot is cleared", CHAIN, "last, 0);\n      Touch(head);  // (B)\n", "last, 0);\n"),
    Mutant("no stamp after a follower is unlinked", CHAIN, UNLINK, "  Store(before.bucket->link, 0);\n"),
    Mutant("stamps repeat", CHAIN, "++writer_->stamp)", "1 + ++writer_->stamp % 2)"),
    Mutant("no stamp after a bit is put into the filter", CHAIN, "  if (head.bucket->stamp != 0) Touch(head);\n", "",
           "a bit that stands for nothing yet harms nobody, and the append it belongs to is stamped"),
    Mutant("no stamp after bits are taken from the filter", CHAIN, "FilterOf(*head.bucket));  // (F)\n    Touch(head);  // (B)\n", "FilterOf(*head.bucket));\n",
           "who reads either filter looks where the sockets are: the next change that matters is stamped"),
    # Publication.
    Mutant("a tag before its entry", CHAIN, "  Entry& entry = place.entries[slot];\n",
           "  Entry& entry = place.entries[slot];\n  SetTag(place.bucket, slot, tag);\n"),
    Mutant("no filter bit for a follower's socket", CHAIN, "    if (tail.bucket != head.bucket) AddToFilter(head, tag);\n", ""),
    Mutant("a gap is emptied before it is filled", CHAIN, "      Fill(gap.place, gap.slot, TagAt(*tail.bucket, last), ",
           "      const uint8_t tag = TagAt(*tail.bucket, last);\n      SetTag(tail.bucket, last, 0);\n      Touch(head);\n"
           "      Fill(gap.place, gap.slot, tag, "),
    # Reuse.
    Mutant("a follower keeps its old tags", CHAIN, "  for (uint64_t& tags : followers_[number].tags) Store(tags, 0);", " "),
    Mutant("a retired head keeps its stamp", WRITER, "  Store(head.bucket->stamp, 0);  // (D) (B)\n", ""),
    # Growth.
    Mutant("the root before the array it replaces is known", WRITER,
           "  Store(previous_, &from);  // (D)\n  Store(root_, &to);        // (D)", "  Store(root_, &to);\n  Store(previous_, &from);"),
    Mutant("old heads are retired before new ones live", WRITER, "covered = to.FirstHash(live);", "covered = moved;"),
    Mutant("new heads live before they are complete", WRITER, "to.FirstHash(live + 1) <= moved", "to.FirstHash(live) < moved"),
    Mutant("the old array is forgotten at once", WRITER, "    MoveChain(from.At(i), to);\n",
           "    Store<const Array>(previous_, nullptr);\n    MoveChain(from.At(i), to);\n"),
    # Readers.
    Mutant("FindOne and FindBatch do not look at the stamp again", CORE,
           "return table_internal::Unchanged(*probe.head, probe.stamp) ? answer : Answer::kUnknown;", "return answer;"),
    Mutant("FindOne and FindBatch take a dead head for an empty one", CORE, "followed || probe.stamp == 0", "followed"),
    Mutant("FindOne and FindBatch look into the head alone", CORE, "followed || probe.stamp == 0", "probe.stamp == 0"),
    Mutant("a chain's end is taken without a look at the stamp", READER,
           "    if (!Unchanged(*head.bucket, stamp)) return false;\n    if (table_internal::NumberOf(link) == 0) return true;\n",
           "    if (table_internal::NumberOf(link) == 0) return true;\n    if (!Unchanged(*head.bucket, stamp)) return false;\n"),
    Mutant("a dead head is taken for an empty one", READER, "if (stamp != 0 && attempt(", "if (attempt("),
    Mutant("a socket that is moved is seen twice", READER, "  sockets->erase(std::unique", "  if (false) sockets->erase(std::unique"),
    Mutant("a copy that a rebuild overtook begins its bucket again", READER, "from_start ? 0 : first_hash", "0"),
]
THREADS = [
    Mutant("relaxed stores", LAYOUT, "(word).store(value, std::memory_order_release)", "(word).store(value, std::memory_order_relaxed)"),
    Mutant("relaxed loads", LAYOUT, "(word)).load(std::memory_order_acquire)", "(word)).load(std::memory_order_relaxed)"),
]


def commands(build, program):
    """How ninja would compile each source of the program's own, and of the table's; and how it would link it."""
    text = subprocess.run(["ninja", "-C", build, "-t", "commands", program], check=True, capture_output=True, text=True).stdout
    lines = [re.sub(r" -(MD|MQ \S+|MF \S+)(?= )", "", line) for line in text.splitlines()]
    table = [line for line in lines if " -c " in line and ("sockets/" in line or "/stress/" in line.split(" -c ")[1])]
    if any("socket_table_steps" in line for line in table):
        table = [line for line in table if "-DUTPROXY_TABLE_STEPS" in line]
    return table, lines[-1]


class Maker:
    def __init__(self, build, program, scratch):
        self.build, self.scratch, self.program = build, scratch, program
        self.compile, self.link = commands(build, program)

    def make(self, number, mutant):
        """The program with the mutant in it."""
        changed_source, pieces = re.subn(" +".join(map(re.escape, re.split(" +", mutant.old))),
                                         lambda _: mutant.new, (ROOT / mutant.path).read_text())
        if pieces != 1:
            raise ValueError(f"{mutant.name}: its piece is {pieces} times in {mutant.path}")
        place = self.scratch / str(number)
        changed = place / mutant.path
        changed.parent.mkdir(parents=True)
        changed.write_text(changed_source)
        link = self.link
        for line in self.compile:
            output, given = re.search(r" -o (\S+) -c (\S+)", line).groups()
            if mutant.path.endswith(".cc") and pathlib.Path(given).name != changed.name:
                continue
            words = shlex.split(line)
            words[words.index(given)] = str(changed) if mutant.path.endswith(".cc") else given
            words[words.index(output)] = made = str(place / pathlib.Path(output).name)
            compiler = next(i for i, word in enumerate(words) if word.startswith("-"))
            subprocess.run([*words[:compiler], f"-I{place / 'include'}", "-Wno-error", "-w", *words[compiler:]], cwd=self.build, check=True)
            link = self.replaced(link, output, made)
        program = str(place / "program")
        subprocess.run(link.replace(f"-o {self.program}", f"-o {program}", 1), shell=True, cwd=self.build, check=True)
        return program

    def replaced(self, link, output, made):
        """The link with this object in place of the one that ninja makes, in front of the libraries where it is in one."""
        if output in link:
            return link.replace(output, made)
        return link.replace(f"-o {self.program}", f"-o {self.program} {made}", 1)

    def notice(self, numbered):
        """(mutant, what noticed it, or nothing)."""
        number, mutant = numbered
        program = self.make(number, mutant)
        try:
            run = subprocess.run([program, "--gtest_brief=1"], capture_output=True, text=True, timeout=60,
                                 env={**os.environ, "TSAN_OPTIONS": "halt_on_error=1"})
        except subprocess.TimeoutExpired:
            return mutant, "never ends"
        if run.returncode == 0:
            return mutant, ""
        said = re.findall(r"^(?:  Which is: |.*: Failure\n(?:.*\n)*?)?(.*seed \d+|WARNING: ThreadSanitizer.*?)(?: \(pid.*)?$",
                          run.stdout + run.stderr, re.M)
        return mutant, said[0] if said else f"exit status {run.returncode}"


def main():
    parser = argparse.ArgumentParser(description="Mutants of the socket table.")
    parser.add_argument("build")
    parser.add_argument("--threads", action="store_true")
    parser.add_argument("--only", default="", help="mutants whose names match this regular expression")
    options = parser.parse_args()
    program = "tests/stress/socket_table_" + ("stress" if options.threads else "steps")
    mutants = [mutant for mutant in (THREADS if options.threads else STEPS) if re.search(options.only, mutant.name)]
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="utproxy-mutants-") as scratch:
        maker = Maker(options.build, program, pathlib.Path(scratch))
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            for mutant, noticed in pool.map(maker.notice, enumerate(mutants)):
                right = bool(noticed) != bool(mutant.equivalent)
                wrong += not right
                print(f"{'' if right else 'WRONG: '}{mutant.name}: {noticed or 'not noticed'}"
                      + (f" (equivalent: {mutant.equivalent})" if mutant.equivalent else ""), flush=True)
    print(f"{len(mutants) - wrong} of {len(mutants)} as they should be")
    return 1 if wrong or not mutants else 0


if __name__ == "__main__":
    sys.exit(main())
