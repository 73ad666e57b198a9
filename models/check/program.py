"""The order of the checks. A program that cannot be made or run is not asked the rest."""

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

from asiarch.models.check import construction, independence
from asiarch.models.check.causality import causal
from asiarch.models.check.cost import cost
from asiarch.models.check.report import CheckReport, CheckResult
from asiarch.models.check.settings import CheckSettings
from asiarch.models.check.state import deterministic
from asiarch.models.check.subject import ProgramError, Subject
from asiarch.models.contract import ContractError, load_mixer_class, parse_program, read_program

Probe = Callable[[Subject], CheckResult]

# Without these the others have nothing to look at.
FIRST: dict[str, Probe] = {
    "construct": construction.construct,
    "forward_backward": construction.forward_backward,
}
REST: dict[str, Probe] = {
    "causal": causal,
    "prefix": independence.prefix,
    "batch": independence.batch,
    "documents": independence.documents,
    "model": independence.model,
    "device": independence.device,
    "cost": cost,
    "gradients": construction.gradients,
    "deterministic": deterministic,
    "scale": construction.scale,
    "size": construction.size,
}
CHECK_NAMES = ("policy", *FIRST, *REST)


def check_program(path: Path, settings: CheckSettings | None = None) -> CheckReport:
    """Run every check on the program at `path`, in this process and without limits.

    Raises ContractError when the file is missing, and UserError for settings that fit no model; all else that
    is wrong with the file is a refusal in the report.
    For a program that nobody has read use `asiarch.hpc.check.run_check`.
    """
    started = time.perf_counter()
    settings = settings or CheckSettings()
    construction.target_parameters(settings)
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ContractError(f"{path}: cannot be read: {error.strerror or error}") from None
    checks = _run_checks(path, settings)
    return CheckReport.of(str(path), digest, round(time.perf_counter() - started, 3), checks)


def _run_checks(path: Path, settings: CheckSettings) -> list[CheckResult]:
    try:
        source = read_program(path)
        parse_program(source, str(path))
    except ContractError as error:
        refused = CheckResult("policy", False, {"findings": max(1, len(error.findings))}, str(error))
        return [refused, *_not_run((*FIRST, *REST), "policy")]
    checks = [CheckResult("policy", True, {"findings": 0, "lines": len(source.splitlines())})]
    try:
        subject = Subject(load_mixer_class(path, source), settings, str(path), source)
    except ContractError as error:
        refused = CheckResult("construct", False, {}, str(error))
        return [*checks, refused, *_not_run((*FIRST, *REST), "construct")]
    for name, probe in FIRST.items():
        checks.append(_run_probe(name, probe, subject))
        if not checks[-1].passed:
            return [*checks, *_not_run((*FIRST, *REST), name)]
    return [*checks, *(_run_probe(name, probe, subject) for name, probe in REST.items())]


def _run_probe(name: str, probe: Probe, subject: Subject) -> CheckResult:
    try:
        return probe(subject)
    except ProgramError as error:
        return CheckResult(name, False, {}, str(error))


def _not_run(names: tuple[str, ...], refused_by: str) -> list[CheckResult]:
    """Results for the checks that come after `refused_by`."""
    rest = names[names.index(refused_by) + 1 :] if refused_by in names else names
    return [CheckResult.not_run(name, f"refused by {refused_by}") for name in rest]
