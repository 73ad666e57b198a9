"""From a program to a PyTorch file that a person would keep: only the parts in use, in reading order."""

import re
import textwrap

from asiarch.agents.grammar.describe import class_name, equations, legend
from asiarch.agents.grammar.layers import draft
from asiarch.agents.grammar.program import MixerProgram, valid

LINE_LENGTH = 110

_HELPERS = {
    "convolution_weight": '''
def convolution_weight(channels: int, width: int) -> nn.Parameter:
    """Depthwise filters (channels, width), initialised as nn.Conv1d does."""
    bound = width**-0.5
    return nn.Parameter(torch.empty(channels, width).uniform_(-bound, bound))
''',
    "low_rank": '''
def low_rank(channels: int, rank: int, bias: bool) -> nn.Sequential:
    """A projection that keeps the number of channels and passes through `rank` of them."""
    return nn.Sequential(nn.Linear(channels, rank, bias=False), nn.Linear(rank, channels, bias=bias))
''',
    "rotary": '''
def rotary(x: torch.Tensor, base: float = 10000.0) -> torch.Tensor:
    """Rotate pairs of channels of x (B, L, H, K), K even, by the position (Su et al., 2021)."""
    length, dim = x.shape[1], x.shape[-1]
    frequency = base ** (-torch.arange(0, dim, 2, device=x.device) / dim)
    angle = torch.arange(length, device=x.device)[:, None, None] * frequency
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)
''',
    "timescales": '''
def timescales(shortest: float, longest: float, count: int) -> torch.Tensor:
    """`count` decay times in tokens, spread evenly between the two on a log scale."""
    return shortest * (longest / shortest) ** ((torch.arange(count) + 0.5) / count)
''',
}


def emit(program: MixerProgram, motivation: str = "") -> str:
    """The source of a program's architecture.py, formatted as `ruff format` would (110 columns).

    `motivation` goes into the module's docstring, a paragraph a line. Raises ValueError for a program that
    makes no sense.
    """
    if reasons := valid(program):
        raise ValueError(f"mixer program makes no sense: {'; '.join(reasons)}")
    body = draft(program)
    helpers = "".join(f"{_HELPERS[name]}\n" for name in sorted(body.helpers))
    mixer = _class(program, body.init, body.forward)
    return f"{_docstring(program, motivation)}\n{_imports(helpers + mixer, body.kernels)}\n{helpers}\n{mixer}"


def _docstring(program: MixerProgram, motivation: str) -> str:
    # the text may come from elsewhere: nothing in it may end the docstring or escape
    safe = motivation.replace("\\", "/").replace('"', "'")
    paragraphs = [textwrap.fill(part, LINE_LENGTH) for part in safe.split("\n") if part.strip()]
    formulas = "\n".join(f"    {line}" for line in equations(program))
    letters = textwrap.fill(legend(program), LINE_LENGTH, initial_indent="    ", subsequent_indent="    ")
    text = "\n\n".join(
        [f"{class_name(program)}: a causal token mixer.", *paragraphs, formulas, letters]
    ).rstrip()
    return f'"""{text}\n"""\n'


def _imports(code: str, kernels: set[str]) -> str:
    lines = ["import torch"] if re.search(r"\btorch\.", code) else []
    lines.append("from torch import nn")
    lines += ["from torch.nn import functional"] if "functional." in code else []
    lines.append("")
    names = sorted(kernels)
    line = f"from asiarch.kernels import {', '.join(names)}"
    if len(line) > LINE_LENGTH:
        line = "\n".join(["from asiarch.kernels import (", *(f"    {name}," for name in names), ")"])
    return "\n".join([*lines, line, ""])


def _class(program: MixerProgram, init: list[str], forward: list[str]) -> str:
    even = bool(program.window and program.window.rotary)
    signature = "self, hidden_size: int, num_heads: int, layer_idx: int | None = None, **config"
    inputs = "self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs"
    unit, what = ("2 * num_heads", "twice num_heads") if even else ("num_heads", "num_heads")
    opening = [
        "super().__init__()",
        f"if hidden_size % {f'({unit})' if even else unit}:",
        f'    raise ValueError(f"hidden_size {{hidden_size}} is no multiple of {what} ({{{unit}}})")',
        "self.num_heads = num_heads",
        "self.head_dim = hidden_size // num_heads",
    ]
    lines = [
        f"class {class_name(program)}(nn.Module):",
        '    """(B, L, hidden_size) to the same shape; each head has hidden_size / num_heads channels."""',
        "",
        f"    def __init__({signature}):",
        *_indented(opening + init),
        "",
        f"    def forward({inputs}):",
        *_indented(forward),
    ]
    return "\n".join(lines) + "\n"


def _indented(lines: list[str]) -> list[str]:
    return [f"        {line}" if line else "" for line in lines]
