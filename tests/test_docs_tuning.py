"""Do the blocks of the page about searches run? They need Ray."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.test_docs_blocks import run


@pytest.mark.ray
def test_blocks_of_the_page_about_searches_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("docs/tuning.md", tmp_path, monkeypatch)
