"""The lines that each part of a program puts into a mixer's __init__ and forward."""

from dataclasses import dataclass, field

from asiarch.agents.grammar.describe import state_labels
from asiarch.agents.grammar.program import Decay, Gate, MixerProgram, Recurrence

LOW_RANK = 16  # of the projections behind a channel-wise decay
_FEATURES = {
    "silu": "functional.silu({})",
    "elu1": "functional.elu({}) + 1",
    "relu": "functional.relu({})",
    "square": "functional.relu({}).square()",
    "softmax": "torch.softmax({}, dim=-1)",
}


@dataclass
class Draft:
    """A mixer's body while it is written."""

    init: list[str] = field(default_factory=list)
    forward: list[str] = field(default_factory=list)
    kernels: set[str] = field(default_factory=set)
    helpers: set[str] = field(default_factory=set)


def draft(program: MixerProgram) -> Draft:
    """Every line of the mixer's __init__ and forward, without indentation."""
    body = Draft()
    _projections(body, program)
    _convolutions(body, program)
    body.forward += ["q, k, v = (t.unflatten(-1, (self.num_heads, self.head_dim)) for t in (q, k, v))"]
    branches = _window(body, program)
    _features(body, program)
    for label, state in zip(state_labels(program), program.recurrences, strict=True):
        branches.append(_recurrence(body, state, label, alone=program.branches == 1))
    branches = branches[1:] + branches[:1] if program.window else branches
    _mix(body, program, branches)
    _output(body, program)
    return body


def _projections(body: Draft, program: MixerProgram) -> None:
    body.init += [f"self.{name}_proj = nn.Linear(hidden_size, hidden_size, bias=False)" for name in "qkv"]
    body.forward += ['borders = kwargs.get("cu_seqlens")  # of documents in one row', "x = hidden_states"]
    if not program.token_shift:
        body.forward.append("q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)")
        return
    body.init += [
        "# How much q, k and v see of the token before, in each channel",
        "self.shift = nn.Parameter(torch.linspace(0, 0.5, hidden_size).repeat(3, 1))",
    ]
    body.forward += [
        "before = functional.pad(x, (0, 0, 1, -1))  # zeros before the first token",
        "if borders is not None:",
        "    before[:, borders[:-1]] = 0",
        "x_q, x_k, x_v = (x + (before - x) * share for share in self.shift)",
        "q, k, v = self.q_proj(x_q), self.k_proj(x_k), self.v_proj(x_v)",
    ]


def _convolutions(body: Draft, program: MixerProgram) -> None:
    convs = {"q": program.q_conv, "k": program.k_conv, "v": program.v_conv}
    used = {name: conv for name, conv in convs.items() if conv}
    if not used:
        return
    body.kernels.add("short_convolution")
    body.helpers.add("convolution_weight")
    for name, conv in used.items():
        activation = ', activation="silu"' if conv.activation == "silu" else ""
        body.init.append(f"self.{name}_conv = convolution_weight(hidden_size, {conv.width})")
        body.forward.append(
            f"{name}, _ = short_convolution({name}, self.{name}_conv{activation}, cu_seqlens=borders)"
        )


def _window(body: Draft, program: MixerProgram) -> list[str]:
    if program.window is None:
        return []
    body.kernels.add("sliding_window_attention")
    q, k = "q", "k"
    if program.window.rotary:
        body.helpers.add("rotary")
        q, k = "rotary(q)", "rotary(k)"
    body.forward += [
        "",
        "# Exact recall of what is near; the state below is for what is far",
        f"local = sliding_window_attention({q}, {k}, v, {program.window.size}, cu_seqlens=borders)",
    ]
    return ["local"]


def _features(body: Draft, program: MixerProgram) -> None:
    q, k = "q", "k"
    if program.feature_map != "identity":
        q, k = (_FEATURES[program.feature_map].format(name) for name in "qk")
    if program.qk_norm == "l2":
        body.kernels.add("l2_norm")
        q, k = f"l2_norm({q})", f"l2_norm({k})"
    if (q, k) != ("q", "k"):
        body.forward.append(f"q, k = {q}, {k}")


