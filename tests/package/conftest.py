# SPDX-License-Identifier: GPL-3.0-or-later
import os
import types

import pytest

from installing import run


@pytest.fixture(scope="session")
def installed(build_dir, tmp_path_factory):
    """What `meson install` puts below the prefix, in a directory of its own: `root`, and `prefix` within it."""
    root = tmp_path_factory.mktemp("installed")
    run(["meson", "install", "-C", build_dir, "--no-rebuild", "--destdir", root])
    sbin = list(root.glob("**/sbin/utproxy"))
    assert len(sbin) == 1, f"utproxy is installed as {sbin}"
    return types.SimpleNamespace(root=root, prefix=sbin[0].parents[1], program=sbin[0])


@pytest.fixture(scope="session")
def plain_environment():
    """C.UTF-8, and nothing of who runs the tests but where programs and temporary files are."""
    kept = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
    return {**kept, "LC_ALL": "C.UTF-8", "HOME": "/nonexistent"}
