"""The recurrence in Triton: pairs of positions, triangular inverse, scan over chunks, output.

All sequences or documents lie in one row of T positions. N chunks, D documents, H heads, K and V dimensions of keys
and values, C positions in a chunk, BK and BV blocks of K and V. DECAY is 0 for none, 1 for one a head, 2 for one a
key channel; DELTA is whether a write replaces. Products take operands of DTYPE, float32 as three products
of tensor-core floats; sums and states are float32. Addresses are 64 bit wide.
"""

import triton
import triton.language as tl
from triton import knobs

# its interpreter's products of bfloat16 are wrong without a word
INTERPRETED = tl.constexpr(knobs.runtime.interpret)
SUB = tl.constexpr(16)  # rows of a block inside which decays by channel are taken pair by pair


@triton.jit
def dot(a, b, DTYPE: tl.constexpr):
    """a @ b with operands in DTYPE, summed in float32."""
    a, b = a.to(DTYPE), b.to(DTYPE)
    if INTERPRETED:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, input_precision="tf32x3")


@triton.jit
def load_rows(base, t, stop, head, H, c, D: tl.constexpr):
    """Of (T, H, D), one head's rows t and columns c in float32; zeros past `stop` and D."""
    at = base + (t[:, None] * H + head) * D + c[None, :]
    return tl.load(at, mask=(t[:, None] < stop) & (c[None, :] < D), other=0.0).to(tl.float32)


@triton.jit
def store_rows(base, values, t, stop, head, H, c, D: tl.constexpr):
    """The counterpart of `load_rows`."""
    at = base + (t[:, None] * H + head) * D + c[None, :]
    tl.store(at, values.to(base.dtype.element_ty), mask=(t[:, None] < stop) & (c[None, :] < D))


@triton.jit
def load_sums(sums, chunk, rows, c, K: tl.constexpr, C: tl.constexpr, DECAY: tl.constexpr):
    """The running sums of the log decay of a chunk, (rows, c), or (rows, 1) where all channels share one."""
    if DECAY == 2:
        at = sums + (chunk * C + rows[:, None]) * K + c[None, :]
        result = tl.load(at, mask=c[None, :] < K, other=0.0)
    else:
        result = tl.load(sums + chunk * C + rows)[:, None]
    return result


@triton.jit
def load_square(base, chunk, i, j, C: tl.constexpr):
    """Of (N * H, C, C), one chunk's rows i and columns j."""
    return tl.load(base + chunk * C * C + i[:, None] * C + j[None, :])


