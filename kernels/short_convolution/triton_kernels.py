"""The short causal convolution in Triton, with bias, SiLU, states and documents, and its backward pass.

With a document's state before its `length` inputs as e, W - 1 + length rows of D channels, position p gives

    pre_p = bias + sum_i weight_i e_{p+i}        final_r = e_{length+r}
    de_m  = sum_i weight_i dpre_{m-i} + dfinal_{m-length}

T positions in all; a program holds BT positions of one document and BD channels. VARIED is whether documents have
lengths of their own: then `start` and `document` (chunks,) say where each chunk lies, and `borders` (documents + 1,)
where documents do; else each has `length`. Everything is computed in float32. Addresses are 64 bit wide.
"""

import triton
import triton.language as tl


@triton.jit
def place(n, start, document, borders, length, BT: tl.constexpr, VARIED: tl.constexpr):
    """Of chunk n: its document, where that begins, its length, and the chunk's first position in it."""
    if VARIED:
        d = tl.load(document + n)
        begin = tl.load(borders + d).to(tl.int64)
        size = tl.load(borders + d + 1).to(tl.int64) - begin
        p0 = tl.load(start + n) - begin
    else:
        each = tl.cdiv(length, BT)
        d = n // each
        begin = d * length
        size = (d + 1) * length - begin
        p0 = (n % each) * BT
    return d, begin, size, p0


@triton.jit
def load_rows(base, rows, inside, c, D: tl.constexpr):
    """Rows of (..., D) and channels c in float32; zeros where not `inside` and past D."""
    at = rows[:, None] * D + c[None, :]
    return tl.load(base + at, mask=inside[:, None] & (c[None, :] < D), other=0.0).to(tl.float32)


@triton.jit
def store_rows(base, values, rows, inside, c, D: tl.constexpr):
    """The counterpart of `load_rows`."""
    at = rows[:, None] * D + c[None, :]
    tl.store(base + at, values.to(base.dtype.element_ty), mask=inside[:, None] & (c[None, :] < D))


@triton.jit
def load_extended(
    x, initial, m, d, begin, size, c, D: tl.constexpr, W: tl.constexpr, INITIAL: tl.constexpr
):  # fmt: skip
    """e_m: the state of document d, then its inputs."""
    inputs = (m >= W - 1) & (m < W - 1 + size)
    values = load_rows(x, begin + m - (W - 1), inputs, c, D)
    if INITIAL:
        values += load_rows(initial, d * (W - 1) + m, (m >= 0) & (m < W - 1), c, D)
    return values


@triton.jit
def load_tap(weight, i, c, D: tl.constexpr, W: tl.constexpr):
    return tl.load(weight + c * W + i, mask=c < D, other=0.0).to(tl.float32)


@triton.jit
def convolved(
    x, weight, bias, initial, p, d, begin, size, c,
    D: tl.constexpr, W: tl.constexpr, INITIAL: tl.constexpr, BIAS: tl.constexpr,
):  # fmt: skip
    """pre at positions p of document d."""
    total = tl.zeros((p.shape[0], c.shape[0]), tl.float32)
    if BIAS:
        total += tl.load(bias + c, mask=c < D, other=0.0).to(tl.float32)[None, :]
    for i in tl.range(W, loop_unroll_factor=4):
        values = load_extended(x, initial, p + i, d, begin, size, c, D, W, INITIAL)
        total += load_tap(weight, i, c, D, W)[None, :] * values
    return total


