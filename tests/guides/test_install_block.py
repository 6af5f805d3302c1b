# SPDX-License-Identifier: GPL-3.0-or-later
"""The README's commands that build and install below /usr/local, typed as they are printed in a copy of the sources; /usr/local
is the test's own. What is installed there is run by its name."""
import pathlib
import shutil
import subprocess

import pytest

from printed import README_BLOCKS, ROOT

BEGIN = "meson setup build "


@pytest.mark.anew
def test_build_and_install_as_printed(place):
    [block] = [block for block in README_BLOCKS if block[0].startswith(BEGIN)]
    sources = pathlib.Path(place.directory) / "sources"
    shutil.copytree(ROOT, sources, ignore=shutil.ignore_patterns("build", "build-*", ".git"))
    for line in block:
        done = subprocess.run(place.router.wrap(["bash", "-e", "-c", f"cd {sources} && {line}"]), capture_output=True, text=True,
                              errors="replace", timeout=1800)
        assert done.returncode == 0, f"{line}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    version = place.router.type("/usr/local/sbin/utproxy --version").stdout
    assert version.startswith("utproxy ")
    assert place.router.type("/usr/local/sbin/utproxy run --check --config /usr/local/etc/utproxy/utproxy.toml").returncode == 0
    assert place.router.type("man -M /usr/local/share/man -w utproxy-guides utproxy.toml utproxy-run").returncode == 0
