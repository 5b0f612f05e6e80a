"""How good a policy is: whole episodes on an environment of its own, and how they look."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from shoal.envs import make_single
from shoal.errors import ShoalError
from shoal.policy import Policy


def evaluate(
    policy: Policy,
    env: str | Callable[..., Any] | Mapping[str, Any],
    episodes: int = 10,
    *,
    seed: int = 0,
    env_kwargs: Mapping[str, Any] | None = None,
    explore: bool = False,
    video: str | Path | None = None,
) -> dict[str, Any]:
    """Run ``episodes`` whole episodes; episode i starts from ``reset(seed=seed + i)``.

    Returns ``return_mean, return_std, return_min, return_max, length_mean, episodes, returns``.
    ``video`` writes their frames to that file (.mp4 or .gif) as they come, and adds ``frames`` and
    ``video_s``, its length in seconds.

    Raises EnvError when the environment cannot be made or rendered, ShoalError for a file that is
    no video's.
    """
    film = None
    if video is not None:
        film = Film(Path(video))
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame draws without a screen too
    world = make_single(env, env_kwargs or {}, render_mode="rgb_array" if film else None)
    returns, lengths = [], []
    try:
        for episode in range(episodes):
            obs, info = world.reset(seed=seed + episode)
            total, length, over = 0.0, 0, False
            while not over:
                if film is not None:
                    film.add(world)
                action = policy.act(obs, explore=explore, action_mask=info.get("action_mask"))
                obs, reward, terminated, truncated, info = world.step(action)
                total, length, over = total + float(reward), length + 1, terminated or truncated
            returns.append(total)
            lengths.append(length)
    finally:
        world.close()
        if film is not None:
            film.close()
    result = {
        "return_mean": float(np.mean(returns)),
        "return_std": float(np.std(returns)),
        "return_min": min(returns),
        "return_max": max(returns),
        "length_mean": float(np.mean(lengths)),
        "episodes": episodes,
        "returns": returns,
    }
    if film is not None:
        result |= {"frames": film.frames, "video_s": film.frames / film.fps}
    return result


class Film:
    """Writes the frames of an environment to a file, one after the other."""

    def __init__(self, path: Path) -> None:
        if path.suffix not in (".mp4", ".gif"):
            raise ShoalError(
                f"a video file ends in .mp4 or .gif, not {path.suffix or 'nothing'!r}",
                str(path),
                f"write to {path.with_suffix('.mp4')}",
            )
        self.path, self.frames, self.fps = path, 0, 30.0
        self._writer: Any = None

    def add(self, world: Any) -> None:
        """What the environment shows now: uint8 [H, W, 3]."""
        frame = np.asarray(world.render())
        if self._writer is None:
            self.fps = float(world.metadata.get("render_fps") or self.fps)
            self._writer = self._open()
        # H.264 wants even sides; a row or a column less is not seen.
        self._writer.append_data(frame[: len(frame) // 2 * 2, : frame.shape[1] // 2 * 2])
        self.frames += 1

    def close(self) -> None:
        """Complete the file."""
        if self._writer is not None:
            self._writer.close()

    def _open(self) -> Any:
        import imageio.v2 as imageio

        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.suffix == ".gif":
            return imageio.get_writer(self.path, mode="I", duration=1000 / self.fps, loop=0)
        return imageio.get_writer(self.path, fps=self.fps, codec="libx264", macro_block_size=2)
