"""The processes of a run: one alone, or those that torchrun started."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..core.errors import ConfigError


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run. Alone, every call answers at once.

    Args:
        device: where this process computes.
        rank: its number.
        world_size: how many there are.
    """

    device: torch.device
    rank: int = 0
    world_size: int = 1

    @classmethod
    @contextmanager
    def joined(cls, device: str) -> Iterator[Ranks]:
        """Joins the process group that torchrun describes in the environment, and leaves it in the end.

        Args:
            device: ``auto``, ``cpu`` or ``cuda``; of the CUDA devices, a process takes the one of its local rank.
        """
        local = int(os.environ.get("LOCAL_RANK", "0"))
        place = choose_device(device, local)
        if place.type == "cuda":
            torch.cuda.set_device(place)
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            yield cls(place)
            return
        # Control messages lie on the host and gradients on the device, so CUDA needs both backends.
        dist.init_process_group("cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo")
        try:
            yield cls(place, dist.get_rank(), dist.get_world_size())
        finally:
            dist.destroy_process_group()

    @property
    def main(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module with its gradients averaged over ranks.

        Parameters that a batch leaves out are looked for where the module says that there may be some
        (:attr:`hrt_mm.tasks.base.Task.leaves_unused`).
        """
        if self.world_size == 1:
            return module
        return DistributedDataParallel(module, find_unused_parameters=getattr(module, "leaves_unused", True))

    def no_sync(self, module: nn.Module, *, last: bool) -> AbstractContextManager[None]:
        """Gradients stay on their rank inside, unless this is the last batch of a step."""
        if isinstance(module, DistributedDataParallel) and not last:
            held: AbstractContextManager[None] = module.no_sync()
            return held
        return nullcontext()

    def sum(self, x: Tensor) -> Tensor:
        """The sum over ranks, in place."""
        if self.world_size > 1:
            dist.all_reduce(x)
        return x

    def highest(self, *values: float) -> list[float]:
        """The highest of each value over ranks."""
        if self.world_size == 1:
            return list(values)
        reduced = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(reduced, dist.ReduceOp.MAX)
        highest: list[float] = reduced.tolist()
        return highest

    def total(self, *values: int) -> list[int]:
        """The sum of each count over ranks."""
        if self.world_size == 1:
            return list(values)
        reduced = torch.tensor(values)
        dist.all_reduce(reduced)
        total: list[int] = reduced.tolist()
        return total

    def all(self, holds: bool) -> bool:
        """Whether it holds on every rank."""
        return self.highest(float(not holds))[0] == 0

    def gather(self, value: Any) -> list[Any]:
        """A plain value from every rank, in their order."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Waits until every rank is here."""
        self.all(True)


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """The device of a process.

    Raises:
        ConfigError: CUDA was asked for and there is none, or not one for each local rank.
    """
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and not there):
        return torch.device("cpu")
    if local_rank >= there:
        raise ConfigError(
            f"train.device {name} for local rank {local_rank}, but {there} CUDA devices are visible; start fewer "
            "processes, or set train.device=cpu"
        )
    return torch.device("cuda", local_rank)
