"""Weights of flash-linear-attention's layers give the outputs of their papers' equations in the baselines.

`fla_layers.json` lists the state dicts (names and shapes) of flash-linear-attention 0.6.0's layers. It was made on
a CPU by constructing each layer with the arguments given there (with an empty stand-in for flash_attn, which its
Attention asks for), and taking `state_dict()`. `options` are the arguments of the baseline beside the two sizes.

The equations are written out below with that library's names, position by position, in float64.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from asiarch.models.baselines import BASELINES, baseline_path
from asiarch.models.baselines.fla_weights import from_fla
from asiarch.models.contract import load_mixer_class
from asiarch.models.errors import UserError

LAYERS: dict[str, Any] = json.loads(Path(__file__).with_name("fla_layers.json").read_text())
HEADS, LENGTH, DIM = 4, 21, 32
Weights = dict[str, Tensor]


def random_weights(name: str) -> Weights:
    generator = torch.Generator().manual_seed(3)
    weights = {}
    for part, shape in LAYERS[name]["weights"].items():
        fan_in = shape[-1] if len(shape) > 1 else 1
        weights[part] = torch.randn(shape, generator=generator, dtype=torch.float64) * fan_in**-0.5
    return weights


def linear(w: Weights, part: str, x: Tensor) -> Tensor:
    """x W^T + b; parts of a sequence in turn."""
    if f"{part}.weight" not in w:
        return linear(w, f"{part}.1", linear(w, f"{part}.0", x))
    return x @ w[f"{part}.weight"].T + w.get(f"{part}.bias", 0)


def heads(x: Tensor) -> Tensor:
    return x.reshape(LENGTH, HEADS, -1)


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def softplus(x: Tensor) -> Tensor:
    return torch.log(1 + torch.exp(x))


def unit(x: Tensor) -> Tensor:
    return x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt()


def normed(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight


def convolved(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """silu(b_c + sum_i w_ci x_{t-3+i,c})."""
    rows = []
    for t in range(LENGTH):
        past = [x[t - 3 + i] * weight[:, 0, i] for i in range(4) if t - 3 + i >= 0]
        rows.append(torch.stack(past).sum(0) + (0 if bias is None else bias))
    return silu(torch.stack(rows))


def turned(x: Tensor) -> Tensor:
    """Rotary positions as complex numbers: channels i and i + K/2 turn by t 10000^(-2i/K)."""
    half = x.shape[-1] // 2
    angle = torch.arange(LENGTH)[:, None] * 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    z = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angle), angle)[:, None]
    return torch.cat([z.real, z.imag], dim=-1)


def recurrence(q: Tensor, k: Tensor, v: Tensor, keep: Tensor, beta: Tensor | None) -> Tensor:
    """o_t = S_t^T q_t with S_t = diag(keep_t) S_{t-1} + k_t v_t^T, or the delta rule's update with beta."""
    outputs = torch.zeros(LENGTH, HEADS, v.shape[-1], dtype=torch.float64)
    for h in range(HEADS):
        S = torch.zeros(k.shape[-1], v.shape[-1], dtype=torch.float64)
        for t in range(LENGTH):
            S = keep[t, h].reshape(-1, 1) * S
            if beta is None:
                S = S + torch.outer(k[t, h], v[t, h])
            else:
                S = S + beta[t, h] * torch.outer(k[t, h], v[t, h] - S.T @ k[t, h])
            outputs[t, h] = S.T @ q[t, h]
    return outputs


