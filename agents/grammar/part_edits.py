"""Edits of the parts around the states: inputs, local window, mix, and output."""

from collections.abc import Iterator
from dataclasses import replace

from asiarch.agents.grammar.changes import Change, edit
from asiarch.agents.grammar.program import (
    WINDOWS,
    Convolution,
    FeatureMap,
    Gate,
    GateForm,
    MixerProgram,
    OutputNorm,
    Window,
)

_CONV_REASONS = {
    "q": "A query that sees its last tokens can ask for what follows a phrase, not a single token "
    "(H3, Fu et al., 2023; Zoology, Arora et al., 2023).",
    "k": "A key that holds the token before binds each value to its context, which is the first half of an "
    "induction head (H3, Fu et al., 2023; Olsson et al., 2022).",
    "v": "A value that holds its neighbours stores phrases at one write, so recall brings back more than one "
    "token (Primer, So et al., 2021).",
}


@edit()
def add_convolution(program: MixerProgram) -> Iterator[Change]:
    """A short convolution on q, k or v."""
    for name, why in _CONV_REASONS.items():
        if getattr(program, f"{name}_conv") is None:
            yield Change(
                _with_conv(program, name, Convolution()),
                f"Adds a short convolution of width 4 to {name}.",
                why,
            )


@edit(weight=0.5)
def remove_convolution(program: MixerProgram) -> Iterator[Change]:
    """No short convolution on q, k or v."""
    for name in _CONV_REASONS:
        if getattr(program, f"{name}_conv"):
            yield Change(
                _with_conv(program, name, None),
                f"Takes the short convolution from {name}.",
                "Smearing tokens together blurs exact matches; where the other convolutions already bring "
                "the "
                "context in, this one may only cost.",
            )


@edit(weight=0.25)
def change_convolution_width(program: MixerProgram) -> Iterator[Change]:
    """Another width of one short convolution."""
    for name in _CONV_REASONS:
        conv = getattr(program, f"{name}_conv")
        for width in (2, 3, 4, 6, 8):
            if conv and width != conv.width:
                yield Change(
                    _with_conv(program, name, replace(conv, width=width)),
                    f"Makes the short convolution on {name} {width} tokens wide.",
                    "A wider filter catches longer phrases, such as a whole word in bytes."
                    if width > conv.width
                    else "A narrower filter keeps tokens apart; the state is there for what is further back.",
                )


@edit(weight=0.5)
def switch_convolution_activation(program: MixerProgram) -> Iterator[Change]:
    """Silu after one short convolution, or nothing."""
    for name in _CONV_REASONS:
        conv = getattr(program, f"{name}_conv")
        if conv is None:
            continue
        if conv.activation == "silu":
            to, what = "none", f"Leaves out the silu after the short convolution on {name}."
            why = (
                "Silu cuts most of the negative half away, so vectors point into one corner and are hard to "
                "tell "
                "apart; without it the dot products use the whole space."
            )
        else:
            to, what = "silu", f"Puts a silu after the short convolution on {name}."
            why = "The non-linearity lets a filter detect, not only average (Mamba, Gu and Dao, 2023)."
        yield Change(_with_conv(program, name, replace(conv, activation=to)), what, why)


@edit()
def change_feature_map(program: MixerProgram) -> Iterator[Change]:
    """Another feature map on q and k."""
    texts: dict[FeatureMap, str] = {
        "identity": "The map is left to the projections: signs are kept, so keys can cancel as well as add.",
        "silu": "A smooth gate on each channel makes q and k sparser with hardly any dead channels.",
        "elu1": "Positive features make every weight of a past token positive, as those of softmax are "
        "(Katharopoulos et al., 2020).",
        "relu": "Sparse positive features overlap less, so more keys fit before they interfere (Kasai et "
        "al., 2021).",
        "square": "Squaring sharpens the match between q and k, nearer to the peaks of softmax, at the cost "
        "of one "
        "product (Primer, So et al., 2021).",
        "softmax": "A softmax over the channels gives positive, peaked features, much as a soft choice "
        "among slots "
        "(Hedgehog, Zhang et al., 2024).",
    }
    words: dict[FeatureMap, str] = {
        "elu1": "elu + 1",
        "square": "squared relu",
        "softmax": "softmax over channels",
    }
    for feature_map, why in texts.items():
        if feature_map != program.feature_map:
            yield Change(
                replace(program, feature_map=feature_map),
                f"Makes the feature map of q and k {words.get(feature_map, feature_map)}.",
                why,
            )


