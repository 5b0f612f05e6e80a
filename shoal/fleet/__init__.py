"""Where workers live: in this process."""
