"""A model card: a policy with what it is and what it reaches, as the Hugging Face hub shows it.

::

    README.md             the card: results, settings, curve, video, how to load it
    manifest.json         with learner.safetensors a checkpoint of the policy: shoal.load(folder)
    learner.safetensors
    returns.png           the return while it trained
    replay.mp4            an episode, if the run has a film
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shoal import __version__
from shoal.app.folder import CHECKPOINT, EVALUATION, SUMMARY, find, read_json, read_progress
from shoal.checkpoint import files as checkpoint
from shoal.config.settings import named
from shoal.errors import ConfigError, ShoalError, cut
from shoal.games.find import GAMES
from shoal.systems.table import SYSTEMS

LIBRARY = "shoal"
_ACTS = ("params", "aux", "targets")  # the parts of a learner's state that acting takes


@dataclass(frozen=True)
class _Result:
    """A mean return, and what it is of."""

    mean: float
    std: float | None
    of: str


def write_card(given: str, out: Path | None = None, newest: bool = False) -> Path:
    """Write the folder of a card, and return it.

    Args:
        given: a run folder, or one checkpoint in it.
        out: the folder (default: "hub" in the run folder); files of an earlier card are replaced.
        newest: take the newest checkpoint, though the best one is kept.

    Raises ConfigError for a checkpoint that is in no run folder, and what reading one raises.
    """
    path, run, _, _ = find(given, parts=())
    if run is None:
        raise ConfigError("this checkpoint is in no run folder", str(path), "give the run folder")
    root = run / CHECKPOINT
    if path == run and not newest and checkpoint.best_result(root) is not None:
        path = checkpoint.best_of(root)
    state, meta = checkpoint.load(path, parts=("learner",))
    folder = run / "hub" if out is None else out
    folder.mkdir(parents=True, exist_ok=True)
    _write_policy(folder, state, meta)
    result = _result(run, meta)
    parts = [_front(meta, result), _head(meta, result), *_shown(run, folder)]
    parts += [_use(meta), _settings(meta), _training(run, meta)]
    (folder / "README.md").write_text("\n".join(parts), encoding="utf-8")
    return folder


def push(folder: Path, repository: str) -> str:
    """Upload the folder of a card to the Hugging Face hub; returns the address of its page.

    Raises ConfigError if the package is missing, ShoalError if the hub does not take it.
    """
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        what = "an upload needs huggingface_hub, which is not installed"
        raise ConfigError(what, None, 'pip install "shoal[hub]"') from error
    api = HfApi()
    try:
        address = api.create_repo(repository, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=str(folder))
    except Exception as error:  # of the network, of permissions, of names
        raise ShoalError(
            f"the hub did not take it: {type(error).__name__}: {cut(str(error))}",
            repository,
            "log in (hf auth login), give a repository of yours (NAME/REPOSITORY), and try again",
        ) from error
    return str(address)


def _write_policy(folder: Path, state: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
    """The part of a checkpoint that acting takes, in the folder itself."""
    learned = {name: state["learner"][name] for name in _ACTS}
    beside = folder / f".policy-{os.getpid()}"
    try:
        written = checkpoint.save_best(beside, {"learner": learned}, _public(meta))
        for file in written.iterdir():
            os.replace(file, folder / file.name)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _public(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Without the folders of this machine: an environment in a file is named by the file alone."""
    config = dict(meta["config"])
    if isinstance(config["env"], str) and ".py:" in config["env"]:
        config["env"] = Path(config["env"]).name
    known = {k: x for k, x in meta.items() if k not in ("format_version", "shoal", "time")}
    steps = int(meta["counters"]["env_steps"])
    best = known.get("best", {"return_mean": 0.0, "env_steps": steps})
    return {**known, "config": config, "best": best}


def _result(run: Path, meta: Mapping[str, Any]) -> _Result | None:
    """What the policy reaches: by `shoal evaluate`, or while it trained."""
    steps = meta["counters"]["env_steps"]
    told = read_json(run / EVALUATION)
    if isinstance(told, dict) and told.get("env_steps") == steps and not told.get("explore"):
        episodes = f"{told['episodes']} episodes without exploration"
        return _Result(told["return_mean"], told["return_std"], episodes)
    if "best" in meta:
        return _Result(meta["best"]["return_mean"], None, "an evaluation while it trained")
    summary = read_json(run / SUMMARY)
    if isinstance(summary, dict) and summary.get("return_mean") is not None:
        return _Result(summary["return_mean"], None, "the last 100 episodes of training")
    return None


def _name(meta: Mapping[str, Any]) -> str:
    return f"{meta['system']}-{_env(meta)}"


def _env(meta: Mapping[str, Any]) -> str:
    env = named(meta["config"]["env"])
    return Path(env).name if ".py:" in env else env