@triton.jit
def pairs_kernel(
    q, k, beta, g, start, stop, sums, scores, overlaps, scale,
    H, K: tl.constexpr, C: tl.constexpr, BK: tl.constexpr,
    DECAY: tl.constexpr, DELTA: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Decayed products of all pairs of a chunk: q with k (scores), and beta k with k (overlaps); one chunk and head.

    Also the running sums of the log decay, (N, H, C) or (N, H, C, K).
    """
    n, h = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    chunk = n * H + h
    t0, end = tl.load(start + n), tl.load(stop + n)
    rows = tl.arange(0, C)
    t = t0 + rows
    if DECAY == 1:
        decay = tl.load(g + t * H + h, mask=t < end, other=0.0).to(tl.float32)
        total = tl.cumsum(decay, 0)
        tl.store(sums + chunk * C + rows, total)
    if DECAY == 2:
        for kb in tl.static_range(0, K, BK):
            c = kb + tl.arange(0, BK)
            total = tl.cumsum(load_rows(g, t, end, h, H, c, K), 0)
            tl.store(sums + (chunk * C + rows[:, None]) * K + c[None, :], total, mask=c[None, :] < K)
        tl.debug_barrier()  # the rows below are read by other threads than wrote them
        for a in tl.static_range(0, C, SUB):
            _pairs_by_channel(
                q, k, beta, sums, scores, overlaps, scale, t0, end, chunk, h, a, H, K, C, BK, DELTA, DTYPE
            )
    else:
        products = tl.zeros((C, C), tl.float32)
        own = tl.zeros((C, C), tl.float32)
        for kb in tl.static_range(0, K, BK):
            c = kb + tl.arange(0, BK)
            keys = load_rows(k, t, end, h, H, c, K)
            products += dot(load_rows(q, t, end, h, H, c, K), tl.trans(keys), DTYPE)
            if DELTA:
                own += dot(keys, tl.trans(keys), DTYPE)
        causal = rows[:, None] >= rows[None, :]
        if DECAY == 1:
            between = tl.exp(tl.where(causal, total[:, None] - total[None, :], float("-inf")))
            products *= between
            own *= between
        square = chunk * C * C + rows[:, None] * C + rows[None, :]
        tl.store(scores + square, tl.where(causal, scale * products, 0.0))
        if DELTA:
            rate = tl.load(beta + t * H + h, mask=t < end, other=0.0).to(tl.float32)
            own = tl.where(rows[:, None] > rows[None, :], rate[:, None] * own, 0.0)
            tl.store(overlaps + square, own)


@triton.jit
def _pairs_by_channel(
    q, k, beta, sums, scores, overlaps, scale, t0, end, chunk, h, a: tl.constexpr,
    H, K: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, DELTA: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Rows a to a + SUB of the pairs. Columns before a are split at row a, so that both exponents are <= 0."""
    rows, late = tl.arange(0, C), a + tl.arange(0, SUB)
    products = tl.zeros((SUB, C), tl.float32)
    own = tl.zeros((SUB, C), tl.float32)
    for kb in tl.static_range(0, K, BK):
        c = kb + tl.arange(0, BK)
        q_late = load_rows(q, t0 + late, end, h, H, c, K)
        k_late = load_rows(k, t0 + late, end, h, H, c, K)
        sums_late = load_sums(sums, chunk, late, c, K, C, 2)
        if a > 0:
            border = tl.load(sums + (chunk * C + a - 1) * K + c, mask=c < K, other=0.0)[None, :]
            before = border - load_sums(sums, chunk, rows, c, K, C, 2)
            early = tl.exp(tl.where(rows[:, None] < a, before, float("-inf")))
            early = tl.trans(early * load_rows(k, t0 + rows, end, h, H, c, K))
            since = tl.exp(sums_late - border)
            products += dot(q_late * since, early, DTYPE)
            if DELTA:
                own += dot(k_late * since, early, DTYPE)
        for j in range(SUB):
            one = a + j + tl.zeros((1,), tl.int32)
            gap = sums_late - load_sums(sums, chunk, one, c, K, C, 2)
            gap = tl.exp(tl.where(late[:, None] >= a + j, gap, float("-inf")))
            key = gap * load_rows(k, t0 + one, end, h, H, c, K)
            at = rows[None, :] == a + j
            products += tl.where(at, tl.sum(q_late * key, 1)[:, None], 0.0)
            if DELTA:
                own += tl.where(at, tl.sum(k_late * key, 1)[:, None], 0.0)
    square = chunk * C * C + late[:, None] * C + rows[None, :]
    tl.store(scores + square, scale * products)
    if DELTA:
        rate = tl.load(beta + (t0 + late) * H + h, mask=t0 + late < end, other=0.0).to(tl.float32)
        own = tl.where(late[:, None] > rows[None, :], rate[:, None] * own, 0.0)
        tl.store(overlaps + square, own)


@triton.jit
def inverse_kernel(overlaps, inverse, C: tl.constexpr):
    """(I + A)^-1 of a strictly lower A by substitution, in float32; one chunk and head."""
    chunk = tl.program_id(0).to(tl.int64)
    rows = tl.arange(0, C)
    found = tl.where(rows[:, None] == rows[None, :], 1.0, 0.0)
    for i in range(1, C):
        row = tl.load(overlaps + chunk * C * C + i * C + rows)
        found -= tl.where(rows[:, None] == i, tl.sum(row[:, None] * found, 0)[None, :], 0.0)
    tl.store(inverse + chunk * C * C + rows[:, None] * C + rows[None, :], found)


@triton.jit
def scan_kernel(
    k, v, beta, sums, inverse, initial, start, stop, first, last, states, writes, final,
    H, K: tl.constexpr, V: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    DECAY: tl.constexpr, DELTA: tl.constexpr, INITIAL: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Carry the state over a document's chunks: the state before each (N, H, K, V), the writes (T, H, V), the last.

    One document, head and block of V; BK spans K.
    """
    d, h = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    rows, c, w = tl.arange(0, C), tl.arange(0, BK), tl.program_id(2) * BV + tl.arange(0, BV)
    inside = (c[:, None] < K) & (w[None, :] < V)
    block = c[:, None] * V + w[None, :]
    state = tl.zeros((BK, BV), tl.float32)
    if INITIAL:
        state = tl.load(initial + (d * H + h) * K * V + block, mask=inside, other=0.0).to(tl.float32)
    for n in range(tl.load(first + d), tl.load(last + d) + 1):
        chunk = n * H + h
        tl.store(states + chunk * K * V + block, state.to(states.dtype.element_ty), mask=inside)
        end = tl.load(stop + n)
        t = tl.load(start + n) + rows
        keys, written = load_rows(k, t, end, h, H, c, K), load_rows(v, t, end, h, H, w, V)
        if DECAY > 0:
            total = load_sums(sums, chunk, rows, c, K, C, DECAY)
            whole = load_sums(sums, chunk, C - 1 + tl.zeros((1,), tl.int32), c, K, C, DECAY)
        if DELTA:
            rate = tl.load(beta + t * H + h, mask=t < end, other=0.0).to(tl.float32)[:, None]
            reading = keys
            if DECAY > 0:
                reading = keys * tl.exp(total)
            written = rate * (written - dot(reading, state, DTYPE))
            square = load_square(inverse, chunk, rows, rows, C)
            written = dot(square, written, tl.float32)
            store_rows(writes, written, t, end, h, H, w, V)
        if DECAY > 0:
            state *= tl.trans(tl.exp(whole))
            keys *= tl.exp(whole - total)
        state += dot(tl.trans(keys), written, DTYPE)
    tl.store(final + (d * H + h) * K * V + block, state, mask=inside)


@triton.jit
def output_kernel(
    q, writes, sums, scores, states, start, stop, output, scale,
    H, K: tl.constexpr, V: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    DECAY: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """What positions read of the state before their chunk and of the writes inside; one chunk, head, block of V."""
    n, h = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    chunk = n * H + h
    end = tl.load(stop + n)
    rows, w = tl.arange(0, C), tl.program_id(2) * BV + tl.arange(0, BV)
    t = tl.load(start + n) + rows
    square = load_square(scores, chunk, rows, rows, C)
    result = dot(square, load_rows(writes, t, end, h, H, w, V), DTYPE)
    for kb in tl.static_range(0, K, BK):
        c = kb + tl.arange(0, BK)
        reading = scale * load_rows(q, t, end, h, H, c, K)
        if DECAY > 0:
            reading *= tl.exp(load_sums(sums, chunk, rows, c, K, C, DECAY))
        at = states + chunk * K * V + c[:, None] * V + w[None, :]
        state = tl.load(at, mask=(c[:, None] < K) & (w[None, :] < V), other=0.0)
        result += dot(reading, state, DTYPE)
    store_rows(output, result, t, end, h, H, w, V)
