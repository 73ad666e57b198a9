"""The baselines: the contract's signature, causality, and that each does what its paper says."""

import ast
import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from asiarch.kernels import l2_norm
from asiarch.kernels.delta_rule.naive import naive_delta_rule
from asiarch.kernels.gated_delta_rule.naive import naive_gated_delta_rule
from asiarch.kernels.linear_attention.naive import naive_linear_attention
from asiarch.models.baselines import BASELINES, baseline_path
from asiarch.models.baselines.delta_net import DeltaNet
from asiarch.models.baselines.gated_delta_net import GatedDeltaNet
from asiarch.models.baselines.gla import GLA
from asiarch.models.baselines.linear_attention import LinearAttention
from asiarch.models.baselines.softmax_attention import SoftmaxAttention
from asiarch.models.errors import UserError

MIXERS: list[type[nn.Module]] = [DeltaNet, GatedDeltaNet, GLA, LinearAttention, SoftmaxAttention]
EACH = pytest.mark.parametrize("mixer_class", MIXERS)


def build(mixer_class: type[nn.Module]) -> Any:
    torch.manual_seed(0)
    return mixer_class(hidden_size=24, num_heads=2, layer_idx=0).double()


def hidden(length: int = 45) -> Tensor:
    return torch.randn(2, length, 24, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def heads(x: Tensor) -> Tensor:
    return x.unflatten(-1, (2, 12))


def test_every_baseline_is_a_file_with_one_class() -> None:
    for name, mixer_class in zip(BASELINES, MIXERS, strict=True):
        path = baseline_path(name)
        assert path.samefile(inspect.getfile(mixer_class))
        assert [n.name for n in ast.parse(path.read_text()).body if isinstance(n, ast.ClassDef)] == [
            mixer_class.__name__
        ]


def test_an_unknown_baseline_gets_the_names_that_exist() -> None:
    with pytest.raises(UserError, match=r"no baseline is called 'mamba'.*delta_net, gated_delta_net"):
        baseline_path("mamba")


@EACH
def test_unknown_arguments_of_the_ecosystem_are_taken(mixer_class: type[nn.Module]) -> None:
    mixer = mixer_class(hidden_size=24, num_heads=2, layer_idx=1, expand_v=1)
    y = mixer(
        hidden().float(), attention_mask=None, past_key_values=None, use_cache=False, output_attentions=False
    )
    assert y.shape == (2, 45, 24)
    assert y.dtype == torch.float32


@EACH
@pytest.mark.parametrize("changed", [1, 16, 31, 32, 44])
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


def convolved(x: Tensor, weight: Tensor) -> Tensor:
    """Causal depthwise convolution and silu, by PyTorch's own operator."""
    padded = functional.pad(x.mT, (weight.shape[1] - 1, 0))
    return functional.silu(functional.conv1d(padded, weight.unsqueeze(1), groups=x.shape[-1]).mT)


def normed(o: Tensor) -> Tensor:
    """RMSNorm of each head, with its weight at 1."""
    return o / (o.square().mean(-1, keepdim=True) + 1e-5).sqrt()


def delta_inputs(m: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    q, k, v = (
        heads(convolved(project(x), weight))
        for project, weight in ((m.q_proj, m.q_conv), (m.k_proj, m.k_conv), (m.v_proj, m.v_conv))
    )
    return l2_norm(q), l2_norm(k), v, m.beta_proj(x).sigmoid()


def test_delta_net_is_its_recurrence() -> None:
    m, x = build(DeltaNet), hidden()
    o, _ = naive_delta_rule(*delta_inputs(m, x), 12**-0.5, None)
    torch.testing.assert_close(m(x), m.o_proj(normed(o).flatten(-2)))


def test_gated_delta_net_is_its_recurrence() -> None:
    m, x = build(GatedDeltaNet), hidden()
    log_decay = -m.A_log.exp() * torch.log1p(torch.exp(m.step_proj(x) + m.dt_bias))
    o, _ = naive_gated_delta_rule(*delta_inputs(m, x), log_decay, 12**-0.5, None)
    gate = heads(m.gate_proj(x))
    # the layer takes its decay in float32
    torch.testing.assert_close(
        m(x), m.o_proj((normed(o) * gate * gate.sigmoid()).flatten(-2)), rtol=1e-4, atol=1e-6
    )


def test_gla_is_its_recurrence() -> None:
    m, x = build(GLA), hidden()
    log_decay = heads(m.decay_up(m.decay_down(x))).sigmoid().log() / 16
    q, k, v, gate = (heads(project(x)) for project in (m.q_proj, m.k_proj, m.v_proj, m.gate_proj))
    o, _ = naive_linear_attention(q, k, v, log_decay, 12**-0.5, None)
    torch.testing.assert_close(
        m(x), m.o_proj((normed(o) * gate * gate.sigmoid()).flatten(-2)), rtol=1e-4, atol=1e-6
    )


def test_rotary_positions_leave_only_the_distance() -> None:
    m = build(SoftmaxAttention)
    q, k = torch.randn(2, 1, 1, 1, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    turned_q, turned_k = (m._rotate(x.expand(1, 1, 20, 12)) for x in (q, k))
    scores = (turned_q @ turned_k.mT)[0, 0]
    torch.testing.assert_close(scores[5, 2], scores[19, 16], rtol=1e-5, atol=1e-6)
    assert not torch.isclose(scores[5, 2], scores[5, 3])


def test_linear_attention_weighs_values_by_normalised_features() -> None:
    """Katharopoulos et al., eq. 9, as a quadratic form."""
    mixer, x = build(LinearAttention), hidden()
    q, k, v = (heads(project(x)) for project in (mixer.q_proj, mixer.k_proj, mixer.v_proj))
    weights = torch.einsum("blhd,bmhd->bhlm", functional.elu(q) + 1, functional.elu(k) + 1).tril()
    expected = torch.einsum("bhlm,bmhd->blhd", weights / weights.sum(-1, keepdim=True), v)
    torch.testing.assert_close(mixer(x), mixer.o_proj(expected.flatten(-2)))
