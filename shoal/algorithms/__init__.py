"""What is learned: one file per algorithm, a frozen dataclass and pure functions."""
