"""A program in words: its name, the names of its states, its equations."""

from asiarch.agents.grammar.program import Decay, MixerProgram, Recurrence


def state_labels(program: MixerProgram) -> tuple[str, ...]:
    """A word for each recurrence, to tell two of them apart; one alone needs none."""
    states = program.recurrences
    if len(states) == 1:
        return ("",)
    if states[0].rule != states[1].rule:
        return states[0].rule, states[1].rule
    return ("fast", "slow") if states[0].horizon < states[1].horizon else ("first", "second")


def program_name(program: MixerProgram) -> str:
    """A short name in snake case, of the parts that a reader would ask for first; not unique."""
    words = [_state_name(state) for state in program.recurrences]
    if len(words) == 2:
        words = ["two_timescale", words[0]] if words[0] == words[1] else [words[0], "and", words[1]]
    if program.window:
        words.append(f"window{program.window.size}")
    words += ["shift"] * program.token_shift + ["skip"] * program.value_skip
    return "_".join(words)


def class_name(program: MixerProgram) -> str:
    """The class's name, as GatedDeltaWindow32Mixer."""
    return "".join(word.capitalize() for word in program_name(program).split("_")) + "Mixer"


def equations(program: MixerProgram) -> list[str]:
    """The mixer's equations for one head, a line each."""
    letters = ("S", "R")
    lines = [
        f"{letter}_t = {_update(letter, state, index)}"
        for letter, state, index in zip(letters, program.recurrences, ("", "'"), strict=False)
    ]
    reads = [f"{letter}_t^T q_t" for letter in letters[: len(program.recurrences)]]
    reads += ["local_t"] if program.window else []
    if program.branches > 1:
        time = "_t" if program.mix == "input" else ""
        normed = [f"norm({read})" for read in reads] if program.output_norm == "branch" else reads
        mixed = " + ".join(f"m{i}{time} {read}" for i, read in enumerate(normed, start=1))
    else:
        mixed = reads[0]
    if program.value_skip:
        mixed += " + d v_t"
    if program.output_norm == "head":
        mixed = f"norm({mixed})"
    elif program.output_gate and (program.branches > 1 or program.value_skip):
        mixed = f"({mixed})"
    if program.output_gate:
        mixed += f" * {program.output_gate.form}(W_g x_t)"
    return [*lines, f"y_t = W_o [{mixed}]"]


def legend(program: MixerProgram) -> str:
    """What the letters of the equations stand for; empty when there is nothing to say."""
    states = program.recurrences
    used = [
        (any(state.decay for state in states), "a: decay"),
        (any(state.rule == "delta" for state in states), "b: write strength"),
        (any(state.write == "gate" for state in states), "w: write gate"),
        (program.branches > 1, "m: shares of the branches"),
        (program.value_skip, "d: weight of the value skip"),
    ]
    words = [text for is_used, text in used if is_used]
    if program.window:
        words.append(f"local: softmax attention over the last {program.window.size} tokens")
    return "; ".join(words)


def _state_name(state: Recurrence) -> str:
    if state.rule == "delta":
        return "gated_delta" if state.decay else "delta"
    if state.decay is None:
        return "linear"
    if state.decay.form == "fixed":
        return "retention"
    return "gated_linear" if state.decay.granularity == "channel" else "decay_linear"


def _update(letter: str, state: Recurrence, mark: str) -> str:
    decay = _decay_symbol(state.decay, mark)
    before = f"{letter}_{{t-1}}"
    if state.rule == "delta":
        strength = f"b{mark}_t"
        return f"{decay}(I - {strength} k_t k_t^T) {before} + {strength} k_t v_t^T"
    kept = decay.strip()
    weight = {"plain": "", "gate": f"w{mark}_t ", "tied": f"(1 - {kept}) "}[state.write]
    return f"{decay}{before} + {weight}k_t v_t^T"


def _decay_symbol(decay: Decay | None, mark: str) -> str:
    if decay is None:
        return ""
    symbol = f"a{mark}" if decay.form == "fixed" else f"a{mark}_t"
    return f"diag({symbol}) " if decay.granularity == "channel" else f"{symbol} "
