"""Which of flash-linear-attention's names have a twin, and in which module here. Imports nothing."""

# module of this package -> the names it defines
TWINS: dict[str, str] = {
    "norms": """
        RMSNorm LayerNorm GroupNorm L2Norm RMSNormLinear LayerNormLinear FusedRMSNormGated FusedRMSNormSwishGate
        FusedLayerNormGated FusedLayerNormSwishGate RMSNormGated l2norm l2_norm rms_norm layer_norm group_norm
        rms_norm_gated layer_norm_gated""",
    "convolution": """
        ShortConvolution LongConvolution causal_conv1d causal_conv1d_update token_shift TokenShift""",
    "rotary": "RotaryEmbedding rotary_embedding",
    "activations": """
        ACT2FN sigmoid swish logsigmoid elu_p1 sqrelu fast_gelu_impl swiglu swiglu_linear sigmoidglu GatedMLP""",
    "feature_map": """
        HedgehogFeatureMap T2RFeatureMap DPFPFeatureMap HadamardFeatureMap ReLUFeatureMap SquaredReLUFeatureMap
        GELUFeatureMap SwishFeatureMap SigmoidFeatureMap""",
    "padding": """
        get_unpad_data index_first_axis index_put_first_axis pad_input unpad_input get_unpad_indices_and_cu
        unpad_hidden_states repad_hidden_states require_cache_layer_idx get_layer_cache update_layer_cache
        prepare_lens prepare_lens_from_mask prepare_cu_seqlens_from_lens prepare_cu_seqlens_from_mask
        prepare_position_ids prepare_sequence_ids""",
    "cache": "Cache FLACache LegacyFLACache",
    "typing_names": "Unpack",
    "linear_ops": """
        chunk_linear_attn fused_chunk_linear_attn fused_recurrent_linear_attn naive_recurrent_linear_attn
        naive_chunk_linear_attn
        chunk_simple_gla fused_chunk_simple_gla fused_recurrent_simple_gla naive_recurrent_simple_gla
        chunk_gla fused_chunk_gla fused_recurrent_gla naive_recurrent_gla
        chunk_retention fused_chunk_retention fused_recurrent_retention
        chunk_lightning_attn fused_recurrent_lightning_attn""",
    "delta_ops": """
        chunk_delta_rule fused_chunk_delta_rule fused_recurrent_delta_rule delta_rule_recurrence
        chunk_gated_delta_rule fused_recurrent_gated_delta_rule chunk_gdn fused_recurrent_gdn
        naive_recurrent_gated_delta_rule naive_chunk_gated_delta_rule
        chunk_kda fused_recurrent_kda naive_recurrent_kda naive_chunk_kda""",
    "attention_ops": "parallel_attn naive_parallel_attn",
}
_OPS = ("linear_ops", "delta_ops", "attention_ops")

_GATED = "FusedRMSNormGated FusedRMSNormSwishGate FusedLayerNormGated FusedLayerNormSwishGate"
_NORMS = "RMSNorm LayerNorm GroupNorm RMSNormLinear LayerNormLinear"
_INDEX = """
    prepare_lens prepare_lens_from_mask prepare_cu_seqlens_from_lens prepare_cu_seqlens_from_mask
    prepare_position_ids prepare_sequence_ids"""

