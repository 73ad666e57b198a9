"""Checks of the contract, by running the candidate. What is exported here does not import torch.

`asiarch.models.check.program.check_program` runs the checks in this process; `asiarch.hpc.check.run_check`
runs them in a limited child process, which is how a program that nobody has read is checked.
"""

from asiarch.models.check.report import CheckReport, CheckResult
from asiarch.models.check.settings import CheckSettings

__all__ = ["CheckReport", "CheckResult", "CheckSettings"]
