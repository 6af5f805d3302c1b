# SPDX-License-Identifier: GPL-3.0-or-later
"""Shell completion, each shell asked itself: commands, options, what values and arguments can be."""
import os
import pathlib
import pty
import select
import shutil
import subprocess
import time

import pytest

from installing import run

COMMANDS = {"run", "explain", "sockets", "stats", "trace", "replay", "ruleset", "bench", "doctor", "report"}


@pytest.fixture
def bash(installed, plain_environment, tmp_path):
    script = installed.prefix / "share/bash-completion/completions/utproxy"

    def ask(*words):
        """What bash offers for the last of these words, which follow `utproxy`."""
        code = ('source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _utproxy || true; '
                'printf "%s\\n" "${COMPREPLY[@]}"')
        out = run(["bash", "--norc", "-euc", code, "bash", script, "utproxy", *words], env=plain_environment, cwd=tmp_path)
        return set(out.split())

    return ask


def test_bash_commands(bash):
    assert bash("") == COMMANDS | {"--help", "--version"}
    assert bash("re") == {"replay", "report"}


def test_bash_options_are_those_of_help(bash, installed):
    for command in COMMANDS:
        shown = {word.rstrip(",") for line in run([installed.program, command, "--help"]).splitlines()
                 if line.startswith("  -") or line.startswith("      -") for word in line.split()[:2]
                 if word.startswith("-")}
        assert bash(command, "-") == shown, command
    assert bash("run", "--on-") == {"--on-port", "--on-ip", "--on-miss"}


def test_bash_values(bash, tmp_path):
    (tmp_path / "utproxy.toml").touch()
    assert bash("run", "--on-miss", "") == {"drop", "accept"}
    assert bash("run", "--on-miss", "=", "d") == {"drop"}  # --on-miss=d
    assert bash("run", "--on-miss", "=") == {"drop", "accept"}
    assert bash("run", "--log-level", "w") == {"warning"}
    assert bash("run", "--config", "utp") == {"utproxy.toml"}
    assert "lo" in bash("explain", "--iif", "")
    assert "root" in bash("run", "--exclude-uid", "roo")
    assert bash("run", "--on-port", "") == set()


def test_bash_arguments(bash, tmp_path):
    (tmp_path / "decisions.pcapng").touch()
    assert bash("ruleset", "") == {"print", "install", "remove"}
    assert bash("ruleset", "--on-port", "1090", "pr") == {"print"}
    assert bash("replay", "deci") == {"decisions.pcapng"}
    assert bash("nonsense", "") == set()


EVIL = "$(touch${IFS}z)"  # as long as an interface's name may be
QUOTED = r"\$\(touch\$\{IFS\}z\)"


@pytest.fixture
def evil_interface(tmp_path):
    """What runs a command where an interface is called so."""
    if os.geteuid() != 0:
        pytest.skip("makes a network namespace, which needs root")
    make = f"mount -t sysfs none /sys && ip link add veth0 type veth peer name '{EVIL}' && cd {tmp_path} && exec \"$@\""
    return ["unshare", "--net", "--mount", "sh", "-ec", make, "sh"]


def offered_beside(evil_interface, environment, folder, *argv):
    out = run([*evil_interface, *argv], env={**environment, "HOME": str(folder)}, cwd=folder)
    assert not (folder / "z").exists(), "completion ran what an interface is called"
    return {line.split("\t")[0] for line in out.splitlines()}


@pytest.mark.parametrize("typed", ["", "$(t", QUOTED[:6]])
def test_bash_expands_no_interface(installed, plain_environment, evil_interface, tmp_path, typed):
    """Any container that may name an interface would run commands as whoever presses Tab."""
    script = installed.prefix / "share/bash-completion/completions/utproxy"
    code = ('source "$1"; COMP_WORDS=(utproxy explain --iif "$2"); COMP_CWORD=3; _utproxy || true; '
            'printf "%s\\n" "${COMPREPLY[@]}"')
    offered = offered_beside(evil_interface, plain_environment, tmp_path, "bash", "--norc", "-euc", code, "bash", script, typed)
    assert offered == {QUOTED} | ({"lo", "veth0"} if not typed else set())


def test_fish_expands_no_interface(installed, plain_environment, evil_interface, tmp_path):
    if not shutil.which("fish"):
        pytest.skip("fish is not installed")
    script = installed.prefix / "share/fish/vendor_completions.d/utproxy.fish"
    code = 'source $argv[1]; complete -C "utproxy explain --iif "'
    offered = offered_beside(evil_interface, plain_environment, tmp_path, "fish", "--no-config", "-c", code, script)
    assert "lo" in offered and offered & {EVIL, QUOTED}


