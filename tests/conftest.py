"""What has to happen before any test file is imported."""

import os
from importlib.util import find_spec

import torch

# Without a GPU the Triton kernels run in Triton's interpreter. It has to be chosen before triton is first imported,
# which other libraries do too; and it is not handed on to child processes.
if find_spec("triton") is not None and not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
    import triton.language  # noqa: F401

    del os.environ["TRITON_INTERPRET"]
