"""Which code produced a number: the package's version and a hash of its sources."""

import hashlib
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("hpc", "agents", "results", "models", "kernels")


@cache
def code_version() -> str:
    """For example `0.1.0+3f2a9c01d4e7`: the hash changes with any source file of the package."""
    folders = {package: package_folder(package) for package in PACKAGES}
    return f"{metadata.version('asiarch-hpc')}+{sources_hash(folders)[:12]}"


def package_folder(package: str) -> Path:
    """Where a package lies; it is not imported, which for the kernels would take seconds and 200 MB."""
    found = find_spec(f"asiarch.{package}")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent


def sources_hash(folders: Mapping[str, Path]) -> str:
    """SHA-256 of all sources, YAML and prompts included, below the folders of the packages."""
    digest = hashlib.sha256()
    for package, folder in folders.items():
        for path in sorted(path for path in folder.rglob("*") if _is_source(path)):
            digest.update(f"{package}/{path.relative_to(folder)}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _is_source(path: Path) -> bool:
    return path.suffix in (".py", ".yaml") or (path.suffix == ".md" and path.parent.name == "prompts")
