"""The checks accept honest programs and refuse, by the right check, ones with a known fault."""

import json
import textwrap
from pathlib import Path

import pytest
import torch

from asiarch.models.check import CheckReport, CheckResult, CheckSettings
from asiarch.models.check.program import CHECK_NAMES, check_program
from asiarch.models.check.report import number
from asiarch.models.contract import ContractError

HEAD = """
import torch
import torch.nn.functional as F
from torch import nn

class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)
        {init}

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        batch, length, width = x.shape
{forward}
"""


def program(forward: str, init: str = "pass") -> str:
    """A mixer with the given body of forward, which has x (batch, length, width) and self.proj."""
    body = textwrap.indent(textwrap.dedent(forward).strip(), " " * 8)
    return HEAD.format(init=textwrap.dedent(init).strip().replace("\n", "\n        "), forward=body)


ATTENTION = """
scores = self.proj(x) @ x.transpose(1, 2) * width**-0.5
position = torch.arange(length)
distance = position[:, None] - position[None, :]
scores = scores.masked_fill({hidden}, float("-inf"))
return scores.softmax(-1) @ x
"""
FFT = """
spectrum = torch.fft.rfft(self.proj(x), n={size}, dim=1)
kernel = torch.fft.rfft(torch.exp(-self.decay.abs() * torch.arange(length)[:, None]), n={size}, dim=0)
return torch.fft.irfft(spectrum * kernel, n={size}, dim=1)[:, :length]
"""
DECAY = "self.decay = nn.Parameter(torch.rand(hidden_size) + 0.1)"
GATE = "self.gate = nn.Parameter(torch.zeros(1))"

HONEST = {
    "cumulative mean": program(
        "return self.proj(x.cumsum(1) / torch.arange(1, length + 1, dtype=x.dtype)[:, None])"
    ),
    "depthwise convolution": program(
        "return self.proj(self.conv(F.pad(x.transpose(1, 2), (3, 0))).transpose(1, 2)), None",
        "self.conv = nn.Conv1d(hidden_size, hidden_size, 4, groups=hidden_size)",
    ),
    "recurrence in a loop": program(
        """
        state = torch.zeros_like(x[:, 0])
        outputs = []
        for t in range(length):
            state = torch.tanh(self.proj(state) + x[:, t])
            outputs.append(state)
        return torch.stack(outputs, 1), None, None
        """
    ),
    "gate at zero": program("return self.gate * self.proj(x.cumsum(1))", GATE),
    "padded FFT": program(FFT.format(size="2 * length"), DECAY),
    "dropout": program("return F.dropout(self.proj(x), 0.2, training=self.training)"),
    "float32 inside": program("return self.proj(x.float().cumsum(1).to(x.dtype))"),
}

CHUNKED = """
outputs = []
for chunk in x.split(64, 1):
    outputs.append((chunk @ chunk.transpose(1, 2) / width).softmax(-1) @ chunk)
return self.proj(torch.cat(outputs, 1))
"""

# fault: (program, the check that must refuse it, a part of its message)
FAULTY = {
    "mean over time": (program("return self.proj(x + x.mean(1, keepdim=True))"), "causal", "length axis"),
    "no mask": (program(ATTENTION.format(hidden="distance < -length")), "causal", "causal mask"),
    "local attention by a whole matrix": (
        program(ATTENTION.format(hidden="(distance < 0) | (distance > 15)")),
        "cost",
        "length by length",
    ),
    "no mask in chunks": (program(CHUNKED), "causal", "inside chunks of 64"),
    "circular FFT": (program(FFT.format(size="length"), DECAY), "causal", "FFT"),
    "roll": (program("return self.proj(torch.roll(x, 1, 1))"), "causal", "torch.roll"),
    "looks one ahead": (
        program("return self.proj(F.pad(x[:, 1:], (0, 0, 0, 1)))"),
        "causal",
        "looks 1 ahead",
    ),
    "batch norm": (
        program(
            "return self.norm(self.proj(x).transpose(1, 2)).transpose(1, 2)",
            "self.norm = nn.BatchNorm1d(hidden_size)",
        ),
        "batch",
        "batch norm",
    ),
    "batch mean": (program("return self.proj(x - x.mean(0, keepdim=True))"), "batch", "mean"),
    "statistics over time": (
        program("return self.proj(x / x.square().mean(1, keepdim=True).sqrt())"),
        "causal",
        "norm",
    ),
    "leak behind a gate": (
        program("return self.proj(x) + self.gate * x.mean(1, keepdim=True)", GATE),
        "causal",
        "noise added to the parameters",
    ),
    "faint leak": (program("return self.proj(x + 1e-6 * x.flip(1))"), "causal", "float64"),
    "leak in train mode": (
        program("return self.proj(x + (x.mean(1, keepdim=True) if self.training else 0))"),
        "causal",
        "train mode",
    ),
    "leak in the last layer": (
        program("return self.proj(x + self.last * x.mean(1, keepdim=True))", "self.last = layer_idx"),
        "causal",
        "layer 1",
    ),
    "divided by the length": (program("return self.proj(x.cumsum(1) / length)"), "prefix", "cutting"),
    "state between calls": (
        program(
            "seen = self.seen\nself.seen = x.detach().mean((0, 1))\nreturn self.proj(x + seen)",
            "self.register_buffer('seen', torch.zeros(hidden_size))",
        ),
        "deterministic",
        "in between",
    ),
    "noise in eval mode": (
        program("return self.proj(x + torch.randn_like(x))"),
        "deterministic",
        "another seed",
    ),
    "unused parameter": (
        program("return self.proj(x)", "self.spare = nn.Linear(2, 2)"),
        "gradients",
        "spare.weight",
    ),
    "unused parameter beside an overflow": (
        program(
            "return self.proj(x) + 0 * (30 * self.loud).exp() * self.spare",
            "self.loud, self.spare = nn.Parameter(torch.zeros(())), nn.Parameter(torch.ones(()))",
        ),
        "gradients",
        "spare",
    ),
    "detached input": (program("return self.proj(x.detach())"), "gradients", "the input"),
    "NaN": (program("return self.proj(x).log()"), "forward_backward", "NaN"),
    "wrong shape": (program("return self.proj(x)[:, :, :-1]"), "forward_backward", "shape"),
    "not a tensor": (program("return [self.proj(x)]"), "forward_backward", "list"),
    "lengths of 64 only": (
        program("return self.proj(x.view(batch, length // 64, 64, width).flatten(1, 2))"),
        "forward_backward",
        "at line 15",
    ),
    "too loud": (program("return self.proj(x) * 1e5"), "scale", "rms"),
    "unknown argument": (program("return self.proj(x)").replace("num_heads", "heads"), "construct", "heads"),
    "no keywords": (
        program("return self.proj(x)").replace("past_key_values=None, use_cache=False, **kwargs", ""),
        "construct",
        "past_key_values",
    ),
    "100 GB": (
        program("return self.proj(x) + torch.empty(25 * 2**30)[0].expand(1)", "self.a = torch.empty(10**15)"),
        "construct",
        "alloc",
    ),
    "too large": (
        program("return self.proj(x) + self.big(x)[..., :1]", "self.big = nn.Linear(hidden_size, 2000)"),
        "size",
        "",
    ),
    "imports os": ("import os\n" + program("return self.proj(x)"), "policy", ":1: imports os"),
}


