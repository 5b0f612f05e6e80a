"""A policy as an ONNX file: all that acting takes, as one graph that needs no Shoal."""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from shoal import __version__
from shoal.algorithms.memory import Memory
from shoal.errors import ConfigError, ShoalError, cut
from shoal.policy import Policy, Team, load
from shoal.spaces.base import ACTION_MASK, MEMORY, Leaf
from shoal.spaces.view import PREVIOUS_ACTION, PREVIOUS_REWARD
from shoal.trajectory import ndarray

TOLERANCE = 1e-5  # between the graph and the policy, of the largest value of an output (at least 1)
ROWS, STEPS = 50, 20  # observations that the graph is checked with: batches, one after the other
OPSET = 18
_PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class Exported:
    """An ONNX file, and how far it agrees with the policy."""

    path: Path
    inputs: Mapping[str, str]  # name: dtype and shape
    outputs: Mapping[str, str]
    observations: int  # random ones of the space that both were asked
    difference: float  # the largest between their outputs, of the largest value (at least 1)

    def __str__(self) -> str:
        lines = [f"{self.path}: {self.path.stat().st_size / 1e3:.0f} kB"]
        for kind, names in (("in ", self.inputs), ("out", self.outputs)):
            lines += [f"  {kind} {name:<24} {form}" for name, form in names.items()]
        lines.append(
            f"  agrees with the policy on {self.observations:,} random observations: largest "
            f"difference {self.difference:.1e}"
        )
        return "\n".join(lines)


def export(
    policy: Policy | str | Path,
    out: str | Path,
    *,
    deterministic: bool = True,
    name: str | None = None,
    **loading: Any,
) -> Exported:
    """Write a policy as an ONNX file, checked against the policy before it is put in place.

    Inputs are the leaves of the observation, [batch, ...] in the dtype of the environment: "obs",
    or the keys of a Dict, nested ones joined by "/"; "action_mask" (bool [batch, choices]) if the
    environment has one; "memory/..." of a recurrent policy: zeros when an episode begins, then what
    the call before returned under the same name. With a view of the previous action, that is
    "previous_action" and "previous_reward" as the network sees them: all zeros at first.
    Normalisation, masks and rescaling are in the graph: "action" is what ``env.step`` takes.
    "pi", "values", ...: what the policy head said, as algorithms record it.

    Args:
        policy: a `Policy`, or a checkpoint or run folder to load it from.
        out: the file.
        deterministic: the most likely action; else the action is sampled, with the input "noise" of
            the distribution and shape that ``metadata["noise"]`` says.
        name: which one, of policies by agent.
        loading: what ``shoal.load`` takes.

    Raises ConfigError for what ONNX cannot say, before anything is written, and if a package is
    missing; ShoalError if the graph disagrees with the policy by more than 1e-5.
    """
    _check_packages()
    source = policy
    if not isinstance(policy, Policy):
        policy = load(policy, policy=name, **loading)
    if isinstance(policy, Team):
        known = ", ".join(policy.policies)
        raise ConfigError("this run has several policies", str(source), f"name one of: {known}")
    _refuse(policy)
    path = Path(out).absolute()
    graph = _Graph(policy, deterministic)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        graph.write(beside)
        difference = _disagreement(policy, graph, beside)
        if difference > TOLERANCE:
            raise ShoalError(
                f"the ONNX graph and the policy differ by {difference:.1e} of the largest value, "
                f"more than {TOLERANCE:.0e}",
                str(path),
                "report it, with the network that the policy has",
            )
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    return Exported(path, graph.forms("in"), graph.forms("out"), ROWS * STEPS, difference)


def _check_packages() -> None:
    missing = [package for package in _PACKAGES if find_spec(package) is None]
    if missing:
        what = f"an export to ONNX needs packages that are not installed: {', '.join(missing)}"
        raise ConfigError(what, None, 'pip install "shoal[onnx]"')


def _refuse(policy: Policy) -> None:
    """Raise ConfigError for a policy that is not one graph."""
    algorithm, framework = policy.algorithm, policy.model.net.framework
    name = type(algorithm).__name__
    if framework not in (None, "torch"):
        raise ConfigError(
            f"a network that is written in {framework} is not exported: the graph is traced in "
            "PyTorch",
            type(policy.model.net).__name__,
            "write it as a torch.nn.Module, or use a built-in network",
        )
    if algorithm.searches:
        raise ConfigError(
            f"{name} searches for its action, which makes much of a difference in the last digit: "
            "no file could agree with it",
            None,
            "use the policy itself: shoal.load(DIR).act(obs)",
        )


