"""TensorBoard: an event file in the run folder, written without TensorBoard."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import numpy as np

from shoal.loggers.base import Begun, Report
from shoal.loggers.events import EventWriter
from shoal.process.machine import before_ffmpeg

FRAMES, WIDTH = 100, 240  # of a film, at most: TensorBoard shows films as GIF pictures


class TensorBoard:
    """Scalars, films, and the settings and the summary as text."""

    def __init__(self) -> None:
        self._events: EventWriter | None = None

    def begin(self, run: Begun) -> None:
        """Open a new event file; of a run that goes on, TensorBoard drops the steps from there."""
        if self._events is not None:
            self._events.close()
        purge = None if run.env_steps is None else run.env_steps + 1
        self._events = EventWriter(run.folder, purge)
        self._text(run.env_steps or 0, "config", run.config)

    def report(self, env_steps: int, report: Report) -> None:
        """Every number of the report."""
        assert self._events is not None
        self._events.write(env_steps, report)
        self._events.flush()

    def video(self, env_steps: int, path: Path) -> None:
        """The film as a GIF picture."""
        assert self._events is not None
        gif, height, width = _gif(path)
        self._events.image(env_steps, "video", gif, height, width)
        self._events.flush()

    def end(self, summary: Report) -> None:
        """The summary, and the end of the file."""
        if self._events is not None:
            self._text(int(summary.get("env_steps") or 0), "summary", summary)
            self._events.close()

    def _text(self, env_steps: int, tag: str, what: Report) -> None:
        assert self._events is not None
        # TensorBoard reads Markdown: four spaces begin a block of code.
        lines = json.dumps(what, indent=2, default=str).splitlines()
        self._events.text(env_steps, tag, "\n".join(f"    {line}" for line in lines))
        self._events.flush()


def _gif(path: Path) -> tuple[bytes, int, int]:
    """A film as GIF, with its height and width: fewer and smaller frames if it is long or large."""
    import imageio.v3 as iio

    before_ffmpeg()
    about = iio.immeta(path)
    every = max(-(-round(about["fps"] * about["duration"]) // FRAMES), 1)
    shrink = -(-about["size"][0] // WIDTH)
    # Frame by frame: a whole film of 500 frames of CartPole-v1 takes 360 MB.
    kept = islice(iio.imiter(path), 0, None, every)
    frames = np.stack([frame[::shrink, ::shrink] for frame in kept])
    gif: bytes = iio.imwrite("<bytes>", frames, extension=".gif", duration=33 * every, loop=0)
    return gif, int(frames.shape[1]), int(frames.shape[2])
