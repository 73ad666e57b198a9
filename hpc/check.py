"""Check a candidate in a child process that has limits and no secrets. This process never imports torch."""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from asiarch.models.check import CheckReport, CheckResult, CheckSettings
from asiarch.models.errors import UserError
from asiarch.models.sandbox import bubblewrap, clean_environment, exit_code
from asiarch.results.files import atomic_write_text

TAIL_LINES = 8
START_S = 180  # to import torch from a busy shared disk
PATIENCE = 4  # times the limit on processor time: how long a check may take in all, as on a busy machine


class CheckFailed(UserError):
    """The check could not be run. It says nothing about the program."""


def run_check(
    file: Path,
    settings: CheckSettings | None = None,
    *,
    timeout_s: int = 120,
    memory_gb: float = 4.0,
    sandbox: bool = True,
    report_path: Path | None = None,
) -> CheckReport:
    """Check the program `file` in a child process of its own group, and write the report to `report_path`.

    A child that dies, or works on the program for more than `timeout_s` s of processor time, or PATIENCE times as
    long in all, refuses it by a check "runs".
    `sandbox` puts on the layers that the machine offers.
    Raises CheckFailed when there is no such file or the child cannot be started.
    """
    started = time.monotonic()
    file = Path(file)
    digest = _sha256(file)
    with tempfile.TemporaryDirectory(prefix="asiarch-check-") as folder:
        report, reason = _run_child(
            file.resolve(), settings or CheckSettings(), timeout_s, memory_gb, sandbox, Path(folder)
        )
    if report is not None and report.sha256 != digest:
        raise CheckFailed(f"{file}: changed while it was checked; check it again")
    seconds = round(time.monotonic() - started, 3)
    checks = report.checks if report is not None else (CheckResult("runs", False, {}, reason),)
    report = CheckReport.of(str(file), digest, seconds, checks)
    if report_path is not None:
        atomic_write_text(report_path, report.to_json())
    return report


def _sha256(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except FileNotFoundError:
        raise CheckFailed(f"{file}: no such file; give the path of a candidate's program") from None
    except OSError as error:
        raise CheckFailed(f"{file}: cannot be read: {error.strerror or error}") from None


def _run_child(
    file: Path, settings: CheckSettings, timeout_s: int, memory_gb: float, sandbox: bool, folder: Path
) -> tuple[CheckReport | None, str]:
    """The child's report, or None and what became of the child."""
    report_file, log_file = folder / "check.json", folder / "log"
    command = [sys.executable, "-m", "asiarch.models.check", str(file)]
    command += ["--report", str(report_file), "--settings", json.dumps(settings.to_dict())]
    command += ["--timeout-s", str(timeout_s), "--wall-s", str(PATIENCE * timeout_s)]
    command += ["--memory-gb", str(memory_gb)]
    command += ["--sandbox", "on" if sandbox else "off"]
    if sandbox:
        command = bubblewrap(command, [folder])
    # a file, not a pipe: it takes any amount of output up to the child's limit, and nobody has to read it
    with log_file.open("wb") as log:
        try:
            child = subprocess.Popen(
                command,
                cwd=folder,
                env=child_environment(folder),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise CheckFailed(f"cannot start {sys.executable} to check {file}: {error}") from None
    try:
        # the child stops itself before that; this is for one that cannot
        code = exit_code(child.wait(timeout=PATIENCE * timeout_s + START_S))
    except subprocess.TimeoutExpired:
        code = -signal.SIGALRM
    finally:
        _kill_group(child)
    reason = _describe_exit(code, timeout_s, memory_gb)
    if not report_file.exists():  # the child makes it, empty, when it is ready to load the program
        raise CheckFailed(_with_tail(f"the check of {file} could not start: {reason}", log_file))
    if code == 0:
        try:
            return CheckReport.from_json(report_file.read_text(encoding="utf-8")), ""
        except ValueError as error:
            reason = f"left a report that cannot be read: {error}"
    return None, _with_tail(reason, log_file)


def child_environment(folder: Path) -> dict[str, str]:
    """The environment of the child: what it needs to start, and its own home in `folder`."""
    return clean_environment(os.environ) | {
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "PYTHONSAFEPATH": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        # a check is a few small runs: compiling them would take longer and start a compiler
        "TORCH_COMPILE_DISABLE": "1",
    }


def _kill_group(child: "subprocess.Popen[bytes]") -> None:
    """End the child and whatever it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _describe_exit(code: int, timeout_s: int, memory_gb: float) -> str:
    if code in (-signal.SIGPROF, -signal.SIGXCPU):
        return (
            f"still running after {timeout_s} s of work, and was stopped. Usual cause: a loop that never ends"
        )
    if code == -signal.SIGALRM:
        return (
            f"not done after {PATIENCE * timeout_s} s, and was stopped. Usual cause: it waits for something"
        )
    if code >= 0:
        return f"ended the process with exit code {code}"
    name = signal.Signals(-code).name
    hint = (
        f", perhaps for memory (limit {memory_gb:g} GB)" if name in ("SIGKILL", "SIGABRT", "SIGSEGV") else ""
    )
    return f"the process was killed by {name}{hint}"


def _with_tail(reason: str, log_file: Path) -> str:
    """The reason and the last lines of what the child printed."""
    with log_file.open("rb") as log:
        log.seek(max(0, log_file.stat().st_size - 4096))
        lines = log.read().decode("utf-8", "replace").strip().splitlines()[-TAIL_LINES:]
    return f"{reason}. The last lines printed: " + " | ".join(lines) if lines else reason
