"""Pages that are written from code and results: ``python -m tools.pages``.

* ``docs/systems/NAME.md`` and their list, from ``docs/systems/systems.yaml``, the settings of each
  system, ``tuned.yaml``, and what is in ``results/``;
* ``docs/results.md`` and ``docs/benchmarks.md``: the tables of ``results/`` and of
  ``benchmarks/results/``;
* ``docs/plans.md``: which algorithm runs under which plan;
* ``docs/own.md``: the examples, whole.

Pictures are drawn by ``python -m tools.curves``. A test compares the pages with what this writes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import wrap
from typing import Any

import yaml

from shoal.app.options import flag, text
from shoal.config.names import SHORT
from shoal.config.settings import arguments, to_dict
from shoal.systems.table import PLANS, SYSTEMS, System, default_config, reads
from tools.results import rows

ROOT = Path(__file__).resolve().parent.parent
DOCS, BENCHMARKS = ROOT / "docs", ROOT / "benchmarks" / "results"
TUNED = ROOT / "shoal" / "systems" / "tuned.yaml"
LEFT_OUT = {"system", "env", "algorithm.network", *SHORT.values()}
GROUPS = {"algorithm": "Algorithm", "replay": "Replay", "rollout": "Sampling", "plan": "Plan"}
PAIRS = {  # benchmarks/results/NAME.json: what is compared
    "cartpole-sb3": ("`ppo`, CartPole-v1", "Stable-Baselines3"),
    "cartpole-sbx": ("`ppo`, CartPole-v1", "sbx"),
    "cartpole-rllib": ("`ppo`, CartPole-v1", "RLlib"),
    "halfcheetah-sb3": ("`ppo`, HalfCheetah-v5", "Stable-Baselines3"),
    "halfcheetah-sbx": ("`ppo`, HalfCheetah-v5", "sbx"),
    "recurrent-cartpole-sb3": ("`ppo` with an LSTM, CartPole-v1", "sb3-contrib's RecurrentPPO"),
    "impala-cartpole-rllib": ("`impala`, CartPole-v1, 2 workers", "RLlib's IMPALA"),
    "impala-cartpole-samplefactory": (
        "`impala`, CartPole-v1, 2 workers",
        "Sample Factory's APPO",
    ),
    "impala-pong-rllib": ("`impala`, ALE/Pong-v5, 2 workers", "RLlib's IMPALA"),
    "impala-pong-rllib-bf16": ("the same in bfloat16", "RLlib's IMPALA"),
    "ppo-pong-sb3": ("`ppo`, ALE/Pong-v5", "Stable-Baselines3"),
    "ppo-pong-sb3-bf16": ("the same in bfloat16", "Stable-Baselines3"),
    "dqn-cartpole-sb3": ("`dqn`, CartPole-v1", "Stable-Baselines3"),
    "dqn-cartpole-sbx": ("`dqn`, CartPole-v1", "sbx"),
    "sac-pendulum-sb3": ("`sac`, Pendulum-v1", "Stable-Baselines3"),
    "sac-pendulum-sbx": ("`sac`, Pendulum-v1", "sbx"),
    "sac-pendulum-sbx-bf16": ("the same in bfloat16", "sbx"),
    "ars-cartpole-sb3": ("`ars`, CartPole-v1, 2 workers", "sb3-contrib's ARS"),
    "ars-halfcheetah-sb3": ("`ars`, HalfCheetah-v5, 2 workers", "sb3-contrib's ARS"),
    "agents-spread-rllib": ("`ppo`, simple_spread_v3, 8 copies", "RLlib's multi-agent PPO"),
    "agents-spread-rllib-2-workers": ("the same, 2 workers of 4 copies", "2 env runners of 4"),
    "buffer-32-cpprb": ("prioritised replay, rounds of 32", "cpprb"),
    "buffer-512-tianshou": ("prioritised replay, rounds of 512", "Tianshou"),
    "self-play-openspiel": ("`alphazero`, connect four, positions", "OpenSpiel's AlphaZero"),
    "self-play-residual-openspiel": ("the same, residual network", "OpenSpiel's AlphaZero"),
    "self-play-mctx": ("`alphazero`, connect four, positions", "mctx and pgx"),
    "self-play-residual-mctx": ("the same, residual network", "mctx and pgx"),
}


def pages() -> dict[Path, str]:
    """Every page by its path below the root."""
    texts = yaml.safe_load((DOCS / "systems" / "systems.yaml").read_text())
    found = {Path("docs/systems/index.md"): _list()}
    for name, system in SYSTEMS.items():
        found[Path(f"docs/systems/{name}.md")] = _system(system, texts[name])
    found[Path("docs/plans.md")] = _plans()
    found[Path("docs/own.md")] = _own()
    found[Path("docs/results.md")] = _results()
    found[Path("docs/benchmarks.md")] = _benchmarks()
    return found


# ------------------------------------------------------------------ systems


def _list() -> str:
    lines = [
        "# Systems",
        "",
        "A system is an algorithm under a plan, with the settings that belong to both. "
        "[Plans](../plans.md) has every other pair.",
        "",
        "| system | algorithm | plan | source |",
        "|---|---|---|---|",
    ]
    for name, system in SYSTEMS.items():
        kind = type(system.algorithm).__name__
        lines.append(f"| [{name}]({name}.md) | `{kind}` | `{system.plan.name}` | {system.source} |")
    return "\n".join(lines) + "\n"


def _system(system: System, words: Mapping[str, str]) -> str:
    name, kind = system.name, type(system.algorithm)
    parts = [
        f"# {name}",
        "",
        words["what"].strip(),
        "",
        "```text",
        *_wrapped(words["equation"]),
        "```",
        "",
        f"Source: {system.source}. Algorithm `{kind.__name__}` "
        f"(`{kind.__module__.replace('.', '/')}.py`), plan `{system.plan.name}`.",
        "",
        "## Command",
        "",
        "```console",
        *(f"$ {line}" for line in _commands(name)),
        "```",
        "",
        "## What to watch for",
        "",
        words["watch"].strip(),
        "",
        *_curve(name),
        *_reached(name),
        *_tuned(name),
        *_settings(system),
    ]
    return "\n".join(parts) + "\n"


def _wrapped(equation: str) -> list[str]:
    """An equation in lines that fit a page."""
    parts = equation.strip().replace(",   ", ";   ").split(";   ")
    return [line for part in parts for line in wrap(part, 76, subsequent_indent="    ")]


def _commands(name: str) -> list[str]:
    """Commands that train the system on a task that its tuned settings are for."""
    if name == "r2d3":
        return [
            "shoal train CartPole-v1 --system dqn --tuned --out runs/teacher",
            "shoal record runs/teacher --episodes 20 --out demos",
            "shoal train CartPole-v1 --system r2d3 --demos demos --stop-steps 100000 --workers 2",
        ]
    known = yaml.safe_load(TUNED.read_text()).get(name, {})
    plain = [env for env in known if "," not in env and "*" not in env]
    workers = "" if SYSTEMS[name].plan.name.startswith("sync_") else " --workers 2"
    env = "CartPole-v1" if "CartPole-v1" in plain else plain[0]
    tuned = " --stop-return 475" if name == "ppo" else " --tuned"
    env = "CartPole-v1" if name == "ppo" else env
    hide = " --hide 1,3" if name == "r2d2" else ""  # what its settings were found with
    return [f"shoal train {env} --system {name}{tuned}{hide}{workers}"]


def _curve(name: str) -> list[str]:
    if not (DOCS / "systems" / f"{name}.png").exists():
        return []
    curves = json.loads((ROOT / "results" / "curves.json").read_text())[name]
    seeds = len(curves["runs"])
    what = "one seed" if seeds == 1 else f"{seeds} seeds: their mean, and each"
    return [
        f"## {curves['env']}",
        "",
        f"![Return of {name} on {curves['env']}]({name}.png)",
        "",
        f"`{curves['command']}`, {what}. Solid: the return of training; dashed: of the greedy "
        "policy, evaluated while it trains. A run that has ended, as it was good enough, counts "
        "with its last return from there on.",
        "",
    ]


def _reached(name: str) -> list[str]:
    mine = [row for row in rows() if row[0] == name]
    if not mine:
        return []
    lines = ["## Results", "", _table_head(), "|---|---|---:|---:|---:|---:|---:|---:|---|"]
    lines += ["| " + " | ".join(row) + " |" for row in mine]
    return [*lines, "", "What the columns mean is on [the page of all results](../results.md).", ""]


def _table_head() -> str:
    names = [
        "system",
        "environment",
        "seeds",
        "return",
        "worst",
        "evaluated",
        "steps",
        "seconds",
        "others",
    ]
    return "| " + " | ".join(names).replace("steps", "env steps") + " |"


def _tuned(name: str) -> list[str]:
    """The tuned settings, with the comments that say where they are from."""
    lines, inside = [], False
    for line in TUNED.read_text().splitlines():
        if not line.startswith((" ", "#")):
            inside = line.startswith(f"{name}:")
        if inside:
            lines.append(line)
    if not lines:
        return []
    return ["## Tuned settings", "", "`--tuned` takes these.", "", "```yaml", *lines, "```", ""]


def _settings(system: System) -> Iterator[str]:
    """Tables of the settings that a system reads, by group, beside the paper's values."""
    papers = yaml.safe_load((DOCS / "systems" / "papers.yaml").read_text())[system.name]
    theirs, column = papers.get("settings", {}), papers.get("column", "paper")
    config = default_config(system.name, "")
    found: dict[str, list[str]] = {}
    for name, annotation, default, about in arguments(config):
        group = name.partition(".")[0]
        forms = (name, name.removeprefix("algorithm."), name.rpartition(".")[2])
        own = next((theirs[form] for form in forms if form in theirs), None)
        if group not in GROUPS or not reads(config, name):
            continue
        if own is None and (name in LEFT_OUT or name.startswith("algorithm.network")):
            continue
        own = own or ["", ""]
        cells = [f"`--{flag(name)}`", text(to_dict(default)), *own, about, annotation]
        row = " | ".join(str(cell).replace("|", "\\|") for cell in cells)
        found.setdefault(group, []).append(f"| {row} |")
    yield "## Defaults"
    for group, lines in found.items():
        yield ""
        yield f"### {GROUPS[group]}"
        yield ""
        yield f"| setting | default | {column} | why another one | meaning | accepts |"
        yield "|---|---|---|---|---|---|"
        yield from lines


