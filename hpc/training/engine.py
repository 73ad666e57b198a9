"""DeepSpeed's engine, and its whole state in a form that no number of ranks and no ZeRO stage shows in.

DeepSpeed's own checkpoints hold the partitions of one topology. What is stored here is, for each parameter by
its name, the fp32 master value and the optimiser's moments, whole: any topology can load it, and the same
topology goes on bit for bit.
"""

from collections.abc import Iterator
from typing import Any

import deepspeed
import torch
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)
from torch import Tensor, nn

from asiarch.hpc.config import TrainingConfig
from asiarch.hpc.training.optimizer import ADAMW_MOMENTS, MUON_MOMENTS, Muon, hidden_matrices, make_optimizer


class Engine:
    """A model with its optimiser under DeepSpeed.

    Args:
        model: called as model(inputs, targets), returns the scalar mean loss.
        batch_size: rows of the global batch.
        world: ranks that share it.
        accumulation: micro-batches of each rank in one step.
        state: what `state()` of an earlier engine gave, of any topology; None to start anew. Collective.
    """

    def __init__(
        self,
        model: nn.Module,
        config: TrainingConfig,
        batch_size: int,
        world: int,
        accumulation: int,
        state: dict[str, Any] | None,
    ) -> None:
        if state is not None:
            # before DeepSpeed partitions the module: the low-precision copies are cast from these
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    parameter.copy_(state["parameters"][name])
        # At stage 0 in bf16 DeepSpeed has an optimiser whose losses depart from those of all other stages in
        # the second step; stage 1 on one rank is the same training, with fp32 masters.
        self.stage = max(1, config.zero_stage) if config.precision == "bf16" else config.zero_stage
        self._hidden = hidden_matrices(model) if config.optimizer == "muon" else frozenset()
        self.deepspeed, *_ = deepspeed.initialize(
            model=model,
            optimizer=make_optimizer(model, config),
            config={
                "train_batch_size": batch_size,
                "train_micro_batch_size_per_gpu": batch_size // world // accumulation,
                "gradient_accumulation_steps": accumulation,
                "gradient_clipping": config.gradient_clipping,
                # gloo has no reduce_scatter
                "zero_optimization": {"stage": self.stage, "reduce_scatter": torch.cuda.is_available()},
                "bf16": {"enabled": config.precision == "bf16"},
                "zero_allow_untested_optimizer": True,
                "steps_per_print": 2**31 - 1,
            },
        )
        if self.stage:
            self._make_moments()
            self._lay_out_matrices()
        elif world == 1:
            # else DeepSpeed copies all gradients into one buffer and back, for a sum over one rank
            self.deepspeed.enable_backward_allreduce = False
        if state is not None:
            self._load(state)

    def _make_moments(self) -> None:
        # DeepSpeed links parameters to their moments when the first of several parameter groups has stepped: the
        # moments of the others must be there by then, or they stay unlinked. A state to load needs them now.
        optimizer = self.deepspeed.optimizer
        partitions = (
            optimizer.fp32_partitioned_groups_flat
            if self.stage == 3
            else (optimizer.single_partition_of_fp32_groups)
        )
        for group, partition in zip(optimizer.optimizer.param_groups, partitions, strict=True):
            state = optimizer.optimizer.state[partition]
            if "newton_schulz" in group:
                state.update({key: torch.zeros_like(partition) for key in MUON_MOMENTS})
                continue
            state["step"] = torch.zeros((), dtype=torch.float32, device=partition.device)
            state.update({key: torch.zeros_like(partition) for key in ADAMW_MOMENTS})
        if self.stage < 3:
            optimizer._lazy_init_hp_params_optimizer_state()

    def _lay_out_matrices(self) -> None:
        optimizer = self.deepspeed.optimizer
        if not isinstance(optimizer.optimizer, Muon):
            return
        groups = zip(optimizer.round_robin_bit16_groups, optimizer.round_robin_bit16_offsets, strict=True)
        for index, (parameters, offsets) in enumerate(groups):
            layout = [(offset, p.shape) for p, offset in zip(parameters, offsets, strict=True)]
            optimizer.optimizer.lay_out(index, layout)

    @property
    def module(self) -> nn.Module:
        module: nn.Module = self.deepspeed.module
        return module

    def set_learning_rate(self, rate: float) -> None:
        for group in self.deepspeed.optimizer.param_groups:
            group["lr"] = rate

    def backward(self, *batch: Tensor) -> Tensor:
        """Loss and gradients of one micro-batch of this rank, the model's arguments; the loss, detached."""
        loss: Tensor = self.deepspeed(*batch)
        self.deepspeed.backward(loss)
        return loss.detach()

    def step(self, with_norm: bool) -> float:
        """End a micro-batch, and with the last of a step update; the gradient's norm before clipping if asked.

        The norm is there to ask for with the last micro-batch alone.
        """
        norm = self._gradient_norm() if with_norm and self.stage == 0 else 0.0
        self.deepspeed.step()
        return float(self.deepspeed.get_global_grad_norm()) if with_norm and self.stage else norm

    def _gradient_norm(self) -> float:
        gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients)) if gradients else 0.0

    def state(self) -> dict[str, Any]:
        """Masters and moments of every parameter, whole, on the CPU. Collective: all ranks must call it."""
        parameters, moments = {}, {}
        for name, parameter in self.module.named_parameters():
            if not parameter.requires_grad:
                parameters[name] = parameter.detach().cpu().clone()
                continue
            parameters[name] = self._master(parameter).cpu().clone()
            moments[name] = {
                key: self._moment(parameter, key).cpu().clone() for key in self._moments_of(name)
            }
        return {"parameters": parameters, "moments": moments, "updates": self._updates()}

    def _moments_of(self, name: str) -> tuple[str, ...]:
        return MUON_MOMENTS if name in self._hidden else ADAMW_MOMENTS

    def _master(self, parameter: nn.Parameter) -> Tensor:
        value: Tensor = parameter.detach() if self.stage == 0 else safe_get_full_fp32_param(parameter)
        return value

    def _moment(self, parameter: nn.Parameter, key: str) -> Tensor:
        if self.stage:
            value: Tensor | None = safe_get_full_optimizer_state(parameter, key)
        else:
            value = self.deepspeed.optimizer.state[parameter].get(key)
        # a parameter that had no gradient has no moments yet
        return torch.zeros(parameter.shape) if value is None else value

    def _updates(self) -> int:
        return max((int(state["step"]) for state in self._inner_states() if "step" in state), default=0)

    def _inner_states(self) -> Iterator[dict[str, Any]]:
        optimizer = self.deepspeed.optimizer
        inner = optimizer if self.stage == 0 else optimizer.optimizer
        yield from inner.state.values()

    def _load(self, state: dict[str, Any]) -> None:
        for name, parameter in self.module.named_parameters():
            if not parameter.requires_grad:
                continue
            moments = state["moments"][name]
            if self.stage == 0:
                own = {key: value.to(parameter.device) for key, value in moments.items()}
                if name not in self._hidden:
                    own["step"] = torch.tensor(float(state["updates"]))
                self.deepspeed.optimizer.state[parameter] = own
                continue
            self._set(parameter, state["parameters"][name], moments)
        for inner in self._inner_states():
            if "step" in inner:
                inner["step"].fill_(float(state["updates"]))

    def _set(self, parameter: nn.Parameter, master: Tensor, moments: dict[str, Tensor]) -> None:
        device = self.deepspeed.device
        if self.stage < 3:
            safe_set_full_fp32_param(parameter, master.to(device))
            for key, value in moments.items():
                safe_set_full_optimizer_state(parameter, value.to(device), key)
            return
        # stage 3 sets whole values right only where the ranks divide them: so each sets its own part, padded
        safe_set_local_fp32_param(parameter, self._part(master))
        for key, value in moments.items():
            safe_set_local_optimizer_state(parameter, self._part(value), key)

    def _part(self, value: Tensor) -> Tensor:
        world = self.deepspeed.world_size
        padded = torch.nn.functional.pad(value.flatten(), (0, -value.numel() % world))
        return padded.chunk(world)[self.deepspeed.global_rank].to(self.deepspeed.device)
