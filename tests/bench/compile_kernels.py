"""Compile every Triton kernel for sm_80 and sm_90, without a GPU: registers, shared memory, spills, seconds.

    python tests/bench/compile_kernels.py [--write] [--dims 128] [--kernels recurrence] [--capabilities 80,90]

`--write` puts the table into kernels/COMPILED.md.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton

from asiarch.kernels.compiling import SHARED_LIMITS, compile_for
from asiarch.kernels.recurrence import triton_backward, triton_forward
from asiarch.kernels.recurrence.triton_op import DTYPES, Shapes, chunk_size_for

TABLE = Path(__file__).parents[2] / "kernels" / "COMPILED.md"
NAMES = {torch.bfloat16: "bf16", torch.float32: "fp32"}
VARIANTS = {  # DECAY, DELTA
    "linear_attention": (0, False),
    "linear_attention, decay by head": (1, False),
    "linear_attention, decay by channel": (2, False),
    "delta_rule": (0, True),
    "gated_delta_rule": (1, True),
    "gated_delta_rule, by channel": (2, True),
}


class Job(NamedTuple):
    """One kernel with all that it is compiled for."""

    operator: str
    kernel: Any
    dim: int
    dtype: torch.dtype
    pointers: dict[str, str | None]
    constants: dict[str, Any]


def recurrence_jobs(dim: int, dtype: torch.dtype) -> Iterator[Job]:
    """The kernels of linear attention and the delta rules."""
    shapes = Shapes(dim, dim, chunk_size_for(dim, dim))
    common = {"K": dim, "V": dim, "C": shapes.chunk, "BV": shapes.value_block, "DTYPE": DTYPES[dtype]}
    half = "q k v writes states output output_slope write_slopes state_slopes q_slope k_slope beta g"
    full = (
        "sums scores overlaps inverse final initial initial_slope final_slope score_slopes overlap_slopes "
        "q_near erase_near write_near beta_slope decay_slope"
    )
    kinds: dict[str, str | None] = dict.fromkeys(half.split(), NAMES[dtype]) | dict.fromkeys(
        full.split(), "fp32"
    )
    kinds |= dict.fromkeys(["start", "stop", "first", "last"], "i64")
    scans = (triton_forward.scan_kernel, triton_backward.backward_scan_kernel)
    kernels = [triton_forward.pairs_kernel, scans[0], triton_forward.output_kernel, scans[1]]
    kernels += [triton_backward.pair_slopes_kernel, triton_backward.slopes_kernel]
    for operator, (decay, delta) in VARIANTS.items():
        variant = common | {"DECAY": decay, "DELTA": delta, "INITIAL": True, "FINAL": True}
        own = kinds | ({} if delta else {"beta": None}) | ({} if decay else {"g": None})
        chosen = list(kernels)
        if decay == 2:
            chosen.append(triton_backward.channel_slopes_kernel)
        if operator == "delta_rule" and dtype == torch.float32:
            chosen.append(triton_forward.inverse_kernel)  # it knows neither dtype nor decay
        for kernel in chosen:
            block = {"BK": shapes.key_span if kernel in scans else shapes.key_block}
            yield _job(operator, kernel, dim, dtype, own, variant | block)


def _job(
    operator: str,
    kernel: Any,
    dim: int,
    dtype: torch.dtype,
    pointers: dict[str, str | None],
    constants: dict[str, Any],
) -> Job:
    names = kernel.arg_names
    return Job(
        operator,
        kernel,
        dim,
        dtype,
        {name: kind for name, kind in pointers.items() if name in names},
        {name: value for name, value in constants.items() if name in names},
    )


def rows(jobs: Iterator[Job], capabilities: list[int]) -> Iterator[dict[str, Any]]:
    """Compile; one row for each kernel and capability."""
    for job in jobs:
        for capability in capabilities:
            began = time.perf_counter()
            usage = compile_for(job.kernel, job.pointers, job.constants, capability)
            yield {
                "operator": job.operator,
                "kernel": job.kernel.__name__.removesuffix("_kernel"),
                "dim": job.dim,
                "dtype": NAMES[job.dtype],
                "sm": capability,
                **asdict(usage),
                "fits": usage.shared <= SHARED_LIMITS[capability],
                "seconds": round(time.perf_counter() - began, 1),
            }


def table(found: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = [
        "# What the Triton kernels ask of a GPU",
        "",
        f"Compiled for sm_80 and sm_90 by triton {triton.__version__} without a GPU, {date.today()}, "
        "by `python tests/bench/compile_kernels.py --write`. dim: of keys and values. registers and spilled bytes: "
        "a thread. shared: bytes a block, of 163 KiB on sm_80 and 227 KiB on sm_90. Nothing here was timed.",
        "",
    ]
    columns = list(found[0])
    lines += ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(str(row[column]) for column in columns) + " |" for row in found]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the rows as JSON lines, and write the table if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--dims", default="64,128,256")
    parser.add_argument("--dtypes", default="bf16,fp32")
    parser.add_argument("--capabilities", default="80,90")
    parser.add_argument("--operators", default="", help="only those whose name starts so")
    given = parser.parse_args()
    capabilities = [int(x) for x in given.capabilities.split(",")]
    found = []
    for dim in map(int, given.dims.split(",")):
        for dtype, name in NAMES.items():
            if name not in given.dtypes.split(","):
                continue
            jobs = (job for job in recurrence_jobs(dim, dtype) if job.operator.startswith(given.operators))
            for row in rows(jobs, capabilities):
                print(json.dumps(row), flush=True)
                found.append(row)
    if given.write:
        TABLE.write_text(table(found))
    sys.exit(not all(row["fits"] for row in found))


if __name__ == "__main__":
    main()
