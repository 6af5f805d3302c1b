# SPDX-License-Identifier: GPL-3.0-or-later
"""The proxies that people run, as their packages have them, with the configurations of tools/examples."""
import os
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "system"))
from configured import Configured  # noqa: E402
from lab import Lab  # noqa: E402


def pytest_runtest_setup(item):
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")


@pytest.fixture
def make_lab(build_dir):
    labs = []

    def make(**options):
        labs.append(Lab(build_dir / "tests" / "system" / "traffic" / "traffic", **{"server": True, **options}))
        return labs[-1]

    yield make
    for lab in labs:
        lab.close()


@pytest.fixture
def lab(make_lab):
    return make_lab()


@pytest.fixture
def intercept(utproxy):
    """intercept(lab, text) starts utproxy in the lab's router with a configuration; at the end it must exit 0."""
    started = []

    def start(lab, text, *options):
        started.append(Configured(lab, utproxy, text, *options))
        return started[-1]

    yield start
    for each in started:
        if each.process.alive():
            assert each.stop() == 0, each.process.err()
