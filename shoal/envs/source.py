"""What a user writes for an environment, and what makes one copy of it."""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import os
import pkgutil
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shoal.config.trust import module_of
from shoal.envs.checks import never_began
from shoal.envs.pettingzoo import is_agents
from shoal.errors import EnvError, SpaceError, cut
from shoal.games.base import Game
from shoal.games.find import find_game, is_game
from shoal.process.tracebacks import place_of

_ATARI = re.compile(r"ALE/|\w+(NoFrameskip|Deterministic)-v\d+$")
PETTINGZOO = "pettingzoo:"  # what names of PettingZoo's environments begin with
_FAMILIES = {  # of PettingZoo's environments -> the package of its own that brings it
    "mpe2": f"{sys.executable} -m pip install mpe2",
}
_INSTALL = {  # package that is missing -> what brings it
    "mujoco": '"shoal[mujoco]"',
    "ale_py": '"shoal[atari]"',
    "Box2D": 'swig "gymnasium[box2d]"',
    "pygame": '"gymnasium[classic-control]"',
    "cv2": "opencv-python-headless",
    "gymnasium_robotics": "gymnasium-robotics",
    "minigrid": "minigrid",
    "pettingzoo": '"shoal[agents]"',
    "rlcard": '"shoal[agents]"',
    "chess": "chess",
}


@dataclass
class Source:
    """Where copies of one environment come from."""

    id: str
    entry: Callable[..., Any]  # the user's callable, or what a Gymnasium id stands for
    kwargs: dict[str, Any]
    spec: Any = None  # gymnasium.envs.registration.EnvSpec of a Gymnasium id
    atari: dict[str, Any] | None = None  # arguments of ale-py's vector form, if that is meant
    where: str | None = field(default=None, init=False)
    worker: int = 0
    render_mode: str | None = None

    def __post_init__(self) -> None:
        self.where = place_of(self.entry) or place_of(getattr(self.entry, "__init__", self.entry))

    def create(self, copy: int = 0, slots: int = 1) -> Any:
        """One `gymnasium.Env`, or a vector environment if there is nothing else."""
        import gymnasium

        if self.spec is not None and self.spec.entry_point is None:
            return self.vector(slots)
        kwargs = {**self._given(self.entry, copy), **self.kwargs}
        renders = self.spec is not None or _takes(self.entry, "render_mode")
        if self.render_mode is not None and renders:
            kwargs["render_mode"] = self.render_mode
        if self.spec is None and "num_envs" in _parameters(self.entry):
            kwargs["num_envs"] = slots
        try:
            with self._explained():
                if self.spec is not None:
                    return gymnasium.make(self.spec, disable_env_checker=True, **kwargs)
                made = self.entry(**kwargs)
        except (Exception, SystemExit) as error:
            error.add_note(f"while making copy {copy} of environment {self.id!r}")
            raise
        if isinstance(made, Game):
            from shoal.envs.game import GameTurns

            return GameTurns(find_game(lambda: made, {}))
        if isinstance(made, gymnasium.Env | gymnasium.vector.VectorEnv) or is_agents(made):
            return made
        old = any(base.__module__.partition(".")[0] == "gym" for base in type(made).__mro__)
        raise EnvError(
            f"{self.id!r} made {'an environment of old Gym' if old else cut(repr(made), 80)}, "
            "neither a gymnasium.Env nor a PettingZoo environment",
            where=self.where,
            fix="derive its class from gymnasium.Env, and return it",
        )

    @contextmanager
    def located(self) -> Iterator[None]:
        """An error about the spaces or the copies names where the environment is defined."""
        try:
            yield
        except (SpaceError, EnvError) as error:
            if isinstance(error, SpaceError) or error.where is None:
                error.locate(self.where)
            raise

    def _given(self, entry: Callable[..., Any], copy: int) -> dict[str, int]:
        """What a copy is given to know itself by, as far as its constructor names it."""
        own = {"worker_index": self.worker, "env_index": copy}
        return {name: value for name, value in own.items() if name in _parameters(entry)}

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """A missing package, and arguments that the constructor does not take, are EnvErrors."""
        try:
            yield
        except Exception as error:
            lacking = unavailable(self.id, error)
            if lacking is None and isinstance(error, TypeError):
                lacking = self._misfit(error)
            if lacking is None:
                raise
            raise lacking from error

    def _misfit(self, error: TypeError) -> EnvError | None:
        """Arguments that the constructor does not take; None if the error is another."""
        strange = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if not (strange and strange[1] in self.kwargs) and not never_began(error):
            return None
        known = _argument_names(self.entry) + ["max_episode_steps"] * (self.spec is not None)
        nearest = _nearest(strange[1], known) if strange else None
        why = str(error).partition(" was raised from the environment creator")[0]
        return EnvError(
            f"{self.id!r} cannot be made with the arguments {sorted(self.kwargs)}: {why}",
            where=self.where,
            fix=nearest or f"its arguments are {', '.join(known) or 'none'}",
        )

    def vector(self, slots: int) -> Any:
        """The vector form that the id is registered with, if it is the same environment."""
        import gymnasium
        from gymnasium.envs.registration import load_env_creator

        from shoal.envs.atari import ENTRY

        spec = self.spec
        if spec is None or spec.vector_entry_point is None or spec.additional_wrappers:
            return None
        if spec.entry_point == ENTRY:  # raw frames are asked for, which that form does not have
            return None
        if spec.entry_point is not None and self._given(self.entry, 0):
            return None  # each copy is to know itself
        with self._explained():
            entry = spec.vector_entry_point
            entry = entry if callable(entry) else load_env_creator(entry)
            limit = {"max_episode_steps": 0} if spec.max_episode_steps is not None else {}
            kwargs = {**self._given(entry, 0), **self.kwargs}
            if spec.entry_point is not None and not _fits(
                entry, {**limit, **spec.kwargs, **kwargs, "num_envs": slots}
            ):
                return None
            vector = gymnasium.make_vec(
                spec, num_envs=slots, vectorization_mode="vector_entry_point", **kwargs
            )
        if spec.entry_point is None:
            return vector
        single = self.create()
        same = (
            single.observation_space == vector.single_observation_space
            and single.action_space == vector.single_action_space
        )
        single.close()
        if same:
            return vector
        vector.close()
        return None


