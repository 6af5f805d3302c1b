# SPDX-License-Identifier: GPL-3.0-or-later
"""Each block of the commands' manual pages is typed as it is printed, on the router of a network of its own."""
import pytest

from printed import page_blocks
from typed import CANNOT, commands, end_daemons, type_block, words

BLOCKS = page_blocks()
NO_COMMANDS = {"utproxy.toml.5": "a file, which tests/package/test_manual.py checks as the page shows it"}
TYPED = [(page, block) for page, block in BLOCKS if page not in NO_COMMANDS]


def test_every_block_is_known():
    assert all(commands(block) for _, block in TYPED)
    assert len(TYPED) >= 6 and {page for page, _ in BLOCKS} >= set(NO_COMMANDS)


@pytest.mark.parametrize("page,block", TYPED, ids=[f"{page}: {words(block[0])}" for page, block in TYPED])
def test_block(place, router, page, block):
    type_block(place, block, CANNOT)
    end_daemons(router)


@pytest.mark.parametrize("line", sorted(set(CANNOT) & {words(line) for _, block in BLOCKS for line in block}))
def test_run_nowhere(line):
    pytest.skip(f"not typed: {CANNOT[line]}")
