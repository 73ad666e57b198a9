"""Surroundings that a program may ask about, and behave otherwise in: chance at its extremes, and a GPU."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from asiarch.models.check.dispatch import DispatchMode

FEW = 16  # random numbers: one for the call, or one a sample; more are noise on values
ALMOST_ONE = 1 - 2.0**-20
MANY_DEVIATIONS = 5.0


class ExtremeChance(DispatchMode):
    """Gives random numbers that are drawn one or a few at a time their least or their largest value.

    What happens in one call of a hundred thereby happens in every call.
    """

    def __init__(self, largest: bool) -> None:
        super().__init__()
        self.largest = largest

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        if isinstance(result, Tensor) and 0 < result.numel() <= FEW:
            if name in ("rand", "rand_like"):
                result.fill_(ALMOST_ONE if self.largest else 0.0)
            elif name == "uniform_":
                low, high = args[1] if len(args) > 1 else 0.0, args[2] if len(args) > 2 else 1.0
                result.fill_(low + (high - low) * ALMOST_ONE if self.largest else low)
            elif name in ("bernoulli", "bernoulli_"):
                result.fill_(float(self.largest))
            elif name in ("randn", "randn_like", "normal_"):
                result.fill_(MANY_DEVIATIONS if self.largest else -MANY_DEVIATIONS)
            elif name == "randint":
                low, high = args[:2] if func._overloadname.startswith("low") else (0, args[0])
                result.fill_(high - 1 if self.largest else low)
        return result


class _PretendGpu(TorchFunctionMode):
    """Tells the code of one file that every tensor is on a GPU, and makes on the CPU what it wants made there."""

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file = file

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        getter = getattr(func, "__self__", None)
        if getter is Tensor.is_cuda and _called_from(self.file):
            return True
        if getter is Tensor.is_cpu and _called_from(self.file):
            return False
        if getter is Tensor.device and _called_from(self.file):
            return torch.device("cuda", 0)
        if func is Tensor.cuda:
            return args[0]
        args = tuple(map(_on_cpu, args))
        return func(*args, **{name: _on_cpu(value) for name, value in (kwargs or {}).items()})


def _on_cpu(value: Any) -> Any:
    named = isinstance(value, str) and value.startswith("cuda")
    return (
        torch.device("cpu") if named or (isinstance(value, torch.device) and value.type == "cuda") else value
    )


def _called_from(file: str) -> bool:
    """Whether the nearest frame outside of this file is code of `file`."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    return frame.f_code.co_filename == file


@contextmanager
def pretend_gpu(file: str) -> Iterator[None]:
    """Within the block the code of `file` finds every tensor on a GPU, and a GPU there; other code does not."""
    available = torch.cuda.is_available
    torch.cuda.is_available = _told_to(file, available)
    try:
        with _PretendGpu(file):
            yield
    finally:
        torch.cuda.is_available = available


def _told_to(file: str, truth: Callable[[], bool]) -> Callable[[], bool]:
    return lambda: _called_from(file) or truth()
