"""Do all loggers get what progress.jsonl has, and does a run go on without one that fails?"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from shoal.errors import ConfigError, ShoalError
from shoal.loggers import apart, several
from shoal.loggers.apart import Apart
from shoal.loggers.base import Begun
from shoal.loggers.tensorboard import TensorBoard

SMALL: dict[str, Any] = {
    "network": shoal.Network(hidden=(4,)),
    "envs_per_worker": 2,
    "fragment_length": 50,
    "report_every": 500,
    "stop_steps": 1000,
    "learner": "torch",
    "quiet": True,
}


class Mine:
    """Records the calls it receives, and raises in those named in ``fails``."""

    def __init__(self, *fails: str) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.fails = fails

    def _take(self, name: str, what: Any) -> None:
        self.calls.append((name, what))
        if name in self.fails:
            raise OSError(f"no {name} today")

    def begin(self, run: Begun) -> None:
        self._take("begin", run)

    def report(self, env_steps: int, report: Any) -> None:
        self._take("report", (env_steps, dict(report)))

    def video(self, env_steps: int, path: Path) -> None:
        self._take("video", path)

    def end(self, summary: Any) -> None:
        self._take("end", dict(summary))


def train(folder: Path, **fields: Any) -> shoal.Result:
    return shoal.run("a2c", "CartPole-v1", out=folder, **{**SMALL, **fields})


def test_an_own_logger_gets_settings_reports_and_summary(tmp_path: Path) -> None:
    mine = Mine()
    result = train(tmp_path / "run", log=mine)
    names = [name for name, _ in mine.calls]
    assert names == ["begin", *["report"] * len(result.reports()), "end"]
    assert mine.calls[0][1].config["rollout"]["fragment_length"] == 50
    told = [json.loads(json.dumps(x[1])) for name, x in mine.calls if name == "report"]
    assert told == result.reports()
    assert mine.calls[-1][1] == result.summary
    assert not list((tmp_path / "run").glob("events*"))


def test_tensorboard_has_the_keys_of_every_report(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    result = train(tmp_path / "run", log="tensorboard")
    events = reader.EventAccumulator(str(tmp_path / "run")).Reload()
    numbers = {k for r in result.reports() for k, x in r.items() if x is not None}
    assert set(events.Tags()["scalars"]) == numbers
    (config,) = events.Tensors("config")
    assert '"system": "a2c"' in config.tensor_proto.string_val[0].decode()
    (ended,) = events.Tensors("summary")
    assert '"stopped_by": "steps"' in ended.tensor_proto.string_val[0].decode()


def test_tensorboard_shows_a_film(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    import imageio.v3 as iio

    film = tmp_path / "film.mp4"
    iio.imwrite(film, np.zeros((150, 32, 480, 3), np.uint8), fps=30)
    logger = TensorBoard()
    logger.begin(Begun(tmp_path, {}))
    logger.video(700, film)
    logger.end({})
    (image,) = reader.EventAccumulator(str(tmp_path)).Reload().Images("video")
    frames = iio.imread(image.encoded_image_string, extension=".gif", index=None)
    assert image.step == 700 and (image.height, image.width) == (16, 240)
    assert frames.shape[1:3] == (16, 240)


def test_mlflow_reads_back_what_was_logged_and_a_resumed_run_goes_on_there(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    folder = tmp_path / "run"
    train(folder, log="mlflow")
    shoal.resume(folder, stop_steps=2000, quiet=True)
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("shoal").experiment_id])
    assert run.info.run_name == "run" and run.info.status == "FINISHED"
    assert run.data.params["rollout.fragment_length"] == "50"
    last = shoal.app.folder.read_progress(folder)[-1]  # type: ignore[attr-defined]
    numbers = {k for k, x in last.items() if x is not None}
    assert numbers <= run.data.metrics.keys()
    history = client.get_metric_history(run.info.run_id, "return_mean")
    assert {m.step for m in history} >= {1000, 2000}


def test_wandb_writes_a_run_that_can_be_synchronised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    train(tmp_path / "run", log="wandb,tensorboard")
    (written,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    deadline = time.monotonic() + 30  # its own process writes the file
    while b"policy_lag_mean" not in written.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert b"policy_lag_mean" in written.read_bytes()  # of reports alone, not of the settings
    known = json.loads((tmp_path / "run" / several.FILE).read_text())
    assert known["log"] == ["wandb", "tensorboard"] and known["ids"]["wandb"] in written.name


@pytest.mark.parametrize("fails", ["report", "end"])
def test_a_run_goes_on_without_a_logger_that_fails(fails: str, tmp_path: Path) -> None:
    mine, other = Mine(fails), Mine()
    result = train(tmp_path / "run", log=[mine, other])
    assert result.env_steps >= 1000 and len(result.reports()) == 2
    assert [name for name, _ in mine.calls].count(fails) == 1
    assert [name for name, _ in other.calls] == ["begin", "report", "report", "end"]
    cause = result.summary["failed_loggers"]["Mine"]
    assert f"OSError: no {fails} today" in cause and f"{__file__}:" in cause


def test_a_logger_that_cannot_begin_ends_the_run_before_it_begins(tmp_path: Path) -> None:
    before, behind = Mine(), Mine()
    with pytest.raises(
        ConfigError, match="the logger Mine 2 cannot begin: OSError: no begin today"
    ):
        train(tmp_path / "run", log=[before, Mine("begin"), behind])
    assert [name for name, _ in before.calls] == ["begin", "end"] and not behind.calls
    train(tmp_path / "run", log=None)  # the same folder can be given again


@pytest.mark.parametrize(
    ("log", "told"),
    [
        ("wandbb", "did you mean wandb"),
        ([3], "log=3 is no logger: it has no begin, report, video, end"),
        (Mine, "make an object of it"),
    ],
)
def test_what_is_no_logger_is_refused(log: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=told):
        train(tmp_path / "run", log=log)
    assert not (tmp_path / "run").exists()


def test_a_missing_package_is_told_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(several, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install "shoal\[mlflow\]"'):
        train(tmp_path / "run", log="tensorboard,mlflow")
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------ a service in a thread


def test_a_service_gets_the_newest_report_with_the_keys_of_those_before(tmp_path: Path) -> None:
    mine = Mine()
    logger = Apart(mine)
    logger.begin(Begun(tmp_path, {}))
    for i in range(5):
        logger.report(i, {"x": i} | ({"evaluation/return_mean": 7.0} if i == 2 else {}))
    logger.end({"y": 1})
    told = [x for _, x in mine.calls[1:]]
    assert told == [(0, {"x": 0}), (4, {"x": 4, "evaluation/return_mean": 7.0}), {"y": 1}]


def test_an_error_of_a_service_is_raised_by_a_later_call(tmp_path: Path) -> None:
    logger = Apart(Mine("report"))
    logger.begin(Begun(tmp_path, {}))
    logger.report(1, {})
    logger._thread.join(10)
    with pytest.raises(OSError, match="no report today"):
        logger.report(2, {})


def test_a_service_that_hangs_does_not_hold_the_end_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    come = threading.Event()
    monkeypatch.setattr(apart, "DEADLINE", 0.05)
    mine = Mine()
    monkeypatch.setattr(mine, "report", lambda *_: come.wait(10))
    logger = Apart(mine)
    logger.begin(Begun(tmp_path, {}))
    logger.report(1, {})
    with pytest.raises(ShoalError, match="not ready"):
        logger.end({})
    come.set()