@edit()
def switch_qk_norm(program: MixerProgram) -> Iterator[Change]:
    """l2 normalisation of q and k, or none (linear rule only)."""
    if program.qk_norm == "none":
        yield Change(
            replace(program, qk_norm="l2"),
            "Normalises q and k to length one.",
            "No single long key can then drown the others, and training stays stable at higher learning "
            "rates "
            "(Henry et al., 2020).",
        )
    else:
        yield Change(
            replace(program, qk_norm="none"),
            "Leaves q and k unnormalised.",
            "The length of a key is then free to say how much its token matters.",
        )


@edit()
def switch_token_shift(program: MixerProgram) -> Iterator[Change]:
    """A learned blend with the token before, ahead of the projections."""
    if program.token_shift:
        what = "Takes the token shift out."
        why = "Short convolutions or the state already bring the token before in; one of them is enough."
    else:
        what = (
            "Adds a token shift: q, k and v are projected from a learned blend of a token and the one before."
        )
        why = (
            "For two numbers a channel, bigrams become visible ahead of the projections, where keys can "
            "be bound to what preceded them (RWKV, Peng et al., 2023)."
        )
    yield Change(replace(program, token_shift=not program.token_shift), what, why)


@edit()
def add_window(program: MixerProgram) -> Iterator[Change]:
    """Local softmax attention beside the state."""
    if program.window:
        return
    mix = "learned" if program.mix == "none" else program.mix
    for size in WINDOWS:
        yield Change(
            replace(program, window=Window(size, rotary=True), mix=mix),
            f"Adds softmax attention over the last {size} tokens, from the same q, k and v.",
            "A state of fixed size blurs exact local matches, which most of next-token prediction needs; a "
            "small "
            "window makes them exact and frees the state for what is far (Based, Arora et al., 2024; "
            "Griffin, De et "
            "al., 2024).",
        )


@edit(weight=0.25)
def change_window_size(program: MixerProgram) -> Iterator[Change]:
    """Another size of the window."""
    for size in WINDOWS:
        if program.window and size != program.window.size:
            yield Change(
                replace(program, window=replace(program.window, size=size)),
                f"Makes the local window {size} tokens wide.",
                "The border between exact and compressed memory moves: wider, the state is relieved; "
                "narrower, it "
                "has to learn more.",
            )


@edit(weight=0.5)
def switch_rotary(program: MixerProgram) -> Iterator[Change]:
    """Rotary positions in the window, or none."""
    if program.window is None:
        return
    rotary = not program.window.rotary
    yield Change(
        replace(program, window=replace(program.window, rotary=rotary)),
        f"{'Adds' if rotary else 'Takes away'} rotary positions in the window.",
        "Attention in the window has no order of its own; rotation lets it weigh by distance (Su et al., "
        "2021)."
        if rotary
        else "Within a short window content decides; without rotation q and k serve window and state alike.",
    )


@edit(weight=0.5)
def remove_window(program: MixerProgram) -> Iterator[Change]:
    """The state alone."""
    if program.window is None:
        return
    alone = len(program.recurrences) == 1
    yield Change(
        replace(
            program,
            window=None,
            mix="none" if alone else program.mix,
            output_norm="head" if alone and program.output_norm == "branch" else program.output_norm,
        ),
        "Takes the local window out.",
        "The window offers an easy way to a low loss and can starve the state of gradient; alone, the state "
        "must "
        "learn to recall.",
    )


@edit()
def change_mix(program: MixerProgram) -> Iterator[Change]:
    """Branches weighed by learned numbers, or by the token."""
    if program.mix == "learned":
        yield Change(
            replace(program, mix="input"),
            "Weighs the branches by a softmax that depends on the token, no longer by fixed shares of each "
            "head.",
            "Whether near or far memory holds the answer changes from token to token; a gate can route each "
            "one.",
        )
    elif program.mix == "input":
        yield Change(
            replace(program, mix="learned"),
            "Weighs the branches by learned shares of each head, no longer by the token.",
            "Fixed shares let heads specialise early and cannot collapse onto one branch for all tokens "
            "(Infini-attention, Munkhdalai et al., 2024).",
        )


