"""The baselines: the contract's signature, causality, decoding with a cache, and documents in one row."""

import ast
import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from asiarch.models.baselines import BASELINES, baseline_path
from asiarch.models.baselines.delta_net import DeltaNet
from asiarch.models.baselines.gated_delta_net import GatedDeltaNet
from asiarch.models.baselines.gla import GLA
from asiarch.models.baselines.kimi_delta_attention import KimiDeltaAttention
from asiarch.models.baselines.linear_attention import LinearAttention
from asiarch.models.baselines.mamba2 import Mamba2
from asiarch.models.baselines.retnet import RetNet
from asiarch.models.baselines.softmax_attention import SoftmaxAttention
from asiarch.models.contract import load_mixer_class
from asiarch.models.errors import UserError
from asiarch.models.fla_compat.cache import Cache

MIXERS: list[type[nn.Module]] = [
    DeltaNet,
    GatedDeltaNet,
    GLA,
    KimiDeltaAttention,
    LinearAttention,
    Mamba2,
    RetNet,
    SoftmaxAttention,
]
EACH = pytest.mark.parametrize("mixer_class", MIXERS)


def build(mixer_class: type[nn.Module]) -> Any:
    torch.manual_seed(0)
    return mixer_class(hidden_size=24, num_heads=2, layer_idx=0).double()


def hidden(length: int = 45, batch: int = 2) -> Tensor:
    return torch.randn(batch, length, 24, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_every_baseline_is_a_program_with_one_class() -> None:
    for name, mixer_class in zip(BASELINES, MIXERS, strict=True):
        path = baseline_path(name)
        assert path.samefile(inspect.getfile(mixer_class))
        assert [n.name for n in ast.parse(path.read_text()).body if isinstance(n, ast.ClassDef)] == [
            mixer_class.__name__
        ]
        assert load_mixer_class(path).__name__ == mixer_class.__name__


def test_an_unknown_baseline_gets_the_names_that_exist() -> None:
    with pytest.raises(UserError, match=r"no baseline is called 'mamba'.*delta_net, gated_delta_net"):
        baseline_path("mamba")


@EACH
def test_unknown_arguments_of_the_ecosystem_are_taken(mixer_class: type[nn.Module]) -> None:
    mixer = mixer_class(hidden_size=24, num_heads=2, layer_idx=1, max_position_embeddings=1)
    y = mixer(
        hidden().float(), attention_mask=None, past_key_values=None, use_cache=False, output_attentions=False
    )
    assert y.shape == (2, 45, 24)
    assert y.dtype == torch.float32


@EACH
def test_all_memories_are_equally_large(mixer_class: type[nn.Module]) -> None:
    """D^2 / H numbers a layer, so that a comparison is of what is done with them."""
    cache = Cache()
    build(mixer_class)(hidden(), past_key_values=cache, use_cache=True)
    memory = cache[0]["recurrent_state"]
    if mixer_class is SoftmaxAttention:
        assert memory is None
        return
    normaliser = 24 if mixer_class is LinearAttention else 0  # it keeps the sum of its keys as well
    assert memory[0].numel() == 24 * 24 // 2 + normaliser


@EACH
@pytest.mark.parametrize("changed", [1, 31, 44])
def test_the_past_does_not_see_the_future(mixer_class: type[nn.Module], changed: int) -> None:
    mixer, x = build(mixer_class), hidden()
    before = mixer(x)
    x[:, changed:] += 1.0
    after = mixer(x)
    torch.testing.assert_close(after[:, :changed], before[:, :changed])
    assert not torch.allclose(after[:, changed:], before[:, changed:])


@EACH
def test_every_parameter_gets_a_gradient(mixer_class: type[nn.Module]) -> None:
    mixer = build(mixer_class)
    mixer(hidden()).square().sum().backward()
    for name, parameter in mixer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@EACH
def test_decoding_with_a_cache_is_the_parallel_form(mixer_class: type[nn.Module]) -> None:
    """Two pieces at once, then token by token, in the second layer of a model."""
    torch.manual_seed(0)
    mixer = mixer_class(hidden_size=24, num_heads=2, layer_idx=1).double()
    x, cache = hidden(), Cache()
    pieces = [x[:, :19], x[:, 19:35], *x[:, 35:].split(1, dim=1)]
    decoded = [mixer(piece, past_key_values=cache, use_cache=True) for piece in pieces]
    torch.testing.assert_close(torch.cat(decoded, dim=1), mixer(x))
    assert cache.get_seq_length(1) == 45


@EACH
def test_a_cache_is_left_alone_without_use_cache(mixer_class: type[nn.Module]) -> None:
    mixer, x, cache = build(mixer_class), hidden(), Cache()
    mixer(x, past_key_values=cache)
    assert len(cache) == 0


@EACH
def test_documents_in_one_row_do_not_read_each_other(mixer_class: type[nn.Module]) -> None:
    mixer, row = build(mixer_class), hidden(70, batch=1)
    borders = torch.tensor([0, 33, 34, 70])
    packed = mixer(row, cu_seqlens=borders)
    alone = torch.cat([mixer(document) for document in row.split([33, 1, 36], dim=1)], dim=1)
    torch.testing.assert_close(packed, alone)


def test_rotary_positions_leave_only_the_distance() -> None:
    m = build(SoftmaxAttention)
    q, k = torch.randn(2, 1, 1, 1, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    turned_q, turned_k = (m._rotate(x.expand(1, 1, 20, 12)) for x in (q, k))
    scores = (turned_q @ turned_k.mT)[0, 0]
    torch.testing.assert_close(scores[5, 2], scores[19, 16], rtol=1e-5, atol=1e-6)
    assert not torch.isclose(scores[5, 2], scores[5, 3])
