# SPDX-License-Identifier: GPL-3.0-or-later
"""The manual pages: one for each command, without a warning of groff's, with every word that --help has."""
import re
import shutil
import subprocess

import pytest

from installing import ROOT, run


def commands(program):
    text = run([program, "--help"])
    return re.findall(r"^  ([a-z]+) ", text[text.index("Commands:"):text.index("Options:")], re.MULTILINE)


def rendered(page, environment):
    """The page as plain text in lines that do not end, and what groff says about it."""
    if not shutil.which("man"):
        pytest.skip("man is not installed")
    done = subprocess.run(["man", "--warnings", "-E", "UTF-8", "-l", page], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, check=True,
                          env={**environment, "MANWIDTH": "300", "MANROFFSEQ": "", "MAN_KEEP_FORMATTING": ""})
    return done.stdout, done.stderr


def words(text):
    """Without blanks, and hyphens and quotes as they are typed: a page's text is wrapped, and set."""
    for shown, typed in (("‐", "-"), ("−", "-"), ("’", "'"), ("‘", "'"), ("“", '"'), ("”", '"')):
        text = text.replace(shown, typed)
    return re.sub(r"\s+", "", text)


def test_each_command_has_its_page(installed):
    names = {page.name for page in (installed.prefix / "share/man/man8").glob("*")}
    assert names == {"utproxy.8"} | {f"utproxy-{command}.8" for command in commands(installed.program)}


def test_no_warnings(installed, plain_environment):
    pages = sorted(installed.prefix.glob("share/man/man*/*"))
    assert len(pages) >= 13
    for page in pages:
        text, warnings = rendered(page, plain_environment)
        assert warnings == "", page.name
        assert "NAME" in text and "SEE ALSO" in text, page.name


def test_pages_have_every_word_of_help(installed, plain_environment):
    for command in commands(installed.program):
        page = words(rendered(installed.prefix / f"share/man/man8/utproxy-{command}.8", plain_environment)[0])
        help_text = run([installed.program, command, "--help"])
        rows = re.findall(r"^  (?:    |(-\w, ))?(--[a-z][-a-z0-9]*)((?: \S+)?)\s{2,}(\S.*)$", help_text, re.MULTILINE)
        assert len(rows) >= 2, command
        for short, name, value, sentence in rows:
            assert words(f"{short}{name}{value}{sentence}") in page, f"utproxy-{command}(8): {name}"


def test_configuration_page_has_the_keys_of_the_example(installed, plain_environment):
    page, _ = rendered(installed.prefix / "share/man/man5/utproxy.toml.5", plain_environment)
    configuration, = installed.root.glob("**/utproxy.toml")
    keys = set(re.findall(r"(?:^#?|[{,] )([a-z_]+) = ", configuration.read_text(), re.MULTILINE))
    assert {"on_port", "mark", "metrics", "dport"} <= keys
    for key in keys:
        assert re.search(rf"^ +{key} = ", page, re.MULTILINE), key


def test_configuration_page_example_is_accepted(installed, plain_environment, tmp_path):
    text, _ = rendered(installed.prefix / "share/man/man5/utproxy.toml.5", plain_environment)
    example = text[text.index("\nEXAMPLE\n") + 9:text.index("\nFILES\n")]
    file = tmp_path / "example.toml"
    file.write_text(re.sub(r"^ +", "", example, flags=re.MULTILINE))
    assert "[[target]]" in file.read_text()
    run([installed.program, "run", "--check", "--config", file])


def test_commands_of_guides_can_be_copied(installed, plain_environment):
    """Nothing that is typed has become a typographer's dash or quote, or ends in another line."""
    source = (ROOT / "tools/man/utproxy-guides.7.scd").read_text()
    page, _ = rendered(installed.prefix / "share/man/man7/utproxy-guides.7", plain_environment)
    shown = {line.strip() for line in page.splitlines()}
    typed = [line for block in re.findall(r"^```\n(.*?)^```$", source, re.MULTILINE | re.DOTALL) for line in block.splitlines()]
    assert len(typed) > 50
    assert [line for line in typed if line.strip() not in shown] == []
