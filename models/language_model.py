"""The language model that is wrapped around every candidate, so that only the token mixer differs.

Pre-norm blocks of (RMSNorm, mixer, RMSNorm, SwiGLU) with a tied head. Each part draws its initial weights
from its own seed, so the parts that two candidates share start equal (common random numbers). The
feed-forward width is solved for a given parameter count. Shapes: B batch, L length, D hidden size.
"""

import hashlib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from asiarch.kernels import rms_norm
from asiarch.models.errors import UserError

INITIAL_DEVIATION = 0.02
IGNORED_TARGET = -100
SIZE_TOLERANCE = 0.01


class SizeError(UserError):
    """No feed-forward width brings the model within 1% of the parameter count asked for."""


@dataclass(frozen=True)
class ModelConfig:
    """The size of the model around the mixer. `hidden_size` must be a multiple of `num_heads`."""

    vocab_size: int
    layers: int
    hidden_size: int
    num_heads: int

    def __post_init__(self) -> None:
        for name in ("vocab_size", "layers", "hidden_size", "num_heads"):
            if getattr(self, name) < 1:
                raise UserError(f"model.{name} is {getattr(self, name)}: set it to 1 or more")
        if self.hidden_size % self.num_heads:
            raise UserError(
                f"model.hidden_size {self.hidden_size} is not a multiple of model.num_heads {self.num_heads}"
            )


@dataclass(frozen=True)
class Match:
    """A feed-forward width, the parameters of the model with it, and (parameters - target) / target."""

    width: int
    parameters: int
    relative_error: float


class RMSNorm(nn.Module):
    """RMSNorm over the hidden size, with a learned weight that starts at 1."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        return rms_norm(x, self.weight)


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)), Shazeer, "GLU Variants Improve Transformer", 2020."""

    def __init__(self, hidden_size: int, width: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(hidden_size, 2 * width, bias=False)
        self.down = nn.Linear(width, hidden_size, bias=False)
        for linear in (self.gate_up, self.down):
            nn.init.normal_(linear.weight, std=INITIAL_DEVIATION)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(functional.silu(gate) * up)


class Block(nn.Module):
    """One layer: the mixer and the feed-forward network, each on the normed residual stream."""

    def __init__(self, config: ModelConfig, mixer_class: type[nn.Module], width: int, layer: int, seed: int):
        super().__init__()
        self.mixer_norm = RMSNorm(config.hidden_size)
        with seeded(seed, f"layer {layer} mixer"):
            self.mixer = build_mixer(config, mixer_class, layer)
        self.ffn_norm = RMSNorm(config.hidden_size)
        with seeded(seed, f"layer {layer} ffn"):
            self.ffn = SwiGLU(config.hidden_size, width)

    def forward(self, x: Tensor, cu_seqlens: Tensor | None = None, cache: Any = None) -> Tensor:
        """(B, L, D) -> (B, L, D); with document boundaries (documents + 1,) B is 1.

        With a cache, x continues what the mixer has read.
        """
        more: dict[str, Any] = {} if cu_seqlens is None else {"cu_seqlens": cu_seqlens}
        if cache is not None:
            more |= {"past_key_values": cache, "use_cache": True}
        mixed = self.mixer(self.mixer_norm(x), **more)
        x = x + (mixed[0] if isinstance(mixed, tuple) else mixed)
        return x + self.ffn(self.ffn_norm(x))


class LanguageModel(nn.Module):
    """A decoder of `config.layers` blocks around `mixer_class`.

    The mixer is built as mixer_class(hidden_size=, num_heads=, layer_idx=) and keeps its own initialisation;
    everything else starts from a normal distribution of deviation 0.02. The global random state is left as it
    was. With `activation_checkpointing` set, a block keeps its input alone and is run again in the backward pass.
    """

    def __init__(
        self, config: ModelConfig, mixer_class: type[nn.Module], ffn_width: int, seed: int = 0
    ) -> None:
        super().__init__()
        self.config = config
        self.activation_checkpointing = False
        with seeded(seed, "embedding"):
            self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
            nn.init.normal_(self.embedding.weight, std=INITIAL_DEVIATION)
        self.blocks = nn.ModuleList(
            Block(config, mixer_class, ffn_width, layer, seed) for layer in range(config.layers)
        )
        self.final_norm = RMSNorm(config.hidden_size)

    def hidden(self, tokens: Tensor, cu_seqlens: Tensor | None = None, cache: Any = None) -> Tensor:
        """What the head sees, (B, L, D), for tokens (B, L) int64; boundaries as in `forward`.

        With a cache (`asiarch.models.fla_compat.cache.Cache`) the tokens continue those that filled it.
        """
        x = self.embedding(tokens)
        if cu_seqlens is not None:
            x = x.flatten(0, 1).unsqueeze(0)
        for block in self.blocks:
            if self.activation_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, cu_seqlens, use_reentrant=False)
            else:
                x = block(x, cu_seqlens, cache)
        normed: Tensor = self.final_norm(x)
        return normed.view(*tokens.shape, -1)

    def forward(
        self, tokens: Tensor, targets: Tensor | None = None, cu_seqlens: Tensor | None = None
    ) -> Tensor:
        """Logits (B, L, vocabulary) for tokens (B, L) int64; with targets (B, L) int64 the loss, fp32 scalar.

        The loss is the mean cross-entropy in nats over the targets that are not -100.

        Args:
            cu_seqlens: int32 (documents + 1,), where the documents begin in the rows laid end to end, and B * L: no
                mixer then sees across. Needs a mixer that `takes_cu_seqlens`.
        """
        logits = functional.linear(self.hidden(tokens, cu_seqlens), self.embedding.weight)
        if targets is None:
            return logits
        return functional.cross_entropy(
            logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED_TARGET
        )


