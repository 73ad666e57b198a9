import ast
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asiarch.agents.novelty import fingerprint

PROGRAM = '''
"""A mixer."""
import torch
import torch.nn.functional as F
from torch import nn


def decay_times(count: int, base: float = 2.0) -> torch.Tensor:
    """Powers."""
    return base ** torch.arange(count)


class Mixer(nn.Module):
    """Doc."""

    def __init__(self, hidden_size: int, num_heads: int, layer_idx=None, **config):
        super().__init__()
        self.heads = num_heads
        self.proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.register_buffer("slopes", decay_times(num_heads, base=3.0))

    def _split(self, tensor, parts):
        return [piece for piece in tensor.chunk(parts, dim=-1)]

    def forward(self, hidden_states, attention_mask=None, **kwargs):
        inner = self.proj(hidden_states)  # project
        first, second = self._split(tensor=inner, parts=2)
        scale = (lambda value: value * 2)(1.5)
        return torch.cat([F.silu(first) * scale, second], dim=-1) * self.slopes.mean()
'''


def renamed(pairs: dict[str, str]) -> str:
    """The program with whole words replaced; for names that occur as nothing else."""
    return re.sub(r"\w+", lambda word: pairs.get(word.group(), word.group()), PROGRAM)


@pytest.mark.parametrize(
    "same",
    [
        ast.unparse(ast.parse(PROGRAM)),
        PROGRAM.replace("# project", "# something else").replace('"""Doc."""', '"""Other words."""'),
        PROGRAM.replace('    """Doc."""\n', ""),
        PROGRAM.replace(": int", "").replace(": float", "").replace(" -> torch.Tensor", ""),
        PROGRAM.replace("tensor=inner, parts=2", "parts=2, tensor=inner"),
        PROGRAM.replace("F.", "torch.nn.functional.").replace("import torch.nn.functional as F\n", ""),
        re.sub(r"\bnn\.(L|M)", r"layers.\1", PROGRAM.replace("import nn", "import nn as layers")),
        renamed({"Mixer": "Thing"}),
        renamed({"first": "a", "second": "b", "inner": "c"}),
        renamed({"proj": "projection", "heads": "h", "_split": "_cut"}),
        renamed({"slopes": "rates"}),
        renamed({"tensor": "t", "parts": "n"}),
        renamed({"decay_times": "powers", "base": "b", "count": "n"}),
        renamed({"piece": "p", "value": "z"}),
    ],
    ids=[
        "formatting", "comments", "docstring", "annotations", "keyword order", "import style",
        "import alias", "class", "locals", "attributes", "buffer", "parameters", "function", "inner scopes",
    ],
)  # fmt: skip
def test_what_does_not_compute_does_not_count(same: str) -> None:
    assert fingerprint(same) == fingerprint(PROGRAM)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("1.5", "1.25"),
        ("value * 2", "value + 2"),
        ("bias=False", "bias=True"),
        ("F.silu", "F.relu"),
        ("dim=-1) *", "dim=1) *"),
        ("first) * scale, second]", "second) * scale, first]"),
        ("nn.Linear", "nn.Bilinear"),
        ("base=3.0", "count=3.0"),
        (".mean()", ".sum()"),
        ("self.heads = num_heads", "self.heads = hidden_size"),
        ("first, second =", "second, first ="),
        ("def forward", "def backward"),
        ("import torch.nn.functional as F", "import torch.special as F"),
    ],
)
def test_what_computes_counts(old: str, new: str) -> None:
    changed = PROGRAM.replace(old, new)
    assert changed != PROGRAM
    assert fingerprint(changed) != fingerprint(PROGRAM)


def test_scopes_are_kept_apart() -> None:
    outer = "def f(x):\n    y = 1\n    return [x for x in range(y)], x"
    assert fingerprint(outer) == fingerprint(outer.replace("[x for x in", "[z for z in"))
    assert fingerprint(outer) != fingerprint(outer.replace("], x", "], y"))


NAMES = st.sampled_from(["a", "b", "c", "d", "loss", "state"])


@given(st.lists(NAMES, min_size=4, max_size=4, unique=True), st.lists(NAMES, min_size=4, max_size=4))
def test_names_count_only_by_which_are_equal(unique: list[str], names: list[str]) -> None:
    """Two straight-line functions have the same print exactly when one is a renaming of the other."""

    def function(p: str, q: str, r: str, s: str) -> str:
        lines = [
            "def g(p0):",
            f"{p} = p0",
            f"{q} = p0 + 1",
            f"{r} = {p} * {q}",
            f"{s} = {r} - {q}",
            f"return {s}",
        ]
        return "\n    ".join(lines)

    pattern = [names.index(name) for name in names]
    same = pattern == [0, 1, 2, 3]
    assert (fingerprint(function(*unique)) == fingerprint(function(*names))) == same


def test_refuses_what_is_not_python() -> None:
    with pytest.raises(SyntaxError):
        fingerprint("class Mixer(:")
