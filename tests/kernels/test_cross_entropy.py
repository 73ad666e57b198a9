"""The cross-entropy of a linear head against the one from all logits."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from asiarch.kernels import fused_linear_cross_entropy
from asiarch.kernels.cross_entropy.chunk import linear_cross_entropy, linear_cross_entropy_backward
from asiarch.kernels.cross_entropy.naive import naive_linear_cross_entropy

VOCABULARY = 37


def inputs() -> tuple[list[Tensor], Tensor]:
    """hidden and weight; targets, one of them ignored."""
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(s, generator=generator, dtype=torch.float64) for s in ((2, 9, 8), (VOCABULARY, 8))]
    targets = torch.randint(VOCABULARY, (2, 9), generator=generator)
    targets[1, 3] = -100
    return tensors, targets


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("chunk_logits", [1, 5 * VOCABULARY, 1 << 20])
def test_equals_the_loss_from_all_logits(
    dtype: torch.dtype, chunk_logits: int, same_function: Callable[..., None]
) -> None:
    tensors, targets = inputs()
    same_function(
        lambda h, w: (
            fused_linear_cross_entropy(h, w, targets, reduction="none", chunk_logits=chunk_logits),
        ),
        lambda h, w: (naive_linear_cross_entropy(h, w, targets, -100),),
        tensors,
        dtype,
    )


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_reductions_are_those_of_pytorch(reduction: str) -> None:
    (hidden, weight), targets = inputs()
    logits = (hidden @ weight.mT).flatten(0, 1)
    expected = functional.cross_entropy(logits, targets.flatten(), reduction=reduction)
    actual = fused_linear_cross_entropy(hidden, weight, targets, reduction=reduction)  # type: ignore[arg-type]
    torch.testing.assert_close(actual, expected)


def test_derivatives_by_finite_differences() -> None:
    tensors, targets = inputs()
    leaves = [x.requires_grad_() for x in tensors]
    assert torch.autograd.gradcheck(
        lambda h, w: fused_linear_cross_entropy(h, w, targets, reduction="none", chunk_logits=100), leaves
    )


def test_large_logits_do_not_overflow(same_function: Callable[..., None]) -> None:
    (hidden, weight), targets = inputs()
    same_function(
        lambda h, w: (fused_linear_cross_entropy(h, w, targets, reduction="none"),),
        lambda h, w: (naive_linear_cross_entropy(h, w, targets, -100),),
        [300 * hidden, 30 * weight],
        torch.float32,
    )


def test_no_tensor_is_as_large_as_the_logits() -> None:
    (hidden, weight), targets = inputs()
    hidden, targets = hidden.flatten(0, 1), targets.flatten()
    sizes = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = function(*args, **(kwargs or {}))
            found = result if isinstance(result, tuple | list) else (result,)
            sizes.extend(x.numel() for x in found if isinstance(x, Tensor))
            return result

    # the functions under the custom operators, whose insides no mode sees
    forward, backward = linear_cross_entropy._init_fn, linear_cross_entropy_backward._init_fn
    with Watch():
        losses, normalizers = forward(hidden, weight, targets, -100, 4 * VOCABULARY)
        backward(losses, hidden, weight, targets, normalizers, -100, 4 * VOCABULARY)
    assert (
        max(sizes) == VOCABULARY * 8
    )  # the weight; the logits of 4 tokens are half as many, of all, 18 * 37
    assert 4 * VOCABULARY in sizes


def test_autocast_and_bfloat16_hidden_go_with_a_float32_weight() -> None:
    (hidden, weight), targets = ([x.float() for x in inputs()[0]], inputs()[1])
    weight.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        inside = fused_linear_cross_entropy(hidden, weight, targets)
    outside = fused_linear_cross_entropy(hidden.bfloat16(), weight, targets)
    assert inside.dtype == torch.float32
    assert inside == outside
    inside.backward()
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32


def test_bad_arguments_are_named() -> None:
    (hidden, weight), targets = inputs()
    with pytest.raises(ValueError, match="weight has shape"):
        fused_linear_cross_entropy(hidden, weight.mT, targets)
    with pytest.raises(ValueError, match="targets has shape"):
        fused_linear_cross_entropy(hidden, weight, targets[:1])
    with pytest.raises(ValueError, match=r"targets have dtype torch.int32"):
        fused_linear_cross_entropy(hidden, weight, targets.int())
    with pytest.raises(ValueError, match="reduction is 'max'"):
        fused_linear_cross_entropy(hidden, weight, targets, reduction="max")  # type: ignore[arg-type]
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        fused_linear_cross_entropy(hidden, weight, targets + VOCABULARY + 100)
