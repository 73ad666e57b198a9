"""Programs written for flash-linear-attention load, run and train without it; its names mean what they mean there."""

import importlib.util
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from asiarch.kernels.delta_rule.naive import naive_delta_rule
from asiarch.kernels.gated_delta_rule.naive import naive_gated_delta_rule
from asiarch.kernels.linear_attention.naive import naive_linear_attention
from asiarch.models.contract import ContractError, load_mixer_class, parse_program, run_mixer
from asiarch.models.fla_compat import delta_ops, linear_ops, names, norms, padding
from asiarch.models.fla_compat.attention_ops import parallel_attn
from asiarch.models.fla_compat.cache import Cache
from asiarch.models.fla_compat.convolution import LongConvolution, ShortConvolution, token_shift
from asiarch.models.fla_compat.rotary import RotaryEmbedding
from asiarch.models.language_model import ModelConfig, build_mixer

# in the manner of the published ASI-Arch programs
PROGRAM = """
from __future__ import annotations
from typing import TYPE_CHECKING, Dict, Optional, Tuple
import torch
import torch.nn as nn
import torch.nn.functional as F
from einops import rearrange
import fla.modules as fm
from fla.layers.utils import get_unpad_data, index_first_axis, pad_input
from fla.modules import FusedRMSNormGated, RMSNorm, ShortConvolution
from fla.modules.l2norm import l2norm
from fla.ops.delta_rule import chunk_delta_rule as rule

if TYPE_CHECKING:
    from transformers.processing_utils import Unpack
    from fla.models.utils import Cache


@torch.compile
def half_memory(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.bfloat16)


class Gate(nn.Module):
    def forward(self, input):
        return torch.sigmoid(input)


class DeltaNet(nn.Module):
    def __init__(self, mode: str = "chunk", d_model: Optional[int] = None, hidden_size: int = 1024,
                 num_heads: int = 4, layer_idx: Optional[int] = None, **kwargs: Dict) -> None:
        super().__init__()
        hidden_size = d_model or hidden_size
        self.num_heads, self.layer_idx = num_heads, layer_idx
        self.qkv = nn.ModuleList(nn.Linear(hidden_size, hidden_size, bias=False) for _ in range(3))
        self.conv = nn.ModuleList(ShortConvolution(hidden_size, 4, activation="silu") for _ in range(3))
        self.b_proj = nn.Linear(hidden_size, num_heads, bias=False)
        self.g_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.pre = fm.RMSNorm(hidden_size)
        self.o_norm = FusedRMSNormGated(hidden_size // num_heads, eps=1e-5)
        self.o_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.gate = Gate()

    def forward(self, hidden_states, attention_mask=None, past_key_values: Optional["Cache"] = None,
                use_cache: Optional[bool] = False, output_attentions: Optional[bool] = False,
                **kwargs: "Unpack[Dict]") -> Tuple[torch.Tensor, None, Optional["Cache"]]:
        batch, length, _ = hidden_states.shape
        last = None
        if past_key_values is not None and hasattr(past_key_values, "__getitem__"):
            last = past_key_values[self.layer_idx] if len(past_key_values) > self.layer_idx else None
        borders = kwargs.get("cu_seqlens", None)
        if attention_mask is not None:
            where, borders, _ = get_unpad_data(attention_mask[:, -length:])
            hidden_states = index_first_axis(rearrange(hidden_states, "b s ... -> (b s) ..."), where).unsqueeze(0)
        x = self.pre(hidden_states)
        tails = last["conv_state"] if last is not None else (None,) * 3
        mixed = [
            conv(x=project(x), cache=tail, output_final_state=use_cache, cu_seqlens=borders)
            for project, conv, tail in zip(self.qkv, self.conv, tails)
        ]
        q, k, v = (rearrange(y, "b l (h d) -> b l h d", h=self.num_heads) for y, _ in mixed)
        o, state = rule(
            q=l2norm(q), k=l2norm(k), v=half_memory(v) @ torch.eye(v.shape[-1], dtype=v.dtype),
            beta=self.gate(self.b_proj(x)), output_final_state=use_cache, cu_seqlens=borders,
            initial_state=last["recurrent_state"] if last is not None else None,
        )
        if past_key_values is not None:
            past_key_values.update(recurrent_state=state, conv_state=tuple(s for _, s in mixed),
                                   layer_idx=self.layer_idx, offset=length)
        o = self.o_norm(o, rearrange(self.g_proj(x), "b l (h d) -> b l h d", h=self.num_heads))
        o = self.o_proj(rearrange(o, "b l h d -> b l (h d)"))
        if attention_mask is not None:
            o = pad_input(o.squeeze(0), where, batch, length)
        return o, None, past_key_values
"""


