"""Records of trials, their statistics and their ranking."""