def _recurrence(body: Draft, state: Recurrence, label: str, alone: bool) -> str:
    """One state's read-out; returns the name of its variable."""
    prefix = f"{label}_" if label else ""
    out = label or ("o" if alone else "state")
    body.forward.append("")
    decay = "log_decay" if state.decay else ""
    if state.decay:
        _decay(body, state.decay, prefix)
    if state.rule == "delta":
        kernel = "gated_delta_rule" if state.decay else "delta_rule"
        reach = "2 * " if state.write == "double_beta" else ""
        note = "  # up to 2: eigenvalues down to -1" if reach else ""
        body.init.append(f"self.{prefix}beta_proj = nn.Linear(hidden_size, num_heads, bias=False)")
        body.forward.append(f"beta = {reach}torch.sigmoid(self.{prefix}beta_proj(x)){note}")
        arguments = ["q", "k", "v", "beta", decay]
    else:
        kernel = "linear_attention"
        arguments = ["q", _written_key(body, state, prefix), "v", decay]
    body.kernels.add(kernel)
    body.forward.append(f"{out}, _ = {kernel}({', '.join(filter(None, arguments))}, cu_seqlens=borders)")
    return out


def _written_key(body: Draft, state: Recurrence, prefix: str) -> str:
    """The key with which a linear state is written, weighted by the write strength."""
    if state.write == "gate":
        body.init.append(f"self.{prefix}write_proj = nn.Linear(hidden_size, num_heads, bias=False)")
        body.forward.append(f"write = torch.sigmoid(self.{prefix}write_proj(x))")
        return "k * write[..., None]"
    if state.write == "tied":
        body.forward.append("write = -torch.expm1(log_decay)  # 1 - decay: what is forgotten makes room")
        return "k * write" if state.decay and state.decay.granularity == "channel" else "k * write[..., None]"
    return "k"


def _decay(body: Draft, decay: Decay, prefix: str) -> None:
    by_channel = decay.granularity == "channel"
    spread = ""
    if decay.timescale:
        body.helpers.add("timescales")
        shortest, longest = decay.timescale
        spread = f"timescales({shortest:g}, {longest:g}, {'self.head_dim' if by_channel else 'num_heads'})"
    if decay.form == "fixed":
        repeat = ".repeat(num_heads, 1)" if by_channel else ""
        body.init += [
            f"rate = 1 / {spread}{repeat}",
            f"self.{prefix}log_rate = nn.Parameter(torch.log(rate))",
        ]
        shape = "-1, -1" if by_channel else "-1"
        body.forward.append(f"log_decay = -torch.exp(self.{prefix}log_rate).expand(*x.shape[:2], {shape})")
        return

    bias_name = {"softplus": "dt_bias", "logsigmoid": "decay_bias"}[decay.form] if spread else ""
    _decay_logits(body, prefix, by_channel, bias_name)
    if spread:
        body.init.append(f"rate = 1 / {spread}{'.repeat(num_heads)' if by_channel else ''}")
    if decay.form == "softplus":
        body.init += [
            f"self.{prefix}dt_bias = nn.Parameter(torch.log(torch.expm1(rate)))  # softplus(dt_bias) = rate",
            f"self.{prefix}A_log = nn.Parameter(torch.zeros(num_heads{', 1' if by_channel else ''}))",
        ]
        body.forward.append(f"log_decay = -torch.exp(self.{prefix}A_log) * functional.softplus(logits)")
        return
    if spread:
        body.init += [
            "# logsigmoid(decay_bias) / 16 = -rate",
            f"self.{prefix}decay_bias = nn.Parameter(-torch.log(torch.expm1(16 * rate)))",
        ]
    body.forward.append("log_decay = functional.logsigmoid(logits) / 16")