class _Graph:
    """A policy as a PyTorch module of tensors alone, and what goes in and out of it."""

    def __init__(self, policy: Policy, deterministic: bool) -> None:
        self.policy, self.deterministic = policy, deterministic
        self.memory = Memory(policy.algorithm, policy.model)
        self.inputs: dict[str, ndarray] = self._examples(2)
        self.outputs: dict[str, ndarray] = {}

    def _examples(self, rows: int) -> dict[str, ndarray]:
        """One batch of inputs, by name."""
        rng = np.random.default_rng(0)
        found = self.observed(_sampled(self.policy, rows, 0))
        found |= self.begun(rows)
        if not self.deterministic:
            found["noise"] = self.policy.model.dist.noise(rng, (rows,))
        return found

    def observed(self, obs: list[Any]) -> dict[str, ndarray]:
        """A batch of observations, in the environment's own form, as inputs."""
        spaces = self.policy.spaces
        found = {}
        for leaf in spaces.leaves:
            values = [_at(each, leaf) for each in obs]
            found[leaf.path] = np.stack([np.asarray(x, leaf.dtype) for x in values])
        if spaces.masked:
            found[ACTION_MASK] = np.ones((len(obs), sum(spaces.action_n)), bool)
        return found

    def begun(self, rows: int) -> dict[str, ndarray]:
        """What goes in when episodes begin: memory, and the previous action and reward."""
        found = {_public(k): x.copy() for k, x in self.memory.begin((rows,)).items()}
        if self.policy.view.previous:
            found |= self.policy._lens.initial((rows,))
        return found

    def write(self, path: Path) -> None:
        """Trace the policy and write the file."""
        import onnx
        import torch

        tensors = tuple(torch.from_numpy(np.ascontiguousarray(x)) for x in self.inputs.values())
        module = _module(self)
        with torch.no_grad():
            outs = module(*tensors)
        names = list(module.names)
        self.outputs = {k: x.numpy() for k, x in zip(names, outs, strict=True)}
        batch = torch.export.Dim("batch")
        # It warns of operators of torchvision, which no policy has.
        logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                program: Any = torch.onnx.export(
                    module,
                    tensors,
                    input_names=list(self.inputs),
                    output_names=[f"next/{k}" if k in self.inputs else k for k in names],
                    dynamic_shapes={"inputs": tuple({0: batch} for _ in tensors)},
                    opset_version=OPSET,
                    dynamo=True,
                    verbose=False,
                    external_data=False,
                )
        except Exception as error:
            cause: BaseException = error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            reason = cut(str(cause).strip().split("\n")[0] or type(cause).__name__)
            name = type(self.policy.algorithm).__name__
            raise ConfigError(
                f"{name} with this network is no graph of ONNX operations: {reason}",
                None,
                "use the policy itself: shoal.load(DIR).act(obs)",
            ) from error
        model = program.model_proto
        onnx.helper.set_model_props(model, self._metadata())
        onnx.save(model, str(path))

    def _metadata(self) -> dict[str, str]:
        policy = self.policy
        noise = {} if self.deterministic else {"noise": type(policy.model.dist).__name__}
        return {
            "shoal": __version__,
            "algorithm": type(policy.algorithm).__name__,
            "spaces": json.dumps(policy.spaces.to_json()),
            **noise,
        }

    def forms(self, which: str) -> dict[str, str]:
        """dtype and shape of inputs ("in") or outputs, by name."""
        of = self.inputs if which == "in" else self.outputs
        again = {k: f"next/{k}" for k in self.inputs} if which != "in" else {}
        return {
            again.get(k, k): f"{x.dtype} [{', '.join(['batch', *map(str, x.shape[1:])])}]"
            for k, x in of.items()
        }


def _module(graph: _Graph) -> Any:
    """The PyTorch module: inputs in order -> outputs in the order of ``names``."""
    import torch

    policy, keys = graph.policy, list(graph.inputs)
    spaces, lens, view = policy.spaces, policy._lens, policy.view
    weights = {k: torch.from_numpy(np.array(x)) for k, x in policy.weights.items()}

    class Module(torch.nn.Module):
        names: tuple[str, ...] = ()

        def forward(self, *inputs: Any) -> tuple[Any, ...]:
            given = dict(zip(keys, inputs, strict=True))
            flat = {leaf.path: _entering(leaf, given[leaf.path], weights) for leaf in spaces.leaves}
            if spaces.masked:
                flat[ACTION_MASK] = given[ACTION_MASK]
            obs = lens(flat) if view else flat
            for name in (PREVIOUS_ACTION, PREVIOUS_REWARD) if view.previous else ():
                obs[name] = given[name]
            obs |= {path: given[_public(path)] for path in graph.memory.initial}
            action, records = policy.algorithm.act(policy.model, weights, obs, given.get("noise"))
            said = {_public(k): x for k, x in records.items() if x is not None}
            self.names = ("action", *said)
            return (_leaving(spaces, action), *said.values())

    return Module().eval()


def _entering(leaf: Leaf, x: Any, weights: Mapping[str, Any]) -> Any:
    """``spaces.leaf.cast`` and ``Leaf.narrow`` on a tensor."""
    import torch

    if leaf.raw != leaf.shape:
        x = x.reshape((x.shape[0], *leaf.shape))
    if any(leaf.start):
        x = x - torch.tensor(leaf.start).reshape(leaf.shape)
    if leaf.wide:
        origin = weights.get(f"norm/{leaf.path}/origin")
        x = (x if origin is None else x - origin).to(torch.float32)
    return x


