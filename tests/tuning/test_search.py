"""Does a search try what its file says, and refuse impossible trials?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.app.cli import main
from shoal.config.files import load_file, parse_yaml
from shoal.errors import ConfigError, ShoalError
from shoal.tuning.checks import check_trials, numbered, refuse_too_many, variants
from shoal.tuning.run import read_back
from shoal.tuning.search import Search, experiments, read

BASE: dict[str, Any] = {"system": "ppo", "env": "CartPole-v1", "stop": {"env_steps": 1000}}


def search(text: str, **more: Any) -> Search:
    return read({**BASE, **(parse_yaml(text) or {}), **more}, "trials", "search.yaml")


def trials(found: Search) -> list[dict[str, Any]]:
    from ray.tune.search.basic_variant import BasicVariantGenerator

    rng = BasicVariantGenerator(random_state=found.tune.seed)._random_state
    return [chosen for _, chosen in variants(found, rng)]


def test_every_sample_runs_the_whole_grid() -> None:
    found = search(
        "algorithm: {lr: {grid_search: [1e-3, 1e-4, 1e-5]}, epochs: {grid_search: [1, 2]},"
        " clip: {uniform: [0.1, 0.3]}}\ntune: {samples: 4}"
    )
    drawn = trials(found)
    pairs = [(x["algorithm.lr"], x["algorithm.epochs"]) for x in drawn]
    assert len(drawn) == 24 and all(pairs.count(p) == 4 for p in pairs)
    assert all(0.1 <= x["algorithm.clip"] <= 0.3 for x in drawn)


def test_log_uniform_draws_are_uniform_in_the_logarithm() -> None:
    found = search("algorithm: {lr: {loguniform: [1e-6, 1e-2]}}\ntune: {samples: 500}")
    drawn = np.log10([x["algorithm.lr"] for x in trials(found)])
    counts, _ = np.histogram(drawn, 4, (-6, -2))
    assert counts.sum() == 500 and counts.min() > 90  # 125 in each decade, +- 3 deviations


def test_the_same_seed_draws_the_same() -> None:
    text = "algorithm: {lr: {loguniform: [1e-6, 1e-2]}}\ntune: {samples: 5, seed: %d}"
    assert trials(search(text % 1)) == trials(search(text % 1)) != trials(search(text % 2))


def test_a_conditional_setting_is_given_only_where_its_condition_holds() -> None:
    found = search(
        "algorithm: {epochs: {choice: [1, 10]},"
        " target_kl: {uniform: [0.01, 0.1], when: {algorithm.epochs: 10}}}\ntune: {samples: 20}"
    )
    for chosen in trials(found):
        config = found.config(chosen)
        assert (config.algorithm.target_kl is not None) == (chosen["algorithm.epochs"] == 10)


def test_all_conditions_of_a_setting_must_hold() -> None:
    found = search(
        "algorithm: {epochs: {grid_search: [1, 10]}, clip: {grid_search: [0.1, 0.2]}, target_kl:"
        " {uniform: [0.01, 0.1], when: {algorithm.epochs: 10, algorithm.clip: [0.2, 0.3]}}}"
    )
    given = [found.config(x).algorithm.target_kl is not None for x in trials(found)]
    assert given.count(True) == 1 and len(given) == 4


def test_samples_have_seeds_of_their_own_and_a_grid_shares_one() -> None:
    text = "seed: 5\nalgorithm: {lr: {grid_search: [1e-3, 1e-4]}, clip: {uniform: [0.1, 0.3]}}"
    found = search(text + "\ntune: {samples: 3}")
    first, second = numbered([found, found])
    for each, start in ((first, 0), (second, 6)):
        seeds = [each.config(x, start + i).seed for i, x in enumerate(trials(each))]
        assert seeds == [5, 5, 6, 6, 7, 7]
    assert search(text).config({}, 1).seed == 5


def test_systems_can_vary() -> None:
    found = search("", system={"grid_search": ["ppo", "a2c"]})
    assert [found.config(x).system for x in trials(found)] == ["ppo", "a2c"]


def test_experiments_of_one_file_share_what_stands_above() -> None:
    both = {**BASE, "experiments": {"a": {"seed": 1}, "b": {"seed": {"grid_search": [2, 3]}}}}
    a, b = experiments(both, "file", "x.yaml")
    assert (a.name, a.config({}).seed, b.name, b.grid) == ("a", 1, "b", 2)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("algorithm: {lrr: 1e-3}", "algorithm.lr"),
        ("algorithm: {lrr: {uniform: [0, 1]}}", "algorithm.lr"),
        ("algorithm: {lr: {logunifrom: [1e-5, 1e-3]}}", "loguniform"),
        ("algorithm: {lr: {uniform: [1e-3]}}", r"\[low, high\]"),
        ("algorithm: {lr: {loguniform: [0, 1]}}", "0 < low"),
        ("algorithm: {lr: {uniform: [2, 1]}}", r"\[low, high\]"),
        ("tune: {sampels: 3}", "tune.samples"),
        ("tune: {scheduler: ahsa}", "asha"),
        ("tune: {scheduler: {name: asha, gracee: 1}}", "tune.scheduler.grace"),
        ("tune: {scheduler: {name: pbt}, samples: 4}", "nothing to perturb"),
        ("algorithm: {lr: {uniform: [0, 1]}}\ntune: {scheduler: pbt}", "population of one"),
        ("algorithm: {lr: {uniform: [0, 1], when: {epochs: 1}}}", "no range of its own"),
        ("algorithm: {lr: {choice: [1, -1]}}\ntune: {samples: 9}", "lr is -1"),
        ("algorithm: {minibatch_size: {grid_search: [64, 9999]}}", "minibatch_size is 9999"),
        ("tune: {searcher: optuna, scheduler: pbt, samples: 4}", "takes no searcher"),
        ("tune: {scheduler: hyperband, parallel: 1}", "CPUs limit"),
        ("env: {grid_search: [CartPole-v1, Cartpole-v1]}", "CartPole-v1"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(text: str, expected: str) -> None:
    with pytest.raises(ShoalError, match=f"(?s){expected}"):
        check_trials([search(text)], None)


def test_a_trial_that_asks_for_more_cpus_than_there_are_is_refused_with_the_numbers() -> None:
    found = search("rollout: {workers: {grid_search: [0, 63]}}")
    text = r"64 CPUs \(1 for its trainer, 63 for its 63 workers\), but this machine has"
    with pytest.raises(ConfigError, match=f"(?s){text}.*cpus_per_worker"):
        check_trials([found], None)


def test_a_trial_may_ask_for_all_cpus() -> None:
    config = search("rollout: {workers: 3}").config({})
    refuse_too_many(config, 4.0, 4.0, "this machine")
    with pytest.raises(ConfigError, match=r"this machine has 3\.5"):
        refuse_too_many(config, 4.0, 3.5, "this machine")


def test_code_that_the_file_names_is_imported_only_if_trusted() -> None:
    with pytest.raises(ConfigError, match="code is imported only if you name it yourself"):
        search("env: {choice: ['os:system']}").config({"env": "os:system"})
    with pytest.raises(ConfigError, match="code is imported only if you name it yourself"):
        search("").config({"algorithm.network": "os:system"})


def test_a_cluster_that_the_file_names_is_joined_only_if_trusted() -> None:
    found = search("cluster: {address: '10.0.0.1:6379'}")
    with pytest.raises(ConfigError, match="a cluster is joined only if you name it yourself"):
        check_trials([found], None)
    assert check_trials([found], "10.0.0.2:6379").cluster.address == "10.0.0.1:6379"


def test_nothing_is_left_of_a_search_that_was_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("system: ppo\nenv: CartPole-v1\nalgoritm: {lr: 1}\nstop: {env_steps: 9}\n")
    assert main(["tune", str(file), "--out", str(tmp_path / "out")]) == 2
    assert "did you mean algorithm" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert load_file(file)["system"] == "ppo"


def test_what_is_no_search_is_said_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "--status", str(tmp_path)]) == 1
    assert main(["tune", "--resume", str(tmp_path)]) == 1
    assert capsys.readouterr().err.count("this is no folder of a search") == 2
    with pytest.raises(Exception, match="no folder of a search"):
        read_back(tmp_path)
