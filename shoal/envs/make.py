"""From what a user writes to a vector environment."""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from shoal.envs.base import VectorEnv
from shoal.envs.copies import refuse_shared
from shoal.errors import EnvError, SpaceError, cut, place_of
from shoal.trust import module_of

_ATARI = re.compile(r"ALE/|\w+(NoFrameskip|Deterministic)-v\d+$")
FEW = 4  # copies; so many are quicker in a loop (CartPole-v1: 19 us for one and 67 us for four,
# where Gymnasium's vector form takes 55 to 80 us for any number up to eight)
_INSTALL = {  # package that is missing -> what brings it
    "mujoco": '"shoal[mujoco]"',
    "ale_py": '"shoal[atari]"',
    "Box2D": 'swig "gymnasium[box2d]"',
    "pygame": '"gymnasium[classic-control]"',
    "cv2": "opencv-python-headless",
    "gymnasium_robotics": "gymnasium-robotics",
    "minigrid": "minigrid",
}


def make(
    env: str | Callable[..., Any] | Mapping[str, Any],
    slots: int,
    *,
    kwargs: Mapping[str, Any] | None = None,
    seed: int | None = None,
    threads: int = 1,
) -> VectorEnv:
    """`slots` copies of an environment as one vector environment.

    Args:
        env: a Gymnasium id (`"CartPole-v1"`, `"ALE/Pong-v5"`, `"module:Id-v0"`); a callable that
            returns a `gymnasium.Env` or a `gymnasium.vector.VectorEnv` (it is given `num_envs` if
            it has a parameter of that name); such a callable as `"module:name"` or
            `"folder/file.py:name"`; or `{"id": any of these, "kwargs": {...}}`.
        slots: number of copies.
        kwargs: arguments of the environment.
        seed: makes everything reproducible until `reset(seed)` does.
        threads: that may step the copies, where the environment has threads (Atari); what is
            sampled does not depend on it.

    Atari games are preprocessed as in the literature (`shoal.envs.atari`); arguments that only
    the raw environment has leave them raw. For more than a few copies of other ids, the vector form
    that they are registered with is used where it has the same spaces as the single environment and
    takes the same arguments; else the copies are stepped in a loop.

    Raises EnvError if it cannot be made, with what to install; SpaceError for spaces that are not
    supported. What the user's own code raises keeps its type and traceback.
    """
    from gymnasium.vector import VectorEnv as GymnasiumVector

    from shoal.envs.atari import make_vector
    from shoal.envs.native import NativeVector
    from shoal.envs.serial import SerialEnv

    if slots < 1:
        raise EnvError(f"cannot make {slots} copies of an environment", fix="make at least one")
    source = _find(env, kwargs or {})
    if source.atari is not None:
        return make_vector(source.id, source.atari, slots, seed=seed, threads=threads)
    vector = source.vector(slots) if slots > FEW else None
    if vector is None:
        try:
            vector = source.create(slots)
        except (Exception, SystemExit) as error:
            error.add_note(f"while making copy 0 of environment {source.id!r}")
            raise
    if not isinstance(vector, GymnasiumVector):
        with _located(source):
            return SerialEnv(source.create, slots, id=source.id, seed=seed, made=(vector,))
    if vector.num_envs != slots:
        vector.close()
        raise EnvError(
            f"{source.id!r} made a vector environment of {vector.num_envs} copies, not {slots}",
            where=source.where,
            fix=f"give it a parameter num_envs, or ask for {vector.num_envs} copies",
        )
    with _located(source):
        return NativeVector(vector, id=source.id, seed=seed)


def make_single(
    env: str | Callable[..., Any] | Mapping[str, Any],
    kwargs: Mapping[str, Any] | None = None,
    render_mode: str | None = None,
) -> Any:
    """One copy as a `gymnasium.Env`, for evaluation; with `render_mode`, one that renders.

    Takes and raises what `make` does; also EnvError if it does not render in that mode.
    """
    import gymnasium
    from gymnasium.vector import VectorEnv as GymnasiumVector

    source = _find(env, kwargs or {})
    made: Any
    if source.atari is not None:
        from shoal.envs.atari import make_copy

        made = make_copy(source.id, source.atari, render_mode)
    else:
        made = source.create(1, render_mode)
    refuse_shared(made, source.id, source.where)  # evaluation would step it, and close it
    if isinstance(made, GymnasiumVector):
        from shoal.envs.single import SingleCopy

        made = SingleCopy(made)
    if render_mode is not None and made.render_mode != render_mode:
        made.close()
        raise EnvError(
            f"the environment {source.id!r} does not render in the mode {render_mode!r}",
            where=source.where,
            fix="let it take a parameter render_mode and set self.render_mode to it",
        )
    if render_mode is not None:  # what drawing needs is imported by the first frame only
        try:
            made.reset(seed=0)
            made.render()
        except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
            made.close()
            raise _missing(source.id, error, "rendered") from error
    return made


@contextmanager
def _located(source: _Source) -> Iterator[None]:
    """An error about the spaces or the copies names where the environment is defined."""
    try:
        yield
    except (SpaceError, EnvError) as error:
        if isinstance(error, SpaceError) or error.where is None:
            error.locate(source.where)
        raise


