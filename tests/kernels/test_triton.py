"""The cases of `triton_*cases.py`, in a process that interprets Triton where there is no GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cases", "which"),
    [("triton_cases.py", "not slow"), ("triton_cases.py", "slow"), ("triton_local_cases.py", "")],
)
def test_the_kernels_equal_the_definitions(cases: str, which: str) -> None:
    chosen = {} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-n",
        "0",
        "-m",
        which,
        str(FOLDER / cases),
    ]
    root = FOLDER.parents[1]
    done = subprocess.run(
        command, cwd=root, env=os.environ | chosen, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert " passed" in done.stdout
