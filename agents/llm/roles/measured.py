"""The numbers that the analyst is shown, as plain data."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Measured:
    """What one candidate measured at a rung, means over seeds. None where it was not measured.

    Of the losses only the validation loss belongs here: the test loss must not steer the search.
    """

    name: str
    loss: float | None  # validation, nats a token
    loss_spread: float | None = None  # standard deviation over seeds
    seeds: int = 0
    tasks: Mapping[str, float] = field(default_factory=dict)  # a benchmark's name -> score, higher is better
    tokens_per_s: float | None = None  # training throughput
    parameters: int | None = None


@dataclass(frozen=True)
class Comparison:
    """A candidate beside the others at the same rung; `note` is one line of the trial, such as why it ended."""

    candidate: Measured
    baseline: Measured | None = None
    parent: Measured | None = None
    siblings: tuple[Measured, ...] = ()
    note: str = ""
    log: str = ""  # the end of a failed trial's log, if there is one; it is fenced and cut

    def table(self) -> str:
        """A line for each candidate; losses also as differences to the baseline's."""
        rows = [("candidate", self.candidate), ("baseline", self.baseline), ("parent", self.parent)]
        rows += [("sibling", sibling) for sibling in self.siblings]
        return "\n".join(self._row(label, one) for label, one in rows if one is not None)

    def _row(self, label: str, one: Measured) -> str:
        words = [f"{label} {one.name}:"]
        if one.loss is None:
            words.append("no result;")
        else:
            spread = f" (spread {one.loss_spread:.4f} over {one.seeds} seeds)" if one.loss_spread else ""
            words.append(f"loss {one.loss:.4f}{spread}{self._difference(label, one)};")
        words += [f"{task} {score:.3f};" for task, score in sorted(one.tasks.items())]
        if one.tokens_per_s is not None:
            words.append(f"{one.tokens_per_s:,.0f} tokens/s;")
        if one.parameters is not None:
            words.append(f"{one.parameters:,} parameters;")
        return " ".join(words).rstrip(";")

    def _difference(self, label: str, one: Measured) -> str:
        if label == "baseline" or one.loss is None or self.baseline is None or self.baseline.loss is None:
            return ""
        return f" ({one.loss - self.baseline.loss:+.4f} to the baseline)"
