"""Does a public name stay, or does the changelog say what became of it?"""

from __future__ import annotations

import re
from pathlib import Path

import shoal

ROOT = Path(__file__).resolve().parent.parent
EVER = set((ROOT / "tests" / "public_names.txt").read_text().split())


def unexplained(gone: set[str], changelog: str) -> set[str]:
    """Names that are gone, and of which no line "Removed: `old`" or "Renamed: `old`" speaks."""
    told = re.findall(r"^\* (?:Removed|Renamed): `(\w+)`", changelog, re.M)
    return gone - set(told)


def test_a_name_that_is_gone_is_in_the_changelog() -> None:
    gone = EVER - set(shoal.__all__)
    assert not unexplained(gone, (ROOT / "CHANGELOG.md").read_text())


def test_a_new_name_is_in_the_list() -> None:
    """tests/public_names.txt keeps every name that has ever been public; none leaves it."""
    assert set(shoal.__all__) <= EVER


def test_only_the_changelogs_own_lines_explain() -> None:
    log = "* Renamed: `Old` is `New`.\n* `Lost` does more.\n"
    assert unexplained({"Old", "Lost"}, log) == {"Lost"}


def test_every_public_name_is_on_the_page_of_the_api() -> None:
    listed = set(re.findall(r"^::: shoal\.(\w+)$", (ROOT / "docs" / "api.md").read_text(), re.M))
    assert listed == set(shoal.__all__) - {"__version__"}
