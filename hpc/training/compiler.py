"""Start without torch's compiler where nothing is compiled: its import takes a third of a small trial's start-up."""

import torch
from torch.utils import flop_counter

from asiarch.hpc.config import TrainingConfig


def may_compile(training: TrainingConfig, device: torch.device) -> bool:
    """Whether anything of a trial is compiled: the model, or on a GPU what a program compiles of itself."""
    return training.compile or device.type == "cuda"


def leave_compiler_out() -> None:
    """Have optimisers and the counting of operations call their methods as they are.

    torch wraps these methods, so that a compiled model does not trace them; a wrapper imports the compiler
    (torch._dynamo, 2.7 s) when it is first called, unless it has been told what to call in its place. Of no effect
    where the compiler is loaded already, and wrong only where an optimiser's step is itself compiled.
    """
    for owner in (torch.optim.Optimizer, flop_counter._FlopCounterMode):
        for method in vars(owner).values():
            plain = getattr(method, "__wrapped__", None)
            if plain is not None:
                plain.__dict__.setdefault("__dynamo_disable", plain)
