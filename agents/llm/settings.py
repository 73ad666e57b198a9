"""What a campaign sets for the roles, and the seed of each call."""

import hashlib
from dataclasses import dataclass
from typing import Literal

EditFormat = Literal["whole", "blocks"]


@dataclass(frozen=True)
class RoleSettings:
    """How the roles ask. Lengths are in tokens. Raises ValueError for a value that makes no sense."""

    seed: int = 0  # the campaign's
    edits: EditFormat = "whole"  # programs come as a whole or as search-and-replace blocks
    context: int = 32768  # of the served model: prompt and answer together
    program_tokens: int = 4096  # the longest answer that holds a program
    text_tokens: int = 800  # the longest answer without one
    temperature: float = 0.8  # of the planner; the others have their own, lower ones
    plan_tries: int = 3  # plans for one candidate, as long as they are duplicates
    repair_tries: int = 3  # repairs of one program
    cards: int = 4  # of the cognition base, at most, in a plan's prompt; 0 for none
    neighbours: int = 5  # known candidates beside which novelty is judged; 0: by exact equality alone
    calibrations: int = 2  # answers in either order for each anchor of the judge

    def __post_init__(self) -> None:
        least = {
            "context": 1024,
            "program_tokens": 128,
            "text_tokens": 128,
            "plan_tries": 1,
            "calibrations": 2,
        }
        least |= {"repair_tries": 0, "cards": 0, "neighbours": 0}
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                raise ValueError(f"{name} must be {lowest} or more, not {getattr(self, name)}")
        if self.edits not in ("whole", "blocks"):
            raise ValueError(f"edits must be whole or blocks, not {self.edits!r}")
        if not 0 <= self.temperature <= 2:
            raise ValueError(f"temperature must be 0 to 2, not {self.temperature}")

    def call_seed(self, role: str, candidate: int, turn: str) -> int:
        """The seed (31 bits) of one call: the same for the same campaign seed, role, candidate and turn."""
        text = f"{self.seed}/{candidate}/{role}/{turn}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
