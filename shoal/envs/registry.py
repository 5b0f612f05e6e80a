"""Entries of Gymnasium's registry, which a program makes and other processes do not have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def entries(env: Any) -> tuple[Any, ...]:
    """The registry's entries (EnvSpec) by which an id may be made in this process, all versions.

    Empty for what is no id, and for "module:Id", whose module registers it wherever it is made.
    """
    while isinstance(env, Mapping):
        env = env.get("id")
    if not isinstance(env, str) or ":" in env:
        return ()
    import gymnasium
    from gymnasium.envs.registration import parse_env_id

    try:
        namespace, name, _ = parse_env_id(env)
    except gymnasium.error.Error:
        return ()
    found = gymnasium.registry.values()
    return tuple(e for e in found if (e.namespace, e.name) == (namespace, name))


def register(found: Iterable[Any]) -> None:
    """Make ``entries`` of another process known in this one."""
    found = {entry.id: entry for entry in found}
    if found:
        import gymnasium

        gymnasium.registry.update(found)