def delta_inputs(w: Weights, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    q, k, v = (heads(convolved(linear(w, f"{c}_proj", x), w[f"{c}_conv1d.weight"])) for c in "qkv")
    return unit(q) * q.shape[-1] ** -0.5, unit(k), v, torch.sigmoid(linear(w, "b_proj", x))


def delta_net(w: Weights, x: Tensor) -> Tensor:
    """Yang et al., 2024, eq. 1 and section 3.3."""
    q, k, v, beta = delta_inputs(w, x)
    o = recurrence(q, k, v, torch.ones(LENGTH, HEADS), beta)
    return linear(w, "o_proj", normed(o, w["o_norm.weight"]).flatten(1))


def gated_delta_net(w: Weights, x: Tensor) -> Tensor:
    """Yang, Kautz and Hatamizadeh, 2025, eq. 10, with Mamba-2's decay."""
    q, k, v, beta = delta_inputs(w, x)
    keep = torch.exp(-w["A_log"].exp() * softplus(linear(w, "a_proj", x) + w["dt_bias"]))
    o = normed(recurrence(q, k, v, keep, beta), w["o_norm.weight"]) * silu(heads(linear(w, "g_proj", x)))
    return linear(w, "o_proj", o.flatten(1))


def kimi_delta_attention(w: Weights, x: Tensor) -> Tensor:
    """Kimi Team, 2025, eq. 1 and section 4: a decay a channel, a sigmoid gate of low rank."""
    q, k, v, beta = delta_inputs(w, x)
    step = heads(softplus(linear(w, "f_proj", x) + w["dt_bias"]))
    keep = torch.exp(-w["A_log"].exp()[:, None] * step)
    gate = torch.sigmoid(heads(linear(w, "g_proj", x)))
    o = normed(recurrence(q, k, v, keep, beta), w["o_norm.weight"]) * gate
    return linear(w, "o_proj", o.flatten(1))


def gla(w: Weights, x: Tensor) -> Tensor:
    """Yang et al., 2024, eq. 3 and section 4.4: alpha = sigmoid(x W1 W2 + b)^(1/16)."""
    q, k, v = (heads(linear(w, f"{c}_proj", x)) for c in "qkv")
    keep = heads(torch.sigmoid(linear(w, "gk_proj", x)) ** (1 / 16))
    o = recurrence(q * q.shape[-1] ** -0.5, k, v, keep, None)
    o = normed(o, w["g_norm_swish_gate.weight"]) * silu(heads(linear(w, "g_proj", x)))
    return linear(w, "o_proj", o.flatten(1))


def retnet(w: Weights, x: Tensor) -> Tensor:
    """Sun et al., 2023, eq. 5: (Q K^T * D) V with D_nm = gamma^(n-m), gamma = 1 - 2^(-5-h)."""
    q, k, v = (heads(linear(w, f"{c}_proj", x)) for c in "qkv")
    q, k = turned(q) * q.shape[-1] ** -0.5, turned(k)
    distance = torch.arange(LENGTH)[:, None] - torch.arange(LENGTH)
    rows = []
    for h in range(HEADS):
        decay = torch.where(distance >= 0, (1 - 2.0 ** (-5 - h)) ** distance.double(), 0.0)
        rows.append((q[:, h] @ k[:, h].T * decay) @ v[:, h])
    o = normed(torch.stack(rows, dim=1), w["g_norm_swish_gate.weight"]) * silu(heads(linear(w, "g_proj", x)))
    return linear(w, "o_proj", o.flatten(1))


def mamba2(w: Weights, x: Tensor) -> Tensor:
    """Dao and Gu, 2024: h_t = exp(A dt) h_{t-1} + dt B_t x_t^T, y_t = C_t^T h_t + D x_t; then the gated norm."""
    inner, state = 2 * DIM, 10
    z, mixed, step = linear(w, "in_proj", x).split([inner, inner + 2 * state, HEADS], dim=-1)
    u, B, C = convolved(mixed, w["conv1d.weight"], w["conv1d.bias"]).split([inner, state, state], dim=-1)
    u, dt = heads(u), softplus(step + w["dt_bias"])
    B, C = (part[:, None].expand(-1, HEADS, -1) for part in (B, C))
    o = recurrence(C, B, u * dt[..., None], torch.exp(-w["A_log"].exp() * dt), None) + w["D"][:, None] * u
    return linear(w, "out_proj", normed(o.flatten(1) * silu(z), w["norm.weight"]))


def softmax_attention(w: Weights, x: Tensor) -> Tensor:
    """Vaswani et al., 2017, eq. 1, causal; Su et al., 2021."""
    q, k, v = (heads(linear(w, f"{c}_proj", x)) for c in "qkv")
    scores = torch.einsum("nhd,mhd->hnm", turned(q), turned(k)) * q.shape[-1] ** -0.5
    future = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
    weights = scores.masked_fill(future, -torch.inf).softmax(-1)
    return linear(w, "o_proj", torch.einsum("hnm,mhd->nhd", weights, v).flatten(1))


def linear_attention(w: Weights, x: Tensor) -> Tensor:
    """Katharopoulos et al., 2020, eq. 9, with elu(x) + 1."""
    q, k, v = (heads(linear(w, f"{c}_proj", x)) for c in "qkv")
    weights = torch.einsum("nhd,mhd->hnm", functional.elu(q) + 1, functional.elu(k) + 1).tril()
    weights = weights / weights.sum(-1, keepdim=True)
    return linear(w, "o_proj", torch.einsum("hnm,mhd->nhd", weights, v).flatten(1))


EQUATIONS: dict[str, Callable[[Weights, Tensor], Tensor]] = {
    "delta_net": delta_net,
    "gated_delta_net": gated_delta_net,
    "gla": gla,
    "kimi_delta_attention": kimi_delta_attention,
    "linear_attention": linear_attention,
    "mamba2": mamba2,
    "retnet": retnet,
    "softmax_attention": softmax_attention,
}


def test_every_baseline_has_its_layer_and_its_equations() -> None:
    assert set(LAYERS) == set(EQUATIONS) == set(BASELINES)


@pytest.mark.parametrize("name", BASELINES)
def test_weights_of_the_layer_give_the_outputs_of_the_equations(name: str) -> None:
    options = LAYERS[name]["options"]
    mixer = load_mixer_class(baseline_path(name))(hidden_size=DIM, num_heads=HEADS, layer_idx=0, **options)
    weights = random_weights(name)
    mixer.double().load_state_dict(from_fla(name, weights))  # strict: the same parameters and shapes
    x = torch.randn(LENGTH, DIM, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    # the rotary frequencies of softmax attention are float32, in the layer as here
    loose = {"rtol": 1e-5, "atol": 1e-6} if name == "softmax_attention" else {"rtol": 1e-7, "atol": 1e-9}
    torch.testing.assert_close(mixer(x[None])[0], EQUATIONS[name](weights, x), **loose)


def test_an_unknown_layer_gets_the_names_that_exist() -> None:
    with pytest.raises(UserError, match="no baseline is called 'rwkv7': use one of delta_net"):
        from_fla("rwkv7", {})
