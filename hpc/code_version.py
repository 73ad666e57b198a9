"""Which code produced a number: the package's version and a hash of its sources."""

import hashlib
from collections.abc import Mapping
from functools import cache
from importlib import import_module, metadata
from pathlib import Path

PACKAGES = ("hpc", "agents", "results", "models", "kernels")


@cache
def code_version() -> str:
    """For example `0.1.0+3f2a9c01d4e7`: the hash changes with any source file of the package."""
    folders = {
        package: Path(str(import_module(f"asiarch.{package}").__file__)).parent for package in PACKAGES
    }
    return f"{metadata.version('asiarch-hpc')}+{sources_hash(folders)[:12]}"


def sources_hash(folders: Mapping[str, Path]) -> str:
    """SHA-256 of all sources, YAML included, below the folders of the packages."""
    digest = hashlib.sha256()
    for package, folder in folders.items():
        for path in sorted(path for path in folder.rglob("*") if path.suffix in (".py", ".yaml")):
            digest.update(f"{package}/{path.relative_to(folder)}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
