"""The Triton kernels compile for a GPU that is not there, within its limits."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "bench" / "compile_kernels.py"


@pytest.mark.slow
def test_a_selection_compiles_and_fits() -> None:
    """In a process of its own: in this one Triton may interpret. The bench compiles all of them."""
    operators = "delta_rule,gated_rms_norm,short_convolution,fused_linear_cross_entropy"
    options = ["--dims", "16", "--dtypes", "bf16", "--capabilities", "80", "--operators", operators]
    done = subprocess.run([sys.executable, str(BENCH), *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    recurrence = {"pairs", "scan", "output", "backward_scan", "pair_slopes", "slopes"}
    local = {"norm", "norm_backward", "convolution", "weight_slopes", "input_slopes", "loss", "slope"}
    assert {r["kernel"] for r in rows} == recurrence | local
    for row in rows:
        assert 0 < row["registers"] <= 255
        assert row["shared"] <= 163 * 1024
