"""Which implementation an operator takes: Triton on a CUDA device, PyTorch elsewhere."""

from importlib.util import find_spec

import torch
from torch import Tensor

HAS_TRITON = find_spec("triton") is not None
TRITON_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def takes_triton(*tensors: Tensor) -> bool:
    """Whether all tensors are where Triton's kernels run, in a dtype that they have."""
    return HAS_TRITON and all(x.is_cuda and x.dtype in TRITON_DTYPES for x in tensors)
