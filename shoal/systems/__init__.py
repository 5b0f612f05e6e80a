"""Named systems: their table, and configurations made from it, from files and from checkpoints."""
