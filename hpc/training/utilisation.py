"""How well a device is used: arithmetic counted, peak speed known or measured, memory read off."""

import ctypes
import math
import resource
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

# dense bf16 matrix products a second, from NVIDIA's data sheets
PEAK_FLOPS = {"V100": 125e12, "A100": 312e12, "H100": 989e12, "H200": 989e12, "B200": 2250e12}
PROBE = 512


def flops_per_row(model: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    """Floating-point operations of one row's forward and backward pass, counted in a pass of its own.

    Two for each multiplication and addition of matrix products and convolutions, as PyTorch's operators are
    called: what a Triton kernel computes is not seen, and elementwise operations are not counted. The model's
    buffers, gradients and the generators are left as they were: counting must not change what is trained (it
    decomposes some operators, so a counted step would round differently).

    Args:
        inputs, targets: (1, length) int64, on the model's device.
    """
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    devices = [inputs.device] if inputs.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), FlopCounterMode(display=False) as counter:
        model(inputs, targets).backward()
    model.zero_grad(set_to_none=True)
    with torch.no_grad():
        for name, value in model.named_buffers():
            value.copy_(buffers[name])
    return float(counter.get_total_flops())


def peak_flops(device: torch.device) -> float:
    """Floating-point operations a second that this process could do at best.

    From the data sheet on a known GPU; elsewhere measured, as the best of three fp32 products of two
    512 x 512 matrices with the threads that this process has.
    """
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        known = next((peak for model, peak in PEAK_FLOPS.items() if model in name), None)
        if known is not None:
            return known
    with torch.random.fork_rng(devices=[]):
        matrix = torch.rand(PROBE, PROBE, device=device)
    seconds = []
    for _ in range(4):  # the first is to warm up
        began = time.perf_counter()
        (matrix @ matrix).sum().item()
        seconds.append(time.perf_counter() - began)
    return 2 * PROBE**3 / min(seconds[1:])


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory that this process has held: on its GPU, else resident on the host."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class PeakMemory:
    """The most memory in bytes that this process holds from now on, beyond what it holds now.

    On a GPU what PyTorch has allocated; on the host resident memory, whose peak Linux (proc_pid_clear_refs(5)) sets
    back for those who may write to /proc/self.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
            self._before = float(torch.cuda.memory_allocated(device))
            return
        _give_back_freed_memory()
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            self._before = math.nan
        else:
            self._before = _resident("VmRSS")

    def bytes(self) -> float:
        """The peak so far; NaN where the host does not tell."""
        if self._device.type == "cuda":
            return float(torch.cuda.max_memory_allocated(self._device)) - self._before
        peak = _resident("VmHWM") - self._before
        return peak if math.isnan(peak) else max(0.0, peak)


def _resident(name: str) -> float:
    """A line of /proc/self/status in bytes; NaN where there is none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return math.nan
    return next((float(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), math.nan)


def _give_back_freed_memory() -> None:
    """What the allocator has kept of freed memory would be used again without a trace."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim is not None:
        trim(0)
