"""A report of runs to look at: one HTML page that holds everything it shows."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from shoal import __version__
from shoal.app.console import count, duration, sides
from shoal.app.folder import EVALUATION, SUMMARY, read_json, read_progress
from shoal.app.plot import COLOURS, Curve, Line, flatten, gather, grouped
from shoal.app.statistics import interval, iqm
from shoal.errors import ConfigError, ShoalError
from shoal.tuning.board import is_search

FILM, FILMS = 4_000_000, 12_000_000  # bytes: of a film that is held, and of all of them
_SHADES = {  # of the parts of a run's time
    "env": "#009E73",
    "policy": "#0072B2",
    "gradient": "#56B4E9",
    "learn": "#D55E00",
    "transfer": "#CC79A7",
    "wait": "#dddddd",
    "idle": "#cccccc",
    "other": "#999999",
}
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 70rem; color: #222 }
body { padding: 0 1rem 3rem; background: #fff }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem } h3 { font-size: 1rem }
.wide { overflow-x: auto } table { border-collapse: collapse; font-size: .9rem }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #ddd }
td { white-space: nowrap } th { max-width: 14rem; vertical-align: bottom }
th:first-child, td:first-child { text-align: left } .note { color: #666; font-size: .85rem }
.bad { color: #b3261e; white-space: normal } video { max-width: 100%; border: 1px solid #ddd }
.films { display: flex; flex-wrap: wrap; gap: 1rem } figure { margin: 0; max-width: 20rem }
.bar { display: flex; height: 1rem; min-width: 16rem }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)) }
.key { display: inline-block; margin-right: 1.2rem } .key i { font-style: normal }
"""


@dataclass(frozen=True)
class _Group:
    """Runs that differ only in their seeds."""

    curve: Curve
    folders: list[Path]


def report(folders: Sequence[str | Path], out: str | Path) -> Path:
    """Write one page on these runs; returns the file.

    Curves against env steps and seconds with intervals over seeds; final tables with the
    interquartile mean and stratified bootstrap intervals (Agarwal et al. 2021); how the settings
    differ; where the time went; how each run ended; films. Nothing is fetched when it is looked at.

    Args:
        folders: of runs.
        out: the file, .html.

    Raises ConfigError if plotly is missing or the file is no .html; ShoalError for a folder that
    is no run, or cannot be drawn, and for a file that cannot be written.
    """
    paths, path = [Path(x) for x in folders], Path(out)
    if find_spec("plotly") is None:
        what = "a report needs plotly, which is not installed"
        raise ConfigError(what, None, 'pip install "shoal[report]"')
    if path.suffix != ".html":
        raise ConfigError(
            f"a report ends in .html, not {path.suffix!r}", str(out), "-o report.html"
        )
    for folder in paths:
        if is_search(folder):
            fix = "name runs in it, or draw it: shoal plot"
            raise ConfigError("this is a search, not a run", str(folder), fix)
    groups = [_Group(c, f) for c, f in zip(gather(paths), grouped(paths), strict=True)]
    body = _body(groups)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_page(body), encoding="utf-8")
    except OSError as error:
        what = f"the report cannot be written: {error.strerror or error}"
        raise ShoalError(what, str(path), "give another -o FILE") from error
    return path


def _page(body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>Runs</title><style>{_STYLE}</style></head>\n'
        f"<body>\n{body}\n</body></html>\n"
    )


def _body(groups: Sequence[_Group]) -> str:
    runs = sum(len(group.folders) for group in groups)
    envs = list(dict.fromkeys(group.curve.env for group in groups))
    many = f"{runs} runs" if runs > 1 else "one run"
    parts = [f"<h1>{many} on {_text(', '.join(envs))}</h1>"]
    first = True
    for env in envs:
        own = [group for group in groups if group.curve.env == env]
        parts.append(f"<h2>{_text(env)}</h2>")
        parts.append(_curves(own, with_library=first))
        parts.append(_final(own))
        first = False
    if len(envs) > 1:
        parts.append(_together(groups))
    parts += [_differences(groups), _time(groups), _ends(groups), _films(groups)]
    parts.append(f'<p class="note">Written by Shoal {__version__}.</p>')
    return "\n".join(part for part in parts if part)


