"""The replay buffer: transitions, and how they are drawn."""
