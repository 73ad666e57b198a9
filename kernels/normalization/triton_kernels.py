"""RMSNorm in Triton, with and without a gate, and its backward pass.

N rows of D channels; a program holds BN rows and goes over D in blocks of BD. Where one block holds all of D the
compiler reads it once. Everything is computed in float32. Addresses are 64 bit wide.
"""

import triton
import triton.language as tl


@triton.jit
def load_block(base, n, c, N, D: tl.constexpr):
    """Rows n and columns c of (N, D) in float32; zeros past N and D."""
    at = n[:, None] * D + c[None, :]
    return tl.load(base + at, mask=(n[:, None] < N) & (c[None, :] < D), other=0.0).to(tl.float32)


@triton.jit
def store_block(base, values, n, c, N, D: tl.constexpr):
    """The counterpart of `load_block`."""
    at = n[:, None] * D + c[None, :]
    tl.store(base + at, values.to(base.dtype.element_ty), mask=(n[:, None] < N) & (c[None, :] < D))


@triton.jit
def load_weight(weight, c, D: tl.constexpr):
    return tl.load(weight + c, mask=c < D, other=0.0).to(tl.float32)[None, :]


@triton.jit
def norm_kernel(
    x, weight, gate, y, eps, N, D: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, GATED: tl.constexpr
):  # fmt: skip
    """y = x / sqrt(mean(x^2) + eps) * weight, times silu(gate) if GATED."""
    n = tl.program_id(0).to(tl.int64) * BN + tl.arange(0, BN)
    squares = tl.zeros((BN,), tl.float32)
    for start in tl.static_range(0, D, BD):
        inputs = load_block(x, n, start + tl.arange(0, BD), N, D)
        squares += tl.sum(inputs * inputs, 1)
    scale = 1 / tl.sqrt(squares / D + eps)[:, None]
    for start in tl.static_range(0, D, BD):
        c = start + tl.arange(0, BD)
        result = load_block(x, n, c, N, D) * scale * load_weight(weight, c, D)
        if GATED:
            opening = load_block(gate, n, c, N, D)
            result *= opening * tl.sigmoid(opening)
        store_block(y, result, n, c, N, D)


@triton.jit
def norm_backward_kernel(
    x, weight, gate, slope, x_slope, gate_slope, weight_slopes, eps, N,
    D: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, GATED: tl.constexpr,
):  # fmt: skip
    """The slopes of x and gate (N, D), and of the weight from each program's rows, (programs, D) float32."""
    n = tl.program_id(0).to(tl.int64) * BN + tl.arange(0, BN)
    squares = tl.zeros((BN,), tl.float32)
    products = tl.zeros((BN,), tl.float32)  # of x and the slope of x * scale
    for start in tl.static_range(0, D, BD):
        c = start + tl.arange(0, BD)
        inputs = load_block(x, n, c, N, D)
        of_normed = load_block(slope, n, c, N, D) * load_weight(weight, c, D)
        if GATED:
            opening = load_block(gate, n, c, N, D)
            of_normed *= opening * tl.sigmoid(opening)
        squares += tl.sum(inputs * inputs, 1)
        products += tl.sum(inputs * of_normed, 1)
    scale = 1 / tl.sqrt(squares / D + eps)[:, None]
    along = scale * scale * products[:, None] / D
    for start in tl.static_range(0, D, BD):
        c = start + tl.arange(0, BD)
        inputs, of_output = load_block(x, n, c, N, D), load_block(slope, n, c, N, D)
        factor = load_weight(weight, c, D)
        normed = inputs * scale
        if GATED:
            opening = load_block(gate, n, c, N, D)
            sigmoid = tl.sigmoid(opening)
            of_gate = of_output * normed * factor * sigmoid * (1 + opening * (1 - sigmoid))
            store_block(gate_slope, of_gate, n, c, N, D)
            of_output *= opening * sigmoid
        store_block(x_slope, scale * (of_output * factor - inputs * along), n, c, N, D)
        of_weight = tl.sum(of_output * normed, 0)
        tl.store(weight_slopes + tl.program_id(0).to(tl.int64) * D + c, of_weight, mask=c < D)
