"""Observation and action spaces as flat dicts of arrays, and as JSON."""