def _text(what: Any) -> str:
    return html.escape(str(what))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are HTML already."""
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{x}</td>" for x in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{top}</tr>{body}</table></div>'


# ------------------------------------------------------------------ curves


def _curves(groups: Sequence[_Group], with_library: bool) -> str:
    """Returns against env steps and against seconds."""
    import plotly.graph_objects as go
    from plotly.offline import get_plotlyjs

    means = [x for g in groups for x in (g.curve.steps, g.curve.evaluation) if x is not None]
    low, high = min(x.mean.min() for x in means), max(x.mean.max() for x in means)
    pad = 0.06 * max(high - low, 1e-9)
    drawn = []
    for against in ("env steps", "seconds"):
        figure = go.Figure()
        for i, group in enumerate(groups):
            curve, colour = group.curve, COLOURS[i % len(COLOURS)]
            steps = against == "env steps"
            _draw(figure, curve.steps if steps else curve.seconds, colour, curve.short, "solid")
            evaluation = curve.evaluation if steps else curve.evaluation_s
            if evaluation is not None:
                _draw(figure, evaluation, colour, f"{curve.short}, evaluation", "dot")
        figure.update_layout(
            template="plotly_white",
            margin={"l": 50, "r": 10, "t": 10, "b": 40},
            showlegend=False,
            height=340,
            xaxis={"title": against, "rangemode": "tozero"},
            yaxis={"title": "return", "range": [low - pad, high + pad]},
        )
        look = {"responsive": True, "displayModeBar": False}
        drawn.append(figure.to_html(full_html=False, include_plotlyjs=False, config=look))
    keys = "".join(
        f'<span class="key"><i style="color:{COLOURS[i % len(COLOURS)]}">&#9632;</i> '
        f"{_text(group.curve.short)}</span>"
        for i, group in enumerate(groups)
    )
    notes = []
    if any(len(group.folders) > 1 for group in groups):
        notes.append("Shaded: 95 % confidence interval of the mean over seeds.")
    if any(group.curve.evaluation is not None for group in groups):
        notes.append("Dotted: the greedy policy, evaluated while it trained.")
    library = f"<script>{get_plotlyjs()}</script>" if with_library else ""
    note = f"<p class='note'>{' '.join(notes)}</p>" if notes else ""
    return f'{library}<p>{keys}</p><div class="plots">{"".join(drawn)}</div>{note}'


def _draw(figure: Any, line: Line, colour: str, name: str, dash: str) -> None:
    import plotly.graph_objects as go

    name = html.escape(name)
    if line.low is not None and line.high is not None and dash == "solid":
        r, g, b = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
        figure.add_trace(
            go.Scatter(
                x=[*line.x, *line.x[::-1]],
                y=[*line.high, *line.low[::-1]],
                fill="toself",
                fillcolor=f"rgba({r},{g},{b},0.18)",
                line={"width": 0},
                hoverinfo="skip",
            )
        )
    mode = "lines" if dash == "solid" else "lines+markers"
    look = {"color": colour, "dash": dash, "width": 2}
    figure.add_trace(go.Scatter(x=list(line.x), y=list(line.mean), mode=mode, name=name, line=look))


# ------------------------------------------------------------------ tables


def _scores(group: _Group) -> np.ndarray[Any, Any]:
    """The final score of each run: of its evaluation, if all have one, else of training."""
    told = [read_json(folder / EVALUATION) for folder in group.folders]
    if all(isinstance(x, dict) for x in told):
        return np.array([x["return_mean"] for x in told], float)
    last = [read_progress(folder) for folder in group.folders]
    found = [[r["return_mean"] for r in x if r["return_mean"] is not None][-1] for x in last]
    return np.array(found, float)


def _source(group: _Group) -> str:
    told = [read_json(folder / EVALUATION) for folder in group.folders]
    return "evaluation" if all(isinstance(x, dict) for x in told) else "training"


def _final(groups: Sequence[_Group]) -> str:
    rows = []
    for group in groups:
        scores = _scores(group)
        low, high = interval([scores])
        spread = f"{low:.4g} to {high:.4g}" if len(scores) > 1 else ""
        cells = [_text(group.curve.short), str(len(scores)), f"{iqm(scores):.4g}", spread]
        cells += [f"{scores.mean():.4g}", f"{np.median(scores):.4g}"]
        cells += [f"{scores.min():.4g}", f"{scores.max():.4g}", _source(group)]
        rows.append(cells)
    head = ["", "runs", "IQM", "95 % interval", "mean", "median", "worst", "best", "of"]
    note = (
        "<p class='note'>Final returns. IQM: the mean of the middle half; its interval by a "
        "stratified bootstrap over runs (Agarwal et al. 2021). Of: <code>shoal evaluate</code>, or "
        "else the last 100 episodes of training.</p>"
    )
    return _table(head, rows) + note


def _together(groups: Sequence[_Group]) -> str:
    """Each system over all environments, normalised by the range of final returns there."""
    ranges: dict[str, tuple[float, float]] = {}
    for env in {group.curve.env for group in groups}:
        every = np.concatenate([_scores(g) for g in groups if g.curve.env == env])
        ranges[env] = float(every.min()), float(every.max())
    systems: dict[str, list[np.ndarray[Any, Any]]] = {}
    for group in groups:
        low, high = ranges[group.curve.env]
        scores = (_scores(group) - low) / max(high - low, 1e-12)
        systems.setdefault(group.curve.short.partition(",")[0], []).append(scores)
    shared = {k: x for k, x in systems.items() if len(x) == len(ranges)}
    if len(shared) < 2:
        return ""
    rows = []
    for name, each in shared.items():
        low, high = interval(each)
        own = iqm(np.concatenate(each))
        rows.append([_text(name), f"{own:.2f}", f"{low:.2f} to {high:.2f}"])
    return (
        "<h2>All environments together</h2>"
        + _table(["", "IQM", "95 % interval"], rows)
        + "<p class='note'>Scores are 0 at the lowest and 1 at the highest final return of any run "
        "of this report on an environment.</p>"
    )


def _differences(groups: Sequence[_Group]) -> str:
    """Settings in which the groups differ."""
    configs = [flatten(_config(group.folders[0])) for group in groups]
    left_out = ("seed", "shoal", "checkpointing.", "evaluation.")
    shared = set(configs[0]).intersection(*configs)  # other algorithms have other settings
    rows = []
    for name in sorted(name for name in shared if not name.startswith(left_out)):
        values = [json.dumps(config[name]) for config in configs]
        if len(set(values)) > 1:
            rows.append([_text(name), *(_text(x.strip('"')) for x in values)])
    if not rows or len(groups) < 2:
        return ""
    return "<h2>Settings that differ</h2>" + _table(
        ["", *(_text(group.curve.label) for group in groups)], rows
    )


def _config(folder: Path) -> Mapping[str, Any]:
    found = read_json(folder / "config.json")
    return found if isinstance(found, dict) else {}


# ------------------------------------------------------------------ time, ends, films


def _time(groups: Sequence[_Group]) -> str:
    rows, parts = [], set()
    for group in groups:
        for side, shares in sides(_mean_report(group)).items():
            pieces = []
            for part, share in shares.items():
                parts.add(part)
                shade = _SHADES.get(part, "#999999")
                title = f"{part} {100 * share:.0f} %"
                pieces.append(
                    f'<span title="{title}" style="width:{100 * share:.1f}%;background:{shade}">'
                    "</span>"
                )
            name = group.curve.label + (f": {side}" if side else "")
            rows.append([_text(name), f'<div class="bar">{"".join(pieces)}</div>'])
    keys = [x for x in _SHADES if x in parts]
    legend = " ".join(f'<span style="color:{_SHADES[x]}">&#9632;</span> {x}' for x in keys)
    return f"<h2>Where the time went</h2>{_table(['', ''], rows)}<p>{legend}</p>"


def _mean_report(group: _Group) -> dict[str, Any]:
    """Shares of time, averaged over all reports of all runs."""
    reports = [r for folder in group.folders for r in read_progress(folder)]
    names = {k for r in reports for k in r if k.startswith("time/")} | {"concurrency"}
    found = {k: float(np.mean([r.get(k) or 0.0 for r in reports])) for k in names}
    found["concurrency"] = reports[-1].get("concurrency") or 0
    return found


def _ends(groups: Sequence[_Group]) -> str:
    rows = []
    for group in groups:
        for folder in group.folders:
            told, last = read_json(folder / SUMMARY), read_progress(folder)[-1]
            ended = "is running, or was killed"
            if isinstance(told, dict):
                ended = _text(told["stopped_by"])
                if told.get("error"):
                    ended = f'<span class="bad">{_text(told["error"])}</span>'
            speed = last["env_steps"] / max(last["wall_s"], 1e-9)
            cells = [_text(folder.name), _text(_config(folder).get("seed", ""))]
            cells += [
                f"{last['env_steps']:,}",
                duration(last["wall_s"]),
                f"{count(speed)}/s",
                ended,
            ]
            rows.append(cells)
    head = ["run", "seed", "env steps", "time", "env steps", "ended by"]
    return "<h2>Runs</h2>" + _table(head, rows)


def _films(groups: Sequence[_Group]) -> str:
    """The newest film of each run, in the page if it is small."""
    shown, held, left_out = [], 0, 0
    for group in groups:
        for folder in group.folders:
            films = sorted([*folder.glob("videos/*.mp4"), *folder.glob("*.mp4")], key=_written)
            if not films:
                continue
            size = films[-1].stat().st_size
            if size > FILM or held + size > FILMS:
                left_out += 1
                continue
            held += size
            data = base64.b64encode(films[-1].read_bytes()).decode()
            caption = f"{folder.name}, {films[-1].stem}"
            shown.append(
                f'<figure><video controls loop muted src="data:video/mp4;base64,{data}"></video>'
                f"<figcaption>{_text(caption)}</figcaption></figure>"
            )
    if not shown and not left_out:
        return ""
    note = f"<p class='note'>{left_out} larger ones are left out.</p>" if left_out else ""
    return f"<h2>Films</h2><div class='films'>{''.join(shown)}</div>{note}"


def _written(path: Path) -> float:
    return path.stat().st_mtime
