"""Settings in a file: YAML or JSON, with the line of what is wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from shoal.errors import ConfigError


def load_file(path: str | Path) -> dict[str, Any]:
    """The settings in a YAML or JSON file, for ``merge``; an empty file has none.

    Raises ConfigError with file and line for what cannot be read, for a key that is given twice,
    and for anything that is not a mapping.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        fix = "give a YAML or JSON file in UTF-8"
        raise ConfigError(f"cannot read the settings: {error}", str(path), fix) from error
    try:
        found = _parse_json(text) if path.suffix == ".json" and text.strip() else parse_yaml(text)
    except FileSyntaxError as error:
        where = str(path) if error.line is None else f"{path}:{error.line}"
        raise ConfigError(f"settings not understood: {error}", where, "correct the file") from error
    if not isinstance(found, dict | None):
        fix = "write lines of 'name: value'"
        raise ConfigError(f"the file holds {found!r}, not settings", str(path), fix)
    return found or {}


class FileSyntaxError(ValueError):
    def __init__(self, message: str, line: int | None) -> None:
        super().__init__(message)
        self.line = line


def _parse_json(text: str) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise FileSyntaxError(f"{key!r} is given twice", None)
            found[key] = value
        return found

    try:
        return json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        raise FileSyntaxError(error.msg, error.lineno) from error
    except RecursionError as error:
        raise FileSyntaxError("nested too deeply", None) from error


def parse_yaml(text: str) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_document(self, node: Any) -> Any:
            _refuse_cycles(node, [], set())
            return super().construct_document(node)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen: set[str] = set()
            for key, _ in node.value:
                if isinstance(key.value, str) and key.value in seen:
                    raise FileSyntaxError(f"{key.value!r} is given twice", key.start_mark.line + 1)
                seen |= {key.value} if isinstance(key.value, str) else set()
            return super().construct_mapping(node, deep=deep)

    # YAML 1.1, which PyYAML reads, takes 1e-3 for a text; YAML 1.2 takes it for the number it is.
    number = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        message = getattr(error, "problem", None) or str(error)
        raise FileSyntaxError(message, mark.line + 1 if mark else None) from error
    except (ValueError, RecursionError) as error:  # 2024-13-45 is no date; lists a thousand deep
        raise FileSyntaxError(str(error), getattr(error, "line", None)) from error


def _refuse_cycles(node: Any, above: list[Any], seen: set[Any]) -> None:
    """Raise FileSyntaxError for a YAML node with an anchor that refers to itself."""
    if any(node is other for other in above):
        raise FileSyntaxError("an anchor contains itself", node.start_mark.line + 1)
    if node in seen or not isinstance(node.value, list):  # of a scalar it is a text
        return
    for child in node.value:
        for part in child if isinstance(child, tuple) else (child,):  # key and value of a mapping
            _refuse_cycles(part, [*above, node], seen)
    seen.add(node)