def report(text: str, folder: Path) -> CheckReport:
    file = folder / "architecture.py"
    file.write_text(text)
    before = torch.get_rng_state()
    result = check_program(file, CheckSettings())
    assert torch.equal(before, torch.get_rng_state())
    return result


def by_name(result: CheckReport) -> dict[str, CheckResult]:
    return {check.name: check for check in result.checks}


@pytest.mark.parametrize("name", HONEST)
def test_honest_program_is_accepted(name: str, tmp_path: Path) -> None:
    result = report(HONEST[name], tmp_path)
    assert result.accepted, result.refusals
    assert tuple(check.name for check in result.checks) == CHECK_NAMES


@pytest.mark.parametrize("name", FAULTY)
def test_faulty_program_is_refused_by_the_right_check(name: str, tmp_path: Path) -> None:
    text, expected, message = FAULTY[name]
    result = report(text, tmp_path)
    assert not result.accepted
    refusal = by_name(result)[expected]
    assert not refusal.passed
    assert refusal.was_run
    assert message in refusal.message
    assert "\n" not in refusal.message
    assert CheckReport.from_json(result.to_json()) == result


def test_later_checks_are_not_run_once_the_program_cannot_run(tmp_path: Path) -> None:
    result = report(program("raise ValueError('broken')"), tmp_path)
    assert [check.name for check in result.refusals] == ["forward_backward"]
    later = result.checks[CHECK_NAMES.index("forward_backward") + 1 :]
    assert len(later) == len(CHECK_NAMES) - 3
    for check in later:
        assert (check.passed, check.measured, check.was_run) == (False, {}, False)
        assert check.message == "not run: refused by forward_backward"


def test_a_refusal_does_not_stop_the_checks_after_it(tmp_path: Path) -> None:
    fault = "self.spare = nn.Parameter(torch.ones(2))"
    result = report(program("return self.proj(x + x.mean(1, keepdim=True)) * 1e5", fault), tmp_path)
    assert {"causal", "gradients", "scale"} <= {check.name for check in result.refusals}
    assert all(check.was_run for check in result.checks)


def test_missing_file_is_not_a_refusal(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"nowhere\.py: cannot be read"):
        check_program(tmp_path / "nowhere.py")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("nonsense", "not a check report"),
        ('{"format": 2}', "format 2"),
        ('{"format": 1, "accepted": true, "file": "a", "sha256": "", "seconds": 0, "checks": []}', "verdict"),
        ('{"format": 1, "file": "a"}', "not a check report"),
    ],
)
def test_text_that_is_no_report_is_rejected(value: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        CheckReport.from_json(value)


def test_numbers_that_json_lacks_survive_the_round_trip() -> None:
    check = CheckResult(
        "causal", False, {"movement": number(float("inf")), "position": 3, "lengths": [1, 2]}, "x"
    )
    result = CheckReport.of("a.py", "0" * 64, 1.5, [check])
    assert CheckReport.from_json(result.to_json()) == result
    assert json.loads(result.to_json())["format"] == 1
