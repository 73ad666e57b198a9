"""Which code produced a number: the package's version and a hash of its sources."""

import hashlib
from functools import cache
from importlib import import_module, metadata
from pathlib import Path

PACKAGES = ("hpc", "agents", "results", "models", "kernels")


@cache
def code_version() -> str:
    """For example `0.1.0+3f2a9c01d4e7`: the hash changes with any source file of the package."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        folder = Path(str(import_module(f"asiarch.{package}").__file__)).parent
        for path in sorted(folder.rglob("*.py")):
            digest.update(f"{package}/{path.relative_to(folder)}\0".encode())
            digest.update(path.read_bytes())
    return f"{metadata.version('asiarch-hpc')}+{digest.hexdigest()[:12]}"
