"""Every operator's time and memory, forward and backward, beside others that do its work.

    python tests/bench/kernels.py [--lengths 512,2048,8192,32768] [--operators delta_rule] [--rounds 5] > table.md

Contestants run turn by turn; each round gives a ratio, theirs over ours, and the median of the rounds is printed.
Before that all are held to the same output. Prints a dated table with the device's name.
"""

import argparse
import ctypes
import os
import re
import statistics
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch
from kernel_contestants import Entry, Function, Sizes, entries
from torch import Tensor

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ON_GPU = DEVICE.type == "cuda"
BOUNDS = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
MATMUL = 8192 if ON_GPU else 1024  # rows and columns of the product that stands for the machine's peak
Times = tuple[float, float]  # seconds forward, and forward with backward


def now() -> float:
    """Seconds, on a CPU those that this process had one: others may be busy there."""
    if not ON_GPU:
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def run(function: Function, leaves: list[Tensor]) -> Times:
    """Once forward and backward."""
    began = now()
    output = function(*leaves)
    middle = now()
    # softmax attention knows no rates
    torch.autograd.grad(output, leaves, torch.ones_like(output), allow_unused=True)
    return middle - began, now() - began


def peak_memory(function: Function, leaves: list[Tensor]) -> int | None:
    """Bytes at the highest of one pass forward and backward, beyond what was held before; None if not known."""
    if ON_GPU:
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        run(function, leaves)
        return torch.cuda.max_memory_allocated() - held
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # freed memory would be taken again unseen
        Path("/proc/self/clear_refs").write_text("5")  # the highest is now what is held
    except OSError:
        return None
    held = _resident("VmRSS")
    run(function, leaves)
    return max(0, _resident("VmHWM") - held)


def _resident(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def rounds(contestants: dict[str, Callable[[], Times]], number: int) -> dict[str, list[Times]]:
    """The times of each contestant, turn by turn; the first round is to warm up.

    Each round begins with another: what follows the large product finds the caches full of it.
    """
    found: dict[str, list[Times]] = {name: [] for name in contestants}
    names = list(contestants)
    for first in range(number + 1):
        for place in range(len(names)):
            name = names[(first + place) % len(names)]
            found[name].append(contestants[name]())
    return {name: times[1:] for name, times in found.items()}


def matmul_seconds(left: Tensor) -> Times:
    began = now()
    left @ left
    spent = now() - began
    return spent, spent


def expect_equal(entry: Entry, contestants: dict[str, Function], leaves: list[Tensor]) -> None:
    """Stop where a contestant computes something else."""
    with torch.no_grad():
        ours = contestants["ours"](*leaves).double()
        for name in contestants.keys() - entry.other_functions:
            theirs = contestants[name](*leaves).double()
            error = ((theirs - ours).norm() / ours.norm()).item()
            if not error < BOUNDS[leaves[0].dtype]:
                raise SystemExit(f"{entry.name}: {name} is off from ours by {error:.1e}")


def row(entry: Entry, length: int, given: argparse.Namespace, dtype: torch.dtype) -> str:
    """One line of the table."""
    leaves = [x.requires_grad_() for x in entry.inputs(length)]
    functions = {"ours": entry.ours, **entry.rivals}
    if "PyTorch" in entry.other_functions and length > given.attention_up_to:
        functions.pop("PyTorch", None)
    if length <= given.naive_up_to:
        functions["naive"] = entry.naive
    if not ON_GPU and length > given.fla_up_to:
        functions.pop("fla", None)
    expect_equal(entry, functions, leaves)
    turns: dict[str, Callable[[], Times]] = {
        name: (lambda function=function: run(function, leaves)) for name, function in functions.items()
    }
    left = torch.randn(MATMUL, MATMUL, device=DEVICE, dtype=dtype)
    times = rounds(turns | {"matmul": lambda: matmul_seconds(left)}, given.rounds)
    memory = {name: peak_memory(function, leaves) for name, function in functions.items()}
    ours = times["ours"]
    forward, both = (statistics.median(t[i] for t in ours) * 1e3 for i in (0, 1))
    cells = [entry.name, f"{length:,}", f"{forward:.1f}", f"{both:.1f}", _megabytes(memory["ours"])]
    cells.append(_share(entry, length, ours, times["matmul"]))
    for name in ("naive", "fla", "PyTorch"):
        cells.append(_ratios(times[name], ours, memory[name], memory["ours"]) if name in functions else "")
    return "| " + " | ".join(cells) + " |"


def _megabytes(size: int | None) -> str:
    return "" if size is None else f"{size / 1e6:.1f}"


def _share(entry: Entry, length: int, ours: list[Times], matmul: list[Times]) -> str:
    if entry.flops is None:
        return ""
    work = 3 * entry.flops(length)  # the backward pass counts twice
    speeds = [
        (work / both) / (2 * MATMUL**3 / peak) for (_, both), (_, peak) in zip(ours, matmul, strict=True)
    ]
    return f"{100 * statistics.median(speeds):.0f}%"


def _ratios(theirs: list[Times], ours: list[Times], their_memory: int | None, our_memory: int | None) -> str:
    forward = statistics.median(a[0] / b[0] for a, b in zip(theirs, ours, strict=True))
    both = sorted(a[1] / b[1] for a, b in zip(theirs, ours, strict=True))
    cell = f"{_short(forward)}, {_short(statistics.median(both))} ({_short(both[0])} to {_short(both[-1])})"
    return f"{cell}, {_short(their_memory / our_memory)}" if their_memory and our_memory else cell


def _short(ratio: float) -> str:
    return f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.2g}"