# ------------------------------------------------------------------ plans


def _plans() -> str:
    """The table of `shoal systems`, with the reasons of what is refused."""
    from shoal.app.commands.systems import plans

    lines = [
        "# Plans",
        "",
        "A plan says how sampling and learning are run: who waits for whom, and what travels. "
        "Every algorithm runs under every plan that makes sense for it; the others are refused, "
        "with the reason. `shoal systems` prints this table.",
        "",
        "| plan | what travels | who waits |",
        "|---|---|---|",
    ]
    lines += [f"| `{name}` | {what} | {who} |" for name, (what, who) in PLAN_WORDS.items()]
    assert set(PLAN_WORDS) == {plan().name for plan in PLANS}
    return "\n".join([*lines, "", "```text", plans(), "```", ""])


PLAN_WORDS = {
    "sync_samples": ("fragments to the learner, weights back", "the learner for all workers"),
    "async_samples": ("fragments and weights", "nobody; samples that are too old are dropped"),
    "async_gradients": ("gradients to the learner, weights back", "nobody"),
    "parameter_server": ("slices of gradients and weights", "nobody; there is no one learner"),
    "allreduce": ("gradients, among all", "all for the slowest, in each step"),
    "sync_replay": ("fragments to the one replay buffer", "the learner for all workers"),
    "async_replay": (
        "fragments to shards, batches to the learner, priorities back",
        "each side only to keep the replay ratio",
    ),
    "bellman_updaters": ("as `async_replay`, by way of updaters that label", "as `async_replay`"),
    "evolution": ("seeds and returns", "the generation for its last episode"),
}


