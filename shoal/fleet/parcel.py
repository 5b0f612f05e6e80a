"""Values that members of fleets send to each other through the plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from shoal.errors import ShoalError


class Lost(ShoalError):
    """What was to come from another member died with it."""


INLINE = 65536  # bytes of arrays up to which they are not put into the object store (Ray's own
# bound for arguments that travel with their call is 100 KB): an object there costs 2 ms of the CPU
# (put, pinned, looked up, fetched, freed)


class Parcel:
    """A value on its way from one member to another; the plan passes it on unopened.

    Arrays of up to ``INLINE`` bytes travel inside of the calls. Larger ones are put into Ray's
    object store, the plan holds a reference, and ``open`` fetches them. Within a process the value
    is just held.
    """

    def __init__(self, value: Any) -> None:
        self._value, self._ref = value, cast(Any, None)

    def open(self, timeout: float = 60.0) -> Any:
        """The value. Raises Lost when it died with the process that made it."""
        if self._ref is None:
            return self._value
        import ray

        try:
            return ray.get(self._ref, timeout=timeout)
        except ray.exceptions.RayError as error:
            what = f"a value could not be fetched from the process that made it: {error}"
            raise Lost(what) from error

    def __getstate__(self) -> tuple[Any, Any]:
        if self._ref is None and nbytes(self._value) > INLINE:
            import ray

            self._ref, self._value = ray.put(self._value), None
        return self._value, self._ref

    def __setstate__(self, state: tuple[Any, Any]) -> None:
        self._value, self._ref = state


def nbytes(value: Any) -> int:
    """Bytes of the arrays in nested dicts."""
    if isinstance(value, Mapping):
        return sum(map(nbytes, value.values()))
    return getattr(value, "nbytes", 0)
