"""`asiarch-hpc run`: start a campaign, or go on with one."""

import os
import shutil
import socket
from pathlib import Path

import click

from asiarch.hpc.cli.options import run_option
from asiarch.hpc.code_version import code_version
from asiarch.hpc.config import CampaignConfig, config_hash, freeze, load_config, load_frozen
from asiarch.hpc.failures import is_storage_error
from asiarch.hpc.frozen_code import restart, use_frozen_code
from asiarch.hpc.journal import has_events, head_is_alive, read_journal, utc_now
from asiarch.hpc.layout import RunLayout, find_run
from asiarch.hpc.storage import wait_for_storage
from asiarch.models.errors import UserError
from asiarch.models.sandbox import require_layers
from asiarch.results.files import atomic_write_text

STORAGE_WAS_BAD = "ASIARCH_STORAGE_WAS_BAD"  # what a head tells the one that it becomes
# what may change while a campaign goes on: where and how its trials run, not what they compute
CHANGEABLE = {"slurm", "local", "trial"}


@click.command()
@click.argument("config", required=False, type=click.Path(path_type=Path))
@run_option
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a value of CONFIG, as in seed=1."
)
@click.option(
    "--replay",
    "replayed",
    metavar="RUN",
    type=click.Path(path_type=Path),
    help="Go through the campaign of RUN again, in a folder of its own: its trials' results and its LLM's answers "
    "stand in for GPU and LLM.",
)
def run(config: Path | None, run_dir: Path | None, overrides: tuple[str, ...], replayed: Path | None) -> None:
    """Start the campaign of CONFIG in runs/NAME (or --run DIR), or go on where it stopped.

    The same command goes on after a Ctrl-C, a crash or a kill. Exit code 0: the campaign is finished; 3: it was
    stopped, by a signal or `asiarch-hpc stop`, and can go on; 2: it cannot run, and the message says why.
    """
    # no child of ours may find the checkout's folders under their bare names
    os.environ["PYTHONSAFEPATH"] = "1"
    recorded = None
    if replayed is None:
        layout, asked = _find_campaign(config, run_dir, overrides)
        if _has_begun(layout):
            # before its settings are read: another version may have written them
            use_frozen_code(layout, _command(config, run_dir, overrides), begun=True)
        settings = _open_campaign(layout, config, asked)
    else:
        recorded, layout, settings = _open_replay(replayed, config, run_dir, overrides)
    os.chdir(layout.root)
    command = ["run", "--run", str(layout.root)]
    command += [] if recorded is None else ["--replay", str(recorded.root)]
    use_frozen_code(layout, command, begun=_has_begun(layout))
    _say_where(layout, settings)
    finished = _work_through_bad_storage(layout, settings, recorded, command)
    again = " ".join(["asiarch-hpc", *command])
    if finished:
        _say_results(layout, settings)
    else:
        click.echo(f"stopped; nothing is lost. Go on with: {again}")
        raise SystemExit(3)


def _open_replay(
    replayed: Path, config: Path | None, run_dir: Path | None, overrides: tuple[str, ...]
) -> tuple[RunLayout, RunLayout, CampaignConfig]:
    """The run that is gone through again, and the folder and settings of the replay."""
    if config is not None or overrides:
        raise UserError(
            "--replay takes the settings of the run that it goes through again: give no CONFIG or --set"
        )
    recorded = find_run(replayed)
    if run_dir is None or run_dir.resolve() == recorded.root:
        raise UserError("--replay writes a campaign's folder anew: name a new one with --run DIR")
    layout = RunLayout(run_dir.resolve())
    # nothing is queued, whoever queued it then
    settings = load_frozen(recorded.config).model_copy(update={"executor": "local"})
    if layout.config.exists() and load_frozen(layout.config) != settings:
        raise UserError(f"{layout.root} holds another campaign: name a new folder with --run DIR")
    layout.root.mkdir(parents=True, exist_ok=True)
    atomic_write_text(layout.config, freeze(settings))
    return recorded, layout, settings


def _work_through_bad_storage(
    layout: RunLayout, config: CampaignConfig, recorded: RunLayout | None, command: list[str]
) -> bool:
    """Work; where the disk cannot be written, wait for it and go on as after a kill, in a process anew."""
    storage_was_bad = bool(os.environ.pop(STORAGE_WAS_BAD, ""))
    try:
        finished = _work(layout, config, recorded, storage_was_bad)
    except OSError as error:
        if not is_storage_error(error):
            raise
        for folder in (layout.root, layout.candidates):
            wait_for_storage(folder, _say_now)
        os.environ[STORAGE_WAS_BAD] = "yes"
        restart(command)
    return finished


def _say_where(layout: RunLayout, config: CampaignConfig) -> None:
    """One line: where everything is, and what to type to watch."""
    job, log = os.environ.get("SLURM_JOB_ID"), os.environ.get("ASIARCH_HEAD_LOG")
    start = int(os.environ.get("SLURM_RESTART_COUNT") or 0) + 1
    parts = [f"campaign {config.name} in {layout.root}"]
    parts += [f"head: job {job}, start {start}, on {socket.gethostname()}"] if job else []
    parts += [f"log {log}"] if log else []
    _say_now("; ".join([*parts, f"watch: asiarch-hpc status --watch --run {layout.root}"]))


def _say_now(line: str) -> None:
    print(f"{utc_now()[:19]}Z -    {line}", flush=True)