def _own() -> str:
    """The page of own networks, algorithms and plans, with the files of examples/."""

    def whole(match: re.Match[str]) -> str:
        return f'```python title="{match[1]}"\n{(ROOT / match[1]).read_text()}```'

    return re.sub(r"<!-- file (\S+) -->", whole, (DOCS / "_own.md").read_text())


# ------------------------------------------------------------------ results and benchmarks


def _results() -> str:
    lines = [_table_head(), "|---|---|---:|---:|---:|---:|---:|---:|---|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows()]
    return _filled("_results.md", lines)


def _benchmarks() -> str:
    lines = ["| what | peer | Shoal | peer | ratio | taken |", "|---|---|---:|---:|---:|---|"]
    for name, (what, peer) in PAIRS.items():
        path = BENCHMARKS / f"{name}.json"
        if path.exists():
            lines.append(_pair(json.loads(path.read_text()), what, peer))
    return _filled("_benchmarks.md", lines).replace("<!-- serving -->", "\n".join(_serving()))


def _serving() -> list[str]:
    """Requests per second of policies and of their ONNX files."""
    found = json.loads((BENCHMARKS / "serving.json").read_text())["rows"]
    names = [name for name in next(iter(found.values())) if name != "difference"]
    lines = [f"| policy | {' | '.join(names)} | largest difference |"]
    lines.append("|---|" + "---:|" * (len(names) + 1))
    for case, row in found.items():
        rates = " | ".join(_k(row[name]) for name in names)
        lines.append(f"| {case} | {rates} | {row['difference']:.1e} |")
    return lines


def _filled(template: str, table: list[str]) -> str:
    """A page with its table in place of the comment that stands for it."""
    return (DOCS / template).read_text().replace("<!-- table -->", "\n".join(table))


def _pair(found: Mapping[str, Any], what: str, peer: str) -> str:
    ours, theirs = (float(found[side]["median_steps_per_s"]) for side in ("shoal", "peer"))
    day = str(found["date"])[:10]
    return f"| {what} | {peer} | {_k(ours)} | {_k(theirs)} | {ours / theirs:.1f} | {day} |"


def _k(x: float) -> str:
    return f"{x / 1000:.3g}k" if x >= 1000 else f"{x:.3g}"


def main() -> None:
    for path, content in pages().items():
        (ROOT / path).write_text(content)


if __name__ == "__main__":
    main()
