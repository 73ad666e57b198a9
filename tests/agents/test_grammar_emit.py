import ast
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from asiarch.agents.grammar import BASELINE_PROGRAMS, MixerProgram, emit
from asiarch.agents.grammar.edits import draw_change
from asiarch.models.baselines import baseline_path
from asiarch.models.contract import load_mixer_class

ROOT = Path(__file__).resolve().parents[2]


def sample(count: int) -> list[MixerProgram]:
    """Programs along random walks from the three baselines, so that every part occurs in several."""
    rng = np.random.default_rng(7)
    programs: dict[MixerProgram, None] = dict.fromkeys(BASELINE_PROGRAMS.values())
    program = BASELINE_PROGRAMS["delta_net"]
    while len(programs) < count:
        for _ in range(4):
            program = draw_change(program, rng)[1].program
        programs[program] = None
    return list(programs)


SAMPLE = sample(28)


@pytest.mark.parametrize("program", SAMPLE, ids=range(len(SAMPLE)))
def test_emitted_mixer_computes_is_causal_and_trains_every_parameter(program: MixerProgram) -> None:
    torch.manual_seed(0)
    mixer = load_mixer_class(source=emit(program))(hidden_size=32, num_heads=2)
    x = torch.randn(2, 33, 32)
    y = mixer(x)
    assert y.shape == x.shape
    assert 1e-3 < y.std() < 10

    for cut in (1, 16, 32):
        changed = x.clone()
        changed[:, cut:] = torch.randn(2, 33 - cut, 32)
        other = mixer(changed)
        assert torch.allclose(other[:, :cut], y[:, :cut], atol=1e-5)
        assert not torch.allclose(other[:, cut:], y[:, cut:], atol=1e-3)

    borders = torch.tensor([0, 10, 11, 33], dtype=torch.int32)
    alone = [mixer(x[:1, start:end]) for start, end in itertools.pairwise(borders.tolist())]
    packed = mixer(x[:1], cu_seqlens=borders)
    torch.testing.assert_close(packed, torch.cat(alone, dim=1), rtol=1e-4, atol=1e-5)

    (y * torch.randn_like(y)).sum().backward()
    for name, parameter in mixer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


# Parameters that the two files name differently: emitted -> baseline
NAMES = {
    "delta_net": {},
    "gated_delta_net": {"decay_proj.weight": "step_proj.weight"},
    "gla": {
        "decay_proj.0.weight": "decay_down.weight",
        "decay_proj.1.weight": "decay_up.weight",
        "decay_proj.1.bias": "decay_up.bias",
    },
}


@pytest.mark.parametrize("name", BASELINE_PROGRAMS)
def test_emitted_baseline_equals_the_hand_written_one(name: str) -> None:
    torch.manual_seed(1)
    written = load_mixer_class(path=baseline_path(name))(hidden_size=32, num_heads=2)
    emitted = load_mixer_class(source=emit(BASELINE_PROGRAMS[name]))(hidden_size=32, num_heads=2)
    parameters = dict(written.named_parameters())
    emitted.load_state_dict({key: parameters[NAMES[name].get(key, key)] for key in emitted.state_dict()})
    assert len(parameters) == len(emitted.state_dict())
    x = torch.randn(2, 70, 32)
    torch.testing.assert_close(emitted(x), written(x), rtol=1e-5, atol=1e-6)


def test_decays_start_at_the_timescales_of_the_program() -> None:
    """At an input of zero, the emitted decay forgets by 1/e in the tokens that the program says."""
    mixer = load_mixer_class(source=emit(BASELINE_PROGRAMS["gated_delta_net"]))(hidden_size=32, num_heads=4)
    rate = mixer.A_log.exp() * torch.nn.functional.softplus(mixer.dt_bias)
    # 1 to 1000 tokens: the centres of four bins on a log scale
    torch.testing.assert_close(1 / rate, 1000.0 ** torch.tensor([1 / 8, 3 / 8, 5 / 8, 7 / 8]))


def test_emitted_files_are_formatted_and_linted(tmp_path: Path) -> None:
    for index, program in enumerate(SAMPLE):
        motivation = "Made from delta_net.\n" + "Words that say why it may help. " * 12
        (tmp_path / f"candidate{index}.py").write_text(emit(program, motivation))
    for command in (["format", "--check"], ["check", "--no-cache"]):
        ruff = [
            sys.executable,
            "-m",
            "ruff",
            *command,
            "--config",
            str(ROOT / "pyproject.toml"),
            str(tmp_path),
        ]
        done = subprocess.run(ruff, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_only_parts_in_use_appear() -> None:
    source = emit(BASELINE_PROGRAMS["gla"])
    for absent in ("conv", "beta", "l2_norm", "shift", "window", "share", "skip"):
        assert absent not in source


def test_a_motivation_cannot_leave_the_docstring() -> None:
    motivation = '"""\nimport os\n\\"""x\\'
    tree = ast.parse(emit(BASELINE_PROGRAMS["gla"], motivation))
    modules = {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert "import os" in (ast.get_docstring(tree) or "")
    assert modules == {"torch", "torch.nn", "asiarch.kernels"}
    assert not [
        name for node in tree.body if isinstance(node, ast.Import) for name in node.names if name.name == "os"
    ]


def test_wrong_sizes_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="hidden_size 30 is no multiple of num_heads"):
        load_mixer_class(source=emit(BASELINE_PROGRAMS["gla"]))(hidden_size=30, num_heads=4)
