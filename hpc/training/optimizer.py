"""The optimisers that a trial can choose: fused AdamW, or Muon for hidden matrices with AdamW for the rest."""

import inspect
from typing import Any

import torch
from torch import Tensor, distributed, nn

from asiarch.hpc.config import TrainingConfig

ADAMW_MOMENTS = ("exp_avg", "exp_avg_sq")
MUON_MOMENTS = ("momentum",)
MOMENTUM = 0.95
# of the quintic that pushes singular values towards 1, and how often it is applied (Jordan et al., 2024)
NEWTON_SCHULZ, ITERATIONS = (3.4445, -4.7750, 2.0315), 5
# of an update: as large as AdamW's usually are, so that its learning rate serves both (arXiv 2502.16982, eq. 4)
UPDATE_RMS = 0.2
# without the wrapper that breaks the graph of a compiled step
_PLAIN_STEP = inspect.unwrap(torch.optim.AdamW.step)


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """The optimiser that the configuration names, over the model's trainable parameters."""
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    hidden = hidden_matrices(model) if config.optimizer == "muon" else frozenset()
    rest = [p for name, p in trainable.items() if name not in hidden]
    # decay for matrices alone: gains, biases and decay rates are not to be pulled to zero
    groups: list[dict[str, Any]] = [
        {
            "params": [p for name, p in trainable.items() if name in hidden],
            "weight_decay": config.weight_decay,
        },
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups[0]["newton_schulz"] = torch.bfloat16 if config.precision == "bf16" else torch.float32
    kind = Muon if hidden else AdamW
    return kind(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=config.betas,
        fused=True,
    )


def hidden_matrices(model: nn.Module) -> frozenset[str]:
    """The names of what Muon trains: the weights of linear layers inside `blocks`.

    Embeddings, the head, a task's own decoder, gains, filters and matrices that a program keeps as bare parameters
    stay with AdamW: what multiplies activations from the left is not known of them.
    """
    return frozenset(
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and "blocks" in name.split(".")
    )


class AdamW(torch.optim.AdamW):
    """PyTorch's, but that its step does not import the compiler (see asiarch.hpc.training.compiler)."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        _PLAIN_STEP(self, closure)


class Muon(AdamW):
    """Momentum whose update is orthogonalised, for groups that have a key `newton_schulz`; AdamW for the others.

    Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024, with Nesterov's momentum, and
    the scale and decay of Liu et al., "Muon is Scalable for LLM Training", 2025. torch.optim.Muon takes whole
    matrices alone, and computes in bf16 whatever the training's precision is.

    Where ZeRO has cut a group into partitions (`lay_out`), momentum and weights stay partitioned. For the length of
    a step each rank gathers the group's update, fp32, and orthogonalises the matrices that reach into its part.

    `newton_schulz` is the dtype to orthogonalise in.
    """

    def lay_out(self, group: int, matrices: list[tuple[int, torch.Size]]) -> None:
        """Say which matrices a group's partitions hold, end to end: the offset and shape of each."""
        self.param_groups[group]["layout"] = matrices

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        groups = self.param_groups
        for group in groups:
            if "newton_schulz" in group:
                self._step_matrices(group)
        self.param_groups = [group for group in groups if "newton_schulz" not in group]
        try:
            super().step()
        finally:
            self.param_groups = groups

    def _step_matrices(self, group: dict[str, Any]) -> None:
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            momentum: Tensor = state["momentum"].lerp_(parameter.grad, 1 - MOMENTUM)
            update = parameter.grad.lerp(momentum, MOMENTUM)
            if "layout" in group:
                update = _orthogonalise_partition(update, group["layout"], group["newton_schulz"])
            else:
                update = _muon_update(update, group["newton_schulz"])
            parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"])


def _orthogonalise_partition(
    update: Tensor, layout: list[tuple[int, torch.Size]], dtype: torch.dtype
) -> Tensor:
    """This rank's part (n,) of the orthogonalised matrices, from its part of the matrices. Collective."""
    world, rank = distributed.get_world_size(), distributed.get_rank()
    part = update.numel()
    whole = update
    if world > 1:
        whole = update.new_empty(world * part)
        distributed.all_gather_into_tensor(whole, update)
    first, end = rank * part, (rank + 1) * part
    result = torch.zeros_like(update)  # what lies between matrices is padding
    for offset, shape in layout:
        below, above = max(offset, first), min(offset + shape.numel(), end)
        if below >= above:
            continue
        matrix = _muon_update(whole[offset : offset + shape.numel()].view(shape), dtype)
        result[below - first : above - first] = matrix.flatten()[below - offset : above - offset]
    return result


def _muon_update(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """The update (rows, columns) for a learning rate of 1, in the matrix's dtype."""
    scale = UPDATE_RMS * max(matrix.shape) ** 0.5
    return orthogonalise(matrix.to(dtype)).to(matrix.dtype) * scale


def orthogonalise(matrix: Tensor) -> Tensor:
    """(rows, columns) with the same singular vectors, its singular values brought near 1 (0.7 to 1.2)."""
    a, b, c = NEWTON_SCHULZ
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / wide.norm().clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = wide @ wide.T
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.T
