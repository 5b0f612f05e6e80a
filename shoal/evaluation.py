"""How good a policy is: whole episodes on an environment of its own, and how they look."""

from __future__ import annotations

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
    ``video`` writes their frames to that file (.mp4 or .gif).

    Raises EnvError when the environment cannot be made, or cannot be rendered for a video.
    """
    world = make_single(
        env, env_kwargs or {}, render_mode="rgb_array" if video is not None else None
    )
    returns, lengths, frames = [], [], []
    try:
        for episode in range(episodes):
            obs, info = world.reset(seed=seed + episode)
            total, length, over = 0.0, 0, False
            while not over:
                if video is not None:
                    frames.append(np.asarray(world.render()))
                action = policy.act(obs, explore=explore, action_mask=info.get("action_mask"))
                obs, reward, terminated, truncated, info = world.step(action)
                total, length, over = total + float(reward), length + 1, terminated or truncated
            returns.append(total)
            lengths.append(length)
        fps = world.metadata.get("render_fps", 30)
    finally:
        world.close()
    if video is not None:
        write_video(Path(video), frames, fps)
    return {
        "return_mean": float(np.mean(returns)),
        "return_std": float(np.std(returns)),
        "return_min": min(returns),
        "return_max": max(returns),
        "length_mean": float(np.mean(lengths)),
        "episodes": episodes,
        "returns": returns,
    }


def write_video(path: Path, frames: list[Any], fps: float) -> None:
    """Write frames uint8 [H, W, 3] as .mp4 (H.264) or .gif. Raises ShoalError when it cannot."""
    import imageio.v3 as imageio

    if path.suffix not in (".mp4", ".gif"):
        raise ShoalError(
            f"a video file ends in .mp4 or .gif, not {path.suffix or 'nothing'!r}",
            str(path),
            f"write to {path.with_suffix('.mp4')}",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    # H.264 wants even sides; a row or a column less is not seen.
    even = [frame[: len(frame) // 2 * 2, : frame.shape[1] // 2 * 2] for frame in frames]
    if path.suffix == ".gif":
        imageio.imwrite(path, even, duration=1000 / fps, loop=0)
    else:
        imageio.imwrite(path, even, fps=fps, codec="libx264", macro_block_size=2)
