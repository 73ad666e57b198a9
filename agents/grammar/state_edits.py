"""Edits of the recurrent states: decay, update rule, write strength, number of timescales."""

from collections.abc import Iterator
from dataclasses import replace

from asiarch.agents.grammar.changes import Change, each_state, edit
from asiarch.agents.grammar.program import Decay, DecayForm, Granularity, MixerProgram, Recurrence, Write

TIMESCALES = ((1.0, 1000.0), (2.0, 64.0), (16.0, 256.0), (64.0, 4096.0))
FORM_WORDS: dict[DecayForm, str] = {
    "softplus": "Mamba-2's softplus decay",
    "logsigmoid": "GLA's log-sigmoid decay",
    "fixed": "a learned decay that is the same at every token",
}


@edit()
def add_decay_by_head(program: MixerProgram) -> Iterator[Change]:
    """A scalar decay for each head."""
    for state, put, which in each_state(program):
        if state.decay:
            continue
        forms: tuple[DecayForm, ...] = ("softplus", "fixed")
        for form in forms:
            yield Change(
                put(replace(state, decay=Decay("head", form, (1.0, 1000.0)))),
                f"Gives {which} a decay for each head: {FORM_WORDS[form]}.",
                "Without forgetting, a state of fixed size fills with stale associations that blur the "
                "useful ones; "
                "a decay clears it, and heads can settle on different spans "
                + (
                    "(Dao and Gu, 2024; Yang et al., 2024)."
                    if form == "softplus"
                    else "(RetNet, Sun et al., 2023)."
                ),
            )


@edit()
def add_decay_by_channel(program: MixerProgram) -> Iterator[Change]:
    """A decay for each key channel, from a low-rank projection."""
    for state, put, which in each_state(program):
        if state.decay is None:
            yield Change(
                put(replace(state, decay=Decay("channel", "logsigmoid", None))),
                f"Gives {which} a decay for each key channel, computed from the token at low rank.",
                "Each key channel can then keep its content for a span of its own, so one head holds both "
                "what is passing and what lasts (GLA, Yang et al., 2023).",
            )


@edit()
def switch_decay_granularity(program: MixerProgram) -> Iterator[Change]:
    """From a decay for each head to one for each channel, and back."""
    reasons: dict[Granularity, str] = {
        "channel": "A head no longer forgets all its content at once: channels with lasting features keep "
        "them while others are reused (GLA, Yang et al., 2023).",
        "head": "One number for each head is cheaper, and leaves q and k free to carry content rather than "
        "timing; Mamba-2 lost little by this step (Dao and Gu, 2024).",
    }
    for state, put, which in each_state(program):
        if state.decay is None:
            continue
        to: Granularity = "channel" if state.decay.granularity == "head" else "head"
        decay = replace(state.decay, granularity=to)
        what = f"Makes the decay of {which} one for each {to}."
        yield Change(put(replace(state, decay=decay)), what, reasons[to])


@edit()
def change_decay_form(program: MixerProgram) -> Iterator[Change]:
    """Between softplus, log-sigmoid and fixed decay."""
    reasons: dict[DecayForm, str] = {
        "softplus": "Its rate is unbounded, so one token can wipe the state (a hard reset at a boundary), "
        "while small "
        "rates stay well resolved (Mamba-2, Dao and Gu, 2024).",
        "logsigmoid": "Its rate grows slowly with the input and is damped 16 times, which keeps memory long "
        "by "
        "default and the gradients through it smooth (GLA, Yang et al., 2023).",
        "fixed": "A span that does not depend on the token cannot be misjudged, costs almost no parameters, "
        "and "
        "leaves the choice of what to keep to the keys (RetNet, Sun et al., 2023).",
    }
    for state, put, which in each_state(program):
        for form, why in reasons.items():
            if state.decay is None or form == state.decay.form:
                continue
            decay = replace(state.decay, form=form, timescale=state.decay.timescale or (1.0, 1000.0))
            yield Change(put(replace(state, decay=decay)), f"Gives {which} {FORM_WORDS[form]}.", why)


@edit(weight=0.25)
def change_timescale(program: MixerProgram) -> Iterator[Change]:
    """Another spread of the initial decay times."""
    for state, put, which in each_state(program):
        for timescale in TIMESCALES:
            if state.decay and state.decay.timescale != timescale:
                shortest, longest = timescale
                yield Change(
                    put(replace(state, decay=replace(state.decay, timescale=timescale))),
                    f"Starts {which} with decay times from {shortest:g} to {longest:g} tokens.",
                    "Gradients hardly reach past the decay time, so the span at the start decides which "
                    "dependencies can be learned at all (Gu et al., 2022).",
                )


@edit(weight=0.5)
def remove_decay(program: MixerProgram) -> Iterator[Change]:
    """A state that never forgets by itself."""
    for state, put, which in each_state(program):
        if state.decay:
            write = "gate" if state.write == "tied" else state.write
            yield Change(
                put(replace(state, decay=None, write=write)),
                f"Takes the decay from {which}.",
                "Decay also erases what is needed later: without it, facts from the start of a document stay "
                "within reach, and the normalisation deals with the growing state.",
            )


