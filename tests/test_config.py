"""Does a configuration mean the same in Python, JSON, YAML and on a command line?"""

from __future__ import annotations

import copy
import json
import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import FrozenInstanceError, dataclass, field, make_dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.config.bounds import require
from shoal.config.config import Checkpointing, Config, Rollout, Stop
from shoal.config.files import load_file
from shoal.config.names import OTHERS, SHORT
from shoal.config.schedule import Linear, Schedule, at
from shoal.config.settings import arguments, find, merge, route, to_dict
from shoal.errors import ConfigError, nearest
from shoal.systems.configure import configure
from shoal.systems.table import SYSTEMS, default_config


@dataclass(frozen=True)
class Net:
    hidden: tuple[int, ...] = (64, 64)  # units of each layer
    activation: Literal["tanh", "relu"] = "tanh"
    shared: bool | None = None


@dataclass(frozen=True)
class Algo:
    """Every kind of annotation that a setting may have."""

    lr: Schedule = 1e-3  # step size, # per update
    lambda_: float = 0.95
    clip: float | None = None
    epochs: int = 10
    betas: tuple[float, float] = (0.9, 0.999)
    names: tuple[str, ...] = ()
    layers: tuple[tuple[int, int], ...] = ((32, 8), (64, 4))
    normalise: bool = True
    size: int | Literal["auto"] = "auto"
    ratio: int | float = 1
    title: str | None = None
    low: int = 1
    high: int = field(default=5, metadata={"help": "above low"})
    network: Any = field(default_factory=Net)
    critic: Net | None = None
    hook: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        require(self.low < self.high, "low", self.low, f"smaller than high, {self.high}")


@dataclass(frozen=True)
class Plan:
    max_lag: int = 4
    seed: int = 0


@dataclass
class Module:
    """Like a flax module: a dataclass, but not a frozen one."""

    units: int = 3

    def __call__(self, x: float) -> float:
        return x * self.units


CONFIG = Config("demo", "CartPole-v1", Algo(), Plan())


def through_json(config: Any) -> Any:
    return json.loads(json.dumps(to_dict(config), allow_nan=False))


numbers = st.floats(allow_nan=False)
finite = st.floats(allow_nan=False, allow_infinity=False)
text = st.text().filter(lambda s: s.lower() not in ("none", "null"))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
nets = st.builds(
    Net,
    hidden=st.lists(st.integers(), max_size=3).map(tuple),
    activation=st.sampled_from(["tanh", "relu"]),
    shared=st.none() | st.booleans(),
)
algos = st.builds(
    Algo,
    lr=numbers | st.builds(Linear, finite, finite),
    lambda_=numbers,
    clip=st.none() | numbers,
    epochs=st.integers(),
    betas=st.tuples(numbers, numbers),
    names=st.lists(st.text(), max_size=3).map(tuple),
    layers=st.lists(st.tuples(st.integers(), st.integers()), max_size=3).map(tuple),
    normalise=st.booleans(),
    size=st.just("auto") | st.integers(),
    ratio=st.integers() | finite,
    title=st.none() | text,
    low=st.integers(max_value=0),
    high=st.integers(min_value=1),
    network=nets,
    critic=st.none() | nets,
)
configs = st.builds(
    Config,
    system=st.text(),
    env=text,
    algorithm=algos,
    plan=st.builds(Plan, st.integers(), st.integers()),
    rollout=st.builds(
        Rollout,
        workers=st.integers(0, 99),
        normalise_obs=st.booleans(),
        env_kwargs=st.dictionaries(st.text(), json_values, max_size=3),
    ),
    stop=st.builds(Stop, return_mean=st.none() | finite, env_steps=st.none() | st.integers(1)),
    checkpointing=st.builds(Checkpointing, every_iterations=st.none() | st.integers(1)),
    learner=st.sampled_from(["auto", "jax", "torch"]),
    seed=st.integers(0),
)