def _front(meta: Mapping[str, Any], result: _Result | None) -> str:
    """What the hub reads: YAML between two lines of dashes."""
    import yaml

    env = _env(meta)
    front: dict[str, Any] = {
        "library_name": LIBRARY,
        "tags": [env, meta["system"], "reinforcement-learning", "deep-reinforcement-learning"],
        "pipeline_tag": "reinforcement-learning",
    }
    if result is not None:
        value = f"{result.mean:.2f}" + ("" if result.std is None else f" +/- {result.std:.2f}")
        metric = {"type": "mean_reward", "value": value, "name": "mean_reward", "verified": False}
        task = {"type": "reinforcement-learning", "name": "reinforcement-learning"}
        results = {"task": task, "dataset": {"name": env, "type": env}, "metrics": [metric]}
        front["model-index"] = [{"name": _name(meta), "results": [results]}]
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n"


def _head(meta: Mapping[str, Any], result: _Result | None) -> str:
    config, system = meta["config"], meta["system"]
    source = SYSTEMS[system].source if system in SYSTEMS else None
    origin = f" ({source})" if source else ""
    reached = "No episode had ended when it was saved."
    if result is not None:
        spread = "" if result.std is None else f" +- {result.std:.1f}"
        reached = f"Its mean return is **{result.mean:.1f}{spread}**, over {result.of}."
    return (
        f"# {system} on {_env(meta)}\n\n"
        f"A policy that was trained by `{system}`{origin} with Shoal {__version__}, for "
        f"{meta['counters']['env_steps']:,} env steps, seed {config['seed']}. {reached}\n"
    )


def _shown(run: Path, folder: Path) -> list[str]:
    """The curve and the film, if there are any."""
    from shoal.app.plot import plot

    parts = []
    if any(report["return_mean"] is not None for report in read_progress(run)):
        plot([run], folder / "returns.png")
        parts.append("![The return while it trained](returns.png)\n")
    else:  # no episode has ended yet
        (folder / "returns.png").unlink(missing_ok=True)
    films = sorted([*run.glob("videos/*.mp4"), *run.glob("*.mp4")], key=lambda p: p.stat().st_mtime)
    if films:
        shutil.copyfile(films[-1], folder / "replay.mp4")
        parts.append('<video src="replay.mp4" controls loop muted></video>\n')
    return parts


def _use(meta: Mapping[str, Any]) -> str:
    env = _env(meta)
    own = "" if not meta.get("own_policy") else ", network=..., algorithm=..."  # the user's code
    lines = ["import shoal", "", f'policy = shoal.load("FOLDER"{own})']
    if ":" in env or env in GAMES:
        most = meta["config"]["rollout"].get("max_agents")
        seats = "" if most is None else f", max_agents={most}"
        lines.append(f"print(shoal.evaluate(policy, {env!r}, episodes=10{seats}))")
    else:
        lines.insert(0, "import gymnasium")
        lines.append(f"env = gymnasium.make({env!r})")
        lines.append("obs, info = env.reset(seed=0)")
        lines.append("obs, reward, terminated, truncated, info = env.step(policy.act(obs))")
    code = "\n".join(lines)
    return (
        f"## How to use it\n\n```python\n{code}\n```\n\n"
        "`FOLDER` is where these files are: a copy of this repository, or what "
        "`huggingface_hub.snapshot_download(...)` returns. `shoal evaluate FOLDER` plays whole "
        "episodes, `shoal export FOLDER` writes an ONNX file.\n"
    )


def _settings(meta: Mapping[str, Any]) -> str:
    import yaml

    kept = ("algorithm", "plan", "rollout", "replay", "learner", "precision")
    config = {name: meta["config"][name] for name in kept if name in meta["config"]}
    return f"## Settings\n\n```yaml\n{yaml.safe_dump(config, sort_keys=False)}```\n"


def _training(run: Path, meta: Mapping[str, Any]) -> str:
    summary = read_json(run / SUMMARY)
    if not isinstance(summary, dict):
        return "## Training\n\nThe run has not ended.\n"
    rows = {
        "env steps": f"{summary['env_steps']:,}",
        "episodes": f"{summary['episodes']:,}",
        "gradient steps": f"{summary['gradient_steps']:,}",
        "seconds": f"{summary['wall_s']:,.0f}",
        "env steps per second": f"{summary['steps_per_s']:,.0f}",
        "learner": summary["learner"],
        "machine": f"{summary['machine']['cpus']} CPUs, {summary['machine']['system']}",
        **summary["versions"],
    }
    lines = "\n".join(f"| {name} | {x} |" for name, x in rows.items())
    return f"## Training\n\n| | |\n|---|---|\n{lines}\n"