def mixer(dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    return build_mixer(ModelConfig(257, 2, 32, 4), load_mixer_class(source=PROGRAM), 1).to(dtype)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_program_runs_forward_and_backward_in_every_dtype(dtype: torch.dtype) -> None:
    """It casts to bfloat16 by name, which would not multiply with the others in float32 and float64."""
    layer = mixer(dtype)
    y = run_mixer(layer, normal(2, 37, 32).to(dtype))
    assert y.dtype == dtype
    y.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


def test_casts_to_bfloat16_follow_a_wider_model() -> None:
    """In float64 nothing is rounded to bfloat16: the outputs are those of the program without the cast."""
    plain = load_mixer_class(source=PROGRAM.replace("x.to(torch.bfloat16)", "x"))
    torch.manual_seed(0)
    other = build_mixer(ModelConfig(257, 2, 32, 4), plain, 1).double()
    x = normal(1, 20, 32)
    torch.testing.assert_close(run_mixer(mixer(torch.float64), x), run_mixer(other, x), rtol=0, atol=0)


def test_a_program_decodes_with_the_cache() -> None:
    layer, x, cache = mixer(torch.float64), normal(2, 20, 32), Cache()
    pieces = [x[:, :13], *x[:, 13:].split(1, dim=1)]
    decoded = [layer(piece, past_key_values=cache, use_cache=True)[0] for piece in pieces]
    torch.testing.assert_close(torch.cat(decoded, dim=1), layer(x)[0])


def test_a_program_unpads_a_batch() -> None:
    layer, x = mixer(torch.float64), normal(2, 20, 32)
    mask = torch.ones(2, 20, dtype=torch.long)
    mask[1, :8] = 0
    padded = layer(x, attention_mask=mask)[0]
    torch.testing.assert_close(padded[1, 8:], layer(x[1:, 8:])[0][0])
    torch.testing.assert_close(padded[0], layer(x[:1])[0][0])
    assert not padded[1, :8].any()


def test_nothing_makes_fla_importable() -> None:
    import sys

    mixer()
    assert not [name for name in sys.modules if name == "fla" or name.startswith("fla.")]
    if importlib.util.find_spec("fla") is None:
        with pytest.raises(ImportError):
            importlib.import_module("fla")


def test_the_sizes_go_by_the_names_that_a_program_has() -> None:
    source = (
        "from torch import nn\n"
        "class Mixer(nn.Module):\n"
        "    def __init__(self, d_model: int, n_heads: int = 1):\n"
        "        super().__init__()\n        self.sizes = (d_model, n_heads)\n"
    )
    assert build_mixer(ModelConfig(257, 2, 32, 4), load_mixer_class(source=source), 0).sizes == (32, 4)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "from fla.ops import chunk_rwkv7",
            r"fla\.ops\.chunk_rwkv7: has no chunk_rwkv7 here; fla\.ops has chunk_d",
        ),
        ("import fla.modules as m\nm.Nothing", r"a\.py:2: .*fla\.modules has .*RMSNorm"),
        (
            "from fla.distributed import mesh",
            r"imports from fla\.distributed, of which nothing .*fla\.modules",
        ),
        ("from fla.modules import torch", r"fla\.modules\.torch"),
        ("from fla.modules.norms import __builtins__", "not|nothing"),
        ("import transformers", "transformers, which is not on the list"),
        ("from transformers.processing_utils import os", r"transformers\.processing_utils\.os"),
    ],
)
def test_names_without_a_twin_are_refused_with_those_that_exist(line: str, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        parse_program(line, "a.py")


def test_every_name_of_the_table_is_there() -> None:
    for place, twins in names.PLACES.items():
        lines = "".join(f"from {place} import {name}\n" for name in twins)
        load_mixer_class(source=f"{lines}from torch import nn\nclass M(nn.Module):\n    pass\n")
    source = (
        "import fla\nfrom torch import nn\nclass M(nn.Module):\n    norm = fla.modules.layernorm.RMSNorm\n"
    )
    assert load_mixer_class(source=source).norm is norms.RMSNorm


def heads(seed: int, *last: int) -> Tensor:
    return normal(2, 19, 4, *last, seed=seed)


LINEAR = {
    "chunk_simple_gla": ({"g": -heads(4).exp()}, -heads(4).exp()),
    "fused_recurrent_simple_gla": ({"g_gamma": -torch.arange(4.0)}, -torch.arange(4.0).expand(2, 19, 4)),
    "chunk_gla": ({"g": -heads(5, 6).exp()}, -heads(5, 6).exp()),
    "fused_recurrent_gla": ({"gk": -heads(5, 6).exp()}, -heads(5, 6).exp()),
    "chunk_retention": ({}, (1 - 2.0 ** (-5 - torch.arange(4.0))).log().expand(2, 19, 4)),
    "fused_chunk_linear_attn": ({"normalize": False}, None),
}


@pytest.mark.parametrize("name", LINEAR)
def test_linear_operators_are_the_recurrence(name: str) -> None:
    more, log_decay = LINEAR[name]
    q, k, v, before = heads(1, 6), heads(2, 6), heads(3, 5), normal(2, 4, 6, 5, seed=6)
    given: dict[str, Any] = {**more, "initial_state": before, "output_final_state": True}
    o, state = getattr(linear_ops, name)(q, k, v, **given)
    expected = naive_linear_attention(
        q, k, v, None if log_decay is None else log_decay.double(), 6**-0.5, before
    )
    torch.testing.assert_close((o, state), expected, rtol=1e-5, atol=1e-6)


def test_normalised_linear_attention_carries_its_sum_of_keys() -> None:
    q, k, v = heads(1, 6).exp(), heads(2, 6).exp(), heads(3, 5)
    weights = torch.einsum("blhd,bmhd->bhlm", q, k).tril()
    expected = torch.einsum("bhlm,bmhd->blhd", weights / weights.sum(-1, keepdim=True), v)
    torch.testing.assert_close(linear_ops.chunk_linear_attn(q, k, v)[0], expected)
    _, state = linear_ops.chunk_linear_attn(q[:, :7], k[:, :7], v[:, :7], output_final_state=True)
    late, _ = linear_ops.chunk_linear_attn(q[:, 7:], k[:, 7:], v[:, 7:], initial_state=state)
    torch.testing.assert_close(late, expected[:, 7:])
    row, borders = (x.flatten(0, 1)[None] for x in (q, k, v)), torch.tensor([0, 19, 38])
    packed, _ = linear_ops.chunk_linear_attn(*row, cu_seqlens=borders)
    torch.testing.assert_close(packed, expected.flatten(0, 1)[None])


@pytest.mark.parametrize("channels", [False, True], ids=["gated_delta_rule", "kda"])
def test_what_the_kernels_fuse_is_done(channels: bool) -> None:
    """l2 norm, sigmoid of beta, the decay's activation, shared queries, and a transposed state."""
    q, k = normal(2, 19, 2, 6, seed=1), normal(2, 19, 2, 6, seed=2)
    v, beta, before = heads(3, 5), heads(4), normal(2, 4, 5, 6, seed=6)
    shape = (6,) if channels else ()
    g, A_log, dt_bias = heads(5, *shape), normal(4, seed=7), normal(4, *shape, seed=8)
    operator = delta_ops.chunk_kda if channels else delta_ops.chunk_gated_delta_rule
    o, state = operator(
        q, k, v, g, beta,
        initial_state=before, output_final_state=True, use_qk_l2norm_in_kernel=True,
        use_beta_sigmoid_in_kernel=True, allow_neg_eigval=True, use_gate_in_kernel=True,
        A_log=A_log, dt_bias=dt_bias.flatten(), state_v_first=True,
    )  # fmt: skip
    rate = A_log.exp().view(4, 1) if channels else A_log.exp()
    q, k = (functional.normalize(x, dim=-1).repeat_interleave(2, dim=2) for x in (q, k))
    log_decay = -rate * functional.softplus(g + dt_bias)
    expected, after = naive_gated_delta_rule(q, k, v, 2 * beta.sigmoid(), log_decay, 6**-0.5, before.mT)
    torch.testing.assert_close((o, state), (expected, after.mT), rtol=1e-5, atol=1e-6)


def test_the_delta_rule_in_both_layouts() -> None:
    q, k, v, beta = heads(1, 6), functional.normalize(heads(2, 6), dim=-1), heads(3, 5), heads(4).sigmoid()
    expected, state = naive_delta_rule(q, k, v, beta, 6**-0.5, None)
    o, _ = delta_ops.fused_recurrent_delta_rule(q, k, v, beta)
    torch.testing.assert_close(o, expected)
    first = (x.transpose(1, 2) for x in (q, k, v, beta))
    o, after = delta_ops.delta_rule_recurrence(*first)
    torch.testing.assert_close((o.transpose(1, 2), after), (expected, state))


def test_attention_with_shared_keys_and_a_window() -> None:
    q, k, v = normal(2, 19, 4, 6), normal(2, 19, 2, 6, seed=1), normal(2, 19, 2, 5, seed=2)
    scores = torch.einsum("blhd,bmhd->bhlm", q, k.repeat_interleave(2, dim=2)) * 6**-0.5
    for window in (None, 4):
        seen = torch.ones(19, 19, dtype=torch.bool).tril()
        seen &= torch.ones(19, 19, dtype=torch.bool).triu(1 - (window or 19))
        weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
        expected = torch.einsum("bhlm,bmhd->blhd", weights, v.repeat_interleave(2, dim=2))
        torch.testing.assert_close(parallel_attn(q, k, v, window_size=window), expected)


def test_norms_are_pytorchs() -> None:
    x, gate, residual = (normal(3, 7, 12, seed=seed) for seed in (1, 2, 3))
    weight = normal(12, seed=4)
    root = functional.rms_norm(x + residual, (12,), weight, 1e-5)
    y, total = norms.rms_norm(x, weight, None, residual, prenorm=True)
    torch.testing.assert_close((y, total), (root, x + residual))
    layers: list[tuple[Any, Tensor]] = [
        (norms.LayerNorm(12, bias=True), functional.layer_norm(x, (12,), weight, None, 1e-5)),
        (
            norms.GroupNorm(3, 12),
            functional.group_norm(x.flatten(0, 1), 3, weight, None, 1e-5).view(3, 7, 12),
        ),
    ]
    for layer, expected in layers:
        layer.double().weight.data = weight
        torch.testing.assert_close(layer(x), expected)
    for name, activation in (("swish", functional.silu), ("sigmoid", torch.sigmoid)):
        gated = norms.FusedRMSNormGated(12, activation=name).double()
        torch.testing.assert_close(
            gated(x, gate), functional.rms_norm(x, (12,), None, 1e-5) * activation(gate)
        )
    before = norms.RMSNormGated(12, group_size=4).double()(x, gate)
    grouped = functional.rms_norm((x * functional.silu(gate)).unflatten(-1, (3, 4)), (4,), None, 1e-5)
    torch.testing.assert_close(before, grouped.flatten(-2))


def test_convolutions_in_pieces_in_rows_and_in_the_frequency_domain() -> None:
    torch.manual_seed(0)
    conv, x = ShortConvolution(6, 4, bias=True).double(), normal(2, 15, 6)
    padded = functional.conv1d(x.mT, conv.weight, conv.bias, padding=3, groups=6)[..., :15].mT
    torch.testing.assert_close(conv(x)[0], functional.silu(padded))
    whole, state = conv(x, output_final_state=True)
    torch.testing.assert_close(state, x[:, -4:].mT)
    first, state = conv(x[:, :2], output_final_state=True)
    second, state = conv(x[:, 2:14], cache=state, output_final_state=True)
    third, after = conv.step(x[:, 14:], None, state, output_final_state=True)
    torch.testing.assert_close(torch.cat([first, second, third], dim=1), whole)
    torch.testing.assert_close(after, x[:, -4:].mT)
    packed, states = conv(x.view(1, 30, 6), output_final_state=True, cu_seqlens=torch.tensor([0, 15, 30]))
    torch.testing.assert_close((packed.view(2, 15, 6), states), (whole, x[:, -4:].mT))
    long = LongConvolution(6, 20).double()
    direct = functional.conv1d(functional.pad(x.mT, (14, 0)), long.filter[:, None, :15].flip(-1), groups=6).mT
    torch.testing.assert_close(long(x), direct + x)


def test_token_shift_of_rows_and_documents() -> None:
    x = normal(1, 6, 3)
    expected = torch.cat([-x[:, :1], x[:, :-1] - x[:, 1:]], dim=1)
    torch.testing.assert_close(token_shift(x), expected)
    expected[:, 2] = -x[:, 2]
    torch.testing.assert_close(token_shift(x, torch.tensor([0, 2, 6])), expected)


def test_rotary_positions_by_offset_and_by_document() -> None:
    rotary, q, k = RotaryEmbedding(6).double(), normal(1, 9, 2, 6), normal(1, 9, 2, 6, seed=1)
    turned, _ = rotary(q, k)
    z = torch.complex(q[..., :3], q[..., 3:])
    angle = torch.arange(9)[:, None] * 10000.0 ** (-torch.arange(3, dtype=torch.float64) / 3)
    z = z * torch.polar(torch.ones_like(angle), angle)[:, None]
    torch.testing.assert_close(turned, torch.cat([z.real, z.imag], dim=-1))
    later, _ = rotary(q[:, 4:], k[:, 4:], seqlen_offset=4)
    torch.testing.assert_close(later, turned[:, 4:])
    packed, _ = rotary(q, k, cu_seqlens=torch.tensor([0, 4, 9]))
    again, _ = rotary(q[:, 4:], k[:, 4:])
    torch.testing.assert_close(packed[:, 4:], again)
    scores = [
        (q_ * k_).sum()
        for q_, k_ in (
            RotaryEmbedding(6, scale_base=8).double()(q[:, :1], k[:, :1], s, None, 9) for s in (0, 5)
        )
    ]
    torch.testing.assert_close(*scores)  # XPos: only distances count


def test_padding_goes_there_and_back() -> None:
    x = normal(3, 5, 2)
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 1]])
    where, borders, longest = padding.get_unpad_data(mask)
    assert (borders.tolist(), longest) == ([0, 3, 8, 9], 5)
    packed = padding.index_first_axis(x.flatten(0, 1), where)
    back = padding.pad_input(packed, where, 3, 5)
    torch.testing.assert_close(back, x * mask[..., None])
    assert padding.prepare_position_ids(borders).tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 0]
    q, (k,), q_where, (q_borders, _), (q_longest, _) = padding.unpad_input(x[:, -1:], (x,), mask, 1)
    torch.testing.assert_close((q, k), (x[:, -1], packed))
    assert (q_where.tolist(), q_borders.tolist(), q_longest) == ([0, 1, 2], [0, 1, 2, 3], 1)


def test_a_cache_keeps_windows_counts_and_follows_beams() -> None:
    cache = Cache()
    keys = normal(2, 5, 3)
    cache.update(attn_state=(keys, keys), layer_idx=1, cache_kwargs={"window_size": 4})
    state = cache.update(attn_state=(keys[:, :1], keys[:, :1]), layer_idx=1, cache_kwargs={"window_size": 4})
    torch.testing.assert_close(state["attn_state"][0], torch.cat([keys[:, 2:], keys[:, :1]], dim=1))
    cache.update(recurrent_state=keys, conv_state=(keys, None), layer_idx=0, offset=6)
    assert (cache.get_seq_length(0), cache.get_seq_length(1), len(cache)) == (6, 6, 2)
    cache.reorder_cache(torch.tensor([1, 1]))
    torch.testing.assert_close(cache[0]["recurrent_state"], keys[[1, 1]])
    torch.testing.assert_close(cache[0]["conv_state"][0], keys[[1, 1]])
    with pytest.raises(KeyError, match="2 layers, asked for layer 2"):
        cache[2]
