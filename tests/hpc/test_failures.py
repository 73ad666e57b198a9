"""Why a trial ended is told from the exception, and a failure's record is read whatever is in it."""

import json
from pathlib import Path
from typing import get_args

import pytest
import torch

from asiarch.hpc.failures import (
    POLICIES,
    Cause,
    Diverged,
    Implausible,
    MemoryGrowth,
    TooSlow,
    classify,
    last_words,
    read_failure,
)
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
        (OSError(28, "No space left on device"), "storage"),
        (OSError(30, "Read-only file system"), "storage"),
        (FileNotFoundError(2, "No such file"), "environment"),
        (RuntimeError("CUDA error: device-side assert triggered"), "candidate_code"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "gpu_error"),
        (ImportError("No module named x"), "import_error"),
        (UserError("shard is corrupt"), "environment"),
        (ValueError("else"), "training_error"),
    ],
)
def test_causes(error: Exception, cause: str) -> None:
    assert classify(error, Path("architecture.py")) == cause


def test_only_what_a_second_try_can_mend_is_tried_again() -> None:
    of_the_machine = {"environment", "killed", "rank_lost", "no_progress", "bad_result", "storage"}
    of_slurm = {"interrupted", "preempted", "cancelled"}
    of_a_node = {"node_failure", "gpu_error", "nccl_error", "import_error", "sandbox"}
    assert {cause for cause, policy in POLICIES.items() if policy == "resume"} == of_the_machine | of_slurm
    assert {cause for cause, policy in POLICIES.items() if policy == "elsewhere"} == of_a_node
    assert set(POLICIES) == set(get_args(Cause))


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("slurmstepd: error: Detected 1 oom-kill event(s) in StepId=7.0", "host_memory"),
        ("terminate called after throwing an instance of 'std::bad_alloc'", "host_memory"),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", "out_of_memory"),
        ("n1:12:34 [0] misc/socket.cc:50 NCCL WARN socketStartConnect failed", "nccl_error"),
        ("CUDA error: uncorrectable ECC error encountered", "gpu_error"),
        ("ModuleNotFoundError: No module named 'deepspeed'", "import_error"),
        ("OSError: [Errno 28] No space left on device: 'x'", "storage"),
    ],
)
def test_the_log_of_a_dead_process_tells_why(tmp_path: Path, line: str, cause: str) -> None:
    path = tmp_path / "7_0_0_log.err"
    path.write_text("step 1\n" * 50_000 + line + "\x1b[2J\nslurmstepd: error: *** JOB 7 ***\n")
    assert last_words([tmp_path / "none", path]) == (cause, line + " [2J")


def test_a_log_that_says_nothing_leaves_the_cause_open(tmp_path: Path) -> None:
    path = tmp_path / "log.err"
    path.write_text("CUDA error: long ago\n" + "step 1\n" * 50_000)
    assert last_words([path]) is None


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