def heading(sizes: Sizes, given: argparse.Namespace) -> str:
    device = torch.cuda.get_device_name() if ON_GPU else _cpu_name()
    fla = version("flash-linear-attention") if find_spec("fla") else "not there"
    dtype = str(sizes.dtype).removeprefix("torch.")
    return (
        f"{date.today()}, {device}, {torch.get_num_threads()} thread(s) of {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.1f} at the start; torch {torch.__version__}, fla {fla}; {dtype}, batch {sizes.batch}, "
        f"{sizes.heads} heads of {sizes.dim}, {sizes.channels} channels; {given.rounds} rounds.\n\n"
        f"{'Time' if ON_GPU else 'CPU time'}. Ratios are theirs over ours: forward, with backward (least to most), "
        "peak memory. Share: FLOPs of matrix "
        f"products, three times the forward's, a second, of those of a product of {MATMUL} x {MATMUL}.\n\n"
        "| operator | length | forward, ms | with backward, ms | memory, MB | share of peak | naive | fla | PyTorch |\n"
        "|" + " --- |" * 9
    )


def _cpu_name() -> str:
    found = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else "CPU"


def main() -> None:
    """Print the table, row by row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lengths", default="512,2048,8192,32768")
    parser.add_argument("--operators", default="", help="only those whose names start so, by commas")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=4 if ON_GPU else 1)
    parser.add_argument("--heads", type=int, default=16 if ON_GPU else 4)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument(
        "--dtype", choices=["bfloat16", "float32"], default="bfloat16" if ON_GPU else "float32"
    )
    parser.add_argument("--naive-up-to", type=int, default=512, help="the longest for the definitions")
    parser.add_argument("--fla-up-to", type=int, default=32768, help="the longest for fla's naive forms")
    parser.add_argument("--attention-up-to", type=int, default=32768 if ON_GPU else 8192)
    given = parser.parse_args()
    torch.manual_seed(0)
    dtype = getattr(torch, given.dtype)
    sizes = Sizes(given.batch, given.heads, given.dim, dtype, DEVICE)
    print(heading(sizes, given), flush=True)
    for entry in entries(sizes):
        for length in map(int, given.lengths.split(",")):
            if entry.name.startswith(tuple(given.operators.split(","))):
                print(row(entry, length, given, dtype), flush=True)
    print(f"\nLoad at the end: {os.getloadavg()[0]:.1f}.")


if __name__ == "__main__":
    main()
