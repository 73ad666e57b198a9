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
QWEN_32B |= {"vocab_size": 152064, "max_position_embeddings": 32768}
QWEN3_480B = {"num_hidden_layers": 62, "num_attention_heads": 96, "num_key_value_heads": 8, "head_dim": 128}
QWEN3_480B |= {"hidden_size": 6144, "vocab_size": 151936, "max_position_embeddings": 262144}
DEEPSEEK_V3 = {"num_hidden_layers": 61, "num_attention_heads": 128, "num_key_value_heads": 128}
DEEPSEEK_V3 |= {"hidden_size": 7168, "kv_lora_rank": 512, "qk_rope_head_dim": 64}
CAMPAIGNS = Path(__file__).parents[2] / "campaigns"
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
    # DeepSeek-V3's report gives 70.272 KB
    assert cache_bytes({**DEEPSEEK_V3, "torch_dtype": "bfloat16"}) == 70_272


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


@pytest.mark.parametrize(
    ("name", "gib", "config", "words"),
    [
        # 0.9 x 79 - 3 = 68.1 GiB for weights and cache on each. Embeddings, 2 x 152,064 x 5,120 x 2 bytes = 2.9 GiB,
        # stay; the rest of 61 halves: 32.0. A context: 16,384 x 256 KiB = 4 GiB; 36.1 / 4
        ("llm-one-gpu", 61, QWEN_32B, "9.0 full contexts of 16384 tokens fit 1 x 79 GiB"),
        # 8 x 68.1 - 450 = 94.8; a context: 32,768 x 248 KiB = 7.75 GiB
        ("llm-node", 450, QWEN3_480B, "12.2 full contexts of 32768 tokens fit 8 x 79 GiB"),
    ],
)
def test_the_shipped_campaigns_fit_cards_of_80_gb(
    name: str, gib: int, config: dict[str, int], words: str
) -> None:
    llm = load_config(CAMPAIGNS / f"{name}.yaml", []).llm
    assert llm.model is not None
    model = Weights.of(gib * GIB, {**config, "torch_dtype": "bfloat16"})
    finding = examine_memory(llm, model, 79 * GIB, llm.tensor_parallel)
    assert finding.level == "ok", finding
    assert finding.found.startswith(words)


@pytest.mark.parametrize(
    ("values", "config", "gpus", "level", "words"),
    [
        (["tensor_parallel=8"], QWEN_32B, 4, "error", "tensor_parallel is 8, and there are 4 GPUs here"),
        (["tensor_parallel=3"], QWEN_32B, 8, "error", "3 GPUs cannot share 40 heads of attention evenly"),
        # 2 x 68.1 - 61 = 75.2 GiB by 1 GiB of 4,096 tokens, or by half of that
        (["tensor_parallel=2"], QWEN_32B, 8, "ok", "75.2 full contexts"),
        (["tensor_parallel=2", "arguments=[--kv-cache-dtype=fp8]"], QWEN_32B, 8, "ok", "150.4 full contexts"),
        # every GPU holds the one latent vector: 61 x 576 x 2 x 4,096 bytes x 8 = 2.14 GiB; (8 x 68.1 - 61) / 2.14
        (["tensor_parallel=8"], DEEPSEEK_V3, 8, "ok", "225.6 full contexts"),
        # weights that are in 8 bits already stay as they are
        (
            ["arguments=[--quantization, fp8]"],
            {**QWEN_32B, "quantization_config": 1},
            1,
            "ok",
            "7.1 full contexts",
        ),
    ],
)
def test_what_the_arithmetic_knows(
    tmp_path: Path, values: list[str], config: dict[str, int], gpus: int, level: str, words: str
) -> None:
    llm = section(tmp_path, "model=/w", "context=4096", "answer=1024", "parallel=4", *values)
    finding = examine_memory(llm, Weights.of(61 * GIB, {**config, "torch_dtype": "bfloat16"}), 79 * GIB, gpus)
    assert finding.level == level, finding
    assert words in finding.found


def test_without_a_gpu_the_needs_are_said(tmp_path: Path) -> None:
    llm = section(tmp_path, "model=/w", "context=4096", "answer=1024")
    found = examine_memory(llm, Weights.of(61 * GIB, {**QWEN_32B, "dtype": "bfloat16"}), 0).found
    assert found.startswith("weights 61.0 GiB, and 1.0 for each full context; no GPU here")


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
