"""The typed program of a token mixer: what it is made of, and which combinations make sense.

    x -> (token shift) -> q, k, v projections -> (short convolutions) -> (feature map) -> (normalisation)
      -> one or two recurrent states, and a softmax over a local window -> mix -> (value skip)
      -> (output norm) -> (output gate) -> output projection

Optional parts are None, so that equal mixers are equal programs.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

RuleName = Literal["linear", "delta"]
Write = Literal["plain", "gate", "tied", "beta", "double_beta"]
Granularity = Literal["head", "channel"]
DecayForm = Literal["softplus", "logsigmoid", "fixed"]
Activation = Literal["none", "silu"]
FeatureMap = Literal["identity", "silu", "elu1", "relu", "square", "softmax"]
QKNorm = Literal["none", "l2"]
Mix = Literal["none", "learned", "input"]
GateForm = Literal["sigmoid", "silu"]
OutputNorm = Literal["none", "head", "branch"]

SPEC_VERSION = 1
WRITES: dict[str, tuple[Write, ...]] = {"linear": ("plain", "gate", "tied"), "delta": ("beta", "double_beta")}
WINDOWS = (16, 32, 64)
WIDTHS = range(2, 9)
GATE_RANKS = (None, 16)


@dataclass(frozen=True)
class Decay:
    """How a state forgets, as a log decay for each token.

    softplus: -exp(A_log) softplus(W x + dt_bias), as in Mamba-2; logsigmoid: logsigmoid(W x) / 16, as in GLA;
    fixed: learned, but the same at every token, as in RetNet. A channel-wise W has rank 16.
    """

    granularity: Granularity
    form: DecayForm
    # shortest and longest initial decay time in tokens, spread over heads (or channels) on a log scale;
    # None leaves a logsigmoid decay where its default initialisation puts it, at about 23 tokens
    timescale: tuple[float, float] | None


@dataclass(frozen=True)
class Recurrence:
    """One recurrent state S (key dim x value dim) for each head.

    The linear rule adds w k v^T: w is 1 (plain), sigmoid(W x) (gate), or 1 - decay (tied). The delta rule
    replaces what k recalls by v, with strength in (0, 1) (beta) or (0, 2) (double_beta).
    """

    rule: RuleName
    write: Write
    decay: Decay | None = None

    @property
    def horizon(self) -> float:
        """The longest initial decay time in tokens; infinite without decay."""
        if self.decay is None:
            return float("inf")
        return self.decay.timescale[1] if self.decay.timescale else 23.0


@dataclass(frozen=True)
class Convolution:
    """A short causal depthwise convolution after a projection."""

    width: int = 4
    activation: Activation = "silu"


@dataclass(frozen=True)
class Window:
    """Causal softmax attention over the last `size` tokens; it shares q, k and v with the states."""

    size: int = 32
    rotary: bool = False


@dataclass(frozen=True)
class Gate:
    """A gate on the output, computed from the layer's input; `rank` None is a full projection."""

    form: GateForm = "silu"
    rank: int | None = None


@dataclass(frozen=True)
class MixerProgram:
    """A token mixer. `recurrences` are kept in a fixed order, the faster one first."""

    recurrences: tuple[Recurrence, ...]
    q_conv: Convolution | None = None
    k_conv: Convolution | None = None
    v_conv: Convolution | None = None
    feature_map: FeatureMap = "identity"
    qk_norm: QKNorm = "none"
    window: Window | None = None
    mix: Mix = "none"
    value_skip: bool = False
    output_norm: OutputNorm = "head"
    output_gate: Gate | None = None
    token_shift: bool = False

    def __post_init__(self) -> None:
        # the order of the states carries no meaning, so equal mixers get one order
        ordered = sorted(self.recurrences, key=lambda state: (state.horizon, repr(state)))
        object.__setattr__(self, "recurrences", tuple(ordered))

    @property
    def branches(self) -> int:
        """How many outputs are mixed: the states, and the window."""
        return len(self.recurrences) + (self.window is not None)


def valid(program: MixerProgram) -> list[str]:
    """Why a program makes no sense, one line a reason; empty when it does."""
    reasons = [*_value_reasons(program)]
    for recurrence in program.recurrences:
        reasons += _recurrence_reasons(recurrence, program)
    if len(program.recurrences) not in (1, 2):
        reasons.append(f"a mixer has one or two recurrences, not {len(program.recurrences)}")
    if len(set(program.recurrences)) < len(program.recurrences):
        reasons.append("two equal recurrences: they must differ in rule, write or decay")
    if (program.mix == "none") != (program.branches == 1):
        reasons.append(
            f"mix is {program.mix!r} with {program.branches} branch(es): only one branch needs no mix"
        )
    if program.output_norm == "none" and program.qk_norm == "none":
        reasons.append(
            "without an output norm, q and k must be normalised: else nothing sets the output's scale"
        )
    if program.output_norm == "branch" and program.branches == 1:
        reasons.append("output norm of each branch, but there is one branch: use 'head'")
    return reasons


