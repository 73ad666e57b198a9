"""The candidate's contract, the language model around it, and the baselines."""
