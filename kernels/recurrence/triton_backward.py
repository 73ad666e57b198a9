"""The backward pass of the recurrence in Triton. Names and shapes as in `triton_forward`; README.md has the maths."""

import triton
import triton.language as tl

from asiarch.kernels.recurrence.triton_forward import SUB, dot, load_rows, load_square, load_sums, store_rows


@triton.jit
def backward_scan_kernel(
    q, k, beta, sums, scores, inverse, output_slope, final_slope, start, stop, first, last,
    state_slopes, write_slopes, initial_slope, scale,
    H, K: tl.constexpr, V: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    DECAY: tl.constexpr, DELTA: tl.constexpr, FINAL: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Carry the state's slope backward: after each chunk (N, H, K, V), of the writes (T, H, V), at the start.

    For the delta rules the writes' slopes are those of beta (v - k^T S), before the triangular solve.
    """
    d, h = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    rows, c, w = tl.arange(0, C), tl.arange(0, BK), tl.program_id(2) * BV + tl.arange(0, BV)
    inside = (c[:, None] < K) & (w[None, :] < V)
    block = c[:, None] * V + w[None, :]
    slope = tl.zeros((BK, BV), tl.float32)
    if FINAL:
        slope = tl.load(final_slope + (d * H + h) * K * V + block, mask=inside, other=0.0).to(tl.float32)
    opening, closing = tl.load(first + d), tl.load(last + d)
    for back in range(closing - opening + 1):
        n = closing - back
        chunk = n * H + h
        tl.store(state_slopes + chunk * K * V + block, slope.to(state_slopes.dtype.element_ty), mask=inside)
        end = tl.load(stop + n)
        t = tl.load(start + n) + rows
        queries = scale * load_rows(q, t, end, h, H, c, K)
        keys = load_rows(k, t, end, h, H, c, K)
        out = load_rows(output_slope, t, end, h, H, w, V)
        erasing, writing = keys, keys
        if DECAY > 0:
            total = load_sums(sums, chunk, rows, c, K, C, DECAY)
            whole = load_sums(sums, chunk, C - 1 + tl.zeros((1,), tl.int32), c, K, C, DECAY)
            queries *= tl.exp(total)
            erasing = keys * tl.exp(total)
            writing = keys * tl.exp(whole - total)
        square = load_square(scores, chunk, rows, rows, C)
        of_writes = dot(tl.trans(square), out, DTYPE) + dot(writing, slope, DTYPE)
        if DECAY > 0:
            slope *= tl.trans(tl.exp(whole))
        slope += dot(tl.trans(queries), out, DTYPE)
        if DELTA:
            rate = tl.load(beta + t * H + h, mask=t < end, other=0.0).to(tl.float32)[:, None]
            square = load_square(inverse, chunk, rows, rows, C)
            of_writes = dot(tl.trans(square), of_writes, tl.float32)
            slope -= dot(tl.trans(rate * erasing), of_writes, DTYPE)
        store_rows(write_slopes, of_writes, t, end, h, H, w, V)
    tl.store(initial_slope + (d * H + h) * K * V + block, slope, mask=inside)


@triton.jit
def pair_slopes_kernel(
    writes, output_slope, write_slopes, start, stop, sums, score_slopes, overlap_slopes, scale,
    H, V: tl.constexpr, C: tl.constexpr, BV: tl.constexpr,
    DECAY: tl.constexpr, DELTA: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Slopes of the products of pairs, (N, H, C, C): undecayed for DECAY 2, else with the decay multiplied in."""
    n, h = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    chunk = n * H + h
    end = tl.load(stop + n)
    rows = tl.arange(0, C)
    t = tl.load(start + n) + rows
    of_scores = tl.zeros((C, C), tl.float32)
    of_overlaps = tl.zeros((C, C), tl.float32)
    for vb in tl.static_range(0, V, BV):
        w = vb + tl.arange(0, BV)
        written = tl.trans(load_rows(writes, t, end, h, H, w, V))
        of_scores += dot(load_rows(output_slope, t, end, h, H, w, V), written, DTYPE)
        if DELTA:
            of_overlaps -= dot(load_rows(write_slopes, t, end, h, H, w, V), written, DTYPE)
    causal = rows[:, None] >= rows[None, :]
    if DECAY == 1:
        total = tl.load(sums + chunk * C + rows)
        between = tl.exp(tl.where(causal, total[:, None] - total[None, :], float("-inf")))
        of_scores *= between
        of_overlaps *= between
    square = chunk * C * C + rows[:, None] * C + rows[None, :]
    tl.store(score_slopes + square, tl.where(causal, scale * of_scores, 0.0))
    if DELTA:
        tl.store(overlap_slopes + square, tl.where(rows[:, None] > rows[None, :], of_overlaps, 0.0))


@triton.jit
def channel_slopes_kernel(
    q, k, beta, start, stop, sums, score_slopes, overlap_slopes, q_near, erase_near, write_near,
    H, K: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, DELTA: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """For decays by channel, what pairs inside a chunk give to the slopes of q and k, (T, H, K) float32."""
    n, h = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    chunk = n * H + h
    t0, end = tl.load(start + n), tl.load(stop + n)
    rows, c = tl.arange(0, C), tl.program_id(2) * BK + tl.arange(0, BK)
    keys = load_rows(k, t0 + rows, end, h, H, c, K)
    queries = load_rows(q, t0 + rows, end, h, H, c, K)
    total = load_sums(sums, chunk, rows, c, K, C, 2)
    if DELTA:
        rate = tl.load(beta + (t0 + rows) * H + h, mask=t0 + rows < end, other=0.0).to(tl.float32)
        erasing = rate[:, None] * keys
    for a in tl.static_range(0, C, SUB):
        own = a + tl.arange(0, SUB)
        sums_own = load_sums(sums, chunk, own, c, K, C, 2)
        of_q = tl.zeros((SUB, BK), tl.float32)
        of_erase = tl.zeros((SUB, BK), tl.float32)
        of_write = tl.zeros((SUB, BK), tl.float32)
        if a > 0:  # these rows with the columns before them
            border = tl.load(sums + (chunk * C + a - 1) * K + c, mask=c < K, other=0.0)[None, :]
            early = keys * tl.exp(tl.where(rows[:, None] < a, border - total, float("-inf")))
            since = tl.exp(sums_own - border)
            of_q += since * dot(load_square(score_slopes, chunk, own, rows, C), early, DTYPE)
            if DELTA:
                of_erase += since * dot(load_square(overlap_slopes, chunk, own, rows, C), early, DTYPE)
        if a + SUB < C:  # these columns with the rows behind them
            border = tl.load(sums + (chunk * C + a + SUB - 1) * K + c, mask=c < K, other=0.0)[None, :]
            since = tl.exp(tl.where(rows[:, None] >= a + SUB, total - border, float("-inf")))
            square = tl.trans(load_square(score_slopes, chunk, rows, own, C))
            later = dot(square, queries * since, DTYPE)
            if DELTA:
                square = tl.trans(load_square(overlap_slopes, chunk, rows, own, C))
                later += dot(square, erasing * since, DTYPE)
            of_write += later * tl.exp(border - sums_own)
        for j in range(SUB):  # pair by pair in the block on the diagonal
            one = a + j + tl.zeros((1,), tl.int32)
            sum_j = load_sums(sums, chunk, one, c, K, C, 2)
            key, query = load_rows(k, t0 + one, end, h, H, c, K), load_rows(q, t0 + one, end, h, H, c, K)
            forth = tl.exp(tl.where(own[:, None] >= a + j, sums_own - sum_j, float("-inf")))
            back = tl.exp(tl.where(own[:, None] <= a + j, sum_j - sums_own, float("-inf")))
            column = chunk * C * C + own * C + a + j
            row = chunk * C * C + (a + j) * C + own
            of_q += tl.load(score_slopes + column)[:, None] * key * forth
            of_write += tl.load(score_slopes + row)[:, None] * query * back
            if DELTA:
                rate_j = tl.load(beta + (t0 + one) * H + h, mask=t0 + one < end, other=0.0).to(tl.float32)
                of_erase += tl.load(overlap_slopes + column)[:, None] * key * forth
                of_write += tl.load(overlap_slopes + row)[:, None] * (rate_j[:, None] * key) * back
        store_rows(q_near, of_q, t0 + own, end, h, H, c, K)
        store_rows(write_near, of_write, t0 + own, end, h, H, c, K)
        if DELTA:
            store_rows(erase_near, of_erase, t0 + own, end, h, H, c, K)


@triton.jit
def slopes_kernel(
    q, k, beta, writes, output_slope, write_slopes, states, state_slopes, sums, score_slopes, overlap_slopes,
    q_near, erase_near, write_near, start, stop, q_slope, k_slope, beta_slope, decay_slope, scale, T,
    H, K: tl.constexpr, V: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    DECAY: tl.constexpr, DELTA: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """The slopes of q, k, and of beta and the log decay, but for what v gives to beta; one chunk, head, block of K.

    Those of beta, and of a decay by head, are partial sums over the block of K: (K / BK, T, H).
    """
    n, h = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    chunk = n * H + h
    end = tl.load(stop + n)
    rows, c = tl.arange(0, C), tl.program_id(2) * BK + tl.arange(0, BK)
    t = tl.load(start + n) + rows
    of_q = tl.zeros((C, BK), tl.float32)
    of_erase = tl.zeros((C, BK), tl.float32)
    of_write = tl.zeros((C, BK), tl.float32)
    of_whole = tl.zeros((BK,), tl.float32)
    for vb in tl.static_range(0, V, BV):
        w = vb + tl.arange(0, BV)
        at = chunk * K * V + c[:, None] * V + w[None, :]
        inside = (c[:, None] < K) & (w[None, :] < V)
        state = tl.load(states + at, mask=inside, other=0.0)
        later = tl.load(state_slopes + at, mask=inside, other=0.0)
        of_q += dot(load_rows(output_slope, t, end, h, H, w, V), tl.trans(state), DTYPE)
        of_write += dot(load_rows(writes, t, end, h, H, w, V), tl.trans(later), DTYPE)
        if DELTA:
            of_erase -= dot(load_rows(write_slopes, t, end, h, H, w, V), tl.trans(state), DTYPE)
        if DECAY > 0:
            of_whole += tl.sum(state.to(tl.float32) * later.to(tl.float32), 1)
    of_q *= scale
    queries, keys = load_rows(q, t, end, h, H, c, K), load_rows(k, t, end, h, H, c, K)
    if DELTA:
        rate = tl.load(beta + t * H + h, mask=t < end, other=0.0).to(tl.float32)[:, None]
    if DECAY > 0:
        total = load_sums(sums, chunk, rows, c, K, C, DECAY)
        whole = load_sums(sums, chunk, C - 1 + tl.zeros((1,), tl.int32), c, K, C, DECAY)
        of_q *= tl.exp(total)
        of_erase *= tl.exp(total)
        of_write *= tl.exp(whole - total)
        of_whole = of_whole[None, :] * tl.exp(whole) + tl.sum(of_write * keys, 0)[None, :]
    if DECAY == 2:
        of_q += load_rows(q_near, t, end, h, H, c, K)
        of_write += load_rows(write_near, t, end, h, H, c, K)
        if DELTA:
            of_erase += load_rows(erase_near, t, end, h, H, c, K)
    else:
        square = load_square(score_slopes, chunk, rows, rows, C)
        of_q += dot(square, keys, DTYPE)
        of_write += dot(tl.trans(square), queries, DTYPE)
        if DELTA:
            square = load_square(overlap_slopes, chunk, rows, rows, C)
            of_erase += dot(square, keys, DTYPE)
            of_write += dot(tl.trans(square), rate * keys, DTYPE)
    store_rows(q_slope, of_q, t, end, h, H, c, K)
    partial = (tl.program_id(2).to(tl.int64) * T + t) * H + h
    if (
        DECAY > 0
    ):  # what goes in with exp(+sum), less what goes in with exp(-sum), and the chunk's whole decay
        of_sums = queries * of_q - keys * of_write
        if DELTA:
            of_sums += rate * keys * of_erase
        of_sums += tl.where(rows[:, None] == C - 1, of_whole, 0.0)
        of_decay = tl.cumsum(of_sums, 0, reverse=True)
        if DECAY == 2:
            store_rows(decay_slope, of_decay, t, end, h, H, c, K)
        else:
            tl.store(decay_slope + partial, tl.sum(of_decay, 1), mask=t < end)
    if DELTA:
        tl.store(beta_slope + partial, tl.sum(keys * of_erase, 1), mask=t < end)
        of_write += rate * of_erase
    store_rows(k_slope, of_write, t, end, h, H, c, K)