def find(env: Any, kwargs: Mapping[str, Any]) -> Source:
    """Where the copies of what the user wrote come from; see `make`. Raises EnvError."""
    if isinstance(env, Mapping):
        if "id" not in env or set(env) - {"id", "kwargs"}:
            raise EnvError(
                f"an environment's configuration has the keys {sorted(map(str, env))}",
                fix='write {"id": "CartPole-v1", "kwargs": {}}',
            )
        return find(env["id"], {**env.get("kwargs", {}), **kwargs})
    if isinstance(env, str):
        if is_game(env):
            from shoal.envs.game import GameTurns

            game = find_game(env, kwargs)
            return Source(env, lambda: GameTurns(game), {})
        if env.startswith(PETTINGZOO):
            return _from_pettingzoo(env, dict(kwargs))
        if ":" in env:
            try:
                module = module_of(env, "environment", EnvError)
            except ImportError as error:
                raise _missing(env, error) from error
            entry = _attribute(module, env.rpartition(":")[2])
            if entry is not None:
                return _from_callable(env, entry, dict(kwargs))
        return _from_id(env, dict(kwargs))
    if not callable(env):
        hint = "give what makes it (its class, or a function), so that there can be several copies"
        raise EnvError(f"{cut(repr(env), 80)} is not a way to make an environment", fix=hint)
    name = getattr(env, "__qualname__", type(env).__qualname__)
    return _from_callable(f"{getattr(env, '__module__', None)}:{name}", env, dict(kwargs))


