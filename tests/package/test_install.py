# SPDX-License-Identifier: GPL-3.0-or-later
"""`meson install`: what is there, whether it works from there, and a program built with the installed library."""
import json
import re
import shlex

from installing import ROOT, run


def test_everything_is_there(installed):
    expected = ["sbin/utproxy", "include/utproxy/decide.h", "share/man/man8/utproxy.8", "share/man/man5/utproxy.toml.5",
                "share/man/man7/utproxy-guides.7",
                "share/bash-completion/completions/utproxy", "share/zsh/site-functions/_utproxy",
                "share/fish/vendor_completions.d/utproxy.fish", "share/utproxy/grafana/utproxy.json"]
    missing = [name for name in expected if not (installed.prefix / name).is_file()]
    assert not missing
    for name in ("utproxy.toml", "utproxy.service", "libutproxy.pc", "libutproxy.a"):
        assert len(list(installed.root.glob(f"**/{name}"))) == 1, name


def test_examples_are_there(installed):
    """All that a guide could name: each configuration but the service's own, which is where the service reads it."""
    there = {path.name: path.read_bytes() for path in (installed.prefix / "share/doc/utproxy/examples").iterdir()}
    assert there == {path.name: path.read_bytes() for path in (ROOT / "tools/examples").iterdir()
                     if path.name not in ("decide.cc", "utproxy.toml")}


def test_program_runs_and_accepts_the_installed_configuration(installed):
    assert re.fullmatch(r"utproxy \d+\.\d+\.\d+\n", run([installed.program, "--version"]))
    configuration, = installed.root.glob("**/utproxy.toml")
    run([installed.program, "run", "--check", "--config", configuration])


def test_unit_names_what_is_installed(installed):
    unit, = installed.root.glob("**/utproxy.service")
    command = re.search(r"^ExecStart=(.*)$", unit.read_text(), re.MULTILINE).group(1)
    program, *words = shlex.split(command)
    assert (installed.root / program.lstrip("/")).is_file()
    assert words[:2] == ["run", "--config"]
    assert (installed.root / words[2].lstrip("/")).is_file()
    assert not re.search(r"@\w+@", unit.read_text())


def test_dashboard_is_json(installed):
    assert json.loads((installed.prefix / "share/utproxy/grafana/utproxy.json").read_text())["panels"]


def test_example_program_with_pkg_config(installed, tmp_path):
    """Against the installed headers alone: none of the source tree's folders is in its reach."""
    folder = next(installed.root.glob("**/libutproxy.pc")).parent
    flags = run(["pkg-config", f"--define-variable=prefix={installed.prefix}", "--cflags", "--libs", "libutproxy"],
                env={"PATH": "/usr/bin:/bin", "PKG_CONFIG_PATH": str(folder)})
    source = tmp_path / "decide.cc"
    source.write_bytes((ROOT / "tools/examples/decide.cc").read_bytes())
    run(["c++", "-std=c++20", "-Wall", "-Werror", source, *shlex.split(flags), "-o", tmp_path / "decide"],
        cwd=tmp_path)
    assert run([tmp_path / "decide"]) == "accept listener, mark 1, listener at 192.168.1.1:1090\n"


def test_public_headers_stand_alone(installed, tmp_path):
    """Each can be included first, and needs none that is not installed."""
    folder = next(installed.root.glob("**/libutproxy.pc")).parent
    flags = run(["pkg-config", f"--define-variable=prefix={installed.prefix}", "--cflags", "libutproxy"],
                env={"PATH": "/usr/bin:/bin", "PKG_CONFIG_PATH": str(folder)})
    headers = sorted((installed.prefix / "include/utproxy").glob("*.h"))
    assert len(headers) >= 10
    for header in headers:
        source = tmp_path / f"{header.stem}.cc"
        source.write_text(f"#include <utproxy/{header.name}>\n")
        run(["c++", "-std=c++20", "-fsyntax-only", *shlex.split(flags), source], cwd=tmp_path)
