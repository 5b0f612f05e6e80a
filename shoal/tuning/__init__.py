"""Tuning: searches over settings and populations of trainers, on Ray Tune as it stands."""