@contextmanager
def seeded(seed: int, part: str) -> Iterator[None]:
    """Draw from a seed of (seed, part) on the CPU, then go on with the random state as it was."""
    digest = hashlib.sha256(f"{seed}/{part}".encode()).digest()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        yield


def build_mixer(config: ModelConfig, mixer_class: type[nn.Module], layer: int) -> nn.Module:
    """The mixer of one layer, built from the contract's arguments, under other usual names where it has those."""
    taken = inspect.signature(mixer_class).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values()):
        return mixer_class(hidden_size=config.hidden_size, num_heads=config.num_heads, layer_idx=layer)
    sizes = {"hidden_size": config.hidden_size, "num_heads": config.num_heads, "layer_idx": layer}
    other_names = {"hidden_size": "d_model", "num_heads": "n_heads"}
    arguments = {}
    for name, value in sizes.items():
        other = other_names.get(name, name)
        if name in taken or other not in taken:
            arguments[name] = value
        else:
            arguments[other] = value
    if "layer_idx" not in taken:
        del arguments["layer_idx"]
    return mixer_class(**arguments)


def parameter_count(module: nn.Module) -> int:
    """The number of parameters, shared ones counted once."""
    return sum(parameter.numel() for parameter in module.parameters())


def default_ffn_width(hidden_size: int) -> int:
    """8/3 of the hidden size, to the nearest multiple of 8: SwiGLU's usual width."""
    return max(8, round(hidden_size / 3) * 8)


def reference_parameters(config: ModelConfig, mixer_class: type[nn.Module]) -> int:
    """The parameters of the model with the default feed-forward width: the target for other mixers."""
    return _without_ffn(config, mixer_class) + _ffn(config, default_ffn_width(config.hidden_size))


def match_ffn_width(config: ModelConfig, mixer_class: type[nn.Module], target: int) -> Match:
    """The feed-forward width that brings the model nearest to `target` parameters.

    Counted by arithmetic: of the model only one mixer at a time is built. Raises SizeError where no width of
    at least 1 comes within 1%.
    """
    fixed = _without_ffn(config, mixer_class)
    width = max(1, round((target - fixed) / _ffn(config, 1)))
    parameters = fixed + _ffn(config, width)
    match = Match(width, parameters, (parameters - target) / target)
    if abs(match.relative_error) > SIZE_TOLERANCE:
        mixers = _mixers(config, mixer_class)
        raise SizeError(
            f"{mixer_class.__name__} cannot be matched to {target:,} parameters: its {config.layers} mixers "
            f"have {mixers:,}, and with a feed-forward width of {width} the model has {parameters:,}; "
            f"{'make the mixer smaller' if parameters > target else 'raise hidden_size'}"
        )
    return match


def _mixers(config: ModelConfig, mixer_class: type[nn.Module]) -> int:
    # Each layer is built on its own, since a mixer may depend on layer_idx.
    total = 0
    for layer in range(config.layers):
        with seeded(0, f"layer {layer} mixer"):
            total += parameter_count(build_mixer(config, mixer_class, layer))
    return total


def _without_ffn(config: ModelConfig, mixer_class: type[nn.Module]) -> int:
    norms = (2 * config.layers + 1) * config.hidden_size
    return config.vocab_size * config.hidden_size + norms + _mixers(config, mixer_class)


def _ffn(config: ModelConfig, width: int) -> int:
    return config.layers * 3 * config.hidden_size * width
