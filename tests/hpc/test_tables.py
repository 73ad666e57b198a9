"""What a person reads: the ranking fits the terminal, and durations are in the units people use."""

import pytest
from rich.console import Console

from asiarch.hpc.cli.ranking import WIDE, ranking_table
from asiarch.hpc.cli.status import duration, yields_table
from asiarch.hpc.state import CampaignState
from asiarch.models.errors import UserError
from asiarch.results.ranking import CandidateInfo, rank
from asiarch.results.trial import TaskResult, TrialKey, TrialSummary
from asiarch.results.yields import Yield, Yields


def ranked(width: int) -> list[str]:
    trials = [
        TrialSummary(
            TrialKey(c, 0, seed),
            2.0 - 0.1 * c + 0.01 * seed * (1 + c),
            2.1 - 0.1 * c,
            9e3,
            1000,
            *(0.01, 64, 0.01, 64),
            {"mqar": TaskResult(0.5, 100, 0.05)},
        )
        for c in (0, 1)
        for seed in (0, 1, 2)
    ]
    infos = [CandidateInfo(c, f"delta_{c}", "grammar", None, "x") for c in (0, 1)]
    console = Console(width=width, highlight=False, force_terminal=False)
    with console.capture() as captured:
        console.print(ranking_table(rank(trials, infos, 0, (0, 1, 2)).rows, "delta_net", width))
    return captured.get().splitlines()


def test_a_wide_terminal_gets_every_column() -> None:
    header, first, _ = ranked(WIDE)
    assert all(word in header for word in ("p adj.", "tokens/s", "parameters", "origin", "fitness"))
    assert "delta_1" in first
    assert "1,000" in first


def test_a_narrow_terminal_gets_the_main_columns_uncut() -> None:
    header, first, _ = ranked(110)
    assert "parameters" not in header
    assert "vs delta_net (95% interval)" in header
    assert not any("…" in line for line in (header, first))


@pytest.mark.parametrize(("gpu_hours", "unit", "rate"), [(5.0, "*/GPU-h", "0.2"), (0.0, "*/hour", "0.1")])
def test_yields_fit_a_narrow_terminal(gpu_hours: float, unit: str, rate: str) -> None:
    console = Console(width=80, highlight=False, force_terminal=False)
    one = Yield("grammar", 1234, 1200, 1100, 400, 12, 1, gpu_hours, 10.0)
    origins = Yield("experience", 300, 100, 1, 0, 0, 0, 0, 0), Yield("original", 100, 0, 0, 0, 0, 0, 0, 0)
    with console.capture() as captured:
        console.print(yields_table(Yields((one,), origins)))
    header, row, *of_origins = captured.get().splitlines()
    assert header.split()[-5:] == [">parent", "*parent", "*ref", "*/acc.", unit]
    assert row.split() == ["grammar", "1234", "1200", "1100", "400", "12", "1", "0.000833", rate]
    assert " ".join(of_origins[0].split()) == "experience 300 75% 100 100% 1 100% 0 0 0 0 -"
    assert " ".join(of_origins[1].split()) == "original 100 25% 0 0% 0 0% 0 0 0 - -"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (725, "12 min 05 s"), (12_000, "3 h 20 min"), (187_200, "2 d 04 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_an_event_of_a_later_version_is_named() -> None:
    with pytest.raises(UserError, match="event 'teleported'"):
        CampaignState.replay([{"event": "teleported", "time": "2026-01-01T00:00:00+00:00"}])