def _leaving(spaces: Any, action: Any) -> Any:
    """``Spaces.to_env`` on a tensor."""
    import torch

    space, rows = spaces.action, action.shape[0]
    if spaces.action_kind == "box":
        rescale = {k: torch.from_numpy(np.array(x)) for k, x in spaces._rescale._asdict().items()}
        out = torch.minimum(torch.maximum(action, rescale["below"]), rescale["above"])
        if not spaces._rescale.unit:
            out = out * rescale["scale"] + rescale["offset"]
            out = torch.minimum(torch.maximum(out, rescale["low"]), rescale["high"])
    else:
        out = action + torch.from_numpy(np.asarray(getattr(space, "start", 0)).reshape(-1))
        if spaces.action_kind == "discrete":
            out = out.reshape(rows)
    kind = torch.from_numpy(np.zeros(1, space.dtype)).dtype
    return out.reshape((rows, *space.shape)).to(kind)


def _disagreement(policy: Policy, graph: _Graph, path: Path) -> float:
    """The largest difference of the file's outputs from the policy's, of the largest value."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    rng, worst = np.random.default_rng(1), 0.0
    carried = graph.begun(ROWS)
    for step in range(STEPS):
        rows = 1 if step == 0 and not carried else ROWS  # the batch is not fixed
        given = {**graph.observed(_sampled(policy, rows, step)), **carried}
        if ACTION_MASK in given:
            given[ACTION_MASK] = rng.random(given[ACTION_MASK].shape) < 0.7
            _leave_one(policy, given[ACTION_MASK])
        if not graph.deterministic:
            given["noise"] = policy.model.dist.noise(rng, (rows,))
        names = [x.name for x in session.get_outputs()]
        found = dict(zip(names, session.run(None, given), strict=True))
        own, said = _asked(policy, graph, given)
        apart = [_apart(found[f"next/{k}" if k in given else k], x) for k, x in said.items()]
        same = own.shape == found["action"].shape and own.dtype == found["action"].dtype
        if policy.spaces.action_kind == "box":
            apart.append(_apart(found["action"], own) if same else np.inf)
        elif not same or (not said and not np.array_equal(found["action"], own)):
            apart.append(np.inf)
        else:  # where two actions are as good, either will do
            wrong = (found["action"] != own).reshape(rows, -1).any(-1)
            apart.append(0.0 if not wrong.any() or max(apart, default=np.inf) > 0.0 else np.inf)
        worst = max([worst, *apart])
        for key in carried:
            carried[key] = said[key] if key in said else carried[key]
    return float(worst)


def _asked(
    policy: Policy, graph: _Graph, given: Mapping[str, ndarray]
) -> tuple[ndarray, dict[str, ndarray]]:
    """What the policy does with the same inputs, in NumPy, and what it records."""
    from shoal.spaces.leaf import cast

    flat = {leaf.path: cast(leaf, given[leaf.path]) for leaf in policy.spaces.leaves}
    if ACTION_MASK in given:
        flat[ACTION_MASK] = given[ACTION_MASK]
    obs = policy._lens(flat) if policy.view else flat
    for name in (PREVIOUS_ACTION, PREVIOUS_REWARD) if policy.view.previous else ():
        obs[name] = given[name]
    obs |= {path: given[_public(path)] for path in graph.memory.initial}
    noise = given.get("noise")
    action, records = policy.algorithm.act(policy.model, policy.weights, obs, noise)
    said = {_public(k): np.asarray(x) for k, x in records.items() if x is not None}
    return np.asarray(policy.spaces.to_env(np.asarray(action))), said


def _apart(a: ndarray, b: ndarray) -> float:
    """The largest difference, of the largest value (at least 1)."""
    if a.shape != b.shape:
        return np.inf
    largest = max(1.0, float(np.abs(b).max(initial=0.0)))
    return float(np.abs(a.astype(np.float64) - b).max(initial=0.0)) / largest


def _leave_one(policy: Policy, mask: ndarray) -> None:
    """Every component of an action keeps a choice."""
    start = 0
    for n in policy.spaces.action_n:
        part = mask[:, start : start + n]
        part[~part.any(-1), 0] = True
        start += n


def _sampled(policy: Policy, rows: int, seed: int) -> list[Any]:
    """Random observations of the environment's space."""
    space = policy.spaces.observation
    space.seed(seed)
    return [space.sample() for _ in range(rows)]


def _at(obs: Any, leaf: Leaf) -> Any:
    for key in leaf.keys:
        obs = obs[key]
    return obs


def _public(path: str) -> str:
    """The name of an input or output: "memory/h" for Shoal's own "~memory/h"."""
    return "memory/" + path.removeprefix(MEMORY) if path.startswith(MEMORY) else path
