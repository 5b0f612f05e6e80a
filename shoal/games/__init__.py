"""Which games are there? Two players in turn, many games at once, and search in them."""
