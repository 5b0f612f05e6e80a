"""How it is run: one file per plan, a generator of a few plain lines."""
