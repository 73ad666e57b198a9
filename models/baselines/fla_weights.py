"""Weights of flash-linear-attention's layers as weights of the baselines, name by name.

The layers are those of version 0.6.0, in its defaults but for the sizes: DeltaNet, GatedDeltaNet, Mamba2,
GatedLinearAttention, MultiScaleRetention, KimiDeltaAttention, Attention, and LinearAttention with
feature_map="elu", do_feature_map_norm=True and output_norm="identity".
"""

from collections.abc import Mapping

from torch import Tensor

from asiarch.models.errors import UserError

# part of a layer there -> the same here; what is not named is called the same
_CONVOLUTIONS = {f"{x}_conv1d.weight": f"{x}_conv" for x in "qkv"}
_BETA = {"b_proj.weight": "beta_proj.weight"}
_GATE = {"g_proj.weight": "gate_proj.weight", "g_norm_swish_gate.weight": "norm_weight"}
RENAMED: dict[str, dict[str, str]] = {
    "delta_net": {**_CONVOLUTIONS, **_BETA, "o_norm.weight": "norm_weight"},
    "gated_delta_net": {
        **_CONVOLUTIONS,
        **_BETA,
        "g_proj.weight": "gate_proj.weight",
        "a_proj.weight": "step_proj.weight",
        "o_norm.weight": "norm_weight",
    },
    "mamba2": {"conv1d.weight": "conv_weight", "conv1d.bias": "conv_bias", "norm.weight": "norm_weight"},
    "gla": {
        **_GATE,
        "gk_proj.0.weight": "decay_down.weight",
        "gk_proj.1.weight": "decay_up.weight",
        "gk_proj.1.bias": "decay_up.bias",
    },
    "retnet": _GATE,
    "kimi_delta_attention": {
        **_CONVOLUTIONS,
        **_BETA,
        "f_proj.0.weight": "decay_down.weight",
        "f_proj.1.weight": "decay_up.weight",
        "g_proj.0.weight": "gate_down.weight",
        "g_proj.1.weight": "gate_up.weight",
        "g_proj.1.bias": "gate_up.bias",
        "o_norm.weight": "norm_weight",
    },
    "softmax_attention": {},
    "linear_attention": {},
}


def from_fla(baseline: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a baseline for the state dict of flash-linear-attention's layer.

    `load_state_dict` of the result checks that nothing is missing and all shapes fit. A depthwise filter
    (channels, 1, width) becomes (channels, width). Raises UserError for a name that is no baseline's.
    """
    if baseline not in RENAMED:
        raise UserError(f"no baseline is called {baseline!r}: use one of {', '.join(RENAMED)}")
    renamed = RENAMED[baseline]
    return {
        renamed.get(name, name): weight.squeeze(1) if name.endswith("conv1d.weight") else weight
        for name, weight in weights.items()
    }
