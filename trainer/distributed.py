"""Data parallel training: the ranks of a run under ``torchrun``, and their few collective operations.

Without ``torchrun`` a run has one rank, and nothing here communicates.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch import distributed as dist

from service.engines.exit_now import exit_now
from trainer.config import ConfigError

MOST_WORKERS = 16  # more only wait for memory
TIMEOUT = timedelta(minutes=30)  # the longest that one rank may keep the others waiting, as in an evaluation


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those of a run.

    Attributes:
        rank: Its number, from 0; rank 0 writes the files.
        world_size: Number of ranks.
        device: The device it computes on.
    """

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """The sum over all ranks."""
        if self.world_size == 1:
            return values
        values = values.clone()
        dist.all_reduce(values)
        return values

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all ranks."""
        return self.total(values) / self.world_size

    def total_counts(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """The sum of integer counts over all ranks, exact."""
        return self.total(torch.from_numpy(counts).to(self.device)).cpu().numpy()

    def wait(self) -> None:
        """Wait until every rank is here."""
        if self.world_size > 1:
            dist.barrier()


@contextmanager
def joined_ranks(device: str) -> Iterator[Ranks]:
    """Join the ranks that ``torchrun`` started (gloo on CPUs, nccl on GPUs), and leave them at the end.

    The program should then end by ``leave``.

    Args:
        device: ``cpu``, ``cuda`` or ``auto``.

    Raises:
        ConfigError: CUDA is asked for where there is none, or a node has fewer GPUs than processes.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    chosen = choose_device(device, local_rank)
    if "WORLD_SIZE" not in os.environ:
        yield Ranks(0, 1, chosen)
        return
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size(), chosen)
    finally:
        dist.destroy_process_group()


def leave(status: int) -> NoReturn:
    """End the process; that of a rank at once, after its output is flushed.

    gloo's threads live as long as the network that they serve. One that gives back a tensor while Python tears itself
    down is ended inside of C++, and the process with it: ``terminate called without an active exception``.
    """
    if "WORLD_SIZE" not in os.environ:
        sys.exit(status)
    exit_now(status)


def choose_device(device: str, local_rank: int) -> torch.device:
    """The device of a process; see ``joined_ranks``."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "cpu" or (device == "auto" and not gpus):
        return torch.device("cpu")
    if local_rank >= gpus:
        raise ConfigError(f"process {local_rank} of this node needs its own GPU, but the node has {gpus}")
    return torch.device("cuda", local_rank)


def default_workers(device: torch.device, *, cpus: int, local_ranks: int) -> int:
    """Processes of a rank that prepare batches; see ``RuntimeSection.workers``.

    Args:
        device: What the rank computes on.
        cpus: CPUs that all ranks of the node may use.
        local_ranks: How many there are on it.
    """
    return 1 if device.type == "cpu" else min(max(cpus // local_ranks - 1, 1), MOST_WORKERS)


def ranks_of_node() -> int:
    """The ranks that ``torchrun`` started on this node; 1 without it."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def rank_batches(order: list[int], *, batch_size: int, parts: int, ranks: Ranks) -> list[list[int]]:
    """The indices that each part of each step of this rank takes, so that all ranks together take ``order`` in turn.

    Args:
        order: The indices of an epoch; what fills no step is left out.
        batch_size: Images per step over all ranks and parts.
        parts: Parts that a rank computes a step in.
        ranks: This rank among all.

    Returns:
        ``steps * parts`` lists, each of ``batch_size / (parts * world_size)`` indices.

    Raises:
        ConfigError: ``batch_size`` cannot be shared out evenly.
    """
    size, rest = divmod(batch_size, parts * ranks.world_size)
    if rest or not size:
        raise ConfigError(
            f"schedule.batch_size {batch_size} is not a multiple of schedule.accumulate {parts} x "
            f"{ranks.world_size} ranks"
        )
    steps = len(order) // batch_size
    starts = range(ranks.rank * size, steps * batch_size, ranks.world_size * size)
    return [order[start : start + size] for start in starts]
