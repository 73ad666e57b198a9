"""A trained candidate as a model of Hugging Face `transformers`: what an exported folder's code stands on.

The program is part of the configuration. It generates with the mixers' own cache where the program was found to
decode right (`decoding.decodes`); otherwise, and for padded batches, each step reads the whole text again.
"""

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from asiarch.models.contract import load_mixer_class
from asiarch.models.decoding import logits
from asiarch.models.fla_compat.cache import Cache
from asiarch.models.language_model import IGNORED_TARGET, LanguageModel, ModelConfig

# what the output's cache is called: `past_key_values` in older versions of transformers
_CACHE = "cache" if "cache" in {field.name for field in fields(CausalLMOutputWithPast)} else "past_key_values"


class AsiarchConfig(PretrainedConfig):
    """The sizes of the language model, the program of its mixers, and whether they decode with a cache."""

    model_type = "asiarch"

    def __init__(
        self,
        vocab_size: int = 257,
        hidden_size: int = 64,
        num_hidden_layers: int = 1,
        num_attention_heads: int = 2,
        ffn_width: int = 8,
        program: str = "",
        mixer_cache: bool = False,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.ffn_width = ffn_width
        self.program = program
        self.mixer_cache = mixer_cache
        super().__init__(**{"tie_word_embeddings": False, **kwargs})

    def sizes(self) -> ModelConfig:
        """The same as the language model takes them."""
        return ModelConfig(
            self.vocab_size, self.num_hidden_layers, self.hidden_size, self.num_attention_heads
        )


class AsiarchForCausalLM(PreTrainedModel, GenerationMixin):
    """The language model around a candidate's mixers; embedding and head share one matrix."""

    config_class = AsiarchConfig
    base_model_prefix = "model"
    _is_stateful = True  # no rollback: assisted decoding is refused

    def __init__(self, config: AsiarchConfig) -> None:
        super().__init__(config)
        # not on the meta device, where transformers would lose the tensors that a program makes for itself
        with torch.device("cpu"):
            mixer_class = load_mixer_class(source=config.program)
            self.model = LanguageModel(config.sizes(), mixer_class, config.ffn_width)
        for module in self.model.modules():
            module._non_persistent_buffers_set.clear()  # they come with the weights, for the same reason
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: every part draws its own weights when it is made."""

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    def get_input_embeddings(self) -> nn.Module:
        return self.model.embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.embedding = value

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        cache: Any = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        cu_seqlens: Tensor | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Logits (B, L, vocabulary) for tokens (B, L) that continue what the cache has read.

        Args:
            attention_mask: (B, what the cache has read + L), 0 at padding.
            labels: (B, L), the same tokens, -100 where they do not count; the loss is of each from those before.
            logits_to_keep: the last so many positions alone; all of them if 0.
            cu_seqlens: borders of documents in the rows laid end to end, for programs that take them; no cache then.
        """
        carried: Cache
        before = cache if isinstance(cache, Cache) else past_key_values
        before = before if isinstance(before, Cache) and len(before) else None
        padded = attention_mask is not None and not bool(attention_mask.all())
        if cu_seqlens is not None:
            carried, outputs = Cache(), logits(self.model, input_ids, None, cu_seqlens)
        elif self.config.mixer_cache and not padded and not isinstance(before, _Texts):
            carried = before if before is not None else Cache()
            outputs = logits(self.model, input_ids, carried if use_cache else before)
        else:
            carried = before if isinstance(before, _Texts) else _Texts()
            texts = carried.extend(input_ids)
            outputs = self._whole(texts, attention_mask if padded else None)[:, -input_ids.shape[1] :]
        loss = None
        if labels is not None:
            loss = functional.cross_entropy(
                outputs[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED_TARGET
            )
        outputs = outputs[:, -logits_to_keep:]
        kept: dict[str, Any] = {_CACHE: carried} if use_cache else {}
        return CausalLMOutputWithPast(loss=loss, logits=outputs, **kept)

    def _whole(self, texts: Tensor, mask: Tensor | None) -> Tensor:
        """The logits of whole texts; padded ones are read row by row without their padding."""
        if mask is None:
            return logits(self.model, texts)
        outputs = texts.new_zeros(*texts.shape, self.config.vocab_size, dtype=torch.float32)
        for row, seen in enumerate(mask.bool()):
            if bool(seen.any()):
                outputs[row, seen] = logits(self.model, texts[row, seen][None])[0]
        return outputs


class _Texts(Cache):
    """What has been read so far, to be read again: for programs without a cache."""

    def extend(self, tokens: Tensor) -> Tensor:
        """Add tokens (B, L), and return all of them."""
        old = [self[0]["recurrent_state"]] if len(self) else []
        texts = torch.cat([*old, tokens], dim=1)
        self.update(recurrent_state=texts, offset=tokens.shape[1])
        return texts