@dataclass
class _Source:
    """Where copies of one environment come from."""

    id: str
    entry: Callable[..., Any]  # the user's callable, or what a Gymnasium id stands for
    kwargs: dict[str, Any]
    spec: Any = None  # gymnasium.envs.registration.EnvSpec of a Gymnasium id
    atari: dict[str, Any] | None = None  # arguments of ale-py's vector form, where that is meant
    where: str | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.where = place_of(self.entry) or place_of(getattr(self.entry, "__init__", self.entry))

    def create(self, slots: int = 1, render_mode: str | None = None) -> Any:
        """One `gymnasium.Env`, or a vector environment where there is nothing else."""
        import gymnasium

        if self.spec is not None and self.spec.entry_point is None:
            return self.vector(slots)
        kwargs = dict(self.kwargs)
        if render_mode is not None and (self.spec or _takes(self.entry, "render_mode")):
            kwargs["render_mode"] = render_mode
        try:
            if self.spec is not None:
                return gymnasium.make(self.spec, disable_env_checker=True, **kwargs)
            if "num_envs" in _parameters(self.entry):
                kwargs["num_envs"] = slots
            made = self.entry(**kwargs)
        except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
            raise _missing(self.id, error) from error
        if isinstance(made, gymnasium.Env | gymnasium.vector.VectorEnv):
            return made
        old = any(base.__module__.partition(".")[0] == "gym" for base in type(made).__mro__)
        raise EnvError(
            f"{self.id!r} made {'an environment of old Gym' if old else cut(repr(made), 80)}, "
            "not a gymnasium.Env",
            where=self.where,
            fix="derive its class from gymnasium.Env, and return it",
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
        try:
            entry = spec.vector_entry_point
            entry = entry if callable(entry) else load_env_creator(entry)
            limit = {"max_episode_steps": 0} if spec.max_episode_steps is not None else {}
            if _misfit(entry, {**limit, **spec.kwargs, **self.kwargs, "num_envs": slots}):
                return None
            vector = gymnasium.make_vec(
                spec, num_envs=slots, vectorization_mode="vector_entry_point", **self.kwargs
            )
        except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
            raise _missing(self.id, error) from error
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


def _find(env: Any, kwargs: Mapping[str, Any]) -> _Source:
    if isinstance(env, Mapping):
        if "id" not in env or set(env) - {"id", "kwargs"}:
            raise EnvError(
                f"an environment's configuration has the keys {sorted(map(str, env))}",
                fix='write {"id": "CartPole-v1", "kwargs": {}}',
            )
        return _find(env["id"], {**env.get("kwargs", {}), **kwargs})
    if isinstance(env, str):
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


def _from_callable(name: str, entry: Any, kwargs: dict[str, Any]) -> _Source:
    if not callable(entry):
        raise EnvError(f"{name!r} is {cut(repr(entry), 80)}, which makes no environment")
    given = {"num_envs": 1} if "num_envs" in _parameters(entry) else {}
    source = _Source(name, entry, kwargs)
    if wrong := _misfit(entry, {**kwargs, **given}):
        raise EnvError(
            f"{name!r} cannot be called with the arguments {sorted(kwargs)}: {wrong}",
            where=source.where,
            fix=_advice(entry, kwargs),
        )
    return source


def _from_id(name: str, kwargs: dict[str, Any]) -> _Source:
    import gymnasium
    from gymnasium.envs.registration import load_env_creator

    from shoal.envs.atari import ENTRY, settings

    id = name.rpartition(":")[2]
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
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        raise _missing(name, error) from error
    except gymnasium.error.Error as error:
        raise EnvError(f"the environment {name!r} cannot be made: {error}") from error
    if preprocessed is not None:
        return _Source(name, entry, kwargs, spec, preprocessed)
    if spec.entry_point == ENTRY and isinstance(kwargs.get("frameskip"), list):
        kwargs["frameskip"] = tuple(kwargs["frameskip"])  # lists are what YAML and JSON have
    taken = {key: value for key, value in kwargs.items() if key != "max_episode_steps"}
    given = {"num_envs": 1} if spec.entry_point is None else {}
    if wrong := _misfit(entry, {**spec.kwargs, **taken, **given}):
        raise EnvError(
            f"the environment {name!r} cannot be made with the arguments {sorted(kwargs)}: {wrong}",
            fix=_advice(entry, kwargs),
        )
    return _Source(name, entry, kwargs, spec)


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


def _misfit(function: Callable[..., Any], kwargs: Mapping[str, Any]) -> str | None:
    """Why a call with these arguments would not even begin."""
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):  # not written in Python: the call will tell
        return None
    try:
        signature.bind(**kwargs)
    except TypeError as error:
        return str(error)
    return None


def _advice(function: Callable[..., Any], kwargs: Mapping[str, Any]) -> str:
    known = [key for key in _parameters(function) if key not in ("self", "args", "kwargs")]
    strange = [key for key in kwargs if key not in known]
    hint = _nearest(strange[0], known) if strange else None
    return hint or f"its arguments are {', '.join(known) or 'none'}"
