"""The `slurm` sections of common kinds of site, for `asiarch-hpc init --profile`."""