def _decay_logits(body: Draft, prefix: str, by_channel: bool, bias_name: str) -> None:
    """A projection of the token for each head or, at low rank, for each channel."""
    added = f" + self.{prefix}{bias_name}" if bias_name else ""
    body.forward.append(f"logits = self.{prefix}decay_proj(x){added}")
    if by_channel:
        body.helpers.add("low_rank")
        size = f"{LOW_RANK}, bias={not bias_name}"
        body.init.append(f"self.{prefix}decay_proj = low_rank(hidden_size, {size})")
        body.forward.append("logits = logits.unflatten(-1, (self.num_heads, self.head_dim))")
    else:
        plain = ", bias=False" if bias_name else ""
        body.init.append(f"self.{prefix}decay_proj = nn.Linear(hidden_size, num_heads{plain})")


def _mix(body: Draft, program: MixerProgram, branches: list[str]) -> None:
    count = len(branches)
    if count == 1:
        return
    body.forward.append("")
    if program.output_norm == "branch":
        body.kernels.add("rms_norm")
        for name in branches:
            body.init.append(f"self.{name}_norm = nn.Parameter(torch.ones(self.head_dim))")
            body.forward.append(f"{name} = rms_norm({name}, self.{name}_norm)")
    shares = [f"{name}_share" for name in branches]
    if program.mix == "learned":
        body.init += [
            "# Each head starts with equal shares of its branches",
            f"self.mix = nn.Parameter(torch.zeros({count}, num_heads, 1))",
        ]
        body.forward.append(f"{', '.join(shares)} = torch.softmax(self.mix, dim=0)")
    else:
        body.init += [
            "# Zero, so that every token starts with equal shares of its branches",
            f"self.mix_proj = nn.Linear(hidden_size, {count} * num_heads, bias=False)",
            "nn.init.zeros_(self.mix_proj.weight)",
        ]
        body.forward += [
            f"mix = self.mix_proj(x).unflatten(-1, ({count}, self.num_heads, 1))",
            f"{', '.join(shares)} = torch.softmax(mix, dim=2).unbind(dim=2)",
        ]
    terms = [f"{share} * {name}" for share, name in zip(shares, branches, strict=True)]
    body.forward.append(f"o = {' + '.join(terms)}")


def _output(body: Draft, program: MixerProgram) -> None:
    if program.value_skip:
        body.init.append("self.skip = nn.Parameter(torch.ones(num_heads, 1))")
        body.forward.append("o = o + self.skip * v  # what a token says itself, past the memory")
    normed, gate = program.output_norm == "head", program.output_gate
    if normed:
        body.init.append("self.norm_weight = nn.Parameter(torch.ones(self.head_dim))")
    if gate:
        _gate_projection(body, gate)
    if gate and gate.form == "silu" and normed:
        body.kernels.add("gated_rms_norm")
        body.forward.append("o = gated_rms_norm(o, gate, self.norm_weight)")
    else:
        if normed:
            body.kernels.add("rms_norm")
            body.forward.append("o = rms_norm(o, self.norm_weight)")
        if gate:
            body.forward.append(
                f"o = o * {'functional.silu' if gate.form == 'silu' else 'torch.sigmoid'}(gate)"
            )
    body.init.append("self.o_proj = nn.Linear(hidden_size, hidden_size, bias=False)")
    body.forward.append("return self.o_proj(o.flatten(-2))")


def _gate_projection(body: Draft, gate: Gate) -> None:
    if gate.rank is None:
        body.init.append("self.gate_proj = nn.Linear(hidden_size, hidden_size, bias=False)")
    else:
        body.helpers.add("low_rank")
        body.init.append(f"self.gate_proj = low_rank(hidden_size, {gate.rank}, bias=False)")
    body.forward.append("gate = self.gate_proj(x).unflatten(-1, (self.num_heads, self.head_dim))")