_PLACES: dict[str, str] = {
    "fla.modules": f"""
        {_NORMS} {_GATED} L2Norm ShortConvolution LongConvolution RotaryEmbedding GatedMLP TokenShift""",
    "fla.modules.norm": f"{_NORMS} {_GATED} L2Norm",
    "fla.modules.layernorm": f"{_NORMS} rms_norm layer_norm group_norm",
    "fla.modules.fused_norm_gate": f"{_GATED} rms_norm_gated layer_norm_gated",
    "fla.modules.layernorm_gated": "RMSNormGated",
    "fla.modules.l2norm": "L2Norm l2norm l2_norm",
    "fla.modules.convolution": "ShortConvolution LongConvolution causal_conv1d causal_conv1d_update",
    "fla.modules.causal_conv1d": "ShortConvolution causal_conv1d causal_conv1d_update",
    "fla.modules.long_conv": "LongConvolution",
    "fla.modules.token_shift": "TokenShift token_shift",
    "fla.modules.rotary": TWINS["rotary"],
    "fla.modules.activations": TWINS["activations"].replace("GatedMLP", ""),
    "fla.modules.feature_map": TWINS["feature_map"],
    "fla.modules.mlp": "GatedMLP",
    "fla.layers.utils": TWINS["padding"],
    "fla.models.utils": TWINS["cache"],
    "fla.models.cache_utils": TWINS["cache"],
    "fla.ops.utils": _INDEX,
    "fla.ops.utils.index": _INDEX,
    "transformers.processing_utils": "Unpack",
    "transformers.activations": "ACT2FN",
}

# operator's folder -> what the names of its functions end with
_OPERATORS = {
    "linear_attn": "linear_attn",
    "simple_gla": "simple_gla",
    "gla": "gla",
    "retention": "retention",
    "lightning_attn": "lightning_attn",
    "delta_rule": "delta_rule",
    "gated_delta_rule": "gated_delta_rule gdn",
    "kda": "kda",
    "attn": "parallel_attn",
}
_FORMS = ("fused_chunk", "fused_recurrent", "naive_recurrent", "naive_chunk", "naive_parallel", "chunk")


def _form(name: str) -> str:
    """The file of an operator's folder that has the function: chunk, fused_recurrent, naive, ..."""
    found = next((form for form in _FORMS if name.startswith(form + "_")), "parallel")
    if name == "delta_rule_recurrence" or found.startswith("naive"):
        return "naive"
    return found


def _operator(name: str) -> str:
    if name == "delta_rule_recurrence":
        return "delta_rule"
    bare = next((name[len(form) + 1 :] for form in _FORMS if name.startswith(form + "_")), name)
    bare = "parallel_attn" if bare == "attn" else bare
    return next(folder for folder, names in _OPERATORS.items() if bare in names.split())


def _places() -> dict[str, dict[str, str]]:
    homes = {name: home for home, names in TWINS.items() for name in names.split()}
    places = {place: {name: homes[name] for name in names.split()} for place, names in _PLACES.items()}
    for home in _OPS:
        for name in TWINS[home].split():
            folder = f"fla.ops.{_operator(name)}"
            found = ["fla.ops", folder, f"{folder}.{_form(name)}"]
            for place in found[2:] if _form(name) == "naive" else found:
                places.setdefault(place, {})[name] = home
    return places


# module of flash-linear-attention -> its names with a twin -> the module of this package
PLACES: dict[str, dict[str, str]] = _places()

# what may be imported: the places, and the packages above them
MODULES: frozenset[str] = frozenset(
    ".".join(place.split(".")[:end])
    for place in PLACES
    if place.startswith("fla.")
    for end in range(1, place.count(".") + 2)
) | {place for place in PLACES if not place.startswith("fla.")}


def missing_name(dotted: str) -> str | None:
    """What is wrong with a full name below `fla`, such as fla.ops.nothing; None where it has a twin."""
    parts = dotted.split(".")
    for end in range(1, len(parts) + 1):
        place, rest = ".".join(parts[:end]), parts[end:]
        if rest and ".".join([place, rest[0]]) in MODULES:
            continue
        if not rest or rest[0] in PLACES.get(place, {}):
            return None
        known = ", ".join(sorted(PLACES.get(place, {}))) or ", ".join(sorted(below(place)))
        return f"has no {rest[0]} here; {place} has {known}"
    return None


def below(place: str) -> frozenset[str]:
    """The modules right below a module."""
    depth = place.count(".") + 1
    return frozenset(name.split(".")[depth] for name in MODULES if name.startswith(place + "."))
