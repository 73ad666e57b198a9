"""How arithmetic and memory grow with the length: counted by operation, never timed.

Arithmetic is what the operations compute: multiplications and additions of a matrix product, one for each
element that another operation reads or writes. Memory is the bytes of all that the forward pass writes. Counts
are exact, so a small quadratic part shows: with the linear part subtracted, it still grows fourfold when the
length is doubled. Of the backward pass only matrix products and the like are counted, since autograd writes
zeros as long as the sequence for each step of an honest loop over time.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from torch import Tensor
from torch._library.custom_ops import OPDEFS
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from asiarch.models.check.dispatch import DispatchMode
from asiarch.models.check.report import CheckResult, Measured, number
from asiarch.models.check.subject import Conditions, Subject
from asiarch.models.contract import run_mixer

LENGTHS = (512, 1024, 2048)
QUADRATIC = 1.8  # exponent from which growth counts as quadratic
SMALLEST_PART = 1e-3  # of the whole at the largest length; below it a superlinear part is not looked at


@dataclass
class Count:
    """Arithmetic operations and bytes written at one length, and the operation that weighs most in each."""

    operations: float = 0.0
    written_bytes: float = 0.0
    operations_by: dict[str, float] = field(default_factory=dict)
    bytes_by: dict[str, float] = field(default_factory=dict)


class _Counter(DispatchMode):
    """Adds up the operations that run within it; with `heavy_only` set, those that have a formula."""

    def __init__(self) -> None:
        super().__init__()
        self.count = Count()
        self.heavy_only = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = _run_inside(func, args, kwargs, self)
        if result is not NotImplemented:
            return result
        result = func(*args, **kwargs)
        packet = func.overloadpacket
        name = packet.__name__
        read, written = _tensors((args, kwargs)), _tensors(result)
        formula = FORMULAS.get(name)
        if formula is not None:
            operations = float(formula(args, kwargs, written))
        elif packet in flop_registry:
            operations = float(flop_registry[packet](*args, **kwargs, out_val=result))
        elif self.heavy_only or func.is_view:
            return result
        else:
            operations = float(sum(t.numel() for t in read) + sum(t.numel() for t in written))
        self._add(name, operations, read, written)
        return result

    def _add(self, name: str, operations: float, read: list[Tensor], written: list[Tensor]) -> None:
        count = self.count
        count.operations += operations
        count.operations_by[name] = count.operations_by.get(name, 0.0) + operations
        if not self.heavy_only:
            # what is written in place, or shares memory with what was read, is not new
            old = {t.untyped_storage().data_ptr() for t in read}
            fresh = {p: t for t in written if (p := t.untyped_storage().data_ptr()) not in old}
            size = float(sum(t.untyped_storage().nbytes() for t in fresh.values()))
            count.written_bytes += size
            count.bytes_by[name] = count.bytes_by.get(name, 0.0) + size


def _run_inside(func: Any, args: Any, kwargs: Any, counter: _Counter) -> Any:
    """Run an operator of a library with its own operations counted; NotImplemented for one of PyTorch's."""
    if func.namespace in ("aten", "prim", "prims"):
        return NotImplemented
    definition = OPDEFS.get(func.name().split(".")[0])
    if definition is None:
        return NotImplemented
    with counter:
        return definition._init_fn(*args, **kwargs)


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _attention(args: Any, kwargs: Any, written: list[Tensor]) -> float:
    query, key, value = args[:3]
    pairs = query.shape[:-1].numel() * key.shape[-2]
    return 2.0 * pairs * (query.shape[-1] + value.shape[-1])


def _attention_backward(args: Any, kwargs: Any, written: list[Tensor]) -> float:
    return 2.5 * _attention(args[1:], kwargs, written)


def _distances(args: Any, kwargs: Any, written: list[Tensor]) -> float:
    return 3.0 * written[0].numel() * args[0].shape[-1]


def _distances_backward(args: Any, kwargs: Any, written: list[Tensor]) -> float:
    return 3.0 * args[0].numel() * args[1].shape[-1]


def _solve(args: Any, kwargs: Any, written: list[Tensor]) -> float:
    """A decomposition or a solution: the matrix's side times all that comes out."""
    side = max(t.shape[-1] for t in _tensors(args) if t.dim() > 1)
    return float(side * max(t.numel() for t in written))


def _pool(args: Any, kwargs: Any, written: list[Tensor]) -> float:
    return float(written[0].numel() * math.prod(args[1]))


