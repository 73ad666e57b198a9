"""The recurrence as custom operators: how the Triton kernels are launched, their shapes, their gradients.

The forward pass keeps its arguments alone; the backward pass computes states and writes again.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from asiarch.kernels.documents import ChunkTable, batch_table, chunk_table
from asiarch.kernels.recurrence import triton_backward as backward
from asiarch.kernels.recurrence import triton_forward as forward

SMALLEST_BLOCK = 16  # of a product on tensor cores
DTYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


@dataclass(frozen=True)
class Shapes:
    """The constants that kernels are compiled for."""

    key_dim: int
    value_dim: int
    chunk: int
    exact: bool  # products in float32

    @property
    def key_span(self) -> int:
        """A power of two that holds all of K."""
        return max(SMALLEST_BLOCK, triton.next_power_of_2(self.key_dim))

    @property
    def key_block(self) -> int:
        return min(self.key_span, 32 if self.exact else 64)

    @property
    def value_block(self) -> int:
        """A block of V; smaller where the state of a whole K would not fit into registers."""
        widest = (32 if self.key_span > 64 else 64) // (2 if self.exact else 1)
        return min(max(SMALLEST_BLOCK, triton.next_power_of_2(self.value_dim)), widest)

    @property
    def value_blocks(self) -> int:
        return triton.cdiv(self.value_dim, self.value_block)


def is_exact(dtype: torch.dtype, delta: bool) -> bool:
    """Whether products are taken in float32, as three of tensor-core floats.

    A write of the delta rule is the difference of two products: bfloat16 operands leave too little of it.
    """
    return delta or dtype == torch.float32


def chunk_size_for(key_dim: int, value_dim: int, exact: bool) -> int:
    """64 positions; 32 where tiles would not fit: of wide heads into shared memory, of float32 into registers.

    Three products of 64 x 64 tiles made ptxas spill up to 15 kB a thread on sm_80.
    """
    return 32 if exact or max(key_dim, value_dim) > 128 else 64


@dataclass
class Work:
    """The arguments, made contiguous, and what the kernels share."""

    q: Tensor
    k: Tensor
    v: Tensor
    beta: Tensor | None
    log_decay: Tensor | None
    initial_state: Tensor | None
    scale: float
    shapes: Shapes
    table: ChunkTable

    @classmethod
    def of(
        cls,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        beta: Tensor | None,
        log_decay: Tensor | None,
        initial_state: Tensor | None,
        cu_seqlens: Tensor | None,
        scale: float,
        chunk: int,
    ) -> "Work":
        batch, length = q.shape[:2]
        table = (
            batch_table(batch, length, chunk, q.device)
            if cu_seqlens is None
            else chunk_table(cu_seqlens, length, chunk)
        )
        return cls(
            q.contiguous(),
            k.contiguous(),
            v.contiguous(),
            None if beta is None else beta.contiguous(),
            None if log_decay is None else log_decay.contiguous(),
            None if initial_state is None else initial_state.contiguous(),
            scale=scale,
            shapes=Shapes(q.shape[-1], v.shape[-1], chunk, is_exact(q.dtype, beta is not None)),
            table=table,
        )

    @property
    def heads(self) -> int:
        return self.q.shape[2]

    @property
    def chunks(self) -> int:
        return len(self.table.start)

    @property
    def documents(self) -> int:
        return len(self.table.first)

    @property
    def constants(self) -> dict[str, Any]:
        decay = 0 if self.log_decay is None else self.log_decay.dim() - 2
        return {"DECAY": decay, "DTYPE": tl.float32 if self.shapes.exact else DTYPES[self.q.dtype]}

    def new(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.q.new_empty(shape, dtype=dtype)

    def pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Sums of the log decay, scores, and the triangular inverse (empty where they are not needed)."""
        size, key_dim = self.shapes.chunk, self.shapes.key_dim
        squares = (self.chunks, self.heads, size, size)
        by_channel = self.log_decay is not None and self.log_decay.dim() == 4
        sums = self.new(self.chunks, self.heads, size, key_dim if by_channel else 1)
        scores = self.new(*squares)
        overlaps, inverse = (self.new(*(squares if self.beta is not None else (0,))) for _ in range(2))
        forward.pairs_kernel[(self.chunks, self.heads)](
            self.q, self.k, self.beta, self.log_decay, self.table.start, self.table.stop,
            sums, scores, overlaps, self.scale,
            self.heads, key_dim, size, self.shapes.key_block, DELTA=self.beta is not None, **self.constants,
        )  # fmt: skip
        if self.beta is not None:
            forward.inverse_kernel[(self.chunks * self.heads,)](overlaps, inverse, size)
        return sums, scores, inverse

    def scan(self, sums: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The state before each chunk, the writes, the last states."""
        shapes, table = self.shapes, self.table
        states = self.new(self.chunks, self.heads, shapes.key_dim, shapes.value_dim, dtype=self.q.dtype)
        writes = self.v if self.beta is None else torch.empty_like(self.v)
        final = self.new(self.documents, self.heads, shapes.key_dim, shapes.value_dim)
        forward.scan_kernel[(self.documents, self.heads, shapes.value_blocks)](
            self.k, self.v, self.beta, sums, inverse, self.initial_state,
            table.start, table.stop, table.first, table.last, states, writes, final,
            self.heads, shapes.key_dim, shapes.value_dim, shapes.chunk, shapes.key_span, shapes.value_block,
            DELTA=self.beta is not None, INITIAL=self.initial_state is not None, **self.constants,
        )  # fmt: skip
        return states, writes, final


@torch.library.custom_op("asiarch::recurrence", mutates_args=())
def recurrence_op(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor | None,
    log_decay: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    scale: float,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """The recurrence of `asiarch.kernels.recurrence` by Triton kernels; q, k and v of one dtype."""
    work = Work.of(q, k, v, beta, log_decay, initial_state, cu_seqlens, scale, chunk)
    shapes = work.shapes
    sums, scores, inverse = work.pairs()
    states, writes, final = work.scan(sums, inverse)
    output = torch.empty_like(work.v)
    forward.output_kernel[(work.chunks, work.heads, shapes.value_blocks)](
        work.q, writes, sums, scores, states, work.table.start, work.table.stop, output, scale,
        work.heads, shapes.key_dim, shapes.value_dim, chunk, shapes.key_block, shapes.value_block,
        **work.constants,
    )  # fmt: skip
    return output, final


@recurrence_op.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor | None,
    log_decay: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    scale: float,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    rows = q.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    final = q.new_empty(rows, q.shape[2], q.shape[3], v.shape[3], dtype=torch.float32)
    return v.new_empty(v.shape), final


@torch.library.custom_op("asiarch::recurrence_backward", mutates_args=())
def recurrence_backward_op(
    output_slope: Tensor,
    final_slope: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor | None,
    log_decay: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    scale: float,
    chunk: int,
) -> list[Tensor]:
    """The gradients of q, k, v, beta, the log decay and the initial state; empty for those that are None."""
    work = Work.of(q, k, v, beta, log_decay, initial_state, cu_seqlens, scale, chunk)
    shapes, table, heads, delta = work.shapes, work.table, work.heads, beta is not None
    output_slope, final_slope = output_slope.contiguous(), final_slope.contiguous()
    sums, scores, inverse = work.pairs()
    states, writes, final = work.scan(sums, inverse)
    state_slopes, write_slopes, initial_slope = (
        # float32: the slope of a key is a small difference of large ones
        work.new(*states.shape),
        work.new(*work.v.shape),
        torch.empty_like(final),
    )
    backward.backward_scan_kernel[(work.documents, heads, shapes.value_blocks)](
        work.q, work.k, work.beta, sums, scores, inverse, output_slope, final_slope,
        table.start, table.stop, table.first, table.last, state_slopes, write_slopes, initial_slope, scale,
        heads, shapes.key_dim, shapes.value_dim, chunk, shapes.key_span, shapes.value_block,
        DELTA=delta, FINAL=True, **work.constants,
    )  # fmt: skip
    score_slopes, overlap_slopes = torch.empty_like(scores), torch.empty_like(inverse)
    backward.pair_slopes_kernel[(work.chunks, heads)](
        writes, output_slope, write_slopes, table.start, table.stop, sums, score_slopes, overlap_slopes, scale,
        heads, shapes.value_dim, chunk, shapes.value_block, DELTA=delta, **work.constants,
    )  # fmt: skip
    blocks = triton.cdiv(shapes.key_dim, shapes.key_block)
    by_channel = log_decay is not None and log_decay.dim() == 4
    near = [work.new(*(q.shape if by_channel else (0,))) for _ in range(3)]
    if by_channel:
        backward.channel_slopes_kernel[(work.chunks, heads, blocks)](
            work.q, work.k, work.beta, table.start, table.stop, sums, score_slopes, overlap_slopes, *near,
            heads, shapes.key_dim, chunk, shapes.key_block, DELTA=delta, DTYPE=work.constants["DTYPE"],
        )  # fmt: skip
    q_slope, k_slope = torch.empty_like(work.q), torch.empty_like(work.k)
    positions = q.shape[0] * q.shape[1]
    beta_slope = work.new(blocks, *q.shape[:3])
    decay_slope = work.new(*q.shape) if by_channel else work.new(blocks, *q.shape[:3])
    backward.slopes_kernel[(work.chunks, heads, blocks)](
        work.q, work.k, work.beta, writes, output_slope, write_slopes, states, state_slopes, sums,
        score_slopes, overlap_slopes, *near, table.start, table.stop,
        q_slope, k_slope, beta_slope, decay_slope, scale, positions,
        heads, shapes.key_dim, shapes.value_dim, chunk, shapes.key_block, shapes.value_block,
        DELTA=delta, **work.constants,
    )  # fmt: skip
    v_slope, (of_beta, of_decay, of_initial) = write_slopes.to(v.dtype), (q.new_empty(0) for _ in range(3))
    if beta is not None:
        v_slope = (write_slopes * beta.unsqueeze(-1)).to(v.dtype)
        of_beta = (beta_slope.sum(0) + (write_slopes.float() * work.v.float()).sum(-1)).to(beta.dtype)
    if log_decay is not None:
        of_decay = (decay_slope if by_channel else decay_slope.sum(0)).to(log_decay.dtype)
    if initial_state is not None:
        of_initial = initial_slope.to(initial_state.dtype)
    return [q_slope, k_slope, v_slope, of_beta, of_decay, of_initial]


@recurrence_backward_op.register_fake
def _(
    output_slope: Tensor,
    final_slope: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor | None,
    log_decay: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    scale: float,
    chunk: int,
) -> list[Tensor]:
    inputs = (q, k, v, beta, log_decay, initial_state)
    return [q.new_empty(0) if x is None else x.new_empty(x.shape) for x in inputs]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.scale, ctx.chunk = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, output_slope: Tensor, final_slope: Tensor) -> tuple[Tensor | None, ...]:
    slopes = recurrence_backward_op(output_slope, final_slope, *ctx.saved_tensors, ctx.scale, ctx.chunk)
    given = zip(slopes, ctx.saved_tensors[:6], strict=True)
    return (*(None if x is None else slope for slope, x in given), None, None, None)


recurrence_op.register_autograd(_backward, setup_context=_setup)
