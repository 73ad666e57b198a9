"""How good a candidate the policies find at equal budget, on landscapes whose truth is known.

    .venv/bin/python tests/bench/policies.py [--repeats 50] [--budget 300] [--policies lineage paper ...]

No program is trained: a candidate is a true quality, in units of the usual step from a parent to its child, and a
score for each of three seeds. A seed's luck is shared by all candidates in part, as the data order is, and scores are
taken against a reference that has luck of its own. One proposal in seven fails. A proposal sees what was proposed 8 or
more before it. References are not simulated: no crossover.

Landscapes: `open`, where steps add up for ever (and lower the quality on average), and `ceilings`, where no descendant
of a baseline's child exceeds a ceiling that the family has by chance, few a high one. Seeds: `quiet` (the standard
deviation of a score is one step), `noisy` (2.5 steps), and `lucky`: quiet, and each fifth candidate has a seed in four
that scores far above the rest, with the same mean as without.

Prints for each a table of means with standard errors over repeats: the true quality of the candidate that leads by
score, the mean true quality of the ten that lead, the difference of that to `paper` in the same repeats, how many
families these ten are of, and the best true quality among all that were tried.
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np

from asiarch.agents.lineage_policy import LineagePolicy, families
from asiarch.agents.policy import PaperPolicy, ParentPolicy, RandomPolicy
from asiarch.agents.proposer import KnownCandidate

SEEDS, LAG, FAILING, TOP = 3, 8, 1 / 7, 10
SHARED = 0.5  # of a seed's standard deviation, common to all candidates

POLICIES: dict[str, ParentPolicy] = {
    "paper": PaperPolicy(),
    "paper, no cold start": PaperPolicy(refresh=1, cold_start=0),
    "paper, 3 parents, no cold start": PaperPolicy(parents=3, refresh=1, cold_start=0),
    "random": RandomPolicy(),
    "lineage": LineagePolicy(),
    "lineage, no spread": LineagePolicy(spread=0.0),
}


@dataclass(frozen=True)
class Landscape:
    """`drift`: a step's mean. `ceiling`: the mean of the families' ceilings. `noise`: a score's deviation."""

    drift: float
    ceiling: float
    noise: float
    lucky: bool


LANDSCAPES = {
    f"{quality}, {luck}": Landscape(drift, ceiling, noise, lucky)
    for quality, drift, ceiling in (("open", -0.6, math.inf), ("ceilings", -0.3, 3.0))
    for luck, noise, lucky in (("quiet", 1.0, False), ("noisy", 2.5, False), ("lucky", 1.0, True))
}


@dataclass(frozen=True)
class Outcome:
    """What one campaign came to."""

    leader: float
    leaders: float
    families: int
    best: float


class Campaign:
    """One campaign; what chance does to candidate n is the same whichever policy chose its parent."""

    def __init__(self, landscape: Landscape, repeat: int) -> None:
        self._landscape = landscape
        self._repeat = repeat
        common = np.random.default_rng([repeat, 0])
        spread = landscape.noise * np.array([SHARED, math.sqrt(1 - SHARED**2)])
        self._shared, self._reference = spread[:, None] * common.standard_normal((2, SEEDS))
        self._own = float(spread[1])
        self.quality, self._ceilings = [0.0], [math.inf]
        self.candidates = [_candidate(0, None, np.zeros(SEEDS), failed=False)]

    def propose(self, parent: KnownCandidate) -> None:
        """Try a child of `parent`."""
        n = len(self.candidates)
        rng = np.random.default_rng([self._repeat, 1, n])
        step, failing, ceiling = rng.standard_normal(), rng.random(), rng.exponential()
        founds = parent.id == 0
        self._ceilings.append(self._landscape.ceiling * ceiling if founds else self._ceilings[parent.id])
        quality = min(self.quality[parent.id] + self._landscape.drift + step, self._ceilings[n])
        self.quality.append(float(quality))
        scores = quality + self._luck(rng) - self._reference
        self.candidates.append(_candidate(n, parent.id, scores, failing < FAILING))

    def _luck(self, rng: np.random.Generator) -> np.ndarray:
        luck = self._shared + self._own * rng.standard_normal(SEEDS)
        strikes, sizes = rng.random(SEEDS) < 0.25, rng.exponential(5.0, SEEDS)
        if self._landscape.lucky and rng.random() < 0.2:
            luck = luck + strikes * sizes - 0.25 * 5.0
        return luck

    def outcome(self) -> Outcome:
        """How the ranking by score compares with the truth."""
        results = [one for one in self.candidates[1:] if one.has_result]
        leaders = sorted(results, key=lambda one: -(one.fitness or 0.0))[:TOP]
        founders = families(self.candidates)
        return Outcome(
            leader=self.quality[leaders[0].id],
            leaders=fmean(self.quality[one.id] for one in leaders),
            families=len({founders[one.id] for one in leaders}),
            best=max(self.quality[one.id] for one in results),
        )


def _candidate(number: int, parent: int | None, scores: np.ndarray, failed: bool) -> KnownCandidate:
    return KnownCandidate(
        id=number,
        name="",
        program="",
        spec={},
        fitness=None if failed else float(scores.mean()),
        loss=None,
        status="failed" if failed else "finished",
        parent=parent,
        baseline=parent is None,
        seed_fitness=() if failed else tuple(scores.tolist()),
    )


def campaign(policy: ParentPolicy, landscape: Landscape, repeat: int, budget: int) -> Outcome:
    """The outcome of a whole campaign."""
    run = Campaign(landscape, repeat)
    for number in range(1, budget + 1):
        rng = np.random.default_rng([repeat, 2, number])
        parent = policy.parent(run.candidates[: max(1, number - LAG + 1)], rng)
        assert parent is not None, "the baseline can always be a parent"
        run.propose(parent)
    return run.outcome()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--budget", type=int, default=300)
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=list(POLICIES))
    parser.add_argument("--landscapes", nargs="+", choices=LANDSCAPES, default=list(LANDSCAPES))
    chosen = parser.parse_args()
    for name in chosen.landscapes:
        print(f"\n**{name}**: {chosen.repeats} repeats of {chosen.budget} candidates\n")
        print("| policy | leader | leading ten | against paper | families of the ten | best tried |")
        print("|---|---|---|---|---|---|", flush=True)
        paper: list[Outcome] = []
        for label in dict.fromkeys(["paper", *chosen.policies]):
            policy = POLICIES[label]
            found = [
                campaign(policy, LANDSCAPES[name], repeat, chosen.budget) for repeat in range(chosen.repeats)
            ]
            paper = paper or found
            print(f"| {label} | {' | '.join(cells(found, paper))} |", flush=True)


def cells(found: list[Outcome], paper: list[Outcome]) -> list[str]:
    """A row of the table."""
    ahead = [one.leaders - theirs.leaders for one, theirs in zip(found, paper, strict=True)]
    columns: list[Callable[[Outcome], float]] = [
        lambda one: one.leader,
        lambda one: one.leaders,
        lambda one: one.families,
        lambda one: one.best,
    ]
    leader, leaders, kinds, best = ([column(one) for one in found] for column in columns)
    return [_mean(values) for values in (leader, leaders, ahead, kinds, best)]


def _mean(values: list[float]) -> str:
    return f"{fmean(values):.2f} ± {stdev(values) / math.sqrt(len(values)):.2f}"


if __name__ == "__main__":
    main()
