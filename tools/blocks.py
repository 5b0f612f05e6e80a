"""The code blocks of README.md and of the pages in ``docs/``, as what runs them finds them.

* A block ``console`` has commands, each on a line that begins with "$ ". A comment ends a command,
  a backslash continues it.
* A block ``python`` runs, after those above it on its page.
* A block with a title, ``python title="maze.py"``, is the whole content of that file.
* ``<!-- test: skip, REASON -->`` on the line before leaves a block out.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(
    r"(?:^<!-- test: skip, (?P<skip>[^\n]+) -->\n)?"
    r'^```(?P<language>\w*)(?: title="(?P<title>[^"]+)")?\n(?P<text>.*?)^```$',
    re.M | re.S,
)


class Block(NamedTuple):
    """One block of a page."""

    line: int  # of its fence
    language: str
    title: str  # of the file that it is, or ""
    text: str
    skip: str  # why it is left out, or ""

    def commands(self) -> list[list[str]]:
        """The commands of a block of ``console``, each as its words."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [shlex.split(x.removeprefix("$ "), comments=True) for x in lines]


def blocks(path: Path) -> list[Block]:
    """All blocks of a page, in their order."""
    text = path.read_text()
    return [
        Block(
            text.count("\n", 0, match.start("language")) + 1,
            *(match[name] or "" for name in ("language", "title", "text", "skip")),
        )
        for match in BLOCK.finditer(text)
    ]


def pages() -> list[Path]:
    """README.md, CONTRIBUTING.md and every page of the site."""
    names = ("README.md", "CONTRIBUTING.md")
    return [*(ROOT / name for name in names), *sorted((ROOT / "docs").rglob("[a-z]*.md"))]
