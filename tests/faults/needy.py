"""An environment's module that cannot be imported."""

import a_simulator_that_nobody_has  # type: ignore[import-not-found]  # noqa: F401
