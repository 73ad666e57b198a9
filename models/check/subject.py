"""The program under check: equal, fresh mixers on demand, run under known conditions.

Every run has a mixer of its own, so that no probe sees what another left behind. The global generator's
state and gradient mode are put back after each construction and run.
"""

import ast
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from asiarch.models.check.dispatch import DispatchMode
from asiarch.models.check.parameters import add_noise, redraw
from asiarch.models.check.pretend import ExtremeChance
from asiarch.models.check.settings import CheckSettings
from asiarch.models.contract import ContractError, error_line, first_line, run_mixer
from asiarch.models.language_model import SizeError, build_mixer

# Relative movements that rounding explains, with a wide margin, between runs of one shape
ROUNDING = {torch.float64: 1e-8, torch.float32: 1e-4, torch.bfloat16: 0.05}


class ProgramError(Exception):
    """The program raised, or returned what the contract forbids. The text says under which conditions."""


@dataclass(frozen=True)
class Conditions:
    """How a mixer is made and run.

    `noise` is what `add_noise` puts on the parameters, `redraw` the size of new ones, 0 for neither. In train
    mode gradients are recorded and the input carries one, as inside a model; `gradients` says otherwise.
    `chance` True or False draws rare events always: random numbers at their largest or least.
    """

    noise: float = 0.0
    redraw: float = 0.0
    train: bool = False
    dtype: torch.dtype = torch.float32
    layer_idx: int = 0
    autocast: bool = False
    gradients: bool | None = None
    chance: bool | None = None

    @property
    def as_initialised(self) -> bool:
        return not (self.noise or self.redraw)

    @property
    def records_gradients(self) -> bool:
        return self.train if self.gradients is None else self.gradients

    def __str__(self) -> str:
        parts = [f"{'train' if self.train else 'eval'} mode", str(self.dtype).removeprefix("torch.")]
        parts += ["autocast to bfloat16"] * self.autocast
        parts += [f"layer {self.layer_idx}"]
        if self.noise:
            parts += ["noise added to the parameters"]
        elif self.redraw:
            parts += [f"parameters drawn anew (vectors at {self.redraw:+g} times a sign)"]
        else:
            parts += ["parameters as initialised"]
        if self.gradients is not None:
            parts += [f"gradients {'on' if self.gradients else 'off'}"]
        if self.chance is not None:
            parts += [f"single random numbers at their {'largest' if self.chance else 'least'}"]
        return ", ".join(parts)


