"""Names of what belongs to one of several policies: "policy/name"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


def join(by_policy: Mapping[str, Mapping[str, T]]) -> dict[str, T]:
    """One flat dict, {"policy/name": ...}."""
    return {f"{policy}/{name}": x for policy, own in by_policy.items() for name, x in own.items()}


def split(flat: Mapping[str, T]) -> dict[str, dict[str, T]]:
    """The inverse of ``join``."""
    found: dict[str, dict[str, T]] = {}
    for key, x in flat.items():
        policy, _, name = key.partition("/")
        found.setdefault(policy, {})[name] = x
    return found
