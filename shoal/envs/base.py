"""The contract of a vector environment: what a worker may rely on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy.typing as npt

from shoal.spaces.base import Spaces

NDArray = npt.NDArray[Any]
Obs = dict[str, NDArray]
ENDLESS = 200_000  # env steps after which an episode that is waited for counts as endless


class Step(NamedTuple):
    """What one step of B slots returned.

    Args:
        obs: `{path: [B, ...]}`, what to act on next, after any automatic reset.
        reward: float32 [B].
        terminated: bool [B], the task itself ended; nothing follows.
        truncated: bool [B], the episode was cut off (a time limit); its value goes on.
        valid: bool [B], False where this row was only an environment's own reset and no transition
            happened; None where all are valid.
        final: slots int [K] and `{path: [K, ...]}`, the observations that really followed, for the
            slots that ended in this very step and whose row of `obs` is already the next episode's;
            None where there are none.
        goes_on: bool [B], True where `terminated` is an ending for learning only (a lost life): the
            episode, with its return and length, goes on; None where that never is.
        waits: bool [B], True where what follows on the slot's last action is not known yet, for
            others act first; None where it always is. Then ``valid`` is where an action was taken,
            and the transition is complete once its slot no longer waits.

    The arrays may be written to by the next `step`: copy what is to be kept.
    """

    obs: Obs
    reward: NDArray
    terminated: NDArray
    truncated: NDArray
    valid: NDArray | None
    final: tuple[NDArray, Obs] | None
    goes_on: NDArray | None = None
    waits: NDArray | None = None

    @property
    def over(self) -> NDArray:
        """bool [B]: an episode ended here, for any reason."""
        last: NDArray = self.terminated | self.truncated
        return last if self.goes_on is None else last & ~self.goes_on


class VectorEnv(Protocol):
    """B slots: copies of an environment, or the agents of its copies."""

    id: str
    spaces: Spaces
    slots: int
    agents: tuple[str, ...]  # of one copy, whose slots lie side by side; (): each copy is one slot
    takes_turns: bool  # whether an agent may wait for others after its action: see `Step.waits`
    frame_stack: int  # newest frames along the first axis of the one observation; 1: no stack
    reward_clip: float | None  # what rewards are usually clipped to for training; None: nothing
    spec: Any  # Gymnasium's EnvSpec, if it makes one copy with these very observations; else None

    @property
    def episode_seeds(self) -> list[int | None]:
        """Seed of each slot's running episode, where the environment tells."""

    def reset(self, seed: int | None = None) -> Obs:
        """Begin a new episode in every slot; a seed makes all that follows reproducible."""

    def play(self, seeds: Sequence[int]) -> Obs:
        """Begin these episodes, one in each slot; slots for which there is none stand still.

        What follows depends on the seeds alone. A vector environment draws its own from the first,
        for all of its slots.
        """

    def step(self, action: NDArray) -> Step:
        """Take one action in policy form (`shoal.spaces.base`) per slot.

        An exception of the user's environment keeps its type and traceback and gains a note with
        the copy, the episode's seed and its step. Raises EnvError if what came back breaks
        Gymnasium's contract: shape, dtype, NaN, range, flags.
        """

    def get_state(self) -> dict[str, Any]:
        """Nested dicts of JSON data and NumPy arrays, from which `set_state` goes on.

        Its entry `"obs"` is what was observed last.
        """

    def set_state(self, state: dict[str, Any]) -> Obs:
        """Go on from there; returns the observations to act on next.

        Raises CheckpointError if the state is another environment's.
        """

    def render(self) -> Any:
        """A frame, uint8 [H, W, 3], of the first copy."""

    @property
    def fps(self) -> float | None:
        """Frames of `render` in a second of the environment's own time, if it says."""

    def close(self) -> None:
        """End the environments and what they hold."""
