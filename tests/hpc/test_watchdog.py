"""The watchdogs: each stops what it should, at its threshold, and nothing else."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asiarch.hpc.config import WatchdogConfig, load_config
from asiarch.hpc.failures import Diverged, Implausible, MemoryGrowth, TooSlow
from asiarch.hpc.plausibility import look_for_implausible_loss
from asiarch.hpc.training.trainer import Curves
from asiarch.hpc.training.watchdog import Watchdog
from asiarch.models.errors import UserError
from asiarch.results.record import TrainCurve

LIMITS = WatchdogConfig(diverged=1.5, implausible=0.1, slower=3.0, memory_growth=2.0, no_progress="10m")


def curves(loss: list[float], speed: float = 100.0, memory: list[int] | None = None) -> Curves:
    steps = [10 * (i + 1) for i in range(len(loss))]
    same = [0.0] * len(loss)
    return Curves(
        step=steps,
        tokens=steps,
        loss=loss,
        lr=same,
        grad_norm=same,
        tokens_per_s=[speed] * len(loss),
        flops_utilisation=same,
        memory_bytes=memory or [10**9] * len(loss),
        data_wait=same,
        seconds=same,
    )


def reference(loss: list[float], speed: float = 100.0) -> TrainCurve:
    log = curves(loss, speed)
    return TrainCurve(**{name: np.array(values) for name, values in vars(log).items()})


FALLING = [5.0 - 0.2 * i for i in range(12)]


def test_an_ordinary_training_is_left_alone() -> None:
    watchdog = Watchdog(LIMITS, 20, reference([loss * 1.05 for loss in FALLING], speed=290))
    for entries in range(1, len(FALLING) + 1):
        watchdog.look(curves(FALLING[:entries]))


def test_a_loss_that_rises_and_stays_up_has_diverged() -> None:
    watchdog = Watchdog(LIMITS, 20, None)
    watchdog.look(curves([*FALLING, 9.0, 9.0, 4.0]))  # a spike that comes back
    with pytest.raises(Diverged, match=r"stayed above 4\.3000 since step 130"):
        watchdog.look(curves([*FALLING, 4.5, 4.3, 4.4]))


def test_a_loss_far_below_the_reference_is_implausible() -> None:
    low = [loss * 0.89 for loss in FALLING]
    watchdog = Watchdog(LIMITS, 20, reference(FALLING))
    watchdog.look(curves(low[:4]))  # warm-up, and two entries after it
    with pytest.raises(Implausible, match=r"at step 50 is 11% below the reference's 4.2000"):
        watchdog.look(curves(low[:5]))
    Watchdog(LIMITS.model_copy(update={"implausible": None}), 20, reference(FALLING)).look(curves(low))


@given(st.lists(st.floats(0.5, 1.5), min_size=1, max_size=30), st.integers(0, 10), st.integers(1, 30))
def test_the_verdict_is_the_same_early_and_late(factors: list[float], warmup: int, early: int) -> None:
    """Against a naive search; a trial that stops at its verdict and a head that sees it all agree."""
    usual = reference([4.0] * len(factors))
    loss = [4.0 * factor for factor in factors]
    steps = [10 * (i + 1) for i in range(len(loss))]
    bad = [
        i
        for i in range(2, len(loss))
        if all(loss[j] < 0.9 * 4.0 and steps[j] > 10 * warmup for j in (i - 2, i - 1, i))
    ]

    def verdict(entries: int) -> str | None:
        try:
            look_for_implausible_loss(steps[:entries], loss[:entries], usual, 0.1, 10 * warmup)
        except Implausible as error:
            return str(error)
        return None

    whole = verdict(len(loss))
    assert (whole is not None) == bool(bad)
    if bad:
        assert f"at step {steps[bad[0]]} " in str(whole)
    assert verdict(early) in (None, whole)


def test_a_training_much_slower_than_the_reference_is_too_slow() -> None:
    watchdog = Watchdog(LIMITS, 20, reference(FALLING, speed=301))
    watchdog.look(curves(FALLING[:4]))
    with pytest.raises(TooSlow, match=r"100 tokens/s at step 50, less than 1/3 of the reference's 301"):
        watchdog.look(curves(FALLING[:5]))


def test_memory_that_grows_is_seen() -> None:
    watchdog = Watchdog(LIMITS, 20, None)
    grown = [10**9 * (10 + i * i) // 10 for i in range(12)]
    watchdog.look(curves(FALLING[:7], memory=grown[:7]))
    with pytest.raises(MemoryGrowth, match=r"from 2\.60 GB at step 50 to 5\.90 GB at step 80"):
        watchdog.look(curves(FALLING[:8], memory=grown[:8]))


def test_a_deterministic_search_does_not_look_at_the_clock(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("name: c\npreset: demo\nseed: 0\nwatchdog: {slower: 3}\n")
    with pytest.raises(UserError, match=r"watchdog\.slower decides by the clock"):
        load_config(path)
