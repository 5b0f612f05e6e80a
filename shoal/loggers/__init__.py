"""Where the reports of a run go besides its folder."""
