"""What `doctor` says of the LLM that a campaign names."""

import json
from pathlib import Path

import pytest

from asiarch.hpc.config import load_config
from asiarch.hpc.config_llm import LlmConfig
from asiarch.hpc.doctor.language_model import (
    GIB,
    Weights,
    cache_bytes,
    examine_language_model,
    examine_memory,
)
from campaigns import write_campaign

# as published with the models
QWEN_32B = {"num_hidden_layers": 64, "num_attention_heads": 40, "num_key_value_heads": 8, "hidden_size": 5120}
LLAMA_8B = {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096}


def section(tmp_path: Path, *values: str) -> LlmConfig:
    return load_config(write_campaign(tmp_path), [f"llm.{value}" for value in values]).llm


def weights(folder: Path, size: int = 1000, **config: int) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**LLAMA_8B, "dtype": "bfloat16", **config}))
    (folder / "model.safetensors").write_bytes(b"0" * size)
    return folder


def test_the_cache_of_known_models() -> None:
    # 128 and 256 KiB a token, as the makers of serving software state
    assert cache_bytes({**LLAMA_8B, "torch_dtype": "bfloat16"}) == 128 * 1024
    assert cache_bytes({**QWEN_32B, "torch_dtype": "bfloat16"}) == 256 * 1024
    assert cache_bytes({**QWEN_32B, "dtype": "float32"}) == 512 * 1024


@pytest.mark.parametrize(
    ("gib", "gpus", "level"),
    # 60 GiB of weights (a model of 32B in bfloat16): one GPU of 80 GiB holds one context
    # of 32k (8 GiB), not eight; one of 64 GiB holds none
    [(80, 1, "warning"), (80, 2, "ok"), (64, 1, "error")],
)
def test_what_fits_a_gpu(tmp_path: Path, gib: int, gpus: int, level: str) -> None:
    llm = section(
        tmp_path, "model=/w", "context=32768", "parallel=8", f"tensor_parallel={gpus}", "answer=4096"
    )
    model = Weights(60 * GIB, cache_bytes({**QWEN_32B, "dtype": "bfloat16"}), 131072)
    assert pytest.approx(9.0) == 0.9 * 80 - 3 - 60  # the room for the cache on one of 80
    finding = examine_memory(llm, model, gib * GIB)
    assert finding.level == level, finding
    assert finding.remedy or level == "ok"


def test_a_context_longer_than_the_model_was_made_for(tmp_path: Path) -> None:
    llm = section(tmp_path, "model=/w", "context=8192")
    finding = examine_memory(llm, Weights(1, 1, 2048), 0)
    assert finding.level == "error"
    assert "set llm.context to 2048 or less" in finding.remedy


def found(llm: LlmConfig) -> dict[str, tuple[str, str]]:
    return {one.what: (one.level, one.found) for one in examine_language_model(llm)}


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(section(tmp_path, f"model={tmp_path}/none"))["LLM weights"][0] == "error"
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts/poet.md").write_text("a\n---\nb")
    folder = weights(tmp_path / "w")
    seen = found(section(tmp_path, f"model={folder}", "python=/no/python", f"prompts={tmp_path}/prompts"))
    assert seen["LLM weights"] == ("ok", f"{folder}: 0.0 GiB")
    assert seen["vLLM"][0] == "error"
    assert "poet.md: no prompt has this name" in seen["prompts and cards"][1]
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    given = section(tmp_path, "base_url='http://a/v1'", "model=m", "api_key=NO_SUCH_KEY")
    assert found(given)["LLM"] == ("error", "llm.api_key: the variable NO_SUCH_KEY is not set")


def test_an_interpreter_without_vllm(tmp_path: Path) -> None:
    seen = found(section(tmp_path, f"model={weights(tmp_path / 'w')}"))
    assert seen["vLLM"][0] == "error"
    assert "has no vllm" in seen["vLLM"][1]
