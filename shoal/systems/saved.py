"""What a checkpoint says of its run: the settings, and which of them its user must give again."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from shoal.algorithms.base import Algorithm, Differentiable
from shoal.algorithms.evolved import Evolved
from shoal.checkpoint import files as checkpoint
from shoal.config.config import Config, Rollout
from shoal.config.settings import find, is_ours, merge, name_of, route
from shoal.config.trust import admit, of_env, unasked
from shoal.errors import CheckpointError, ConfigError
from shoal.systems.configure import change
from shoal.systems.table import default_config, made, system, with_plan

ACTING = {"model", "init", "act", "memory", "actions"}  # what a policy calls of its algorithm


def own_policy(algorithm: Any) -> bool:
    """Whether acting takes the user's own class: it overrides something that acting calls.

    Its methods may call others of its own, so whatever is not a method of Shoal's counts too.
    """
    cls = type(algorithm)
    own = [each for each in cls.__mro__ if issubclass(each, Algorithm) and not is_ours(each)]
    defined = {name for each in own for name in vars(each) if not name.startswith("_")}
    learning = {*dir(Differentiable), *dir(Evolved)} - ACTING
    return bool(defined - {f.name for f in fields(cls)} - learning)


@dataclass(frozen=True)
class Saved:
    """The settings in a checkpoint's ``meta``, which may be a stranger's.

    An object takes the place of what the checkpoint names, and "module:Name" stands for one.
    Without ``trust``, nothing that only the checkpoint names is imported.
    """

    path: str | Path
    meta: Mapping[str, Any]
    trust: bool = False

    def policy_algorithm(
        self, given: Any = None, network: Any = None, acting: Mapping[str, Any] | None = None
    ) -> Any:
        """The algorithm as it acts; Shoal's own, if a user's class acts as what it derives from.

        ``acting`` are settings of how it acts, in the place of those of the run.

        Raises ConfigError for a class or network that only its user can give, and for a setting
        that is no such.
        """
        with checkpoint.blame(self.path):
            own = "class" in self.meta["config"]["algorithm"] and self.meta["own_policy"]
        found = self._algorithm(given, network, learning=bool(own) or given is not None)
        if network is None and isinstance(getattr(found, "network", None), str):
            self._admit({"algorithm.network": found.network})
        return self._acting(found, acting) if acting else found

    def _acting(self, found: Any, changes: Mapping[str, Any]) -> Any:
        name, has = type(found).__name__, ", ".join(sorted(found.acting))
        for key in changes:
            if find(found, key) not in found.acting:
                raise ConfigError(
                    f"{key!r} is no setting of how a trained policy of {name} acts",
                    str(self.path),
                    f"there are: {has}" if has else f"leave it out: {name} has none",
                )
        return route(found, changes, str(self.path))

    def config(
        self, *, env: Any = None, network: Any = None, algorithm: Any = None, plan: Any = None
    ) -> Config:
        """The whole configuration; of ``env_kwargs`` only what a file can hold.

        Nothing is imported but a class of the user's own. ``changed`` completes it.

        Raises CheckpointError for what is no configuration, and ConfigError for an algorithm, plan
        or network that only its user can give.
        """
        with checkpoint.blame(self.path):
            saved, name = dict(self.meta["config"]), str(self.meta["system"])
            options, rollout = dict(saved["plan"]), dict(saved["rollout"])
            saved |= {"plan": options, "rollout": rollout, "learner": self.meta["learner"]}
            env = saved["env"] if env is None else env
            for key in ("system", "env", "algorithm"):
                del saved[key]
            rollout["env_kwargs"] = self._env_kwargs()[0]
            saved["self_play"] = dict(saved["self_play"])
            if isinstance(saved["self_play"]["opponent"], Mapping):  # see ``changed``
                saved["self_play"]["opponent"] = None
        learned = self._algorithm(algorithm, network, learning=True)
        config = replace(default_config(learned if ":" in name else name, env), algorithm=learned)
        config = replace(config, plan=self._plan(config, plan, options))
        with checkpoint.blame(self.path):
            return merge(config, saved, str(self.path))

    def changed(self, config: Config, changes: Mapping[str, Any], given: Collection[str]) -> Config:
        """The configuration with ``changes``, by their names; ready to be run.

        ``env_kwargs`` are changed one by one. ``given`` are the settings that the caller gave
        already ("env").

        Raises ConfigError for code that only the checkpoint names, and for what must be given.
        """
        paths = {name: find(config, name) for name in changes}
        others = {k: x for k, x in changes.items() if paths[k] != "rollout.env_kwargs"}
        kwargs = [x for k, x in changes.items() if paths[k] == "rollout.env_kwargs"]
        asked = route(Rollout(), {"env_kwargs": kwargs[0]}).env_kwargs if kwargs else {}
        known = self.env_kwargs(asked)
        with checkpoint.blame(self.path):
            env_steps = int(self.meta["counters"]["env_steps"])
        config = change(config, others, env_steps)
        config = replace(config, rollout=replace(config.rollout, env_kwargs=known))
        self._refuse_object(config.env)
        with checkpoint.blame(self.path):
            opponent = self.meta["config"]["self_play"]["opponent"]
        if isinstance(opponent, Mapping) and "self_play.opponent" not in paths.values():
            raise ConfigError(
                f"self_play.opponent was an object of Python, {opponent.get('object')}, which no "
                "checkpoint holds",
                str(self.path),
                "pass it again in Python: shoal.Trainer.restore(path, opponent=...)",
            )
        named = {*given, *paths.values()}
        self._admit({k: x for k, x in unasked(config).items() if k not in named})
        return config

    def env(self, given: Any = None) -> Any:
        """The environment that is given, or else the one that the checkpoint names.

        Raises ConfigError for an object of Python, and for code that only the checkpoint names.
        """
        if given is not None:
            return given
        with checkpoint.blame(self.path):
            env = self.meta["config"]["env"]
        self._refuse_object(env)
        code = of_env(env)
        self._admit({} if code is None else {"env": code})
        return env

    def _refuse_object(self, env: Any) -> None:
        if isinstance(env, Mapping) and "object" in env:
            raise ConfigError(
                f"env was an object of Python, {env['object']}, which no checkpoint holds",
                str(self.path),
                "pass it again: env=... in Python, --env module:Name on the command line",
            )

    def view(self) -> dict[str, Any]:
        """What the policy saw of its environment: the fields of a ``View``."""
        names = ("hide", "previous")
        with checkpoint.blame(self.path):
            saved = {k: x for k, x in self.meta["config"]["rollout"].items() if k in names}
            rollout = merge(Rollout(), saved, str(self.path))
        return {name: getattr(rollout, name) for name in names}

    def refuse_best(self) -> None:
        """Raise CheckpointError if this is the policy of the best evaluation alone."""
        if "best" in self.meta:
            raise CheckpointError(
                "no run can go on from the best policy: what it was evaluated with was kept, but "
                "neither the optimiser's state nor the workers'",
                str(self.path),
                "go on from the run folder, which has the newest checkpoint; evaluate, play or "
                "load this one",
            )

    def refuse_other_spaces(self, spaces: Mapping[str, Any], env: Any) -> None:
        """Raise CheckpointError unless the run's spaces were these, as JSON; ``env`` has them."""
        with checkpoint.blame(self.path):
            saved = self.meta["spaces"]
        if saved != spaces:
            raise CheckpointError(
                f"this checkpoint is of another environment: its spaces were {saved}, "
                f"{env} has {spaces}",
                str(self.path),
                "give the environment that it was trained on",
            )

    def env_kwargs(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of the environment, those that are ``given`` in the place of the saved.

        Raises ConfigError for objects that no file can hold and that are not given.
        """
        kept, lost = self._env_kwargs()
        missing = {key: name for key, name in lost.items() if key not in given}
        if missing:
            key, name = next(iter(missing.items()))
            raise ConfigError(
                f"env_kwargs[{key!r}] was an object of Python, {name}, which no checkpoint holds",
                str(self.path),
                f"pass it again in Python: shoal.Trainer.restore(path, env_kwargs={{{key!r}: ...}}"
                f"), or shoal.evaluate(shoal.load(path), env, env_kwargs=...)",
            )
        return kept | dict(given)

    def _env_kwargs(self) -> tuple[dict[str, Any], dict[str, str]]:
        """What of ``env_kwargs`` a file can hold, and the names of the other objects' classes."""
        kept: dict[str, Any] = {}
        lost: dict[str, str] = {}
        with checkpoint.blame(self.path):
            saved = dict(self.meta["config"]["rollout"]["env_kwargs"])
        for key, value in saved.items():
            try:
                kept |= merge(Rollout(), {"env_kwargs": {key: value}}).env_kwargs
            except ConfigError:  # it holds an object
                lost[key] = (
                    str(value.get("object", "in it")) if isinstance(value, dict) else "in it"
                )
        return kept, lost

    def _algorithm(self, given: Any, network: Any, learning: bool) -> Any:
        with checkpoint.blame(self.path):
            name, saved = str(self.meta["system"]), dict(self.meta["config"]["algorithm"])
        own = saved.pop("class", None)
        start = None if ":" in name else system(name).algorithm
        if learning or start is None:
            start = self._made("algorithm", given, own, start)
        else:
            saved = {k: x for k, x in saved.items() if k in {f.name for f in fields(start)}}
        if network is not None:
            start = replace(start, network=network)
            saved.pop("network", None)
        config = replace(default_config(start, ""), algorithm=start)
        with checkpoint.blame(self.path):
            return merge(config, {"algorithm": saved}, str(self.path)).algorithm

    def _plan(self, config: Config, given: Any, options: dict[str, Any]) -> Any:
        """The run's plan, with its default options. Takes its class out of the saved ones."""
        own = options.pop("class", None)
        if own is None:
            config = with_plan(config, str(options.get("name")))
        return self._made("plan", given, own, config.plan)

    def _made(self, kind: str, given: Any, own: Any, ours: Any) -> Any:
        """The algorithm or plan that the run had: of the class ``own`` (None: that of ``ours``)."""
        if given is None and own is not None:
            self._admit({kind: str(own)})
            given = str(own)
        found = ours if given is None else made(given, kind)
        wanted = name_of(type(ours)) if own is None else own
        if name_of(type(found)) != wanted:
            raise ConfigError(
                f"the {kind} was of the class {wanted}, and {name_of(type(found))} was given",
                str(self.path),
                f"give the {kind} that the run had",
            )
        return found

    def _admit(self, names: Mapping[str, str]) -> None:
        admit(names, str(self.path), self.trust)
