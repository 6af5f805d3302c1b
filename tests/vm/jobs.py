# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs in a guest: the test programs that ask the kernel something, the system tests, the parity program."""
import dataclasses
import json
import pathlib
import shlex
import importlib.machinery
import importlib.util

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent

# The names in meson.build of test programs whose result depends on the kernel.
KERNEL_TESTS = ["packet-kernel", "worker", "mirror", "engine", "ruleset-kernel", "steer_kernel"]
PYTEST = "/usr/bin/python3 -m pytest -q"


def _count_results():
    loader = importlib.machinery.SourceFileLoader("count_results", str(ROOT / "tools" / "count-results.py"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


COUNT = _count_results()


@dataclasses.dataclass(frozen=True)
class Job:
    name: str
    limit: int  # seconds
    command: str  # for bash
    kind: str  # gtest, pytest or program

    def count(self, status, output):
        """((passed, failed, skipped), reasons of skips); a status other than 0 is at least one failure."""
        if self.kind == "pytest":
            totals, skips = COUNT.pytest(output)
        elif self.kind == "gtest":
            totals = COUNT.of_gtest({0: "OK", 77: "SKIP"}.get(status, "FAIL"), output)
            skips = COUNT.gtest_skips(output)
        else:
            totals, skips = (int(status == 0), int(status not in (0, 77)), int(status == 77)), output.splitlines()[-1:]
        passed, failed, skipped = map(int, totals)
        if status not in (0, 77) and failed == 0:
            failed = 1
        return (passed, failed, skipped), skips if skipped else []


def kernel_tests(build, everything):
    """The chosen test programs of a Meson build directory."""
    known = {test["name"]: test for test in json.loads((build / "meson-info" / "intro-tests.json").read_text())}
    names = KERNEL_TESTS
    if everything:
        names = [name for name, test in known.items() if test["suite"] != ["utproxy:bench"] and name != "layers"]
    for name in names:
        if name not in known:
            raise ValueError(f"{build} has no test {name}")
        command = " ".join(shlex.quote(word) for word in known[name]["cmd"])
        yield Job(name, 20 * known[name]["timeout"], command, "gtest")


def system_tests(build, everything, expression, series):
    """Without `everything`, one case of each test, another one for another kernel's `series`, none of the kernel's own
    TPROXY and none of the churn tests, which need a rate that an emulated processor does not reach."""
    words = [f"--build-dir={build}"]
    if expression:
        words += ["-k", expression]
    elif not everything:
        words += ["-k", "not kernel and not churn", f"--one-of-each={series}"]
    load = [] if everything else ["-m", "not load"]
    for name, paths in (("system", ["tests/system"]), ("proxies", ["tests/proxies"]), ("contract", ["tests/contract"])):
        if name == "contract" and not everything:
            paths = ["tests/contract/test_ruleset.py"]
        command = f"cd {shlex.quote(str(ROOT))} && {PYTEST} {shlex.join(paths + words + (load if name != 'contract' else []))}"
        yield Job(name, 7200 if everything else 1500, command, "pytest")


def parity(build, cases, seed):
    """The parity program, or None and why not."""
    program = build / "tests" / "parity" / "parity"
    if cases == 0:
        return None, "not asked for (--parity 0)"
    if not program.exists():
        return None, f"{program} is not built"
    # A share of the cases need not reach every row of the procedure.
    daemon = shlex.quote(str(build / "tools" / "utproxy"))
    command = f"{shlex.quote(str(program))} --cases {cases} --seed {seed} --rows 0 --program {daemon}"
    return Job("parity", 900 + cases // 10, command, "program"), ""


