"""Compile every Triton kernel for sm_80 and sm_90, without a GPU: registers, shared memory, spills.

    python tests/bench/compile_kernels.py [--write] [--dims 128] [--operators delta_rule] [--capabilities 80,90]

`--write` puts the table into kernels/COMPILED.md.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton

from asiarch.kernels.compiling import SHARED_LIMITS, compile_for
from asiarch.kernels.cross_entropy import triton_kernels as softmax_kernels
from asiarch.kernels.cross_entropy import triton_softmax
from asiarch.kernels.normalization import triton_kernels as norm_kernels
from asiarch.kernels.normalization import triton_op as norm
from asiarch.kernels.recurrence import triton_backward, triton_forward
from asiarch.kernels.recurrence.triton_op import DTYPES, Shapes, chunk_size_for, is_exact
from asiarch.kernels.short_convolution import triton_kernels as convolution_kernels
from asiarch.kernels.short_convolution import triton_op as convolution

TABLE = Path(__file__).parents[2] / "kernels" / "COMPILED.md"
NAMES = {torch.bfloat16: "bf16", torch.float32: "fp32"}
WORST = 10  # how many of those that spill stand by name before the table
WIDTH = 4  # of the short convolution
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
    warps: int = 4


def recurrence_jobs(dim: int, dtype: torch.dtype) -> Iterator[Job]:
    """The kernels of linear attention and the delta rules."""
    half = "q k v writes states output output_slope q_slope k_slope beta g"
    full = (
        "sums scores overlaps inverse final initial initial_slope final_slope score_slopes overlap_slopes "
        "write_slopes state_slopes q_near erase_near write_near beta_slope decay_slope"
    )
    kinds: dict[str, str | None] = dict.fromkeys(half.split(), NAMES[dtype]) | dict.fromkeys(
        full.split(), "fp32"
    )
    kinds |= dict.fromkeys(["start", "stop", "first", "last"], "i64")
    scans = (triton_forward.scan_kernel, triton_backward.backward_scan_kernel)
    kernels = [triton_forward.pairs_kernel, scans[0], triton_forward.output_kernel, scans[1]]
    kernels += [triton_backward.pair_slopes_kernel, triton_backward.slopes_kernel]
    for operator, (decay, delta) in VARIANTS.items():
        exact = is_exact(dtype, delta)
        shapes = Shapes(dim, dim, chunk_size_for(dim, dim, exact), exact)
        variant = {"K": dim, "V": dim, "C": shapes.chunk, "BV": shapes.value_block}
        variant |= {"DTYPE": DTYPES[torch.float32 if exact else dtype]}
        variant |= {"DECAY": decay, "DELTA": delta, "INITIAL": True, "FINAL": True}
        own = kinds | ({} if delta else {"beta": None}) | ({} if decay else {"g": None})
        chosen = list(kernels)
        if decay == 2:
            chosen.append(triton_backward.channel_slopes_kernel)
        if operator == "delta_rule" and dtype == torch.float32:
            chosen.append(triton_forward.inverse_kernel)  # it knows neither dtype nor decay
        for kernel in chosen:
            block = {"BK": shapes.key_span if kernel in scans else shapes.key_block}
            yield _job(operator, kernel, dim, dtype, own, variant | block)


def norm_jobs(dim: int, dtype: torch.dtype) -> Iterator[Job]:
    """RMSNorm with and without a gate."""
    kinds: dict[str, str | None] = dict.fromkeys(
        ["x", "weight", "gate", "y", "slope", "x_slope", "gate_slope"], NAMES[dtype]
    )
    kinds["weight_slopes"] = "fp32"
    for operator, gated in {"rms_norm": False, "gated_rms_norm": True}.items():
        own = kinds if gated else kinds | {"gate": None, "gate_slope": None}
        constants = {"D": dim, **norm.blocks(dim), "GATED": gated}
        for kernel in (norm_kernels.norm_kernel, norm_kernels.norm_backward_kernel):
            yield _job(operator, kernel, dim, dtype, own, constants, norm.WARPS)


def convolution_jobs(dim: int, dtype: torch.dtype) -> Iterator[Job]:
    """The short convolution with all that it can have, and with nothing."""
    half = "x weight bias initial y final slope final_slope x_slope initial_slope"
    kinds: dict[str, str | None] = dict.fromkeys(half.split(), NAMES[dtype])
    kinds |= dict.fromkeys(["pre_slope", "weight_slopes", "bias_slopes"], "fp32")
    kinds |= dict.fromkeys(["start", "document", "borders"], "i64")
    constants = {"D": dim, "W": WIDTH, "BT": convolution.POSITIONS}
    constants |= {"BD": convolution.channels_block(dim), "BS": convolution.state_span(WIDTH)}
    for operator, full in {"short_convolution": True, "short_convolution, plain": False}.items():
        absent = [] if full else ["bias", "initial", "start", "document", "borders"]
        own = constants | dict.fromkeys(["VARIED", "INITIAL", "BIAS", "SILU"], full)
        for kernel in (
            convolution_kernels.convolution_kernel,
            convolution_kernels.weight_slopes_kernel,
            convolution_kernels.input_slopes_kernel,
        ):
            pointers = kinds | dict.fromkeys(absent)
            yield _job(operator, kernel, dim, dtype, pointers, own, convolution.WARPS)


def softmax_jobs(dim: int, dtype: torch.dtype) -> Iterator[Job]:
    """What follows the logits in the fused linear cross-entropy; it knows no width."""
    kinds: dict[str, str | None] = {"logits": NAMES[dtype], "targets": "i64"}
    kinds |= dict.fromkeys(["losses", "normalizers", "gradient"], "fp32")
    constants = {"BV": triton_softmax.WIDEST_BLOCK}
    for kernel in (softmax_kernels.loss_kernel, softmax_kernels.slope_kernel):
        yield _job("fused_linear_cross_entropy", kernel, dim, dtype, kinds, constants, triton_softmax.WARPS)


def _job(
    operator: str,
    kernel: Any,
    dim: int,
    dtype: torch.dtype,
    pointers: dict[str, str | None],
    constants: dict[str, Any],
    warps: int = 4,
) -> Job:
    names = kernel.arg_names
    return Job(
        operator,
        kernel,
        dim,
        dtype,
        {name: kind for name, kind in pointers.items() if name in names},
        {name: value for name, value in constants.items() if name in names},
        warps,
    )


JOBS = (recurrence_jobs, norm_jobs, convolution_jobs, softmax_jobs)


def rows(jobs: Iterator[Job], capabilities: list[int]) -> Iterator[dict[str, Any]]:
    """Compile; one row for each kernel and capability."""
    for job in jobs:
        for capability in capabilities:
            usage = compile_for(job.kernel, job.pointers, job.constants, capability, job.warps)
            yield {
                "operator": job.operator,
                "kernel": job.kernel.__name__.removesuffix("_kernel"),
                "dim": job.dim,
                "dtype": NAMES[job.dtype],
                "sm": capability,
                **asdict(usage),
                "fits": usage.shared <= SHARED_LIMITS[capability],
            }


def table(found: list[dict[str, Any]]) -> str:
    """The rows in Markdown, and before them the kernels that spill."""
    spilling = sorted((row for row in found if row["spilled"]), key=lambda row: -row["spilled"])
    names = sorted({row["kernel"] for row in spilling})
    lines = [
        "# What the Triton kernels ask of a GPU",
        "",
        f"Compiled by triton {triton.__version__} without a GPU, {date.today()}, by "
        f"`python tests/bench/compile_kernels.py {' '.join(sys.argv[1:])}`. dim: of keys and values, or channels. "
        "registers and spilled bytes: a thread. shared: bytes a block, of 163 KiB on sm_80 and 227 KiB on sm_90. "
        "Nothing was timed.",
        "",
        f"{len(spilling)} of {len(found)} rows spill; their kernels are {', '.join(names)}. The worst:",
        "",
        *(
            f"- {row['kernel']} of {row['operator']}, dim {row['dim']}, {row['dtype']}, sm_{row['sm']}: "
            f"{row['spilled']} bytes"
            for row in spilling[:WORST]
        ),
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
    parser.add_argument("--operators", default="", help="only those whose names start so, by commas")
    given = parser.parse_args()
    capabilities = [int(x) for x in given.capabilities.split(",")]
    prefixes = tuple(given.operators.split(","))
    found = []
    for dim in map(int, given.dims.split(",")):
        for dtype, name in NAMES.items():
            if name not in given.dtypes.split(","):
                continue
            jobs = itertools.chain.from_iterable(of(dim, dtype) for of in JOBS)
            chosen = (job for job in jobs if job.operator.startswith(prefixes))
            for row in rows(chosen, capabilities):
                print(json.dumps(row), flush=True)
                found.append(row)
    if given.write:
        TABLE.write_text(table(found))
    sys.exit(not all(row["fits"] for row in found))


if __name__ == "__main__":
    main()
