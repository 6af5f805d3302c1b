# SPDX-License-Identifier: GPL-3.0-or-later
"""What utproxy-guides(7) and the README print: blocks of commands, each with a label that says where they are typed."""
import dataclasses
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / "tools" / "man" / "utproxy-guides.7.scd"
README = ROOT / "README.md"

# The last words in front of a block: where its lines are typed, and how they end.
LABELS = {
    "On the router:": ("router", 0),
    "On the router, ending with 1:": ("router", 1),
    "On the router, each in a terminal of its own:": ("router", None),
    "In the container:": ("container", 0),
    "On a client:": ("client", 0),
    "On a client, in a terminal of its own:": ("client", None),
    "It prints:": ("printed", 0),
}


@dataclasses.dataclass(frozen=True)
class Block:
    where: str
    status: int | None  # None: each line stays, in a terminal of its own
    text: str

    def lines(self):
        return self.text.splitlines()


def guides():
    """{title: [Block]} of the page, in its order. A block without a known label is an error: nobody would know where to type it."""
    found = {}
    for section in re.split(r"^# ", PAGE.read_text(), flags=re.MULTILINE)[1:]:
        title, _, body = section.partition("\n")
        blocks = []
        for before, text in re.findall(r"([^\n]*)\n+^```\n(.*?)^```$", body, re.MULTILINE | re.DOTALL):
            label = next((label for label in LABELS if before.endswith(label)), None)
            assert label, f"{title}: a block without a label: {before!r}"
            blocks.append(Block(*LABELS[label], text))
        if blocks:
            found[title] = blocks
    return found


def indented_blocks(markdown):
    """Markdown's blocks of code, as lists of lines; a blank line between two indented ones belongs to the block."""
    found = re.findall(r"(?<=\n\n)(?:    .*\n(?:\n(?=    ))*)+", markdown)
    return [[line[4:] for line in block.splitlines()] for block in found]


README_BLOCKS = indented_blocks(README.read_text())
# The README's file, and the line that it gives for all of a router.
FILE = "# /etc/utproxy/utproxy.toml"
FILE_TEXT = next("\n".join(block) for block in README_BLOCKS if block[0] == FILE)
BY_UTPROXY = next(line.strip() for line in README.read_text().partition("or all of it by utproxy")[2].splitlines()
                  if line.startswith("    utproxy run "))


def page_blocks():
    """[(page, block)] of all pages but the guides, a block as a list of lines."""
    return [(path.name.removesuffix(".scd"), text.splitlines()) for path in sorted(PAGE.parent.glob("*.scd")) if path != PAGE
            for text in re.findall(r"^```\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)]
