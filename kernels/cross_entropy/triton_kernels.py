"""The softmax cross-entropy of logits (T, V) in Triton; BV columns at a time, in float32. Addresses are 64 bit wide.

A target outside [0, V) that is not ignored gives NaN: it must not pass for a token.
"""

import triton
import triton.language as tl


@triton.jit
def loss_kernel(logits, targets, losses, normalizers, ignore_index, V, BV: tl.constexpr):
    """Of one token, the logsumexp of its logits in one pass over them, and the loss."""
    t = tl.program_id(0).to(tl.int64)
    highest = tl.full((), float("-inf"), tl.float32)
    total = tl.zeros((), tl.float32)
    for start in range(0, V, BV):
        c = start + tl.arange(0, BV)
        z = tl.load(logits + t * V + c, mask=c < V, other=float("-inf")).to(tl.float32)
        above = tl.maximum(highest, tl.max(z, 0))
        total = total * tl.exp(highest - above) + tl.sum(tl.exp(z - above), 0)
        highest = above
    normalizer = highest + tl.log(total)
    target = tl.load(targets + t)
    known = (target >= 0) & (target < V)
    chosen = tl.load(logits + t * V + target, mask=known, other=float("nan")).to(tl.float32)
    tl.store(losses + t, tl.where(target == ignore_index, 0.0, normalizer - chosen))
    tl.store(normalizers + t, normalizer)


@triton.jit
def slope_kernel(logits, targets, normalizers, gradient, ignore_index, V, BV: tl.constexpr):
    """Turn one token's logits of one block into their slopes, in place."""
    t = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BV + tl.arange(0, BV)
    z = tl.load(logits + t * V + c, mask=c < V, other=0.0).to(tl.float32)
    target = tl.load(targets + t)
    slope = tl.exp(z - tl.load(normalizers + t)) - tl.where(c == target, 1.0, 0.0)
    slope = tl.where((target >= 0) & (target < V), slope * tl.load(gradient + t), float("nan"))
    slope = tl.where(target == ignore_index, 0.0, slope)
    tl.store(logits + t * V + c, slope.to(logits.dtype.element_ty), mask=c < V)