def _has_begun(layout: RunLayout) -> bool:
    return has_events(layout.root) or head_is_alive(layout.root)


def _find_campaign(
    config: Path | None, run_dir: Path | None, overrides: tuple[str, ...]
) -> tuple[RunLayout, CampaignConfig | None]:
    """The folder of the campaign that is meant, and the settings that are asked for, if any are."""
    if config is None:
        if overrides:
            raise UserError("--set changes a new campaign's CONFIG; a campaign that runs keeps its own")
        return find_run(run_dir), None
    asked = load_config(config, overrides)
    return RunLayout((run_dir or Path("runs") / asked.name).resolve()), asked


def _command(config: Path | None, run_dir: Path | None, overrides: tuple[str, ...]) -> list[str]:
    """The arguments that this command was given."""
    command = ["run", *([] if config is None else [str(config)])]
    command += [] if run_dir is None else ["--run", str(run_dir)]
    return [*command, *(word for override in overrides for word in ("--set", override))]


def _open_campaign(layout: RunLayout, config: Path | None, asked: CampaignConfig | None) -> CampaignConfig:
    """The campaign's settings; it takes those that are asked for where nothing that it computed depends on them."""
    if asked is None:
        return load_frozen(layout.config)
    if not layout.config.exists() or not _has_begun(layout):
        # a campaign that has not begun takes the settings that it is given last
        layout.root.mkdir(parents=True, exist_ok=True)
        atomic_write_text(layout.config, freeze(asked))
    frozen = load_frozen(layout.config)
    if frozen != asked and frozen.model_dump(exclude=CHANGEABLE) == asked.model_dump(exclude=CHANGEABLE):
        if head_is_alive(layout.root):
            raise UserError(
                f"{layout.root}: a head runs this campaign; stop it before you change its settings"
            )
        atomic_write_text(layout.config, freeze(asked))
        return asked
    if frozen != asked:
        raise UserError(
            f"{layout.root} holds a campaign with other settings than {config}: go on with it by "
            f"`asiarch-hpc run --run {layout.root}`, or give the new one another name or --run DIR"
        )
    return frozen


def _work(
    layout: RunLayout, config: CampaignConfig, recorded: RunLayout | None, storage_was_bad: bool
) -> bool:
    # imported here: a wrong CONFIG should be refused at once
    from asiarch.hpc.campaign import Head
    from asiarch.hpc.head_log import HeadLog
    from asiarch.hpc.journal import Journal
    from asiarch.hpc.language_model import open_language_model, require_language_model
    from asiarch.hpc.schedule import Scheduler

    with Journal(layout.root) as journal:
        started = read_journal(layout.root)
        if started and started[-1]["event"] == "head_stopped" and started[-1]["reason"] == "finished":
            return True
        _require_slurm(config)
        if config.sandbox == "required":
            require_layers()
        if recorded is None:
            require_language_model(config)
        _require_operators()
        _prepare_data(layout, config)
        _require_downstream(config)
        if not started:
            journal.append(
                "campaign_started",
                name=config.name,
                seeds=list(range(config.seeds)),
                rungs=len(config.rungs),
                config_hash=config_hash(config),
                code_version=code_version(),
            )
        log = HeadLog(Scheduler(config).total)
        with open_language_model(layout, config, recorded, log.say) as model:
            return Head(layout, config, journal, log, model, recorded, storage_was_bad).work()


def _require_slurm(config: CampaignConfig) -> None:
    missing = [command for command in ("sbatch", "squeue", "scancel") if shutil.which(command) is None]
    if config.executor == "slurm" and missing:
        raise UserError(
            f"executor is slurm, and {' and '.join(missing)} cannot be found: start on a node of the cluster, or "
            "set executor: local"
        )


def _require_operators() -> None:
    """Where this machine has a GPU, its compiler and driver are tried before anything is trained on them."""
    if not _has_gpu():
        return
    from asiarch.hpc.doctor.operators import require_operators

    require_operators()


def _has_gpu() -> bool:
    return shutil.which("nvidia-smi") is not None


def _prepare_data(layout: RunLayout, config: CampaignConfig) -> None:
    if config.data.prepared is not None:
        return
    from asiarch.hpc.data import prepare

    click.echo(f"preparing the text in {layout.dataset(config)} (once for each campaign)")
    manifest = prepare(
        list(config.data.train),
        layout.dataset(config),
        tokenizer=config.data.tokenizer,
        near_duplicates=config.data.near_duplicates,
        seed=config.seed,
    )
    sizes = ", ".join(f"{split} {manifest.tokens(split):,}" for split in manifest.splits)
    click.echo(f"the text in tokens: {sizes}; they share no document")


def _require_downstream(config: CampaignConfig) -> None:
    if not config.evaluation.downstream.tasks:
        return
    try:
        from asiarch.hpc.evaluation.downstream import require_tasks
    except ImportError as error:
        raise UserError(
            f"evaluation.downstream.tasks need lm-eval ({error}): pip install 'asiarch-hpc[eval]'"
        ) from None
    require_tasks(config.evaluation.downstream)


def _say_results(layout: RunLayout, config: CampaignConfig) -> None:
    from asiarch.hpc.cli.ranking import print_ranking

    print_ranking(layout, limit=10)
    click.echo(f"\nresults: {layout.root}/ranking.csv  {layout.root}/results.h5")
    click.echo(f"look closer: asiarch-hpc show ID --run {layout.root}")