@edit()
def change_output_norm(program: MixerProgram) -> Iterator[Change]:
    """RMS norm of the mixed output, of each branch, or none."""
    texts: dict[OutputNorm, tuple[str, str]] = {
        "none": (
            "Leaves the output of the heads unnormalised.",
            "The size of what was recalled says how sure the memory is; normalisation throws that away.",
        ),
        "head": (
            "Normalises each head's output after the mix.",
            "The output keeps one scale whatever the state has gathered (Qin et al., 2022).",
        ),
        "branch": (
            "Normalises each branch before the mix.",
            "States and window have different scales; normalised apart, none drowns the other and the "
            "shares of "
            "the mix mean what they say.",
        ),
    }
    for norm, (what, why) in texts.items():
        if norm != program.output_norm:
            yield Change(replace(program, output_norm=norm), what, why)


@edit()
def add_output_gate(program: MixerProgram) -> Iterator[Change]:
    """A gate on the output from the layer's input."""
    if program.output_gate:
        return
    for gate in (Gate("silu"), Gate("sigmoid"), Gate("sigmoid", rank=16)):
        size = f"of rank {gate.rank}" if gate.rank else "of full rank"
        yield Change(
            replace(program, output_gate=gate),
            f"Gates the output by a {gate.form} projection of the input, {size}.",
            "A token can silence recalled content that does not suit it, and the product adds a "
            "non-linearity after "
            "a linear memory (GAU, Hua et al., 2022; GLA, Yang et al., 2023).",
        )


@edit(weight=0.5)
def change_output_gate(program: MixerProgram) -> Iterator[Change]:
    """Another form or rank of the output gate."""
    gate = program.output_gate
    if gate is None:
        return
    form: GateForm = "sigmoid" if gate.form == "silu" else "silu"
    yield Change(
        replace(program, output_gate=replace(gate, form=form)),
        f"Makes the output gate a {form}.",
        "A sigmoid only lets through or holds back, so the memory's scale is kept."
        if form == "sigmoid"
        else "Silu can also amplify and change the sign, so the gate adds features of its own (Shazeer, "
        "2020).",
    )
    rank = 16 if gate.rank is None else None
    yield Change(
        replace(program, output_gate=replace(gate, rank=rank)),
        f"Gives the output gate {'rank 16' if rank else 'a full projection'}.",
        "A gate needs to tell few cases apart; the parameters saved go to the feed-forward."
        if rank
        else "With a full projection every channel can be gated by its own view of the token.",
    )


@edit(weight=0.5)
def remove_output_gate(program: MixerProgram) -> Iterator[Change]:
    """No gate on the output."""
    if program.output_gate:
        yield Change(
            replace(program, output_gate=None),
            "Takes the output gate out.",
            "At equal size the feed-forward may make better use of the gate's parameters.",
        )


@edit()
def switch_value_skip(program: MixerProgram) -> Iterator[Change]:
    """The token's own value added past the memory."""
    if program.value_skip:
        what, why = (
            "Takes the value skip out.",
            "The residual stream already carries the token; the head's output is then all memory.",
        )
    else:
        what, why = (
            "Adds the token's own value to the read-out, with a learned weight for each head.",
            "The state need not spend capacity on the token just written, and gradients reach v directly "
            "(the D term of Mamba-2, Dao and Gu, 2024).",
        )
    yield Change(replace(program, value_skip=not program.value_skip), what, why)


def _with_conv(program: MixerProgram, name: str, conv: Convolution | None) -> MixerProgram:
    if name == "q":
        return replace(program, q_conv=conv)
    return replace(program, k_conv=conv) if name == "k" else replace(program, v_conv=conv)


PART_EDITS = (
    add_convolution,
    remove_convolution,
    change_convolution_width,
    switch_convolution_activation,
    change_feature_map,
    switch_qk_norm,
    switch_token_shift,
    add_window,
    change_window_size,
    switch_rotary,
    remove_window,
    change_mix,
    change_output_norm,
    add_output_gate,
    change_output_gate,
    remove_output_gate,
    switch_value_skip,
)
