"""Which implementation an operator takes: Triton on a CUDA device, PyTorch elsewhere.

With TRITON_INTERPRET=1 Triton interprets its kernels on tensors of the CPU: then these take them too, slowly.
"""

import os
from importlib.util import find_spec

import torch
from torch import Tensor

HAS_TRITON = find_spec("triton") is not None
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
TRITON_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def takes_triton(*tensors: Tensor) -> bool:
    """Whether all tensors are where Triton's kernels run, in a dtype that they have."""
    return HAS_TRITON and all((x.is_cuda or INTERPRETED) and x.dtype in TRITON_DTYPES for x in tensors)
