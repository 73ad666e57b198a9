"""This machine: the versions of what is installed, the GPU, and what keeps hostile programs in."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from asiarch.hpc.doctor.findings import Finding

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
        return Finding("gpu", "ok", "none on this machine: the head needs none")
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return Finding("gpu", "ok", ", ".join(names))


def _sandbox() -> Finding:
    """Which layers the machine offers; this version uses none of them."""
    layers = []
    if shutil.which("bwrap") is not None:
        done = subprocess.run(
            ["bwrap", "--ro-bind", "/", "/", "--unshare-net", "--unshare-pid", "true"],
            capture_output=True,
            timeout=20,
            check=False,
        )
        layers += ["bubblewrap"] if done.returncode == 0 else []
    security = Path("/sys/kernel/security/lsm")
    if security.exists() and "landlock" in security.read_text():
        layers.append("Landlock")
    offered = " and ".join(layers) or "no layer"
    return Finding(
        "sandbox",
        "warning",
        f"programs are trained with your rights: this version has no OS sandbox (this machine offers {offered})",
        "run campaigns as a user whose other files you can lose",
    )
