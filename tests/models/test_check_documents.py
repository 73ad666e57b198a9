"""The check of document boundaries: a program that takes them must begin anew with each document."""

from pathlib import Path

import pytest

from asiarch.models.check import CheckResult, CheckSettings
from asiarch.models.check.independence import documents
from asiarch.models.check.subject import Subject
from asiarch.models.contract import load_mixer_class, takes_cu_seqlens

PROGRAM = """
import torch
from torch import nn

class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False{signature}):
        {begin}
        parts = [hidden_states] if cu is None else hidden_states.split(cu.diff().tolist(), dim=1)
        return self.proj(torch.cat([part.cumsum(dim=1) for part in parts], dim=1))
"""
PARAMETER = PROGRAM.format(signature=", cu_seqlens=None, **kwargs", begin="cu = cu_seqlens")
KEYWORD = PROGRAM.format(signature=", **kwargs", begin='cu = kwargs.get("cu_seqlens")')
IGNORING = PROGRAM.format(signature=", cu_seqlens=None, **kwargs", begin="cu = None")
UNAWARE = PROGRAM.format(signature=", **kwargs", begin="cu = None")


def checked(tmp_path: Path, text: str, needed: bool = True) -> CheckResult:
    file = tmp_path / "architecture.py"
    file.write_text(text)
    settings = CheckSettings(hidden_size=16, document_boundaries=needed)
    return documents(Subject(load_mixer_class(file), settings, str(file)))


@pytest.mark.parametrize("text", [PARAMETER, KEYWORD], ids=["parameter", "keyword"])
def test_a_program_that_begins_anew_passes(tmp_path: Path, text: str) -> None:
    result = checked(tmp_path, text)
    assert result.passed, result.message
    assert result.measured["interventions"] == 10


def test_a_program_that_sees_earlier_documents_is_refused_where_they_are_handed_out(tmp_path: Path) -> None:
    """Elsewhere it is only said: layers like flash-linear-attention's look for boundaries without keeping them."""
    result = checked(tmp_path, IGNORING)
    assert not result.passed
    assert "behind others, with cu_seqlens" in result.message
    for text in (IGNORING, IGNORING.replace("cu = None", "assert cu_seqlens is None; cu = None")):
        told = checked(tmp_path, text, needed=False)
        assert told.passed
        assert str(told.measured["kept apart"]).startswith("no")


def test_a_program_that_takes_none_is_refused_only_where_they_are_needed(tmp_path: Path) -> None:
    assert not takes_cu_seqlens(load_mixer_class(source=UNAWARE))
    assert checked(tmp_path, UNAWARE, needed=False).passed
    result = checked(tmp_path, UNAWARE)
    assert not result.passed
    assert "does not name cu_seqlens, which data.document_boundaries needs" in result.message
