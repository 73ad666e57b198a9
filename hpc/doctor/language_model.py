"""The LLM that a campaign names: its weights, vLLM's environment, its key, its prompts and cards, and what fits."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asiarch.agents.cognition import load_cards
from asiarch.agents.llm.prompts import Prompts
from asiarch.hpc.config_llm import LlmConfig
from asiarch.hpc.doctor.findings import Finding
from asiarch.models.errors import UserError

GIB = 1 << 30
WORKSPACE_GIB = 3.0  # activations, CUDA graphs and the context of CUDA itself, on each GPU
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
INSTALL = "pip install 'asiarch-hpc[vllm]', or name llm.python (without a GPU: campaigns/llm-cpu/setup.sh makes one)"


def examine_language_model(llm: LlmConfig) -> Iterator[Finding]:
    """Look at everything that the section `llm` names, starting nothing."""
    yield _texts(llm)
    if llm.base_url is not None:
        yield _key(llm)
        return
    assert llm.model is not None
    try:
        model = Weights.read(Path(llm.model))
    except UserError as error:
        yield Finding(
            "LLM weights", "error", str(error), "give llm.model a folder as Hugging Face stores models"
        )
        return
    yield Finding("LLM weights", "ok", f"{llm.model}: {model.bytes / GIB:.1f} GiB")
    yield _vllm(llm)
    yield examine_memory(llm, model, _gpu_bytes())


@dataclass(frozen=True)
class Weights:
    """A model's size: of its weights, and of what the cache holds for each token (keys and values, all layers)."""

    bytes: int
    cache_bytes: int
    longest: int  # tokens that it was made for; 0 where it does not say

    @classmethod
    def read(cls, folder: Path) -> "Weights":
        """From a folder in Hugging Face's layout. Raises UserError where it is none."""
        try:
            config = json.loads((folder / "config.json").read_bytes())
        except (OSError, ValueError) as error:
            raise UserError(f"{folder}/config.json cannot be read: {error}") from None
        sizes = [path.stat().st_size for path in folder.glob("*.safetensors")]
        sizes = sizes or [path.stat().st_size for path in folder.glob("*.bin")]
        if not sizes:
            raise UserError(f"{folder} has a config.json and no weights (*.safetensors)")
        return cls(sum(sizes), cache_bytes(config), int(config.get("max_position_embeddings", 0)))


def cache_bytes(config: dict[str, Any]) -> int:
    """Bytes that a token takes in the cache: 2 (key, value) x layers x key-value heads x head size x their width."""
    heads = int(config.get("num_attention_heads", 0))
    head_size = int(config.get("head_dim") or int(config.get("hidden_size", 0)) // max(1, heads))
    shared = int(config.get("num_key_value_heads", heads))
    width = _BYTES.get(str(config.get("torch_dtype") or config.get("dtype")), 2)
    return 2 * int(config.get("num_hidden_layers", 0)) * shared * head_size * width


def examine_memory(llm: LlmConfig, model: Weights, gpu_bytes: int) -> Finding:
    """Whether the weights, and how many full contexts, fit the GPUs of the head."""
    what = "LLM memory"
    if model.longest and llm.context > model.longest:
        remedy = f"set llm.context to {model.longest} or less"
        return Finding(
            what, "error", f"context {llm.context} is more than the model's {model.longest}", remedy
        )
    if gpu_bytes == 0:
        return Finding(what, "ok", "no GPU here to measure it on; on a CPU vLLM takes the machine's memory")
    room = llm.tensor_parallel * (llm.gpu_memory * gpu_bytes - WORKSPACE_GIB * GIB) - model.bytes
    gpus = f"{llm.tensor_parallel} x {gpu_bytes / GIB:.0f} GiB"
    contexts = room / max(1, model.cache_bytes * llm.context)
    if contexts < 1:
        return Finding(
            what,
            "error",
            f"weights of {model.bytes / GIB:.1f} GiB leave {room / GIB:.1f} GiB of {gpus} for the cache, and one "
            f"context of {llm.context} tokens takes {model.cache_bytes * llm.context / GIB:.1f}",
            "more llm.tensor_parallel, a shorter llm.context, or a smaller or quantised model",
        )
    words = f"{contexts:.1f} full contexts of {llm.context} tokens fit {gpus} beside the weights"
    if contexts < llm.parallel:
        return Finding(
            what, "warning", words, f"llm.parallel {llm.parallel} will wait for one another at times"
        )
    return Finding(what, "ok", words)


def _gpu_bytes() -> int:
    import torch

    return int(torch.cuda.get_device_properties(0).total_memory) if torch.cuda.is_available() else 0


def _vllm(llm: LlmConfig) -> Finding:
    python = llm.python or sys.executable
    try:
        done = subprocess.run(
            [
                python,
                "-P",
                "-c",
                "import importlib.util; print(importlib.util.find_spec('vllm') is not None)",
            ],
            capture_output=True,
            text=True,
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding("vLLM", "error", f"{python} cannot be started: {error}", "mend llm.python")
    if done.stdout.strip() != "True":
        return Finding("vLLM", "error", f"{python} has no vllm", INSTALL)
    return Finding("vLLM", "ok", f"in {python}")


def _key(llm: LlmConfig) -> Finding:
    if llm.api_key is not None and not os.environ.get(llm.api_key):
        remedy = "export it before the head starts"
        return Finding("LLM", "error", f"llm.api_key: the variable {llm.api_key} is not set", remedy)
    return Finding("LLM", "ok", f"{llm.base_url}, which is asked when the campaign starts")


def _texts(llm: LlmConfig) -> Finding:
    """Prompts and cards, those of the campaign's own with them."""
    own_prompts, own_cards = (None if place is None else Path(place) for place in (llm.prompts, llm.cards))
    try:
        Prompts.load(own_prompts)
        cards = load_cards(own_cards)
    except UserError as error:
        return Finding("prompts and cards", "error", str(error), "mend the file that is named")
    return Finding("prompts and cards", "ok", f"{len(cards)} cards, prompts as {own_prompts or 'shipped'}")
