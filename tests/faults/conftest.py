"""The command line in this process, and the form in which it tells an error."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults import broken


@pytest.fixture
def shoal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Any]:
    """``shoal(*argv)``: the command line; its exit code, output, error text and exception."""
    from shoal.app import cli

    errors: list[BaseException] = []
    describe = cli.describe

    def recorded(error: BaseException, command: str | None = None) -> str:
        errors.append(error)
        return describe(error, command)

    monkeypatch.setattr(cli, "describe", recorded)
    monkeypatch.chdir(tmp_path)

    def run(*argv: str) -> tuple[int, str, str, BaseException | None]:
        code = cli.main(list(argv))
        captured = capsys.readouterr()
        return code, captured.out, captured.err, errors[-1] if errors else None

    return run


def place_of(fault: str) -> str:
    """``file:line`` at which a fault stands in broken.py."""
    lines = Path(broken.__file__).read_text().split("\n")
    number = next(n for n, line in enumerate(lines, 1) if line.endswith(f"# fault: {fault}"))
    return f"broken.py:{number}"


def keeps_the_form(text: str) -> list[str]:
    """The lines of an error as the command line tells it."""
    lines = text.rstrip("\n").split("\n")
    assert lines[0].startswith("error: ")
    assert lines[1].startswith("  where: ") and lines[2].startswith("  to do: ")
    assert len(lines) <= 25 and not re.search(r"raylet|\bray\b|site-packages|Traceback", text)
    return lines