def _pairs(args: Any, kwargs: Any, written: list[Tensor]) -> float:
    return float(written[0].numel() * args[0].shape[-1])


def _n_log_n(args: Any, kwargs: Any, written: list[Tensor]) -> float:
    numel = max(t.numel() for t in (*_tensors(args), *written))
    return numel * max(1.0, math.log2(max(2, numel)))


def _trilinear(args: Any, kwargs: Any, written: list[Tensor]) -> float:
    sizes = zip(*(t.shape for t in args[:3]), strict=False)
    return float(math.prod(max(size) for size in sizes))


_DECOMPOSITIONS = """
    linalg_solve_triangular triangular_solve linalg_inv_ex linalg_cholesky_ex cholesky_solve cholesky_inverse
    linalg_lu_factor_ex linalg_lu linalg_lu_solve _linalg_solve_ex linalg_qr _linalg_svd _linalg_eigh linalg_eig
    linalg_matrix_exp _linalg_det _linalg_slogdet linalg_ldl_factor_ex linalg_householder_product linalg_lstsq
"""
_POOLS = "max_pool2d_with_indices max_pool3d_with_indices avg_pool2d avg_pool3d"

# What PyTorch's own counter has no formula for
FORMULAS: dict[str, Callable[[Any, Any, list[Tensor]], float]] = {
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_flash_attention_for_cpu_backward": _attention_backward,
    "_scaled_dot_product_fused_attention_overrideable": _attention,
    "_cdist_forward": _distances,
    "_cdist_backward": _distances_backward,
    "_pdist_forward": _pairs,
    "_trilinear": _trilinear,
    **dict.fromkeys(_DECOMPOSITIONS.split(), _solve),
    **dict.fromkeys(_POOLS.split(), _pool),
    **dict.fromkeys(("_fft_r2c", "_fft_c2r", "_fft_c2c", "sort", "topk"), _n_log_n),
}


def cost(subject: Subject) -> CheckResult:
    """Arithmetic and memory grow less than quadratically with the length."""
    counts = [_count(subject, length) for length in LENGTHS]
    measured: dict[str, Measured] = {"lengths": list(LENGTHS)}
    refused = ""
    for what, values, by in (
        ("operations", [c.operations for c in counts], [c.operations_by for c in counts]),
        ("bytes", [c.written_bytes for c in counts], [c.bytes_by for c in counts]),
    ):
        exponent = growth(values)
        measured |= {what: [number(v) for v in values], f"{what}_exponent": number(exponent)}
        if exponent >= QUADRATIC and not refused:
            culprit = max(by[-1], key=lambda name: growth([b.get(name, 0.0) for b in by]) * by[-1][name])
            shown = ", ".join(f"{value:.3g}" for value in values)
            told = "arithmetic operations" if what == "operations" else "bytes written by the forward pass"
            refused = (
                f"the {told} of one sample are {shown} at lengths {', '.join(map(str, LENGTHS))}: without "
                f"their linear part they grow like length^{exponent:.1f}, most of it in {culprit}; growth must "
                "stay below length^2. Usual causes: a matrix of length by length (scores, mask, distances, "
                "decays), a filter or window as long as the sequence, chunks whose size follows the length"
            )
    return CheckResult("cost", not refused, measured, refused)


def growth(counts: list[float]) -> float:
    """The exponent with which counts at lengths n, 2n, 4n grow, their linear part subtracted; 1 without more."""
    beyond = [long - 2 * short for short, long in pairwise(counts)]
    if beyond[-1] <= SMALLEST_PART * counts[-1]:
        return 1.0
    if beyond[0] <= 0:
        # a constant part is larger than the superlinear one at short lengths: the plain exponent of what is left
        beyond = [long - short for short, long in pairwise(counts)]
    return math.log2(beyond[1] / beyond[0]) if beyond[0] > 0 else math.inf


def _count(subject: Subject, length: int) -> Count:
    conditions = Conditions(train=True)
    mixer = subject.mixer(conditions)
    inputs = subject.inputs(1, length)
    counter = _Counter()
    where = f"counting operations, batch 1, length {length}, {conditions}"
    with subject.surroundings(conditions, 1, where):
        given = inputs.requires_grad_() * 1
        with counter:
            output = run_mixer(mixer, given)
            counter.heavy_only = True
            if output.requires_grad:
                output.sum().backward()
    return counter.count
