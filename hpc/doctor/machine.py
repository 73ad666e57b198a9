"""This machine: the versions of what is installed, the GPU, and what keeps hostile programs in."""

import sys
from collections.abc import Iterator
from importlib import metadata

from asiarch.hpc.doctor.findings import Finding
from asiarch.models.errors import UserError
from asiarch.models.sandbox import offered_layers, require_layers

NEEDED = ("torch", "deepspeed", "submitit", "h5py", "numpy", "scipy", "pydantic")
OPTIONAL = ("triton", "pyarrow", "lm-eval")


def examine_machine() -> Iterator[Finding]:
    """Look at everything that needs no configuration."""
    yield _versions()
    yield _gpu()
    yield _sandbox()


def _versions() -> Finding:
    found, missing = [f"python {sys.version.split()[0]}"], []
    for name in (*NEEDED, *OPTIONAL):
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing += [name] if name in NEEDED else []
    if missing:
        return Finding("versions", "error", f"not installed: {', '.join(missing)}", "pip install asiarch-hpc")
    return Finding("versions", "ok", ", ".join(found))


def _gpu() -> Finding:
    import torch

    if not torch.cuda.is_available():
        return Finding("gpu", "ok", "none on this machine; a head needs one only for an LLM that it serves")
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return Finding("gpu", "ok", ", ".join(names))


def _sandbox() -> Finding:
    """The layers that hold programs here."""
    try:
        require_layers()
    except UserError as error:
        return Finding(
            "sandbox", "warning", str(error), "a campaign with sandbox: required refuses to start here"
        )
    return Finding("sandbox", "ok", str(offered_layers()))
