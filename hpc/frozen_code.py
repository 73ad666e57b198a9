"""The campaign's own copy of the code: what starts with one version of it ends with that version.

Editing the checkout, or installing another version, changes nothing in a campaign that has begun: trials import
the copy, and a head of other code starts itself again from the copy.
"""

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from asiarch.hpc.code_version import PACKAGES, package_folder, sources_hash
from asiarch.hpc.layout import RunLayout

_START = "import sys; from asiarch.hpc.cli.main import main; sys.exit(main(sys.argv[1:]))"


def use_frozen_code(run: RunLayout, arguments: Sequence[str], begun: bool) -> None:
    """Make the copy if the campaign has not begun, and have all children of this process import it.

    Where this process runs other code than the copy it is replaced by `asiarch-hpc ARGUMENTS` of the copy.
    """
    own = {package: package_folder(package) for package in PACKAGES}
    is_copy = own["hpc"] == run.code / "asiarch" / "hpc"
    if not run.code.exists() or not (begun or is_copy):
        shutil.rmtree(run.code, ignore_errors=True)
        _copy(own, run.code)
    before = os.environ.get("PYTHONPATH", "")
    if str(run.code) not in before.split(os.pathsep):
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(run.code), before]))
    frozen = {package: run.code / "asiarch" / package for package in PACKAGES}
    if not is_copy and sources_hash(own) != sources_hash(frozen):
        restart(arguments)


def restart(arguments: Sequence[str]) -> NoReturn:
    """Become `asiarch-hpc ARGUMENTS`, run anew by this process."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-c", _START, *arguments])


def _copy(packages: dict[str, Path], target: Path) -> None:
    temporary = target.with_name(f".{target.name}-{os.getpid()}")
    for package, folder in packages.items():
        shutil.copytree(folder, temporary / "asiarch" / package, ignore=shutil.ignore_patterns("__pycache__"))
    temporary.rename(target)