class Subject:
    """A mixer class with the sizes it is checked at. `source` is the program's text."""

    def __init__(
        self, mixer_class: type[nn.Module], settings: CheckSettings, file: str, source: str = ""
    ) -> None:
        self.mixer_class = mixer_class
        self.settings = settings
        self.file = file
        self.numbers = _numbers(source)
        self._float64: str | None = None
        self._bfloat16: str | None = None

    @property
    def last_layer(self) -> int:
        """The index of the model's last layer: programs may treat layers differently."""
        return self.settings.layers - 1

    def mixer(self, conditions: Conditions, seed: int | None = None) -> nn.Module:
        """A fresh mixer; the same conditions and seed always give the same parameters."""
        seed = self.settings.seed if seed is None else seed
        where = f"constructing with {self.settings.sizes}, layer_idx={conditions.layer_idx}"
        with seeded(seed), self.guarded(where):
            mixer = build_mixer(self.settings.model(), self.mixer_class, conditions.layer_idx)
            mixer.to(conditions.dtype)
        self.change_parameters(mixer, conditions, seed)
        return mixer.train(conditions.train)

    def change_parameters(self, module: nn.Module, conditions: Conditions, seed: int) -> None:
        """Put the noise or the new values of `conditions` on the parameters of `module`."""
        if conditions.noise:
            add_noise(module, conditions.noise, seed)
        if conditions.redraw:
            redraw(module, conditions.redraw, seed)

    def inputs(self, batch: int, length: int, draw: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
        """Normal hidden states (batch, length, hidden_size) of unit rms; another `draw` gives others."""
        generator = torch.Generator().manual_seed(1_000_003 * (self.settings.seed + 1) + 7919 * length + draw)
        shape = (batch, length, self.settings.hidden_size)
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    def run(
        self,
        inputs: Tensor,
        conditions: Conditions,
        mixer: nn.Module | None = None,
        seed: int = 1,
        cu_seqlens: Tensor | None = None,
    ) -> Tensor:
        """The output for `inputs`, of a fresh mixer unless one is given.

        Raises ProgramError when the program raises, changes its input, or breaks the contract.
        """
        mixer = self.mixer(conditions) if mixer is None else mixer
        inputs = inputs.to(conditions.dtype)
        where = f"batch {inputs.shape[0]}, length {inputs.shape[1]}, {conditions}"
        with self.surroundings(conditions, seed, where):
            # not a leaf of the graph: neither is it inside a model
            given = inputs.clone().requires_grad_(conditions.records_gradients) * 1
            run = _run_autocast if conditions.autocast else run_mixer
            output = run(mixer, given, cu_seqlens)
            if not torch.equal(given.detach(), inputs):
                raise ProgramError(
                    f"changes its input in place ({where}). Usual causes: mul_, += or an assignment to a slice of "
                    "the input; copy it first, or write x = x * 2"
                )
            return output.detach()

    @contextmanager
    def surroundings(self, conditions: Conditions, seed: int, where: str) -> Iterator[None]:
        """Seed, gradient mode, autocast and chance as `conditions` say; errors are the program's."""
        with seeded(seed), self.guarded(where), ExitStack() as stack:
            stack.enter_context(torch.set_grad_enabled(conditions.records_gradients))
            if conditions.autocast:
                stack.enter_context(torch.autocast("cpu", torch.bfloat16))
            if conditions.chance is not None:
                stack.enter_context(ExtremeChance(conditions.chance))
            yield

    @contextmanager
    def guarded(self, where: str) -> Iterator[None]:
        """Turn what the program raises into a ProgramError that names the line and the conditions."""
        try:
            yield
        except ProgramError:
            raise
        except (ContractError, SizeError) as error:
            raise ProgramError(f"{error} ({where})") from error
        except (Exception, SystemExit) as error:
            line = error_line(error, self.file)
            at = f" at line {line}" if line else ""
            raise ProgramError(f"raised {type(error).__name__}{at}: {first_line(error)} ({where})") from error

    def precise(self, conditions: Conditions) -> Conditions:
        """The same conditions in float64, where the program allows it."""
        supported = not self.float64_note.startswith("not supported")
        return replace(conditions, dtype=torch.float64 if supported else torch.float32)

    @property
    def float64_note(self) -> str:
        """How far the program computes in float64: exact, partly, or not."""
        if self._float64 is None:
            lower = _LowerPrecision()
            self._float64 = self._try(torch.float64, lower) or "exact"
            if self._float64 == "exact" and lower.seen:
                self._float64 = "partly " + ", ".join(sorted(lower.seen))
        return self._float64

    @property
    def bfloat16_note(self) -> str:
        """Whether the program runs in bfloat16: supported, or why not."""
        if self._bfloat16 is None:
            self._bfloat16 = self._try(torch.bfloat16, ExitStack()) or "supported"
        return self._bfloat16

    def rounding(self, conditions: Conditions) -> float:
        """Relative movement that rounding explains, with a wide margin: 1e-8 in true float64, 1e-4 in float32."""
        if conditions.autocast:
            return ROUNDING[torch.bfloat16]
        if conditions.dtype == torch.float64 and self.float64_note != "exact":
            return ROUNDING[torch.float32]
        return ROUNDING[conditions.dtype]

    def _try(self, dtype: torch.dtype, watch: Any) -> str:
        """Why the program does not run in `dtype`; empty when it does."""
        conditions = Conditions(dtype=dtype)
        try:
            mixer, inputs = self.mixer(conditions), self.inputs(2, 33, dtype=dtype)
            with watch:
                self.run(inputs, conditions, mixer)
        except ProgramError as error:
            return f"not supported: {error}"
        return ""


def _run_autocast(mixer: nn.Module, given: Tensor, cu_seqlens: Tensor | None = None) -> Tensor:
    """The output, whose dtype is autocast's choice and not the program's."""
    output = mixer(given)
    return output[0] if isinstance(output, tuple) else output


class _LowerPrecision(DispatchMode):
    """Notes the floating types below float64 that any operation gives."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            lower = (torch.float32, torch.bfloat16, torch.float16, torch.complex64)
            if isinstance(value, Tensor) and value.dtype in lower:
                self.seen.add(str(value.dtype).removeprefix("torch."))
        return result


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global CPU generator within the block; put it and the gradient mode back after it."""
    # not torch.manual_seed: without a GPU it also stores a stack trace for CUDA's later start, at every call
    generator = torch.default_generator
    state = generator.get_state()
    generator.manual_seed(seed)
    try:
        with torch.set_grad_enabled(torch.is_grad_enabled()):
            yield
    finally:
        generator.set_state(state)


def _numbers(source: str) -> tuple[int, ...]:
    """The whole numbers that a program's text holds: lengths and sizes at which it may behave otherwise."""
    nodes = ast.walk(ast.parse(source))
    values = {node.value for node in nodes if isinstance(node, ast.Constant) and type(node.value) is int}
    return tuple(sorted(values))
