"""How many tokens a rank passes through the model at once, where the configuration leaves that to the memory."""

import copy

import torch
from torch import Tensor, distributed, nn

from asiarch.hpc.config import TrainingConfig

CPU_TOKENS = 16_384  # larger micro-batches are no faster on a CPU
SHARE = 0.8  # of the free memory; the rest is for what allocators lose and other batches need
STATE_BYTES = (
    20  # a parameter: low-precision copy, master, two moments, gradient in fp32, at no ZeRO stage more
)


def fitting_tokens(model: nn.Module, inputs: Tensor, targets: Tensor, config: TrainingConfig) -> int:
    """The tokens of the largest micro-batch that fits, the same on all ranks. Collective.

    Measured on a GPU by passes with one row and with two, in the training's precision, through a copy of the model;
    a fixed bound on a CPU. At least one row.

    Args:
        inputs, targets: (rows, length) int64, on the model's device, two rows or more where there are so many.
    """
    length = inputs.shape[1]
    if inputs.device.type != "cuda" or len(inputs) == 1:
        tokens = max(length, CPU_TOKENS)
    else:
        dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
        probe = copy.deepcopy(model).to(dtype)
        with torch.random.fork_rng(devices=[inputs.device]):
            # the first pass is to load kernels and their workspaces
            _, one, two = (_peak_bytes(probe, inputs[:rows], targets[:rows]) for rows in (1, 1, 2))
        del probe
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(inputs.device)
        state = STATE_BYTES * sum(p.numel() for p in model.parameters())
        tokens = length * rows_that_fit(free - state, one, two)
    if distributed.get_world_size() > 1:
        least = torch.tensor(tokens)
        distributed.all_reduce(least, op=distributed.ReduceOp.MIN)
        tokens = int(least)
    return tokens


def rows_that_fit(free: int, one: int, two: int) -> int:
    """How many rows fit into `free` bytes, from the peaks of one row and of two; at least one."""
    each = max(1, two - one)
    return max(1, int(SHARE * free - (one - each)) // each)


def _peak_bytes(model: nn.Module, inputs: Tensor, targets: Tensor) -> int:
    before = torch.cuda.memory_allocated(inputs.device)
    torch.cuda.reset_peak_memory_stats(inputs.device)
    model(inputs, targets).backward()
    model.zero_grad(set_to_none=True)
    return torch.cuda.max_memory_allocated(inputs.device) - before
