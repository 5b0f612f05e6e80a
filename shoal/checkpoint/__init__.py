"""Checkpoints: folders of plain data, written atomically and read without running code."""