@triton.jit
def convolution_kernel(
    x, weight, bias, initial, start, document, borders, y, final, length,
    D: tl.constexpr, W: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr, BS: tl.constexpr,
    VARIED: tl.constexpr, INITIAL: tl.constexpr, BIAS: tl.constexpr, SILU: tl.constexpr,
):  # fmt: skip
    """y, and from each document's last chunk its final state; BS spans its W - 1 rows."""
    n, c = tl.program_id(0).to(tl.int64), tl.program_id(1) * BD + tl.arange(0, BD)
    d, begin, size, p0 = place(n, start, document, borders, length, BT, VARIED)
    p = p0 + tl.arange(0, BT)
    result = convolved(x, weight, bias, initial, p, d, begin, size, c, D, W, INITIAL, BIAS)
    if SILU:
        result *= tl.sigmoid(result)
    store_rows(y, result, begin + p, p < size, c, D)
    if (p0 + BT >= size) & ((p0 < size) | (p0 == 0)):
        r = tl.arange(0, BS)
        last = load_extended(x, initial, size + r, d, begin, size, c, D, W, INITIAL)
        store_rows(final, last, d * (W - 1) + r, r < W - 1, c, D)


@triton.jit
def weight_slopes_kernel(
    x, weight, bias, initial, start, document, borders, slope, pre_slope, weight_slopes, bias_slopes, length,
    D: tl.constexpr, W: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr,
    VARIED: tl.constexpr, INITIAL: tl.constexpr, BIAS: tl.constexpr, SILU: tl.constexpr,
):  # fmt: skip
    """dpre (T, D), where it is not dy, and each chunk's part of the slopes of weight, (chunks, W, D), and bias."""
    n, c = tl.program_id(0).to(tl.int64), tl.program_id(1) * BD + tl.arange(0, BD)
    d, begin, size, p0 = place(n, start, document, borders, length, BT, VARIED)
    p = p0 + tl.arange(0, BT)
    of_pre = load_rows(slope, begin + p, p < size, c, D)
    if SILU:
        pre = convolved(x, weight, bias, initial, p, d, begin, size, c, D, W, INITIAL, BIAS)
        sigmoid = tl.sigmoid(pre)
        of_pre *= sigmoid * (1 + pre * (1 - sigmoid))
        store_rows(pre_slope, of_pre, begin + p, p < size, c, D)
    for i in tl.range(W, loop_unroll_factor=4):
        values = load_extended(x, initial, p + i, d, begin, size, c, D, W, INITIAL)
        tl.store(weight_slopes + (n * W + i) * D + c, tl.sum(of_pre * values, 0), mask=c < D)
    if BIAS:
        tl.store(bias_slopes + n * D + c, tl.sum(of_pre, 0), mask=c < D)


@triton.jit
def extended_slopes(
    weight, pre_slope, final_slope, m, d, begin, size, c, D: tl.constexpr, W: tl.constexpr
):  # fmt: skip
    """de_m of document d."""
    r = m - size
    total = load_rows(final_slope, d * (W - 1) + r, (r >= 0) & (r < W - 1), c, D)
    for i in tl.range(W, loop_unroll_factor=4):
        p = m - i
        values = load_rows(pre_slope, begin + p, (p >= 0) & (p < size), c, D)
        total += load_tap(weight, i, c, D, W)[None, :] * values
    return total


@triton.jit
def input_slopes_kernel(
    weight, start, document, borders, pre_slope, final_slope, x_slope, initial_slope, length,
    D: tl.constexpr, W: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr, BS: tl.constexpr,
    VARIED: tl.constexpr, INITIAL: tl.constexpr,
):  # fmt: skip
    """The slopes of the inputs, and from each document's first chunk those of its state; BS spans its rows."""
    n, c = tl.program_id(0).to(tl.int64), tl.program_id(1) * BD + tl.arange(0, BD)
    d, begin, size, p0 = place(n, start, document, borders, length, BT, VARIED)
    p = p0 + tl.arange(0, BT)
    of_inputs = extended_slopes(weight, pre_slope, final_slope, p + W - 1, d, begin, size, c, D, W)
    store_rows(x_slope, of_inputs, begin + p, p < size, c, D)
    if INITIAL and p0 == 0:
        m = tl.arange(0, BS)
        of_state = extended_slopes(weight, pre_slope, final_slope, m, d, begin, size, c, D, W)
        store_rows(initial_slope, of_state, d * (W - 1) + m, m < W - 1, c, D)
