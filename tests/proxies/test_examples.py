# SPDX-License-Identifier: GPL-3.0-or-later
"""Each configuration of tools/examples is one that its program takes; the other tests run them."""
import subprocess

import pytest

from stock import EXAMPLES, need


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.toml")))
def test_utproxy_takes_it(utproxy, name):
    done = subprocess.run([utproxy, "run", "--check", "--config", EXAMPLES / name], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.cfg")))
def test_haproxy_takes_it(name):
    done = subprocess.run([need("haproxy"), "-c", "-f", EXAMPLES / name], capture_output=True, text=True)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr


def test_squid_takes_it():
    done = subprocess.run([need("squid"), "-k", "parse", "-f", EXAMPLES / "squid.conf"], capture_output=True, text=True)
    assert done.returncode == 0 and "WARNING" not in done.stderr and "ERROR" not in done.stderr, done.stderr


def test_unbound_takes_it():
    done = subprocess.run([need("unbound-checkconf"), EXAMPLES / "unbound.conf"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
