"""Programs that cast to bfloat16 by name, made to compute in the dtype of the model that they are in.

Such programs are written for a model in bfloat16: in any other one their casts would meet tensors of the model's
dtype in matrix products, which PyTorch refuses. What they mean is the model's dtype, so in a float32 or float64
model that is what they get: the same function, rounded less.
"""

import ast
import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

LOW = (torch.bfloat16, torch.float16)
_NAMES = ("bfloat16", "float16", "half")
_CASTS = (Tensor.bfloat16, Tensor.half)


def names_low_precision(tree: ast.Module) -> bool:
    """Whether a program names a 16-bit floating type."""
    return any(isinstance(node, ast.Attribute) and node.attr in _NAMES for node in ast.walk(tree))


def follow_input_dtype(mixer_class: type[nn.Module]) -> None:
    """Let the mixer's forward take casts to 16-bit types as casts to its input's dtype, where that is wider."""
    forward = mixer_class.forward

    @functools.wraps(forward)
    def in_input_dtype(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        given = (*args, *kwargs.values())
        inputs = next((x for x in given if isinstance(x, Tensor) and x.is_floating_point()), None)
        if inputs is None or inputs.dtype in LOW or torch.compiler.is_compiling():
            return forward(self, *args, **kwargs)
        with _CastsFollow(inputs.dtype):
            return forward(self, *args, **kwargs)

    mixer_class.forward = in_input_dtype


class _CastsFollow(TorchFunctionMode):
    """Replaces the 16-bit types that any operation is asked for."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _CASTS:
            return args[0].to(self.dtype)
        args = tuple(self.dtype if _is_low(arg) else arg for arg in args)
        kwargs = {key: self.dtype if _is_low(value) else value for key, value in (kwargs or {}).items()}
        return func(*args, **kwargs)


def _is_low(value: Any) -> bool:
    return isinstance(value, torch.dtype) and value in LOW