@pytest.mark.parametrize("words,offered", [
    ("re", {"replay", "report"}),
    ("run --on-", {"--on-port", "--on-ip", "--on-miss"}),
    ("run --on-miss ", {"drop", "accept"}),
    ("ruleset pr", {"print"}),
    ("explain --iif l", {"lo"}),
    ("run --config utp", {"utproxy.toml"}),
    ("stats --on-", set()),
])
def test_fish(installed, plain_environment, tmp_path, words, offered):
    if not shutil.which("fish"):
        pytest.skip("fish is not installed")
    script = installed.prefix / "share/fish/vendor_completions.d/utproxy.fish"
    (tmp_path / "utproxy.toml").touch()
    out = run(["fish", "--no-config", "-c", 'source $argv[1]; complete -C "utproxy $argv[2]"', script, words],
              env={**plain_environment, "HOME": str(tmp_path)}, cwd=tmp_path)
    assert {line.split("\t")[0] for line in out.splitlines()} == offered


ZSHRC = """
PS1='' PS2=''
fpath=({functions} $fpath)
autoload -Uz compinit && compinit -u -d {folder}/dump
zstyle ':completion:*' insert-tab false
setopt no_beep no_auto_list
probe() {{ BUFFER=$(<{folder}/typed); CURSOR=$#BUFFER; zle complete-word; print -r -- "$BUFFER" >{folder}/completed; BUFFER=; }}
zle -N probe
bindkey '^X' probe
cd {folder}
print ready >{folder}/ready
"""


class Zsh:
    """An interactive zsh on a terminal of its own, as its completion works in no other."""

    def __init__(self, functions, folder, environment, wrapper=()):
        self._folder = folder
        (folder / ".zshrc").write_text(ZSHRC.format(functions=functions, folder=folder))
        master, slave = pty.openpty()
        self._terminal = master
        self._shell = subprocess.Popen([*wrapper, "zsh", "-d", "-i"], stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
                                       env={**environment, "HOME": str(folder), "ZDOTDIR": str(folder), "TERM": "xterm"})
        os.close(slave)
        self._wait_for("ready")

    def _wait_for(self, name):
        path, end = self._folder / name, time.monotonic() + 30
        said = b""
        while not (path.exists() and path.read_text().endswith("\n")):
            assert time.monotonic() < end and self._shell.poll() is None, f"zsh: {said[-2000:]}"
            if select.select([self._terminal], [], [], 0.05)[0]:
                said += os.read(self._terminal, 65536)
        text = path.read_text()
        path.unlink()
        return text.rstrip("\n")

    def complete(self, line):
        (self._folder / "typed").write_text(line)
        os.write(self._terminal, b"\x18")
        return self._wait_for("completed")

    def close(self):
        self._shell.kill()
        self._shell.wait()
        os.close(self._terminal)


@pytest.fixture(scope="module")
def zsh(installed, plain_environment, tmp_path_factory):
    if not shutil.which("zsh"):
        pytest.skip("zsh is not installed")
    folder = pathlib.Path(tmp_path_factory.mktemp("zsh"))
    (folder / "utproxy.toml").touch()
    shell = Zsh(installed.prefix / "share/zsh/site-functions", folder, plain_environment)
    yield shell
    shell.close()


@pytest.mark.parametrize("typed,completed", [
    ("utproxy stat", "utproxy stats "),
    ("utproxy run --on-m", "utproxy run --on-miss="),
    ("utproxy run --on-miss=d", "utproxy run --on-miss=drop "),
    ("utproxy run --log-level w", "utproxy run --log-level warning "),
    ("utproxy run --config utp", "utproxy run --config utproxy.toml "),
    ("utproxy ruleset pr", "utproxy ruleset print "),
    ("utproxy explain --iif l", "utproxy explain --iif lo "),
    ("utproxy stats --on-m", "utproxy stats --on-m"),
])
def test_zsh(zsh, typed, completed):
    assert zsh.complete(typed) == completed


def test_zsh_expands_no_interface(installed, plain_environment, evil_interface, tmp_path):
    if not shutil.which("zsh"):
        pytest.skip("zsh is not installed")
    shell = Zsh(installed.prefix / "share/zsh/site-functions", tmp_path, plain_environment, evil_interface)
    try:
        assert shell.complete("utproxy explain --iif \\$") == f"utproxy explain --iif {QUOTED} "
    finally:
        shell.close()
    assert not (tmp_path / "z").exists()
