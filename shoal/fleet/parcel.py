"""Values that members of fleets send to each other through the plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import local
from typing import Any, cast

from shoal.errors import ShoalError


class Lost(ShoalError):
    """What was to come from another member died with it."""


INLINE = 65536  # bytes of arrays up to which they are not put into the object store (Ray's own
# bound for arguments that travel with their call is 100 KB): an object there costs 2 ms of the CPU
# (put, pinned, looked up, fetched, freed)


_made = local()  # "parcels": those that the running call has made in this thread


@contextmanager
def posted() -> Iterator[None]:
    """Put what parcels made inside hold into Ray's object store, if it is large.

    For the process of a member, around each call: before Ray serialises the result. A value that is
    put while another is being serialised stays in the store for as long as the process lives, as
    Ray takes the reference for one that it cannot follow (``add_contained_object_ref`` in its
    serialization.py).
    """
    _made.parcels = []
    try:
        yield
        for parcel in _made.parcels:
            parcel.put()
    finally:
        _made.parcels = None


class Parcel:
    """A value on its way from one member to another; the plan passes it on unopened.

    Arrays of up to ``INLINE`` bytes travel inside of the calls. Larger ones are put into Ray's
    object store by ``posted``, the plan holds a reference, and ``open`` fetches them. Within a
    process the value is just held.
    """

    def __init__(self, value: Any) -> None:
        self._value, self._ref = value, cast(Any, None)
        if (parcels := getattr(_made, "parcels", None)) is not None:
            parcels.append(self)

    def put(self) -> None:
        """Leave a large value in the object store, and hold a reference to it."""
        if self._ref is None and nbytes(self._value) > INLINE:
            import ray

            self._ref, self._value = ray.put(self._value), None

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
        return self._value, self._ref

    def __setstate__(self, state: tuple[Any, Any]) -> None:
        self._value, self._ref = state


def nbytes(value: Any) -> int:
    """Bytes of the arrays in nested dicts."""
    if isinstance(value, Mapping):
        return sum(map(nbytes, value.values()))
    return getattr(value, "nbytes", 0)
