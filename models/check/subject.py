"""The program under check: equal, fresh mixers on demand, run under known conditions.

Every run has a mixer of its own, so that no probe sees what another left behind. The global generator's
state is put back after each construction and run.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from asiarch.models.check.settings import CheckSettings
from asiarch.models.contract import ContractError, error_line, first_line, run_mixer
from asiarch.models.language_model import SizeError, build_mixer

NUDGE = 0.1  # noise on the parameters that opens gates initialised at zero
SHAKE = 1.0  # noise that leaves nothing of the initialisation, and may make an honest program overflow


class ProgramError(Exception):
    """The program raised, or returned what the contract forbids. The text says under which conditions."""


@dataclass(frozen=True)
class Conditions:
    """How a mixer is made and run. `noise` is what `add_noise` puts on the parameters."""

    noise: float = 0.0
    train: bool = False
    dtype: torch.dtype = torch.float32
    layer_idx: int = 0

    def __str__(self) -> str:
        mode = "train" if self.train else "eval"
        parameters = "noise added to the parameters" if self.noise else "parameters as initialised"
        precision = str(self.dtype).removeprefix("torch.")
        return f"{mode} mode, {precision}, layer {self.layer_idx}, {parameters}"


class Subject:
    """A mixer class with the sizes it is checked at."""

    def __init__(self, mixer_class: type[nn.Module], settings: CheckSettings, file: str) -> None:
        self.mixer_class = mixer_class
        self.settings = settings
        self.file = file
        self._precise: torch.dtype | None = None
        self._float64 = ""

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
        if conditions.noise:
            add_noise(mixer, conditions.noise, seed)
        return mixer.train(conditions.train)

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
        """The output for `inputs`, of a fresh mixer unless one is given; train mode records gradients.

        Raises ProgramError when the program raises or breaks the contract.
        """
        mixer = self.mixer(conditions) if mixer is None else mixer
        inputs = inputs.to(conditions.dtype)
        where = f"batch {inputs.shape[0]}, length {inputs.shape[1]}, {conditions}"
        with seeded(seed), self.guarded(where), torch.set_grad_enabled(conditions.train):
            return run_mixer(mixer, inputs.clone(), cu_seqlens).detach()

    @contextmanager
    def guarded(self, where: str) -> Iterator[None]:
        """Turn what the program raises into a ProgramError that names the line and the conditions."""
        try:
            yield
        except (ContractError, SizeError) as error:
            raise ProgramError(f"{error} ({where})") from error
        except (Exception, SystemExit) as error:
            line = error_line(error, self.file)
            at = f" at line {line}" if line else ""
            raise ProgramError(f"raised {type(error).__name__}{at}: {first_line(error)} ({where})") from error

    def precise(self, conditions: Conditions) -> Conditions:
        """The same conditions in float64, where the program allows it."""
        if self._precise is None:
            self._precise, self._float64 = self._try_float64()
        return replace(conditions, dtype=self._precise)

    @property
    def float64_note(self) -> str:
        """How far the program computes in float64: exact, partly, or not."""
        self.precise(Conditions())
        return self._float64

    def rounding(self, conditions: Conditions) -> float:
        """Relative movement that rounding explains, with a wide margin: 1e-8 in true float64, else 1e-4."""
        return 1e-8 if conditions.dtype == torch.float64 and self.float64_note == "exact" else 1e-4

    def _try_float64(self) -> tuple[torch.dtype, str]:
        conditions = Conditions(dtype=torch.float64)
        lower = _LowerPrecision()
        try:
            mixer, inputs = self.mixer(conditions), self.inputs(2, 33, dtype=torch.float64)
            with lower:
                self.run(inputs, conditions, mixer)
        except ProgramError as error:
            return torch.float32, f"not supported: {error}"
        if lower.seen:
            return torch.float64, "partly " + ", ".join(sorted(lower.seen))
        return torch.float64, "exact"


class _LowerPrecision(TorchDispatchMode):
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
    """Seed the global CPU generator within the block, and put its state back after it."""
    # not torch.manual_seed: without a GPU it also stores a stack trace for CUDA's later start, at every call
    generator = torch.default_generator
    state = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(state)


def add_noise(mixer: nn.Module, size: float, seed: int) -> None:
    """Add normal noise to every parameter, so that gates at zero open too.

    Its standard deviation is `size` times (the parameter's rms + a half, over the root of a matrix's fan-in):
    a matrix changes its gain by about `size`, whatever its width.
    """
    generator = torch.Generator().manual_seed(seed + 17)
    with torch.no_grad():
        for parameter in mixer.parameters():
            if parameter.is_floating_point():
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                fan_in = parameter[0].numel() if parameter.dim() > 1 and len(parameter) else 1
                parameter.add_((noise * size * (rms(parameter) + 0.5 * fan_in**-0.5)).to(parameter.dtype))


def rms(values: Tensor) -> float:
    """Root mean square of all elements; 0 for none."""
    return values.detach().double().square().mean().sqrt().item() if values.numel() else 0.0
