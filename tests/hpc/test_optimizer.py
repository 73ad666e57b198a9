"""Muon against its closed form and PyTorch's own; over ranks, stages and interruptions it is in test_ranks."""

import numpy as np
import pytest
import torch

from asiarch.hpc.evaluation.mad import Decoded
from asiarch.hpc.training.optimizer import Muon, hidden_matrices, orthogonalise
from asiarch.models.baselines import baseline_path
from asiarch.models.contract import load_mixer_class
from asiarch.models.language_model import LanguageModel, ModelConfig


@pytest.mark.parametrize("shape", [(40, 24), (24, 40), (32, 32), (1, 7)], ids=str)
def test_orthogonalisation_is_a_polynomial_of_the_singular_values(shape: tuple[int, int]) -> None:
    """Five times a x + b x^3 + c x^5 on each singular value over the Frobenius norm, by an SVD in float64."""
    matrix = torch.from_numpy(np.random.default_rng(0).normal(size=shape)).float()
    left, values, right = np.linalg.svd(matrix.double().numpy(), full_matrices=False)
    values /= np.sqrt((values**2).sum())
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    np.testing.assert_allclose(orthogonalise(matrix).numpy(), (left * values) @ right, atol=3e-6)
    assert values.min() > 0.65
    assert values.max() < 1.25


def test_muon_moves_matrices_as_pytorchs_muon_and_the_rest_as_adamw() -> None:
    """PyTorch's orthogonalises in bf16: its steps are equal within that rounding, AdamW's to the bit."""
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(size, generator=generator) for size in ((24, 40), (40, 24), (24,))]
    gradients = [[torch.randn(p.shape, generator=generator) for p in start] for _ in range(6)]

    def after(make: "type[Muon] | None") -> list[torch.Tensor]:
        parameters = [torch.nn.Parameter(p.clone()) for p in start]
        both = {"lr": 0.1, "weight_decay": 0.1}
        if make is None:
            theirs = torch.optim.Muon(parameters[:2], momentum=0.95, adjust_lr_fn="match_rms_adamw", **both)
            optimizers = [theirs, torch.optim.AdamW(parameters[2:], fused=True, **both)]
        else:
            groups = [{"params": parameters[:2], "newton_schulz": torch.bfloat16}, {"params": parameters[2:]}]
            optimizers = [make(groups, fused=True, **both)]
        for step in gradients:
            for parameter, gradient in zip(parameters, step, strict=True):
                parameter.grad = gradient.clone()
            for optimizer in optimizers:
                optimizer.step()
        return [parameter.detach() for parameter in parameters]

    ours, theirs = after(Muon), after(None)
    for one, two, before in zip(ours[:2], theirs[:2], start[:2], strict=True):
        assert (one - two).norm() < 0.02 * (two - before).norm()
    assert torch.equal(ours[2], theirs[2])


def test_muon_has_the_linear_layers_of_the_blocks_and_nothing_else() -> None:
    mixer = load_mixer_class(baseline_path("gated_delta_net"))
    model = Decoded(LanguageModel(ModelConfig(16, 2, 32, 2), mixer, 24), length=8, seed=0)
    linear = ("q_proj", "k_proj", "v_proj", "gate_proj", "beta_proj", "step_proj", "o_proj")
    expected = {f"mixer.{name}" for name in linear} | {"ffn.gate_up", "ffn.down"}
    assert hidden_matrices(model) == {
        f"model.blocks.{layer}.{name}.weight" for layer in range(2) for name in expected
    }
