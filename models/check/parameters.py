"""Other parameters than the initial ones, so that what training may open is open when a leak is looked for."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

NUDGE = 0.1  # noise on the parameters that opens gates initialised at zero
LARGE = 3.0  # vectors drawn anew at this size, and at 1, hold gates open in either direction
SHAKE = 1.0  # noise that leaves nothing of the initialisation, and may make an honest program overflow


def add_noise(module: nn.Module, size: float, seed: int) -> None:
    """Add normal noise to every parameter, so that gates at zero open too.

    Its standard deviation is `size` times (the parameter's rms + a half, over the root of a matrix's fan-in):
    a matrix changes its gain by about `size`, whatever its width.
    """
    for parameter, noise in _draws(module, seed + 17):
        parameter.add_(
            (noise * size * (rms(parameter) + 0.5 * _fan_in(parameter) ** -0.5)).to(parameter.dtype)
        )


def redraw(module: nn.Module, size: float, seed: int) -> None:
    """Replace every parameter, whatever it was: a gate that started at -30 opens too.

    Matrices become normal with a gain of 1. Scalars and vectors become +-|size| or more, with random signs;
    the opposite `size` gives every parameter the opposite sign, so that one of the two opens what only one sign
    opens.
    """
    for parameter, noise in _draws(module, seed + 29):
        if parameter.dim() > 1:
            value = torch.sign(torch.tensor(size)) * noise * _fan_in(parameter) ** -0.5
        else:
            value = size * torch.sign(noise) * (1 + noise.abs() / 4)
        parameter.copy_(value)


def _draws(module: nn.Module, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Each floating-point parameter with normal noise of its shape, float64."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.is_floating_point():
                yield parameter, torch.randn(parameter.shape, generator=generator, dtype=torch.float64)


def _fan_in(parameter: Tensor) -> int:
    return parameter[0].numel() if parameter.dim() > 1 and len(parameter) else 1


def rms(values: Tensor) -> float:
    """Root mean square of all elements; 0 for none."""
    return values.detach().double().square().mean().sqrt().item() if values.numel() else 0.0
