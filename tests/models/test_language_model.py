"""The language model around the mixers: size, common random numbers, loss, training."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from asiarch.models.baselines.delta_net import DeltaNet
from asiarch.models.baselines.gated_delta_net import GatedDeltaNet
from asiarch.models.baselines.gla import GLA
from asiarch.models.baselines.softmax_attention import SoftmaxAttention
from asiarch.models.errors import UserError
from asiarch.models.language_model import (
    LanguageModel,
    ModelConfig,
    SizeError,
    match_ffn_width,
    parameter_count,
    reference_parameters,
)

TINY = ModelConfig(vocab_size=257, layers=2, hidden_size=64, num_heads=2)
LARGER = ModelConfig(vocab_size=32000, layers=2, hidden_size=256, num_heads=4)
MIXERS: list[type[nn.Module]] = [DeltaNet, GatedDeltaNet, GLA, SoftmaxAttention]


class LayerDependentMixer(nn.Module):
    """Has more parameters the later its layer, and returns a tuple."""

    def __init__(self, hidden_size: int, num_heads: int, layer_idx: int = 0) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(hidden_size, hidden_size) for _ in range(1 + layer_idx))

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, None]:
        for layer in self.layers:
            hidden_states = layer(hidden_states)
        return hidden_states, None


class HugeMixer(nn.Module):
    """Larger than the model that it should be matched to."""

    def __init__(self, hidden_size: int, num_heads: int, layer_idx: int | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(200 * hidden_size, hidden_size))


def tokens_and_targets(batch: int = 2, length: int = 33) -> tuple[Tensor, Tensor]:
    tokens = torch.randint(257, (batch, length + 1), generator=torch.Generator().manual_seed(0))
    return tokens[:, :-1], tokens[:, 1:]


@pytest.mark.parametrize("config", [TINY, LARGER], ids=["tiny", "larger"])
@pytest.mark.parametrize("mixer", [*MIXERS, LayerDependentMixer])
def test_sizes_match_within_one_percent(config: ModelConfig, mixer: type[nn.Module]) -> None:
    target = reference_parameters(config, DeltaNet)
    match = match_ffn_width(config, mixer, target)
    model = LanguageModel(config, mixer, match.width)
    assert parameter_count(model) == match.parameters
    assert abs(match.parameters - target) <= 0.01 * target
    assert match.relative_error == pytest.approx(match.parameters / target - 1)


def test_the_reference_matches_itself_exactly() -> None:
    match = match_ffn_width(TINY, DeltaNet, reference_parameters(TINY, DeltaNet))
    assert match.width == 168  # 8/3 of 64, to a multiple of 8
    assert match.relative_error == 0


def test_a_mixer_that_is_too_large_is_refused_with_its_size() -> None:
    with pytest.raises(SizeError, match=r"HugeMixer cannot be matched .* its 2 mixers have 1,638,400"):
        match_ffn_width(TINY, HugeMixer, reference_parameters(TINY, DeltaNet))


def test_a_hidden_size_that_the_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(UserError, match="hidden_size 64 is not a multiple of"):
        ModelConfig(vocab_size=257, layers=2, hidden_size=64, num_heads=3)


def test_shared_parts_start_equal_whatever_the_mixer_draws() -> None:
    first, second = (LanguageModel(TINY, mixer, 100, seed=3) for mixer in (DeltaNet, LayerDependentMixer))
    mixer_free = [name for name, _ in first.named_parameters() if ".mixer." not in name]
    assert len(mixer_free) == 1 + 4 * TINY.layers + 1
    for name in mixer_free:
        assert torch.equal(first.get_parameter(name), second.get_parameter(name)), name


def test_the_seed_decides_and_layers_differ() -> None:
    same, again, other = (LanguageModel(TINY, DeltaNet, 100, seed=seed) for seed in (3, 3, 4))
    for name, parameter in same.named_parameters():
        assert torch.equal(parameter, again.get_parameter(name))
    for name in ("embedding.weight", "blocks.0.mixer.q_proj.weight", "blocks.0.ffn.down.weight"):
        assert not torch.equal(same.get_parameter(name), other.get_parameter(name))
    assert not torch.equal(
        same.get_parameter("blocks.0.mixer.q_proj.weight"), same.get_parameter("blocks.1.mixer.q_proj.weight")
    )


def test_building_leaves_the_global_random_state() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    LanguageModel(TINY, DeltaNet, 100)
    match_ffn_width(TINY, DeltaNet, reference_parameters(TINY, DeltaNet))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("mixer", MIXERS)
def test_the_loss_starts_near_that_of_a_uniform_guess(mixer: type[nn.Module]) -> None:
    loss = LanguageModel(TINY, mixer, 100)(*tokens_and_targets())
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(math.log(257), abs=0.1)


def test_the_loss_is_that_of_the_logits_over_targets_that_count() -> None:
    model = LanguageModel(TINY, DeltaNet, 100)
    tokens, targets = tokens_and_targets()
    targets = targets.clone()
    targets[:, :7] = -100
    log_probabilities = model(tokens).double().log_softmax(-1)
    picked = log_probabilities[:, 7:].gather(-1, targets[:, 7:, None])
    assert model(tokens, targets).item() == pytest.approx(-picked.mean().item(), rel=1e-5)


@pytest.mark.parametrize("mixer", MIXERS)
def test_a_repeating_pattern_is_learned(mixer: type[nn.Module]) -> None:
    pattern = torch.randint(257, (4, 8), generator=torch.Generator().manual_seed(1)).repeat(1, 5)
    model = LanguageModel(TINY, mixer, 100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    step: Callable[[], Tensor] = lambda: model(pattern[:, :-1], pattern[:, 1:])  # noqa: E731
    first = step().item()
    for _ in range(25):
        optimizer.zero_grad()
        step().backward()
        optimizer.step()
    assert step().item() < 0.5 * first


def test_activation_checkpointing_runs_blocks_again_and_changes_nothing() -> None:
    passes: list[int] = []

    class Counting(DeltaNet):
        def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
            passes.append(1)
            return super().forward(*args, **kwargs)

    gradients = []
    tokens = torch.randint(0, 257, (2, 33), generator=torch.Generator().manual_seed(0))
    for activation_checkpointing in (False, True):
        model = LanguageModel(TINY, Counting, 64)
        model.activation_checkpointing = activation_checkpointing
        passes.clear()
        model(tokens[:, :-1], tokens[:, 1:]).backward()
        assert len(passes) == TINY.layers * (1 + activation_checkpointing)
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again)