def _from_callable(name: str, entry: Any, kwargs: dict[str, Any]) -> Source:
    if not callable(entry):
        raise EnvError(f"{name!r} is {cut(repr(entry), 80)}, which makes no environment")
    return Source(name, entry, kwargs)


def _from_pettingzoo(name: str, kwargs: dict[str, Any]) -> Source:
    """ "pettingzoo:family/module": the module below `pettingzoo`, or in a package of its own.

    Its parallel form is taken if it has one.
    """
    family, slash, module = name.removeprefix(PETTINGZOO).partition("/")
    if not (slash and family.isidentifier() and module.isidentifier()):
        raise EnvError(
            f"{name!r} names no PettingZoo environment",
            fix='write "pettingzoo:family/module", as in "pettingzoo:classic/connect_four_v3"',
        )
    try:
        import pettingzoo  # noqa: F401
    except ImportError as error:
        raise _missing(name, error) from error
    if family == "mpe":
        raise EnvError(
            f"the environment {name!r} cannot be made: MPE has a package of its own",
            fix=f"write pettingzoo:mpe2/{module}; {_FAMILIES['mpe2']}",
        )
    packages = f"pettingzoo.{family}", family
    places = [f"{package}.{module}" for package in packages if _exists(package)]
    found = next((place for place in places if _exists(place)), None)
    if found is None:
        known = [info.name for info in _modules(packages) if not info.name.startswith("_")]
        hint = _nearest(module, known) if known else _FAMILIES.get(family)
        raise EnvError(
            f"the environment {name!r} cannot be made: there is no module {module!r} in "
            f"{' or '.join(packages)}",
            fix=hint or f"install what brings {family!r}, or correct the name",
        )
    try:
        made: Any = module_of(f"{found}:env", "environment", EnvError)
    except ImportError as error:
        raise _missing(name, error) from error
    entry = getattr(made, "parallel_env", None) or getattr(made, "env", None)
    if entry is None:
        raise EnvError(f"{name!r} has neither parallel_env nor env, which make an environment")
    return Source(name, entry, kwargs)


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _modules(packages: tuple[str, ...]) -> Iterator[pkgutil.ModuleInfo]:
    for package in packages:
        spec = importlib.util.find_spec(package) if _exists(package) else None
        if spec is not None:
            yield from pkgutil.iter_modules(spec.submodule_search_locations)


def _from_id(name: str, kwargs: dict[str, Any]) -> Source:
    import gymnasium
    from gymnasium.envs.registration import load_env_creator

    from shoal.envs.atari import ENTRY, settings

    id = name.rpartition(":")[2]
    if id.startswith("shoal/"):
        import shoal.envs.memory
        import shoal.envs.reach  # noqa: F401  (they register their tasks)
    if _ATARI.match(id) and id not in gymnasium.registry:
        try:
            import ale_py  # noqa: F401  (it registers its games)
        except ImportError as error:
            raise _missing(name, error) from error
    spec: Any = gymnasium.registry.get(id)
    try:
        if spec is None:  # an id without a version, or none at all
            made: Any = gymnasium.make(id, disable_env_checker=True, **kwargs)
            spec = gymnasium.registry[made.spec.id]
            made.close()
        entry: Any = spec.entry_point or spec.vector_entry_point
        entry = entry if callable(entry) else load_env_creator(entry)
        preprocessed = settings(name, spec, kwargs)
    except (gymnasium.error.UnregisteredEnv, gymnasium.error.DeprecatedEnv) as error:
        raise _unknown(name, id, error) from error
    except Exception as error:
        lacking = unavailable(name, error)
        if lacking is None and isinstance(error, gymnasium.error.Error):
            lacking = EnvError(f"the environment {name!r} cannot be made: {error}")
        if lacking is None:
            raise
        raise lacking from error
    if preprocessed is not None:
        return Source(name, entry, kwargs, spec, preprocessed)
    if spec.entry_point == ENTRY and isinstance(kwargs.get("frameskip"), list):
        kwargs["frameskip"] = tuple(kwargs["frameskip"])  # lists are what YAML and JSON have
    return Source(name, entry, kwargs, spec)


