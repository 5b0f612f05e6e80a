"""Several policies, each with an algorithm of its own: which agents act by which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from shoal.algorithms.a2c import A2C
from shoal.algorithms.appo import APPO
from shoal.algorithms.base import Algorithm, Batch, Differentiable, Metrics, Model, Params, Records
from shoal.algorithms.by_policy import join, split
from shoal.algorithms.ddpg import DDPG, TD3
from shoal.algorithms.dqn import DQN
from shoal.algorithms.fixed import RANDOM
from shoal.algorithms.ppo import PPO
from shoal.algorithms.qt_opt import QTOpt
from shoal.algorithms.sac import SAC
from shoal.algorithms.vtrace import VTrace
from shoal.config.config import Frozen
from shoal.config.settings import GROUPS, merge, name_of
from shoal.errors import ConfigError, EnvError, cut
from shoal.nets.base import Build
from shoal.ops.kernels import Array
from shoal.ops.optimisers import Optimiser
from shoal.trajectory import ndarray

_NAMED: dict[str, type[Differentiable]] = {
    **{"ppo": PPO, "a2c": A2C, "appo": APPO, "impala": VTrace},
    **{"dqn": DQN, "sac": SAC, "td3": TD3, "ddpg": DDPG, "qt-opt": QTOpt},
}
_CLASSES = {name_of(kind): kind for kind in _NAMED.values()}


class Models(dict[str, Model]):
    """The model of each policy that learns."""


@dataclass(frozen=True)
class Policies(Differentiable):
    """Algorithms by the name of their policy, and the policy of each agent.

    A policy is an algorithm (``PPO(lr=1e-3)``, or a mapping of its settings with its "system"), and
    then it learns; or it is fixed: "random", what ``shoal.load`` returned, or any function from an
    observation, in the environment's own form, to an action.

    ``agents`` says which agents act by which policy: patterns of names, as in a shell. The first
    that fits an agent counts. Each policy has parameters, an optimiser and gradient steps of its
    own, from the steps of its own agents: this is independent learning (de Witt et al. 2020,
    arXiv:2011.09533).

    All of them learn from fragments, or all of them from replay buffers, each policy from one of
    its own.

    Raises ConfigError for a pattern that leads to no policy, and for algorithms that learn from
    whole episodes.
    """

    needs = frozenset({"policies"})
    policies: Mapping[str, Any] = field(
        default_factory=lambda: {"shared": PPO()}, metadata={GROUPS: True}
    )  # an algorithm, "random", a loaded policy or a function, by name
    agents: Mapping[str, str] = field(
        default_factory=lambda: {"*": "shared"}
    )  # name of a policy by pattern: {"adversary_*": "hunter", "*": "prey"}

    def __post_init__(self) -> None:
        super().__post_init__()
        made = {name: _made(name, what) for name, what in self.policies.items()}
        object.__setattr__(self, "policies", Frozen(made))
        object.__setattr__(self, "agents", Frozen(self.agents))
        for pattern, name in self.agents.items():
            if name not in made:
                raise ConfigError(
                    f"algorithm.agents gives {pattern!r} the policy {name!r}, which is none",
                    None,
                    f"name one of {', '.join(map(repr, made))}, or add it to algorithm.policies",
                )
        if not self.parts:
            raise ConfigError(
                f"none of the policies {', '.join(map(repr, made))} learns",
                None,
                'give one of them an algorithm: policies={"name": PPO()}',
            )
        replays = [name for name, part in self.parts.items() if "replay" in part.needs]
        others = [name for name in self.parts if name not in replays]
        if replays and others:
            raise ConfigError(
                f"the policy {replays[0]!r} learns from a replay buffer and {others[0]!r} from "
                "fragments: no plan does both",
                None,
                "give all policies algorithms of one kind",
            )
        own = {"policies", "buffers"} if replays else {"policies"}
        needs = frozenset(own).union(*(part.needs for part in self.parts.values()))
        object.__setattr__(self, "needs", needs)

    @property
    def parts(self) -> dict[str, Differentiable]:
        """The algorithms, by the names of their policies."""
        return {name: x for name, x in self.policies.items() if isinstance(x, Algorithm)}  # type: ignore[misc]

    @property
    def fixed(self) -> dict[str, Any]:
        """The policies that do not learn."""
        return {name: x for name, x in self.policies.items() if not isinstance(x, Algorithm)}

    @property
    def gamma(self) -> float:  # type: ignore[override]
        """Of the first that learns."""
        return next(iter(self.parts.values())).gamma

    @property
    def minibatch_size(self) -> int | None:  # type: ignore[override]
        """None: each policy has its own."""
        return None

    def policy_of(self, agent: str) -> str:
        """The policy of an agent. Raises EnvError if no pattern fits its name."""
        name = next((x for key, x in self.agents.items() if fnmatchcase(agent, key)), None)
        if name is None:
            raise EnvError(
                f"no policy is given to the agent {agent!r}: algorithm.agents has the patterns "
                f"{', '.join(map(repr, self.agents))}",
                None,
                'add its name or a pattern, for example {"*": ...}',
            )
        return name

    def assign(self, agents: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """The agents of each policy. Raises EnvError for an agent or a policy without the other."""
        found: dict[str, list[str]] = {name: [] for name in self.policies}
        for agent in agents:
            found[self.policy_of(agent)].append(agent)
        for name, own in found.items():
            if not own:
                raise EnvError(
                    f"the policy {name!r} is taken by no agent: there are "
                    f"{', '.join(map(repr, agents))}",
                    None,
                    "leave it out, or correct its pattern in algorithm.agents",
                )
        return {name: tuple(own) for name, own in found.items()}

    # ------------------------------------------------------------------ by policy

    def model(self, spaces: Any, build: Build) -> Any:
        """The model of each policy that learns; ``spaces`` are by policy."""
        return Models({name: part.model(spaces[name], build) for name, part in self.parts.items()})

    def init(self, model: Any, rng: np.random.Generator) -> dict[str, ndarray]:
        """Parameters of all, each under the name of its policy."""
        parts, own = self.parts, self._generators(rng)
        return join({name: part.init(model[name], own[name]) for name, part in parts.items()})

    def _generators(self, rng: np.random.Generator) -> dict[str, np.random.Generator]:
        """Randomness of its own for each policy, which does not depend on the others."""
        drawn = int(rng.integers(2**31))
        return {name: np.random.default_rng([drawn, i]) for i, name in enumerate(self.parts)}

    def memory(self, model: Any) -> dict[str, ndarray]:
        """Nothing: each policy's travels with its own observations."""
        return {}

    def act(self, model: Any, params: Params, obs: Any, noise: Any) -> tuple[Any, Records]:
        """Actions and records of all; ``obs`` and ``noise`` are by policy."""
        own = split(params)
        done = {
            name: part.act(model[name], own[name], obs[name], noise and noise[name])
            for name, part in self.parts.items()
        }
        records = join({name: records for name, (_, records) in done.items()})
        return {name: action for name, (action, _) in done.items()}, records

    def exploration(self, env_steps: int, slots: Any) -> dict[str, ndarray]:
        """What each explores with; ``slots`` are by policy, of those that replay."""
        parts = self.parts.items()
        return join({k: x.exploration(env_steps, slots[k]) for k, x in parts if k in slots})

    def hyper(self, progress: float) -> dict[str, float]:
        return join({name: part.hyper(progress) for name, part in self.parts.items()})

    def indices(self, model: Any, rng: np.random.Generator, shape: Any) -> Any:
        """Rows of each gradient step, by policy."""
        parts, own = self.parts, self._generators(rng)
        return {name: x.indices(model[name], own[name], shape[name]) for name, x in parts.items()}

    def loss(self, model: Any, params: Params, aux: Params, batch: Batch) -> tuple[Array, Metrics]:
        """The sum of all losses; no parameter is in two of them."""
        own, more = split(params), split(aux)
        found = {
            name: part.loss(model[name], own[name], more.get(name, {}), batch[name])
            for name, part in self.parts.items()
        }
        total: Any = sum(value for value, _ in found.values())
        return total, Metrics(join({name: m.scalars for name, (_, m) in found.items()}))

    @property
    def optimiser(self) -> Optimiser:
        """Of the first that learns: each policy has its own."""
        return next(iter(self.parts.values())).optimiser

    @property
    def warnings(self) -> dict[str, str]:
        return join({name: part.warnings for name, part in self.parts.items()})


