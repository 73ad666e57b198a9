"""Compiling the Triton kernels for a GPU that is not there, and what each one asks of it."""

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

SHARED_LIMITS = {80: 163 * 1024, 90: 227 * 1024}  # bytes a block may have, by compute capability
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


@dataclass(frozen=True)
class Usage:
    """What one compiled kernel takes."""

    registers: int  # a thread
    shared: int  # bytes a block
    spilled: int  # bytes of stack a thread; more than 0 means that registers did not suffice


def compile_for(
    kernel: Any, pointers: dict[str, str | None], constants: dict[str, Any], capability: int, warps: int = 4
) -> Usage:
    """Compile a kernel. `pointers` maps tensor arguments to element types, None for those left out.

    Arguments in neither mapping are int32, and those named `scale` or `eps` float32.
    """
    signature: dict[str, str] = {}
    constexprs = dict(constants)
    for name in kernel.arg_names:
        if pointers.get(name) is not None:
            signature[name] = f"*{pointers[name]}"
        elif name in pointers or name in constants:
            signature[name] = "constexpr"
            constexprs.setdefault(name, None)
        else:
            signature[name] = "fp32" if name in ("scale", "eps") else "i32"
    # tensors that PyTorch allocates begin at multiples of 16 bytes, which lets loads be wide
    aligned = {
        (kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name, kind in pointers.items() if kind
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=constexprs, attrs=aligned)
    compiled = triton.compile(
        source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps, "num_stages": 1}
    )
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        dump = subprocess.run(
            [CUOBJDUMP, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", dump)
    if found is None:
        raise RuntimeError(f"cuobjdump said nothing of registers: {dump!r}")
    return Usage(int(found[1]), int(compiled.metadata.shared), int(found[2]))