def with_types(value: Any) -> Any:
    """What equality alone does not see: 1 == 1.0 == True."""
    if isinstance(value, Mapping):
        return {key: with_types(item) for key, item in value.items()}
    if isinstance(value, list):
        return [with_types(item) for item in value]
    return type(value), value


@settings(max_examples=60, deadline=None)
@given(configs)
def test_json_gives_back_the_same_configuration(config: Config) -> None:
    again = merge(CONFIG, through_json(config))
    assert again == config
    assert with_types(through_json(again)) == with_types(through_json(config))


@settings(max_examples=20, deadline=None)
@given(configs)
def test_a_saved_configuration_overrides_every_other_one(config: Config) -> None:
    other = replace(CONFIG, rollout=Rollout(env_kwargs={"a": 1}), algorithm=Algo(critic=Net((1,))))
    assert merge(other, through_json(config)) == config


@pytest.mark.parametrize(
    ("key", "given_value", "expected"),
    [
        ("algorithm.lr", "1e-3", 0.001),
        ("algorithm.lr", "linear(1e-3, 0)", Linear(0.001, 0.0)),
        ("algorithm.lr", "linear(2)", Linear(2.0, 0.0)),
        ("algorithm.lr", 1, 1.0),
        ("algorithm.lr", np.float32(0.5), 0.5),
        ("algorithm.lambda", ".9", 0.9),
        ("algorithm.clip", "none", None),
        ("algorithm.clip", "inf", math.inf),
        ("algorithm.epochs", "1e6", 1_000_000),
        ("algorithm.epochs", 3.0, 3),
        ("algorithm.epochs", str(2**80 + 1), 2**80 + 1),
        ("algorithm.epochs", np.int64(7), 7),
        ("algorithm.betas", "0.5, 1e-1", (0.5, 0.1)),
        ("algorithm.names", "[relu, tanh]", ("relu", "tanh")),
        ("algorithm.names", "", ()),
        ("algorithm.layers", "[[16, 8], [32, 4]]", ((16, 8), (32, 4))),
        ("algorithm.normalise", "false", False),
        ("algorithm.normalise", "Yes", True),
        ("algorithm.size", "auto", "auto"),
        ("algorithm.size", "32", 32),
        ("algorithm.ratio", 3.0, 3.0),
        ("algorithm.ratio", 3, 3),
        ("algorithm.ratio", "0.5", 0.5),
        ("algorithm.title", "none", None),
        ("algorithm.title", "12", "12"),
        ("algorithm.network.hidden", "64,64", (64, 64)),
        ("algorithm.network.hidden", "(8, 16)", (8, 16)),
        ("algorithm.network.hidden", "8", (8,)),
        ("algorithm.network.hidden", 8, (8,)),
        ("algorithm.network.shared", "true", True),
        ("algorithm.critic", {"hidden": [3]}, Net((3,))),
        (
            "rollout.env-kwargs",
            '{"gravity": 1e-3, "mode": fast}',
            {"gravity": 1e-3, "mode": "fast"},
        ),
        ("rollout.env-kwargs", {"a-b": 1}, {"a-b": 1}),
        ("stop.return-mean", 475, 475.0),
    ],
)
def test_a_value_is_brought_to_its_fields_type(key: str, given_value: Any, expected: Any) -> None:
    merged = merge(CONFIG, {key: given_value})
    for part in key.replace("-", "_").split("."):
        merged = getattr(merged, "lambda_" if part == "lambda" else part)
    assert merged == expected
    assert type(merged) is type(expected) or isinstance(merged, Mapping)


