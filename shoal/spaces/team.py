"""The spaces of several policies."""

from __future__ import annotations

from typing import Any

from shoal.errors import SpaceError
from shoal.spaces.base import Spaces
from shoal.spaces.gym import GymSpaces


class TeamSpaces(dict[str, Spaces]):
    """The spaces of each policy that learns, by its name."""

    def to_json(self) -> dict[str, Any]:
        """All spaces as JSON values."""
        return {"policies": {name: spaces.to_json() for name, spaces in self.items()}}

    @staticmethod
    def from_json(value: Any) -> TeamSpaces | GymSpaces:
        """Of several policies, or the spaces of one. Raises SpaceError for anything else."""
        if not isinstance(value, dict) or "policies" not in value:
            return GymSpaces.from_json(value)
        policies = value["policies"]
        if not isinstance(policies, dict) or not policies:
            raise SpaceError("the saved spaces cannot be read", "spaces/policies")
        return TeamSpaces({k: GymSpaces.from_json(x) for k, x in policies.items()})