def _made(name: str, what: Any) -> Any:
    """A policy of the configuration as an algorithm, or as it is."""
    where = f"algorithm.policies[{name!r}]"
    if not isinstance(name, str) or not name.isidentifier():
        raise ConfigError(
            f"{name!r} cannot be the name of a policy", None, "use letters, digits and _"
        )
    if isinstance(what, str) and what in _NAMED:
        what = _NAMED[what]()
    if isinstance(what, Mapping):
        settings = dict(what)
        kind = settings.pop("system", None)
        cls = _CLASSES.get(settings.pop("class", ""), _NAMED.get(str(kind)))
        if cls is None:
            raise ConfigError(
                f"{where} is {cut(repr(dict(what)), 80)}, which names no system for policies",
                None,
                f'begin with "system": one of {", ".join(_NAMED)}; own classes only in Python',
            )
        what = merge(cls(), settings, where)
    if isinstance(what, Algorithm):
        if "returns" in what.needs or getattr(what, "whole_episodes", False):
            raise ConfigError(
                f"{where} is {type(what).__name__}, which learns from whole episodes, and those of "
                "agents do not end together",
                None,
                f"take one of {', '.join(_NAMED)}",
            )
        return what
    if what == RANDOM or (callable(what) and not isinstance(what, type)) or hasattr(what, "choose"):
        return what
    raise ConfigError(
        f"{where} is {cut(repr(what), 80)}, which is no policy",
        None,
        'give an algorithm, its settings, "random", what shoal.load returned, or a function',
    )