@pytest.mark.parametrize(
    ("key", "value", "accepted"),
    [
        ("algorithm.lr", "fast", "float | linear(start, end)"),
        ("algorithm.lr", True, "float"),
        ("algorithm.lr", "nan", "float"),
        ("algorithm.lr", "linear(a, b)", "linear"),
        ("algorithm.epochs", 2.5, "int"),
        ("algorithm.epochs", "inf", "int"),
        ("algorithm.epochs", None, "int"),
        ("algorithm.epochs", False, "int"),
        ("algorithm.betas", [0.9], "float,float"),
        ("algorithm.betas", "[0.9", "float,float"),
        ("algorithm.normalise", 1, "true | false"),
        ("algorithm.normalise", "maybe", "true | false"),
        ("algorithm.size", "automatic", "int | auto"),
        ("algorithm.network.activation", "sigmoid", "tanh | relu"),
        ("algorithm.network.hidden", "64,x", "int"),
        ("algorithm.network", "big", "settings of Net"),
        ("algorithm", None, "settings of Algo"),
        ("algorithm.hook", 3, "callable"),
        ("plan", "async", "settings of Plan"),
        ("rollout.env_kwargs", "gravity", "mapping"),
        ("rollout", 3, "Rollout"),
        ("env", 3, "str"),
        ("seed", {"x": 1}, "int"),
        ("learner", "tensorflow", "auto | jax | torch"),
    ],
)
def test_a_wrong_value_is_told_with_its_key_and_what_is_accepted(
    key: str, value: Any, accepted: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        merge(CONFIG, {key: value}, "run.yaml")
    error = caught.value
    assert error.what == f"{key} is {value!r}"
    assert error.where == "run.yaml"
    assert accepted in str(error.fix)


@pytest.mark.parametrize(
    ("changes", "meant"),
    [
        ({"lr": 1}, "algorithm.lr"),
        ({"algorithm": {"l_r": 1}}, "algorithm.lr"),
        ({"plan.lr": 1}, "algorithm.lr"),
        ({"rolout": {"workers": 1}}, "rollout"),
        ({"rolout.workers": 1}, "rollout.workers"),
        ({"rollout": {"env_per_worker": 1}}, "rollout.envs_per_worker"),
        ({"algorithm.network.hiden": 1}, "algorithm.network.hidden"),
        ({"hidden": 1}, "algorithm.network.hidden"),
        ({"stop": {"max_lag": 1}}, "plan.max_lag"),
        ({"sead": 1}, "seed"),
        ({3: 1}, "seed"),
    ],
)
def test_an_unknown_key_names_the_nearest_one(changes: dict[Any, Any], meant: str) -> None:
    with pytest.raises(ConfigError, match="there is no setting") as caught:
        merge(CONFIG, changes)
    if 3 not in changes:  # for gibberish any suggestion will do
        assert caught.value.fix == f"did you mean {meant}?"


def test_other_libraries_names_stand_for_settings_that_exist() -> None:
    configs = [default_config(name, "") for name in SYSTEMS]
    paths = {a.name for config in configs for a in arguments(config)} | {"algorithm.network"}
    assert {path for others in OTHERS.values() for path in others} <= paths
    for name, path in SHORT.items():
        assert find(configs[0], name) in (path, name) and path in paths


@pytest.mark.parametrize(
    ("system", "name", "meant"),
    [
        ("ppo", "learning_rate", "algorithm.lr"),
        ("ppo", "num_envs", "rollout.envs_per_worker"),
        ("ppo", "n_steps", "rollout.fragment_length"),
        ("ppo", "ent_coef", "algorithm.entropy_coef"),
        ("sac", "ent_coef", "algorithm.alpha"),
        ("dqn", "buffer_size", "replay.capacity"),
        ("dqn", "Learning-Rate", "algorithm.lr"),
        ("dqn", "algorithm.exploration_final_eps", "algorithm.epsilon"),
    ],
)
def test_another_librarys_name_suggests_the_setting(system: str, name: str, meant: str) -> None:
    with pytest.raises(ConfigError, match="there is no setting") as caught:
        route(default_config(system, ""), {name: 1})
    assert caught.value.fix == f"did you mean {meant}?"


def test_of_equally_near_names_the_one_in_the_same_group_is_named() -> None:
    assert nearest("plan.sede", ["seed", "plan.seed"]) == "plan.seed"
    assert nearest("sede", ["plan.seed", "seed"]) == "seed"


def test_bare_names_go_to_the_one_group_that_has_them() -> None:
    got = route(CONFIG, {"lr": 0.5, "workers": "2", "env-steps": 9, "hidden": [8], "lambda": 1})
    assert got.algorithm.lr == 0.5
    assert got.algorithm.lambda_ == 1.0
    assert got.algorithm.network.hidden == (8,)
    assert got.rollout.workers == 2
    assert got.stop.env_steps == 9
    whole = route(CONFIG, {"rollout": Rollout(workers=3), "stop": {"seconds": 1}, "plan.seed": 2})
    assert (whole.rollout.workers, whole.stop.seconds, whole.plan.seed) == (3, 1.0, 2)


def test_a_setting_with_a_short_name_leaves_its_end_to_others() -> None:
    config = default_config("ppo", "CartPole-v1")
    assert find(config, "every") == "self_play.every"
    assert find(config, "evaluate_every") == find(config, "evaluation.every") == "evaluation.every"


def test_a_bare_name_of_several_groups_lists_them() -> None:
    several = replace(CONFIG, algorithm=Algo(critic=Net()))
    with pytest.raises(
        ConfigError, match=r"could mean algorithm\.network\.hidden or algorithm\.cr"
    ):
        route(several, {"hidden": 3})
    assert route(several, {"critic.hidden": 3}).algorithm.critic == Net((3,))


def test_a_whole_name_is_meant_before_the_end_of_another() -> None:
    got = route(CONFIG, {"seed": 3})
    assert (got.seed, got.plan.seed) == (3, 0)


@pytest.mark.parametrize(
    "changes",
    [
        {"plan.max-lag": 1, "plan.max_lag": 1},
        {"plan": {"max_lag": 1}, "plan.max_lag": 1},
        {"algorithm.critic": None, "algorithm.critic.hidden": 1},
    ],
)
def test_a_setting_given_twice_is_an_error(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="given twice"):
        merge(CONFIG, changes)


@pytest.mark.parametrize("order", [("low", "high"), ("high", "low")])
def test_a_group_is_checked_once_all_its_changes_are_in(order: tuple[str, str]) -> None:
    values = {"low": 10, "high": 20}  # low = 10 alone would break low < high = 5
    merged = merge(CONFIG, {f"algorithm.{name}": values[name] for name in order})
    assert (merged.algorithm.low, merged.algorithm.high) == (10, 20)
    with pytest.raises(ConfigError, match="low is 10") as caught:
        merge(CONFIG, {"algorithm.low": 10}, "run.yaml")
    assert caught.value.where == "run.yaml"


def test_merging_leaves_the_original_as_it_was() -> None:
    before = copy.deepcopy(CONFIG)
    merge(CONFIG, {"algorithm": {"network": {"hidden": [1]}}, "seed": 5})
    assert before == CONFIG
    with pytest.raises(FrozenInstanceError):
        CONFIG.seed = 1  # type: ignore[misc]


def test_environment_arguments_cannot_be_changed_from_outside() -> None:
    kwargs = {"gravity": 9.8}
    rollout = Rollout(env_kwargs=kwargs)
    kwargs["gravity"] = 0.0
    assert rollout.env_kwargs == {"gravity": 9.8}
    assert dict(**rollout.env_kwargs) == {"gravity": 9.8}
    with pytest.raises(TypeError):
        rollout.env_kwargs["gravity"] = 1.0  # type: ignore[index]
    assert copy.deepcopy(rollout) == rollout


# ------------------------------------------------------------------ objects without a JSON form


def make_env() -> None:
    """Stands for a user's environment."""


def test_an_object_must_be_passed_again() -> None:
    config = replace(CONFIG, env=make_env, algorithm=Algo(network=Module()))
    saved = through_json(config)
    assert saved["env"] == {"object": f"{__name__}:make_env"}
    assert saved["algorithm"]["network"] == {"object": f"{__name__}:Module"}
    with pytest.raises(ConfigError, match=rf"env was .*{__name__}:make_env") as caught:
        merge(CONFIG, saved, "config.json")
    assert "pass env again" in str(caught.value.fix)
    with pytest.raises(ConfigError, match=r"algorithm\.network was"):
        merge(replace(CONFIG, env=make_env), saved)


def test_an_object_that_is_already_there_is_kept() -> None:
    module = Module(7)
    config = replace(
        CONFIG,
        env=make_env,
        algorithm=Algo(network=module, hook=math.sin, lr=0.1),
        rollout=Rollout(env_kwargs={"reward": math.cos, "parts": [1, make_env], "n": 3}),
    )
    again = merge(replace(config, seed=9), through_json(config))
    assert again == config
    assert again.algorithm.network is module
    assert again.rollout.env_kwargs["parts"][1] is make_env


def test_an_environment_argument_named_object_is_no_object() -> None:
    merged = merge(CONFIG, {"rollout.env_kwargs": {"object": "cube"}})
    assert merged.rollout.env_kwargs == {"object": "cube"}


def test_settings_of_a_users_module_are_not_settings_of_the_run() -> None:
    config = replace(CONFIG, algorithm=Algo(network=Module()))
    assert "algorithm.network.units" not in {a.name for a in arguments(config)}
    with pytest.raises(ConfigError, match="there is no setting 'units'"):
        route(config, {"units": 4})


# ------------------------------------------------------------------ files


def test_yaml_reads_as_yaml_1_2_reads_numbers(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("algorithm:\n  lr: 1e-3\n  lambda: .5\nrollout: {env-kwargs: {g: 2e1}}\n")
    merged = merge(CONFIG, load_file(path), str(path))
    assert (merged.algorithm.lr, merged.algorithm.lambda_) == (1e-3, 0.5)
    assert merged.rollout.env_kwargs == {"g": 20.0}


@settings(max_examples=20, deadline=None)
@given(configs)
def test_a_json_file_gives_back_the_same_configuration(config: Config) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "config.json")
        path.write_text(json.dumps(to_dict(config), indent=2))
        assert merge(CONFIG, load_file(path)) == config


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.yaml", "seed: 1\nplan: [1, 2\nstop: 3\n", 3),
        ("a.yaml", "seed: 1\nplan:\n\tmax_lag: 2\n", 3),
        ("a.yaml", "seed: 1\nplan:\n  max_lag: 1\n  max_lag: 2\n", 4),
        ("a.yaml", "seed: 1\nenv: !!python/object/apply:os.getcwd []\n", 2),
        ("a.yaml", "seed: 1\nplan: &a\n  max_lag: *a\n", 2),
        ("a.yaml", "seed: 1\nplan: {max_lag: &a [1, [*a]]}\n", 2),
        ("a.json", '{"seed": 1,\n "plan": }\n', 2),
    ],
)
def test_a_broken_file_is_told_with_its_line(
    tmp_path: Path, name: str, content: str, line: int
) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        load_file(path)
    assert caught.value.where == f"{path}:{line}"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", b'{"seed": 1, "seed": 2}'),
        ("a.json", b"[1]"),
        ("a.json", b"[" * 100_000),
        ("a.yaml", b"[" * 5_000),
        ("a.yaml", b"just text"),
        ("a.yaml", b"day: 2024-13-45"),
        ("a.yaml", b"seed: \xff"),
        ("a.yaml", None),
    ],
)
def test_a_file_without_settings_is_an_error(
    tmp_path: Path, name: str, content: bytes | None
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_file(path)
    assert str(caught.value.where).startswith(str(path))


def test_an_anchor_may_be_used_often(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    lists = [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]" for i in range(1, 30)]
    path.write_text("\n".join(["l0: &l0 [1]", *lists]))  # 9^29 ones, were they counted
    assert load_file(path)["l2"] == [[[1]] * 9] * 9


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    for name in ("a.yaml", "a.json"):
        path = tmp_path / name
        path.write_text("\n")
        assert merge(CONFIG, load_file(path)) is CONFIG


# ------------------------------------------------------------------ arguments, checks, schedules


def test_every_argument_can_be_set_by_the_name_that_lists_it() -> None:
    listed = {argument.name: argument for argument in arguments(CONFIG)}
    assert listed["rollout.envs_per_worker"].annotation == "int >= 1"
    assert listed["algorithm.lr"].annotation == "float | linear(start, end)"
    assert listed["algorithm.lr"].help == "step size, # per update"
    assert listed["algorithm.high"].help == "above low"
    assert listed["algorithm.epochs"].help == ""
    assert listed["algorithm.network.hidden"].help == "units of each layer"
    assert "algorithm" not in listed
    for argument in listed.values():
        flag = argument.name.replace("_", "-")
        assert merge(CONFIG, {flag: to_dict(argument.default)}) == CONFIG


def test_a_class_without_source_has_no_help() -> None:
    made = make_dataclass("Made", [("x", int, 1)], frozen=True)
    (argument,) = arguments(made())
    assert (argument.name, argument.help) == ("x", "")


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: Rollout(workers=-1), "rollout.workers"),
        (lambda: Rollout(workers=1.0), "rollout.workers"),  # type: ignore[arg-type]
        (lambda: Rollout(envs_per_worker=0), "rollout.envs_per_worker"),
        (lambda: Rollout(fragment_length=0), "rollout.fragment_length"),
        (lambda: Rollout(fragment_length=True), "rollout.fragment_length"),
        (lambda: Rollout(env_kwargs={1: 2}), "rollout.env_kwargs"),  # type: ignore[dict-item]
        (lambda: Stop(return_mean=math.inf), "stop.return_mean"),
        (lambda: Stop(return_mean=math.nan), "stop.return_mean"),
        (lambda: Stop(env_steps=0), "stop.env_steps"),
        (lambda: Stop(seconds=0.0), "stop.seconds"),
        (lambda: Stop(seconds=math.inf), "stop.seconds"),
        (lambda: Checkpointing(every_seconds=0.0), "checkpointing.every_seconds"),
        (lambda: Checkpointing(every_seconds=math.nan), "checkpointing.every_seconds"),
        (lambda: Checkpointing(every_iterations=0), "checkpointing.every_iterations"),
        (lambda: Checkpointing(keep=0), "checkpointing.keep"),
        (lambda: replace(CONFIG, seed=-1), "seed"),
        (lambda: replace(CONFIG, learner="numpy"), "learner"),  # type: ignore[arg-type]
        (lambda: Linear(math.nan), "linear's start"),
        (lambda: Linear(1.0, math.inf), "linear's end"),
    ],
)
def test_an_impossible_value_is_told_with_its_name_and_the_way_out(
    make: Callable[[], Any], name: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert caught.value.what.startswith(f"{name} is ")
    assert str(caught.value.fix).startswith(f"make {name} ")


@given(finite, finite)
def test_a_linear_schedule_meets_both_its_ends(start: float, end: float) -> None:
    line = Linear(start, end)
    assert line.at(0.0) == line.at(-1.0) == start
    assert line.at(1.0) == line.at(2.0) == end
    least = 1e-300  # the products of numbers that are hardly above 0 are rounded to 0
    assert min(start, end) - least <= line.at(0.5) <= max(start, end) + least


def test_schedules_have_values() -> None:
    assert at(Linear(1e-3), 0.25) == pytest.approx(7.5e-4)
    assert at(0.2, 0.9) == 0.2


def test_tuned_settings_are_those_for_what_is_hidden() -> None:
    """And the environment's own if there are none for that."""
    hidden = configure("ppo", "CartPole-v1", fields={"hide": "1,3"}, use_tuned=True)
    assert hidden.algorithm.network.memory == "lstm" and hidden.rollout.hide == (1, 3)
    whole = configure("ppo", "Pendulum-v1", fields={"hide": "0"}, use_tuned=True)
    own = configure("ppo", "Pendulum-v1", use_tuned=True)
    assert whole.algorithm == own.algorithm and whole.rollout.hide == (0,)
