"""The rules of the layout: imports run downward, and what the package needs is in it."""

import ast
import subprocess
import sys
from importlib import import_module, resources
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = ["hpc", "agents", "results", "models", "kernels"]  # each may import itself and what comes after


def imported_packages(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module or ""]
        found |= {name.split(".")[1] for name in names if name.startswith("asiarch.")}
        assert not any(name.split(".")[0] in ORDER for name in names), f"{path} imports a bare folder name"
    return found


@pytest.mark.parametrize("package", ORDER)
def test_imports_run_downward_only(package: str) -> None:
    files = list((ROOT / package).rglob("*.py"))
    assert files
    allowed = set(ORDER[ORDER.index(package) :])
    for path in files:
        assert imported_packages(path) <= allowed, path


def test_a_wrong_import_would_be_seen(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text("from asiarch.hpc.trial import TrialTask\n")
    assert imported_packages(wrong) == {"hpc"}


def test_every_package_is_declared_for_the_wheel() -> None:
    text = (ROOT / "setup.cfg").read_text()
    for package in ORDER:
        for init in (ROOT / package).rglob("__init__.py"):
            name = "asiarch." + ".".join(init.parent.relative_to(ROOT).parts)
            assert f"    {name}\n" in text, f"{name} is missing from setup.cfg"


def test_presets_are_package_data() -> None:
    names = {item.name for item in resources.files("asiarch.hpc.presets").iterdir()}
    assert {"demo.yaml", "explore.yaml", "verify.yaml", "final.yaml"} <= names


def test_no_bare_folder_name_is_importable(tmp_path: Path) -> None:
    script = f"import importlib.util as u; print([n for n in {ORDER!r} if u.find_spec(n)])"
    found = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


def test_reading_commands_do_not_import_torch() -> None:
    modules = "status ranking show logs init run main"
    script = "import sys\n" + "".join(f"import asiarch.hpc.cli.{name}\n" for name in modules.split())
    script += "print(sorted({'torch', 'deepspeed', 'h5py'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
    assert import_module("asiarch.hpc.cli.main").COMMANDS
