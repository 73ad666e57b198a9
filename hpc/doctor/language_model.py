"""The LLM that a campaign names: its weights, vLLM's environment, its key, its prompts and cards, and what fits."""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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
    yield examine_memory(llm, model, *_gpus())


@dataclass(frozen=True)
class Weights:
    """A model's size: of its weights, and of what the cache holds for each token (keys and values, all layers).

    Args:
        longest: tokens that it was made for; 0 where it does not say.
        embedding_bytes: what of the weights is embeddings, which quantisation leaves as they are.
        heads: of attention, which GPUs share; 0 where it does not say.
        cached_heads: those in the cache; more GPUs than that hold copies of it. 0 where it does not say.
        quantised: whether the weights lie on the disk in fewer bits than they were trained in.
    """

    bytes: int
    cache_bytes: int
    longest: int
    embedding_bytes: int = 0
    heads: int = 0
    cached_heads: int = 0
    quantised: bool = False

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
        return cls.of(sum(sizes), config)

    @classmethod
    def of(cls, size: int, config: dict[str, Any]) -> "Weights":
        """Weights of so many bytes, with the model's config.json."""
        heads = int(config.get("num_attention_heads", 0))
        tables = 1 if config.get("tie_word_embeddings") else 2
        return cls(
            bytes=size,
            cache_bytes=cache_bytes(config),
            longest=int(config.get("max_position_embeddings", 0)),
            embedding_bytes=tables
            * int(config.get("vocab_size", 0))
            * int(config.get("hidden_size", 0))
            * _width(config),
            heads=heads,
            cached_heads=1 if "kv_lora_rank" in config else int(config.get("num_key_value_heads", heads)),
            quantised="quantization_config" in config,
        )

    def served_as(self, arguments: Sequence[str]) -> "Weights":
        """With weights and cache as these arguments of vLLM's make them."""
        words = [word for argument in arguments for word in argument.split("=", 1)]
        given = dict(itertools.pairwise(words))
        size, cache = self.bytes, self.cache_bytes
        if given.get("--quantization", given.get("-q")) == "fp8" and not self.quantised:
            size = (size - self.embedding_bytes) // 2 + self.embedding_bytes
        if given.get("--kv-cache-dtype", "auto").startswith("fp8"):
            cache //= 2
        return replace(self, bytes=size, cache_bytes=cache)


def cache_bytes(config: dict[str, Any]) -> int:
    """Bytes that a token takes in the cache: 2 (key, value) x layers x key-value heads x head size x their width.

    With latent attention (DeepSeek's) a layer holds one compressed vector and the rotated part of a key instead.
    """
    layers, width = int(config.get("num_hidden_layers", 0)), _width(config)
    if "kv_lora_rank" in config:
        return layers * (int(config["kv_lora_rank"]) + int(config.get("qk_rope_head_dim", 0))) * width
    heads = int(config.get("num_attention_heads", 0))
    head_size = int(config.get("head_dim") or int(config.get("hidden_size", 0)) // max(1, heads))
    shared = int(config.get("num_key_value_heads", heads))
    return 2 * layers * shared * head_size * width


def _width(config: dict[str, Any]) -> int:
    return _BYTES.get(str(config.get("torch_dtype") or config.get("dtype")), 2)


def examine_memory(llm: LlmConfig, model: Weights, gpu_bytes: int, gpus: int | None = None) -> Finding:
    """Whether the weights, and how many full contexts, fit the GPUs of the head.

    Args:
        gpu_bytes: of each; 0 where there is none.
        gpus: how many there are; None for as many as it takes.
    """
    what = "LLM memory"
    model, parallel = model.served_as(llm.arguments), llm.tensor_parallel
    context_bytes = model.cache_bytes * llm.context * max(1, parallel // (model.cached_heads or parallel))
    if model.longest and llm.context > model.longest:
        remedy = f"set llm.context to {model.longest} or less"
        return Finding(
            what, "error", f"context {llm.context} is more than the model's {model.longest}", remedy
        )
    if model.heads % parallel:
        return Finding(
            what,
            "error",
            f"{parallel} GPUs cannot share {model.heads} heads of attention evenly",
            "set llm.tensor_parallel to a number that divides them",
        )
    if gpu_bytes == 0:
        needs = f"weights {model.bytes / GIB:.1f} GiB, and {context_bytes / GIB:.1f} for each full context"
        return Finding(
            what, "ok", f"{needs}; no GPU here to hold that against (a CPU build takes main memory)"
        )
    if gpus is not None and parallel > gpus:
        return Finding(
            what,
            "error",
            f"tensor_parallel is {parallel}, and there are {gpus} GPUs here",
            f"give the head {parallel} GPUs (sbatch --gpus={parallel}), or set llm.tensor_parallel to {gpus}",
        )
    room = parallel * (llm.gpu_memory * gpu_bytes - WORKSPACE_GIB * GIB) - model.bytes
    cards = f"{parallel} x {gpu_bytes / GIB:.0f} GiB"
    contexts = room / max(1, context_bytes)
    if contexts < 1:
        return Finding(
            what,
            "error",
            f"weights of {model.bytes / GIB:.1f} GiB leave {room / GIB:.1f} GiB of {cards} for the cache, and one "
            f"context of {llm.context} tokens takes {context_bytes / GIB:.1f}",
            "more llm.tensor_parallel, a shorter llm.context, or a smaller or quantised model",
        )
    words = f"{contexts:.1f} full contexts of {llm.context} tokens fit {cards} beside the weights"
    if contexts < llm.parallel:
        return Finding(
            what, "warning", words, f"llm.parallel {llm.parallel} will wait for one another at times"
        )
    return Finding(what, "ok", words)


def _gpus() -> tuple[int, int]:
    """The memory of one, in bytes, and how many there are."""
    import torch

    if not torch.cuda.is_available():
        return 0, 0
    return int(torch.cuda.get_device_properties(0).total_memory), torch.cuda.device_count()


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