@edit()
def add_delta_rule(program: MixerProgram) -> Iterator[Change]:
    """From adding to a linear state to correcting it."""
    for state, put, which in each_state(program):
        if state.rule == "delta":
            continue
        decay = state.decay
        if decay and decay.granularity == "channel":
            decay = replace(decay, granularity="head")
        yield Change(
            replace(put(Recurrence("delta", "beta", decay)), qk_norm="l2"),
            f"Writes {which} by the delta rule, with l2-normalised q and k.",
            "An additive state sums every value ever bound to a key; the delta rule first takes out what "
            "the key "
            "recalls now, so a binding can be overwritten (Schlag et al., 2021; Yang et al., 2024).",
        )


@edit()
def remove_delta_rule(program: MixerProgram) -> Iterator[Change]:
    """From correcting a state to adding to it."""
    for state, put, which in each_state(program):
        if state.rule == "delta":
            yield Change(
                put(replace(state, rule="linear", write="gate")),
                f"Writes {which} by plain addition with a gate for each head, no longer by the delta rule.",
                "Addition keeps evidence that repeats, which overwriting throws away, and it costs less; "
                "the gate "
                "still lets a token decline to write.",
            )


@edit()
def change_write(program: MixerProgram) -> Iterator[Change]:
    """How strongly a linear state is written."""
    texts: dict[Write, tuple[str, str]] = {
        "plain": (
            "Writes {} with every key at full strength.",
            "The length of k already says how much to write; a second control of the same thing only adds "
            "noise.",
        ),
        "gate": (
            "Gives {} a write gate for each head.",
            "Filler tokens can then be kept out, which spares capacity for content (as the step size of "
            "Mamba-2 "
            "does; Dao and Gu, 2024).",
        ),
        "tied": (
            "Ties the write strength of {} to its decay, as 1 - decay.",
            "A state that is not forgetting is not written to either, so its scale stays bounded and it "
            "acts as a "
            "moving average (HGRN2, Qin et al., 2024).",
        ),
    }
    for state, put, which in each_state(program):
        for write, (what, why) in texts.items():
            if state.rule == "linear" and state.write != write:
                yield Change(put(replace(state, write=write)), what.format(which), why)


@edit()
def change_beta_range(program: MixerProgram) -> Iterator[Change]:
    """Between beta in (0, 1) and in (0, 2)."""
    for state, put, which in each_state(program):
        if state.write == "beta":
            yield Change(
                put(replace(state, write="double_beta")),
                f"Doubles the range of beta in {which}, to (0, 2).",
                "The transition then has eigenvalues down to -1 and can reflect the state along k: flips "
                "and counts, "
                "such as parity, become possible (Grazzi et al., 2024).",
            )
        elif state.write == "double_beta":
            yield Change(
                put(replace(state, write="beta")),
                f"Halves the range of beta in {which}, to (0, 1).",
                "Strengths above one overshoot the new value and leave its mirror image behind; within (0, "
                "1) a "
                "write is always an average of the old value and the new.",
            )


@edit()
def add_timescale(program: MixerProgram) -> Iterator[Change]:
    """A second state that forgets at another speed, or writes by another rule."""
    if len(program.recurrences) != 1:
        return
    first = program.recurrences[0]
    mix = "learned" if program.mix == "none" else program.mix
    fast = Decay("head", "softplus", (2.0, 64.0))
    slow = Decay("head", "softplus", (64.0, 4096.0))
    pairs = [
        (first, replace(first, decay=fast), "a fast one"),
        (replace(first, decay=fast), replace(first, decay=slow), "one fast, one slow"),
        (first, Recurrence("linear", "plain", slow), "a slow one that adds"),
        (first, Recurrence("delta", "beta", None), "one by the delta rule that never decays"),
    ]
    for one, other, words in pairs:
        uses_delta = "delta" in (one.rule, other.rule)
        yield Change(
            replace(
                program,
                recurrences=(one, other),
                mix=mix,
                qk_norm="l2" if uses_delta else program.qk_norm,
            ),
            f"Keeps two states over the same q, k and v ({words}).",
            "Text needs a memory of the sentence and one of the document; a single decay compromises between "
            "them, while two states of different speed can be weighed (as the scales of RetNet's heads; "
            "Sun et al., 2023).",
        )


@edit(weight=0.5)
def remove_timescale(program: MixerProgram) -> Iterator[Change]:
    """Back to one state."""
    if len(program.recurrences) != 2:
        return
    alone = program.window is None
    for kept, words in zip(program.recurrences, ("first", "second"), strict=True):
        yield Change(
            replace(
                program,
                recurrences=(kept,),
                mix="none" if alone else program.mix,
                output_norm="head" if alone and program.output_norm == "branch" else program.output_norm,
            ),
            f"Keeps only the {words} of the two states.",
            "If both states came to hold the same, the second one costs time and blurs the first; alone, "
            "the remaining one gets the whole gradient.",
        )


STATE_EDITS = (
    add_decay_by_head,
    add_decay_by_channel,
    switch_decay_granularity,
    change_decay_form,
    change_timescale,
    remove_decay,
    add_delta_rule,
    remove_delta_rule,
    change_write,
    change_beta_range,
    add_timescale,
    remove_timescale,
)
