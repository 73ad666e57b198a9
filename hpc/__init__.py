"""The command line, the campaign loop, jobs, training and data."""
