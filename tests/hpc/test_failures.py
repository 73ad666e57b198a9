"""Why a trial ended is told from the exception, and a failure's record is read whatever is in it."""

import json
from pathlib import Path

import pytest
import torch

from asiarch.hpc.failures import RETRIED, Diverged, Implausible, MemoryGrowth, TooSlow, classify, read_failure
from asiarch.models.contract import load_mixer_class
from asiarch.models.errors import UserError

PROGRAM = """
import torch
from torch import nn

class Broken(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        return hidden_states @ torch.zeros(3, 3)
"""


def test_an_error_inside_of_the_program_is_the_program_s(tmp_path: Path) -> None:
    path = tmp_path / "architecture.py"
    path.write_text(PROGRAM)
    mixer = load_mixer_class(path)(hidden_size=8, num_heads=2)
    with pytest.raises(RuntimeError) as caught:
        mixer(torch.zeros(1, 2, 8))
    assert classify(caught.value, path) == "candidate_code"


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (Diverged("nan"), "diverged"),
        (Implausible("low"), "implausible"),
        (TooSlow("slow"), "too_slow"),
        (MemoryGrowth("more"), "memory_growth"),
        (MemoryError(), "out_of_memory"),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate"), "out_of_memory"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out_of_memory"),
        (OSError(28, "No space left on device"), "environment"),
        (UserError("shard is corrupt"), "environment"),
        (ValueError("else"), "training_error"),
    ],
)
def test_causes(error: Exception, cause: str) -> None:
    assert classify(error, Path("architecture.py")) == cause


def test_only_what_a_second_try_can_mend_is_tried_again() -> None:
    of_the_machine = {"environment", "killed", "rank_lost", "no_progress", "bad_result"}
    of_slurm = {"interrupted", "preempted", "node_failure"}
    assert of_the_machine | of_slurm == RETRIED


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b'{"cause": "x"}', b"\xff\xfe", b"null"])
def test_an_unreadable_record_is_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "failure.json"
    path.write_bytes(content)
    assert read_failure(path) is None


def test_hostile_words_are_made_harmless(tmp_path: Path) -> None:
    path = tmp_path / "failure.json"
    path.write_text(json.dumps({"cause": "\x1b[31mkilled", "detail": "a\x1b]0;title\x07\nb"}))
    assert read_failure(path) == ("training_error", "a ]0;title  b")


def test_a_record_is_read_and_cut(tmp_path: Path) -> None:
    path = tmp_path / "failure.json"
    path.write_text(json.dumps({"cause": "diverged", "detail": "x" * 10_000}))
    cause, detail = read_failure(path) or ("", "")
    assert (cause, len(detail)) == ("diverged", 300)
    assert read_failure(tmp_path / "none.json") is None
