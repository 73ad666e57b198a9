"""Join the ranks of a trial in torch.distributed, and tell a lost rank from an error of one's own."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import distributed

from asiarch.hpc.training.ranks import PEER_TIMEOUT, Meeting, Ranks

os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")

import deepspeed

LOST = re.compile(
    r"connection (was )?(closed|reset|refused)|broken pipe|timed out|remote process exited|socket (closed|error)",
    re.IGNORECASE,
)


@contextmanager
def process_group(ranks: Ranks, threads: int, meeting: Meeting | None = None) -> Iterator[torch.device]:
    """Join this process to its ranks, and leave them at the end; gives the device that it trains on.

    Args:
        threads: CPU threads of this rank.
        meeting: where to find the other ranks; None for one rank alone.
    """
    torch.set_num_threads(threads)
    # DeepSpeed would compile a shared-memory collective with g++ (a minute, and a lock left behind by a
    # killed build); gloo serves without it
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # DeepSpeed asks for these, as its own launcher would set them
    os.environ.update(RANK=str(ranks.rank), LOCAL_RANK=str(ranks.local), WORLD_SIZE=str(ranks.world))
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", ranks.local) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        store=_store(ranks, meeting),
        rank=ranks.rank,
        world_size=ranks.world,
        timeout=PEER_TIMEOUT,
    )
    try:
        yield device
        # together: what rank 0 stores is on the disk before any rank ends, and a rank's end may look like a crash
        # (gloo's threads can abort a process that exits: https://github.com/pytorch/pytorch/pull/179291)
        distributed.barrier()
    finally:
        distributed.destroy_process_group()


def _store(ranks: Ranks, meeting: Meeting | None) -> distributed.Store:
    if meeting is None:
        # in memory: no port that two trials on a node could both want
        return distributed.HashStore()
    if ranks.rank == 0:
        store = distributed.TCPStore(
            "0.0.0.0", 0, ranks.world, is_master=True, wait_for_workers=False, timeout=PEER_TIMEOUT
        )
        meeting.announce(store.port)
        return store
    where = meeting.wait()
    if isinstance(where, str):
        raise RuntimeError(f"rank 0 has called off this attempt: {where}")
    return distributed.TCPStore(where.host, where.port, ranks.world, is_master=False, timeout=PEER_TIMEOUT)


def is_lost_rank(error: BaseException) -> bool:
    """Whether an exception of torch.distributed says that another rank is gone."""
    if isinstance(error, (distributed.DistBackendError, distributed.DistNetworkError)):
        return True
    return type(error) is RuntimeError and LOST.search(str(error)) is not None