def _attribute(module: Any, name: str) -> Any:
    """What "module:name" names, a Gymnasium id that the module registers excepted (None)."""
    found = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is not None:
        return found
    import gymnasium

    if name in gymnasium.registry or "-v" in name:
        return None
    names = [key for key, value in vars(module).items() if callable(value) and key[0] != "_"]
    raise EnvError(
        f"the module {module.__name__!r} has nothing called {name!r}",
        where=getattr(module, "__file__", None),
        fix=_nearest(name, names) or "write module:Class, module:function or module:Id-v0",
    )


def unavailable(name: str, error: Exception, done: str = "made") -> EnvError | None:
    """A package, or a library that draws, which the environment lacks; None for other errors."""
    import gymnasium

    if isinstance(error, gymnasium.error.DependencyNotInstalled | ImportError):
        return _missing(name, error, done)
    files = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
    draws = any({"OpenGL", "glfw", "mujoco_rendering.py"} & set(file.parts) for file in files)
    if not draws and "MUJOCO_GL" not in str(error):
        return None
    return EnvError(
        f"the environment {name!r} cannot be {done}: {cut(str(error), 200)}",
        fix="without a screen MuJoCo needs MUJOCO_GL=egl (with a GPU or Mesa's EGL) or "
        f"MUJOCO_GL=osmesa; it is {os.environ.get('MUJOCO_GL', 'not set')}",
    )


def _missing(name: str, error: Exception, done: str = "made") -> EnvError:
    """A package that the environment needs is not there."""
    import gymnasium

    cause = error if isinstance(error, ImportError) else error.__cause__
    package = (getattr(cause, "name", None) or "").partition(".")[0]
    why = f"the environment {name!r} cannot be {done}"
    if isinstance(cause, ModuleNotFoundError) and package:
        install = f"{sys.executable} -m pip install {_INSTALL.get(package, package)}"
        return EnvError(f"{why}: the package {package!r} is not installed", fix=install)
    others = [key for key in gymnasium.registry if key != name]
    return EnvError(f"{why}: {error}", fix=_nearest(name, others))


def _unknown(name: str, id: str, error: Exception) -> EnvError:
    import gymnasium

    namespace, slash, _ = id.rpartition("/")
    known = list(gymnasium.registry)
    if slash and not any(key.startswith(f"{namespace}/") for key in known):
        fix = f"import what registers {namespace}/...: write module:{id}"
    else:
        fix = _nearest(id, known) or "write a Gymnasium id, module:Class or module:function"
    why = str(error).partition(" Did you mean")[0]
    return EnvError(f"the environment {name!r} cannot be made: {why}", fix=fix)


def _nearest(name: str, names: list[str]) -> str | None:
    lower = {key.lower(): key for key in names}
    near = difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(repr(lower[key]) for key in near)}?" if near else None


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except (ValueError, TypeError):  # not written in Python
        return {}


def _takes(function: Callable[..., Any], name: str) -> bool:
    parameters = _parameters(function)
    return name in parameters or any(p.kind == p.VAR_KEYWORD for p in parameters.values())


def _fits(function: Callable[..., Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call with these arguments would begin."""
    try:
        inspect.signature(function).bind(**kwargs)
    except TypeError:
        return False
    except ValueError:  # not written in Python: the call will tell
        return True
    return True


def _argument_names(entry: Callable[..., Any]) -> list[str]:
    """Names of a callable's arguments; of a class, those of its bases too."""
    bases: Any = entry.__mro__[:-1] if isinstance(entry, type) else (entry,)
    found = [p for base in bases for p in _parameters(base).values()]
    named = [p.name for p in found if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return [name for name in dict.fromkeys(named) if name != "self"]
