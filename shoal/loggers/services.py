"""Loggers of other packages, which are imported only if they are asked for.

They keep the newest report of every five seconds: what a person looks at later is as good, and a
fast run would otherwise wait for them. progress.jsonl has all reports.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shoal.loggers.base import Begun, Report

PROJECT = "shoal"  # of Weights & Biases, and the experiment of MLflow, unless the environment says


class WandB:
    """Weights & Biases. WANDB_MODE, WANDB_PROJECT and its other variables hold."""

    def __init__(self, run_id: str | None = None) -> None:
        import wandb

        self._wandb, self.run_id = wandb, run_id

    def begin(self, run: Begun) -> None:
        """Begin a run there, or go on with it."""
        settings = self._wandb.Settings(console="off", silent=True)
        offline = os.environ.get("WANDB_MODE", "online") != "online"
        self._run: Any = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            dir=str(run.folder),
            name=run.name,
            id=self.run_id,
            resume=None if offline or self.run_id is None else "allow",
            config=dict(run.config),
            settings=settings,
        )
        self.run_id = self._run.id
        self._run.define_metric("*", step_metric="env_steps")

    def report(self, env_steps: int, report: Report) -> None:
        """Every number of the report, at its env steps."""
        self._run.log({**_numbers(report), "env_steps": env_steps})

    def video(self, env_steps: int, path: Path) -> None:
        """The film."""
        self._run.log({"video": self._wandb.Video(str(path)), "env_steps": env_steps})

    def end(self, summary: Report) -> None:
        """The summary, and the end of the run there."""
        self._run.summary.update({f"final/{name}": x for name, x in summary.items()})
        self._run.finish(exit_code=int(summary.get("stopped_by") == "error"))


class MLflow:
    """MLflow: where MLFLOW_TRACKING_URI says, else mlflow.db beside the run folder."""

    def __init__(self, run_id: str | None = None) -> None:
        import logging

        from mlflow import MlflowClient, entities

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        self._make, self._entities = MlflowClient, entities
        self.run_id: Any = run_id  # of MLflow, once there is one

    def begin(self, run: Begun) -> None:
        """Begin a run there, or go on with it; settings are its parameters."""
        # Its own waits are minutes: seven attempts of two minutes each.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        beside = f"sqlite:///{run.folder.parent / 'mlflow.db'}"
        self._client = self._make(tracking_uri=os.environ.get("MLFLOW_TRACKING_URI", beside))
        if self.run_id is not None:
            self._client.update_run(self.run_id, status="RUNNING")
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            experiment = found.experiment_id
        else:
            where = None
            if "MLFLOW_TRACKING_URI" not in os.environ:
                where = (run.folder.parent / "mlflow-artifacts").as_uri()
            experiment = self._client.create_experiment(name, artifact_location=where)
        self.run_id = self._client.create_run(experiment, run_name=run.name).info.run_id
        params = [self._entities.Param(k, str(x)[:500]) for k, x in _flat(run.config).items()]
        for at in range(0, len(params), 100):  # as many as it takes at once
            self._client.log_batch(self.run_id, params=params[at : at + 100])

    def report(self, env_steps: int, report: Report) -> None:
        """Every number of the report, at its env steps."""
        import time

        now, metric = int(time.time() * 1000), self._entities.Metric
        values = [metric(name, float(x), now, env_steps) for name, x in _numbers(report).items()]
        for at in range(0, len(values), 1000):
            self._client.log_batch(self.run_id, metrics=values[at : at + 1000])

    def video(self, env_steps: int, path: Path) -> None:
        """The film, as an artifact."""
        self._client.log_artifact(self.run_id, str(path), "videos")

    def end(self, summary: Report) -> None:
        """The summary as an artifact and as metrics, and the end of the run there."""
        self._client.log_dict(self.run_id, dict(summary), "summary.json")
        ended = {"error": "FAILED", "interrupt": "KILLED"}
        status = ended.get(str(summary.get("stopped_by")), "FINISHED")
        self._client.set_terminated(self.run_id, status)


def _numbers(report: Report) -> dict[str, float]:
    """Its finite numbers: neither service takes others."""
    return {
        name: x for name, x in report.items() if isinstance(x, int | float) and math.isfinite(x)
    }


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping as {"a.b": value}."""
    found: dict[str, Any] = {}
    for name, x in tree.items():
        path = f"{prefix}{name}"
        found |= _flat(x, f"{path}.") if isinstance(x, Mapping) and x else {path: x}
    return found
