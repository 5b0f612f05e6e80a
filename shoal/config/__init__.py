"""Settings: schedules, bounds, the dataclasses of a run, and the one resolver of their names."""
