"""What the head says while it works: one line an event, and in a terminal a bar below them."""

from datetime import datetime, timezone
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from asiarch.hpc.journal import Event
from asiarch.hpc.layout import RunLayout
from asiarch.hpc.progress import read_progress
from asiarch.hpc.state import CampaignState
from asiarch.results.ranking import candidate_fitness

# an event's own fields that a line repeats, beside candidate, rung and seed
SHOWN: dict[str, tuple[str, ...]] = {
    "proposed": ("name", "parent", "edits"),
    "refused": ("reason",),
    "repaired": ("reason",),
    "judge_calibrated": ("usable", "error", "reason"),
    "judged": ("score",),
    "analysed": ("held", "lacking"),
    "trial_started": ("host", "pid"),
    "trial_interrupted": ("cause", "detail"),
    "trial_failed": ("cause", "detail"),
    "stopped_early": ("reason",),
    "cancelled": ("reason",),
    "budget_reached": ("reason",),
    "head_started": ("pid", "host"),
    "head_stopped": ("reason",),
}


class HeadLog:
    """Prints to standard output: `time candidate event key=value ...`.

    Args:
        total_candidates: what the bar counts to.
    """

    def __init__(self, total_candidates: int, console: Console | None = None) -> None:
        self._console = console or Console(soft_wrap=True, highlight=False)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._fitness: dict[int, float] = {}  # of finished candidates
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("candidates"),
                TimeElapsedColumn(),
                TextColumn("{task.fields[running]}"),
                console=self._console,
                refresh_per_second=2,
            )
            self._task = self._bar.add_task("campaign", total=total_candidates, running="")
            self._bar.start()

    def event(self, event: Event, state: CampaignState) -> None:
        """One line for an event that was just written to the journal; none for what `status` alone shows."""
        if event["event"] in ("accounted", "submission_refused"):
            return
        who = f"{event['candidate']:04d}" if "candidate" in event else "-   "
        pairs: dict[str, Any] = {name: event[name] for name in ("rung", "seed") if name in event}
        pairs |= {
            name: event[name] for name in SHOWN.get(event["event"], ()) if event[name] not in (None, [])
        }
        if event["event"] == "trial_finished":
            pairs |= self._result(event, state)
        text = " ".join(f"{name}={_plain(value)}" for name, value in pairs.items())
        self._console.print(f"{event['time'][:19]}Z {who} {event['event']:<17} {text}".rstrip(), markup=False)

    def show_running(self, state: CampaignState, run: RunLayout) -> None:
        """Bring the bar up to date; nothing where the output is no terminal."""
        if self._bar is None or self._task is None:
            return
        settled = sum(candidate.settled for candidate in state.candidates.values())
        self._bar.update(self._task, completed=settled, running=running_trials(state, run))

    def refused_submission(self, candidate: int, reason: str, wait_s: float) -> None:
        """One line for a job that could not be submitted now."""
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")[:19]
        text = f"refused_submission again_in_s={wait_s:.0f} reason={_plain(reason)}"
        self._console.print(f"{now}Z {candidate:04d} {text}", markup=False)

    def say(self, words: str) -> None:
        """One line about no candidate."""
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")[:19]
        self._console.print(f"{now}Z -    {words}", markup=False)

    def stopping(self, reason: str, consequence: str) -> None:
        """Say that a signal was taken, and what it does to running trials."""
        self._console.print(f"{reason}: the head stops, running trials {consequence}")

    def _result(self, event: Event, state: CampaignState) -> dict[str, Any]:
        summary = event["summary"]
        pairs = {"loss": f"{summary['validation_loss']:.4f}"}
        pairs |= {task: _with_error(result) for task, result in summary["tasks"].items()}
        pairs["tokens_per_s"] = f"{summary['tokens_per_s']:.0f}"
        best = self._best(state)
        return pairs if best is None else pairs | {"best": best}

    def _best(self, state: CampaignState) -> str | None:
        """The leader by fitness among finished candidates: id, name, fitness and loss."""
        reference = state.candidates[0].summaries()
        for candidate in state.candidates.values():
            if candidate.status == "finished" and candidate.id not in self._fitness:
                found = candidate_fitness(candidate.summaries(), reference, state.last_rung)
                self._fitness[candidate.id] = found.value
        if not self._fitness:
            return None
        number, fitness = max(self._fitness.items(), key=lambda item: item[1])
        best = state.candidates[number]
        losses = [s.validation_loss for s in best.summaries() if s.key.rung == state.last_rung]
        return f"{best.id:04d} ({best.name}, fitness {fitness:.3f}, loss {sum(losses) / len(losses):.4f})"

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()


def running_trials(state: CampaignState, run: RunLayout) -> str:
    """The trials under way and how far each is, for example `0007/s1 60%`."""
    parts = []
    for candidate in state.unsettled:
        for (rung, seed), trial in candidate.trials.items():
            progress = read_progress(run.trial(candidate.id, rung, seed).progress)
            if trial.status == "submitted" and progress is not None:
                share = progress.step / progress.steps if progress.steps else 0.0
                parts.append(f"{candidate.id:04d}/s{seed} {progress.phase} {share:.0%}")
    return "  ".join(parts)


def _with_error(result: dict[str, float]) -> str:
    return f"{result['score']:.3f}+-{result['standard_error']:.3f}"


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(str(part) for part in value)
    text = str(value)
    return repr(text) if " " in text and not text.endswith(")") else text
