# SPDX-License-Identifier: GPL-3.0-or-later
import os

import pytest

from delivery import SideBySide
from doctor_router import Router
from engine import Kernel, Utproxy
from lab import Lab


@pytest.fixture(scope="session")
def traffic(build_dir):
    path = build_dir / "tests" / "system" / "traffic" / "traffic"
    if not path.exists():
        pytest.fail(f"{path} is not built")
    return path


def pytest_runtest_setup(item):
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")


@pytest.fixture
def make_lab(traffic):
    labs = []

    def make(**options):
        labs.append(Lab(traffic, **options))
        return labs[-1]

    yield make
    for lab in labs:
        lab.close()


@pytest.fixture
def lab(make_lab):
    return make_lab()


@pytest.fixture
def make_router(make_lab, utproxy):
    """router(server=False, **words) makes one in a lab of its own; it is closed at the end."""
    routers = []

    def make(server=False, **words):
        routers.append(Router(make_lab(server=server), utproxy, **words))
        return routers[-1]

    yield make
    for router in routers:
        router.close()


@pytest.fixture
def make_engine(request):
    """engine(kind, lab, target) starts one; those of utproxy still alive at the end are stopped and must exit 0."""
    engines = []

    def make(kind, lab, target):
        if kind == "kernel":
            return Kernel(lab, target).start()
        engine = Utproxy(lab, target, kind, request.getfixturevalue("utproxy"))
        engines.append(engine)
        return engine.start()

    yield make
    for engine in engines:
        if engine.process is not None and engine.process.alive():
            status = engine.stop()
            assert status == 0, f"SIGTERM: exit {status}: {engine.process.err()}"


@pytest.fixture
def side_by_side(make_lab, make_engine):
    return SideBySide(make_lab, make_engine)
