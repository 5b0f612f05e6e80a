"""Trust: which code a file may name, and the one function that imports code by its name.

A name is ``"module:Name"``, or ``"folder/file.py:Name"``. The sender of a checkpoint or a
configuration file could name any code in it, so a name from a file is imported only if the caller
gives the same name, or trusts the file.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shoal.errors import ConfigError, ShoalError, cut

log = logging.getLogger("shoal.config.trust")

OPEN_SPIEL = "open_spiel:"  # before the names of its games, which are no code's
_BY_ARGUMENTS = re.compile(r"GymV\d+Environment")  # these ids import what their arguments name


def find(name: str, kind: str, error: type[ShoalError] = ConfigError) -> Any:
    """The object that ``name`` names; its module is imported. ``kind``: "environment", "plan", ...

    Raises ``error`` where the name leads nowhere, and what the module itself raises.
    """
    module = module_of(name, kind, error)
    found, attribute = module, name.rpartition(":")[2]
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise error(
                f"the module {module.__name__!r} has no {attribute!r}",
                f"{module.__name__}: {getattr(module, '__file__', None) or module!r}",
                f"correct the name behind the colon in {name!r}",
            )
        found = getattr(found, part)
    return found


def module_of(name: str, kind: str, error: type[ShoalError] = ConfigError) -> Any:
    """The module of "module:Name", imported as ``python -m`` would: the working directory first.

    This is the only place where Shoal imports what a text names. The folder of a file joins
    ``sys.path``, so that the file can import its neighbours, and other processes can import it.

    Raises ``error`` where there is no such module. What the module itself raises keeps its type
    and gains a note.
    """
    where, _, attribute = name.rpartition(":")
    text = f"the {kind} {cut(name, 80)!r}"
    if not where or not attribute:
        fix = f'write it as "module:Name" or "folder/file.py:Name", as in "my_code:{attribute}"'
        raise error(f"{text} is not a full name", None, fix)
    module, folder = _file(where, text, error) if where.endswith(".py") else (where, os.getcwd())
    if not all(part and not set(part) & set("/\\:") for part in module.split(".")):
        fix = f"write the file's whole name, {where}.py:{attribute}, or a module as in an import"
        raise error(f"{text} cannot be imported: {where!r} is no module", None, fix)
    if folder not in sys.path and not (where == module and "" in sys.path):
        sys.path.insert(0, folder)
        importlib.invalidate_caches()
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as missing:
        if missing.name is None or not f"{module}.".startswith(f"{missing.name}."):
            missing.add_note(f"while importing {text}")
            raise
        raise error(
            f"{text} cannot be imported: there is no module {missing.name!r}",
            None,
            f"write it as in an import statement; looked in {folder} and the packages of "
            f"{sys.executable}; PYTHONPATH adds folders",
        ) from missing
    except Exception as raised:
        raised.add_note(f"while importing {text}")
        raise
    if where != module:
        at = getattr(found, "__file__", None)
        if at is None or Path(at).resolve() != Path(folder, f"{module}.py"):
            what = f"{text} cannot be imported: another module is called {module!r}"
            raise error(what, at, "give the file another name")
    return found


def _file(where: str, text: str, error: type[ShoalError]) -> tuple[str, str]:
    """A file's module name, and its folder."""
    file = Path(where).expanduser().resolve()
    if not file.is_file():
        raise error(f"{text} cannot be imported: there is no file {where}", str(file), "correct it")
    return file.stem, str(file.parent)


# ------------------------------------------------------------------ what a file may ask for


def of_env(env: Any) -> str | None:
    """The name of code by which an environment is made; None for an id of Gymnasium's registry, and
    for OpenSpiel's games."""
    if isinstance(env, Mapping):
        return of_env(env.get("id"))
    if isinstance(env, str) and env.startswith(OPEN_SPIEL):
        return None
    code = isinstance(env, str) and (":" in env or _BY_ARGUMENTS.match(env))
    return str(env) if code else None


def asks(saved: Any) -> bool:
    """Whether a configuration, as a file holds it, names code or a cluster to join."""
    if not isinstance(saved, Mapping):
        return False
    groups = {name: saved.get(name) for name in ("algorithm", "plan", "cluster")}
    parts = {name: x if isinstance(x, Mapping) else {"class": x} for name, x in groups.items()}
    named = [
        saved.get("system"),
        parts["algorithm"].get("network"),
        parts["cluster"].get("address"),
    ]
    named += [part.get(key) for part in parts.values() for key in ("class", "name")]
    return bool(of_env(saved.get("env"))) or any(isinstance(x, str) and ":" in x for x in named)


def absolute(name: Any) -> Any:
    """``"file.py:Name"`` with its whole path, as an environment may change the folder.

    Whatever else it is stays as it is.
    """
    where, colon, attribute = name.rpartition(":") if isinstance(name, str) else ("", "", "")
    if not where.endswith(".py"):
        return name
    return f"{Path(where).expanduser().resolve()}{colon}{attribute}"


def unasked(config: Any) -> dict[str, str]:
    """What a configuration would import, or connect to, by the names of its settings."""
    network, cluster = getattr(config.algorithm, "network", None), config.cluster
    used = config.rollout.workers > 0 and not cluster.in_process
    found = {
        "env": of_env(config.env),
        "algorithm.network": network if isinstance(network, str) else None,
        "cluster.address": cluster.address if used else None,
    }
    return {name: value for name, value in found.items() if value is not None}


def admit(found: Mapping[str, str], where: str, trust: bool) -> None:
    """Raise ConfigError for names from the file ``where`` that its user neither gave nor trusts.

    What is trusted is logged, one line for each name.
    """
    for setting, name in found.items():
        join = setting == "cluster.address"
        if not trust:
            option = "address" if join else setting.replace("_", "-")
            raise ConfigError(
                f"{setting} is {cut(name, 80)!r} there: "
                + ("a cluster is joined" if join else "code is imported")
                + " only if you name it yourself",
                where,
                f"if you trust it, add --{option} {cut(name, 80)} (in Python: "
                f"{option.rpartition('.')[2].replace('-', '_')}=...), or trust all names in the "
                "file: --trust (trust=True)",
            )
        log.warning("%s %s: %s names it", "joining" if join else "importing", cut(name, 80), where)
