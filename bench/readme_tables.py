# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps what a report prints in bench/README.md too, so that its figures are those of the results beside it."""
import contextlib
import io
import pathlib
import sys

README = pathlib.Path(__file__).resolve().parent / "README.md"


class Tee(io.StringIO):
    def write(self, text):
        sys.__stdout__.write(text)
        sys.__stdout__.flush()
        return super().write(text)


def replaced(page, name, text):
    """The page with `text` between the marks of this name, whatever stood there."""
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    before, found, rest = page.partition(begin)
    _, also_found, after = rest.partition(end)
    if not found or not also_found:
        raise ValueError(f"{README}: no marks of {name}")
    return f"{before}{begin}\n{text.strip()}\n\n{end}{after}"


@contextlib.contextmanager
def kept(name, keep):
    """What is printed meanwhile goes to stdout and, if `keep`, into the README."""
    tee = Tee()
    with contextlib.redirect_stdout(tee):
        yield
    if keep:
        README.write_text(replaced(README.read_text(), name, tee.getvalue()))