def _recurrence_reasons(recurrence: Recurrence, program: MixerProgram) -> list[str]:
    reasons, decay = [], recurrence.decay
    if recurrence.write not in WRITES.get(recurrence.rule, ()):
        reasons.append(f"the {recurrence.rule} rule has no write {recurrence.write!r}")
    if recurrence.rule == "delta":
        if program.qk_norm != "l2":
            reasons.append("the delta rule needs l2-normalised keys: its transition must not expand")
        if decay and decay.granularity == "channel":
            reasons.append("the delta rule has a decay for each head, not for each channel")
    elif decay is None and program.output_norm == "none":
        reasons.append("a linear state without decay grows with the length: it needs an output norm")
    if recurrence.write == "tied" and decay is None:
        reasons.append("a write strength tied to the decay needs a decay")
    if decay and decay.timescale is None and decay.form != "logsigmoid":
        reasons.append(f"a {decay.form} decay needs a timescale")
    if decay and decay.timescale and not 0.5 <= decay.timescale[0] <= decay.timescale[1] <= 1e6:
        reasons.append(f"timescale {decay.timescale}: shortest to longest, within 0.5 to 1e6 tokens")
    return reasons


def _value_reasons(program: MixerProgram) -> list[str]:
    choices: list[tuple[str, object, tuple[object, ...]]] = [
        ("feature_map", program.feature_map, get_args(FeatureMap)),
        ("qk_norm", program.qk_norm, get_args(QKNorm)),
        ("mix", program.mix, get_args(Mix)),
        ("output_norm", program.output_norm, get_args(OutputNorm)),
    ]
    for recurrence in program.recurrences:
        choices.append(("rule", recurrence.rule, get_args(RuleName)))
        if recurrence.decay:
            choices.append(("granularity", recurrence.decay.granularity, get_args(Granularity)))
            choices.append(("form", recurrence.decay.form, get_args(DecayForm)))
    for conv in (program.q_conv, program.k_conv, program.v_conv):
        if conv:
            choices += [
                ("width", conv.width, tuple(WIDTHS)),
                ("activation", conv.activation, get_args(Activation)),
            ]
    if program.window:
        choices.append(("window size", program.window.size, WINDOWS))
    if program.output_gate:
        choices.append(("gate form", program.output_gate.form, get_args(GateForm)))
        choices.append(("gate rank", program.output_gate.rank, GATE_RANKS))
    return [f"{what} is {value!r}; known are {known}" for what, value, known in choices if value not in known]


def to_spec(program: MixerProgram) -> dict[str, Any]:
    """The program as JSON: lists, no tuples, so that it equals what is read back from a file."""
    return {"grammar": SPEC_VERSION, "mixer": json.loads(json.dumps(asdict(program)))}


def is_spec(spec: dict[str, Any]) -> bool:
    """Whether a candidate's spec is a program of this grammar."""
    return spec.get("grammar") == SPEC_VERSION


def from_spec(spec: dict[str, Any]) -> MixerProgram:
    """The program of a spec; raises ValueError, saying why, when it is none or makes no sense."""
    if not is_spec(spec):
        raise ValueError(f"not a mixer program of grammar {SPEC_VERSION}: {str(spec)[:80]}")
    try:
        program = _mixer(spec["mixer"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"broken mixer program: {error}") from error
    if reasons := valid(program):
        raise ValueError(f"mixer program makes no sense: {'; '.join(reasons)}")
    return program


def _mixer(data: dict[str, Any]) -> MixerProgram:
    parts = dict(data)
    parts["recurrences"] = tuple(
        Recurrence(**{**state, "decay": _decay(state["decay"])}) for state in data["recurrences"]
    )
    for name in ("q_conv", "k_conv", "v_conv"):
        parts[name] = Convolution(**data[name]) if data[name] else None
    parts["window"] = Window(**data["window"]) if data["window"] else None
    parts["output_gate"] = Gate(**data["output_gate"]) if data["output_gate"] else None
    return MixerProgram(**parts)


def _decay(data: dict[str, Any] | None) -> Decay | None:
    if data is None:
        return None
    timescale = data["timescale"]
    return Decay(**{**data, "timescale": tuple(timescale) if timescale else None})


MAMBA_DECAY = Decay("head", "softplus", (1.0, 1000.0))
GLA_DECAY = Decay("channel", "logsigmoid", None)

# Yang et al., 2024 ("Parallelizing Linear Transformers with the Delta Rule"); Yang, Kautz, Hatamizadeh, 2024
# ("Gated Delta Networks"); Yang et al., 2023 ("Gated Linear Attention Transformers")
BASELINE_PROGRAMS: dict[str, MixerProgram] = {
    "delta_net": MixerProgram(
        (Recurrence("delta", "beta"),),
        q_conv=Convolution(),
        k_conv=Convolution(),
        v_conv=Convolution(),
        qk_norm="l2",
    ),
    "gated_delta_net": MixerProgram(
        (Recurrence("delta", "beta", MAMBA_DECAY),),
        q_conv=Convolution(),
        k_conv=Convolution(),
        v_conv=Convolution(),
        qk_norm="l2",
        output_gate=Gate(),
    ),
    "gla": MixerProgram((Recurrence("linear", "plain", GLA_DECAY),), output_gate=Gate()),
}
