"""The limits of the user's account and quality of service: a job above them is refused, or waits for ever."""

import getpass
import re
from collections.abc import Iterator, Sequence

from asiarch.hpc.config import CampaignConfig
from asiarch.hpc.doctor.findings import Finding
from asiarch.hpc.doctor.slurm_time import slurm_seconds
from asiarch.hpc.slurm_states import run_command

Row = dict[str, str]

ASSOCIATION = ("Account", "Partition", "QOS", "DefaultQOS", "MaxWall", "MaxSubmitJobs", "MaxTRES", "GrpTRES")
QOS = ("Name", "MaxWall", "MaxSubmitJobsPerUser", "MaxTRESPerJob", "MaxTRESPerUser", "GrpTRES")


def examine_limits(config: CampaignConfig) -> Iterator[Finding]:
    """Look at what accounting allows; nothing where it does not answer, or keeps no limits of this user."""
    user = getpass.getuser()
    own = _rows(["show", "associations", f"user={user}"], ASSOCIATION)
    if not own:
        return
    account = config.slurm.account or _default_account(user)
    chosen = [row for row in own if row["Account"] == account] or own
    if config.slurm.account is not None and chosen is own:
        yield Finding(
            "account",
            "error",
            f"{user} has no account {config.slurm.account}",
            f"set slurm.account to one of: {', '.join(sorted({row['Account'] for row in own}))}",
        )
        return
    row = next((row for row in chosen if row["Partition"] in ("", config.slurm.partition)), chosen[0])
    yield from _compare(config, f"account {row['Account']}", row)
    allowed = [name for name in row["QOS"].split(",") if name]
    qos = config.slurm.qos or row["DefaultQOS"] or (allowed[0] if len(allowed) == 1 else "normal")
    if config.slurm.qos is not None and allowed and qos not in allowed:
        yield Finding(
            "qos",
            "error",
            f"account {row['Account']} may not use {qos}",
            f"set slurm.qos to one of: {', '.join(allowed)}",
        )
    for limits in _rows(["show", "qos", qos], QOS):
        yield from _compare(config, f"qos {qos}", limits)


def _compare(config: CampaignConfig, whose: str, limits: Row) -> Iterator[Finding]:
    slurm = config.slurm
    wall_s = slurm_seconds(limits["MaxWall"])
    if wall_s is not None and wall_s < slurm.time:
        yield Finding(
            whose,
            "error",
            f"slurm.time is {slurm.time // 60} min and {wall_s // 60} are allowed: jobs would wait for ever",
            f"set slurm.time to {wall_s // 60}m or less",
        )
    submitted = limits.get("MaxSubmitJobs") or limits.get("MaxSubmitJobsPerUser")
    if submitted and int(submitted) < slurm.trials_in_flight:
        fatal = int(submitted) < config.seeds
        yield Finding(
            whose,
            "error" if fatal else "warning",
            f"{submitted} jobs may wait or run at a time; "
            + (
                f"a candidate is {config.seeds}" if fatal else f"up to {slurm.trials_in_flight} are asked for"
            ),
            "set fewer seeds, or ask for more" if fatal else f"set slurm.max_in_flight to {submitted}",
        )
    a_job = slurm.nodes * slurm.gpus_per_node
    for name in ("MaxTRES", "MaxTRESPerJob", "MaxTRESPerUser", "GrpTRES"):
        found = re.search(r"gres/gpu=(\d+)", limits.get(name, ""))
        if found and int(found[1]) < a_job:
            yield Finding(
                whose,
                "error",
                f"a trial asks for {a_job} GPUs and {found[1]} are allowed ({name}): jobs would wait for ever",
                "set slurm.nodes and slurm.gpus_per_node to less",
            )


def _default_account(user: str) -> str:
    rows = _rows(["show", "user", user], ("DefaultAccount",))
    return rows[0]["DefaultAccount"] if rows else ""


def _rows(query: Sequence[str], columns: Sequence[str]) -> list[Row]:
    text = run_command(["sacctmgr", "--noheader", "--parsable2", *query, f"format={','.join(columns)}"]) or ""
    cells = [line.split("|") for line in text.splitlines()]
    return [dict(zip(columns, row, strict=True)) for row in cells if len(row) == len(columns)]
