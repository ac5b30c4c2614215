"""The process group of a run: a single process, or those that a launcher started."""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.nn.parallel import DistributedDataParallel

from ..core.devices import visible_devices
from ..core.errors import ConfigError
from .cluster import ClusterEnvironment, cluster_environment, tasks_without_srun
from .peers import Peers, RankInfo, code_version, connect, is_collective_error, meet, served
from .sharding import is_sharded_module, synchronized

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of a run, as seen from one of them. In a single process, no call communicates.

    Args:
        device: the device of this process.
        rank: of this process.
        world_size: number of processes.
        peers: the other ranks, if any.
    """

    device: torch.device
    rank: int = 0
    world_size: int = 1
    peers: Peers | None = None

    @classmethod
    @contextmanager
    def from_env(cls, device: str, timeout: float = 30.0) -> Iterator[ProcessGroup]:
        """Initializes the process group from the launcher's environment variables, and destroys it on exit.

        Launchers are torchrun, ``srun``, ``mpirun`` and whatever sets ``RANK``, ``WORLD_SIZE``, ``MASTER_ADDR`` and
        ``MASTER_PORT`` (:mod:`hrt_mm.train.cluster`).

        Args:
            device: as ``train.device`` has it; with CUDA and XPU, each process uses the device of its local rank.
            timeout: minutes that ranks wait for each other, at the start and in a collective.

        Raises:
            ConfigError: there is no such device, several processes share one of MPS, or the environment is
                inconsistent.
            RankError: ranks are missing or do not fit together, or another rank failed, hangs or was killed.
        """
        cluster = cluster_environment(os.environ)
        chosen = choose_device(device, _device_index(cluster))
        if chosen.type == "cuda":
            torch.cuda.set_device(chosen)
        elif chosen.type == "xpu":
            torch.xpu.set_device(chosen)
        if cluster.world_size == 1:
            if (tasks := tasks_without_srun(os.environ)) > 1:
                log.warning("this SLURM job has %d tasks, and one process runs; start it with srun to use all", tasks)
            yield cls(chosen)
            return
        if chosen.type == "mps":
            raise ConfigError(
                "train.device mps trains in one process; run it without torchrun, or set train.device=cpu"
            )
        # Counts are reduced on the host and gradients on the device, so GPUs need both backends.
        backend = {"cuda": "cpu:gloo,cuda:nccl", "xpu": "cpu:gloo,xpu:xccl"}.get(chosen.type, "gloo")
        store = served(cluster, timeout) if cluster.serves else connect(cluster, timeout, serve=False)
        gpu = str(torch.get_device_module(chosen).get_device_properties(chosen).uuid) if chosen.type != "cpu" else ""
        mine = RankInfo(cluster.rank, cluster.world_size, socket.gethostname(), os.getpid(), code_version(), gpu)
        prefix, members = meet(store, mine, timeout)
        answers = PrefixStore(prefix, connect(cluster, timeout, serve=False))
        peers = Peers(answers, members, cluster, timeout)
        try:
            dist.init_process_group(
                backend,
                store=PrefixStore(prefix, store),
                rank=cluster.rank,
                world_size=cluster.world_size,
                timeout=timedelta(minutes=timeout),
            )
            group = cls(chosen, cluster.rank, cluster.world_size, peers)
            yield group
            # Nobody leaves while others may still ask why.
            group.barrier()
        except BaseException as error:
            if is_collective_error(error):
                raise peers.explain(error) from error
            peers.report(error)
            raise
        finally:
            peers.close()
            if dist.is_initialized():
                dist.destroy_process_group()

    def at_step(self, step: int) -> None:
        """Notes which step is being taken, for messages."""
        if self.peers is not None:
            self.peers.step = step

    @property
    def ranks_per_machine(self) -> int:
        """Number of ranks on the machine of the first one."""
        if self.peers is None:
            return self.world_size
        return sum(member.host == self.peers.members[0].host for member in self.peers.members)

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes files and logs."""
        return self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module under ``DistributedDataParallel``, which averages gradients over ranks; a sharded one as it is.

        Unused parameters are searched for only where the module may leave some
        (:attr:`hrt_mm.tasks.base.Task.leaves_unused`).
        """
        if self.world_size == 1 or is_sharded_module(module):
            return module
        return DistributedDataParallel(module, find_unused_parameters=getattr(module, "leaves_unused", True))

    def no_sync(self, module: nn.Module, *, last: bool) -> AbstractContextManager[None]:
        """Accumulates gradients without synchronizing them, except for the last batch of a step."""
        if is_sharded_module(module):
            return synchronized(module, last=last)
        if isinstance(module, DistributedDataParallel) and not last:
            # Gradients add up locally, and are sent once a step.
            context: AbstractContextManager[None] = module.no_sync()
            return context
        return nullcontext()

    def sum(self, x: Tensor) -> Tensor:
        """The sum over ranks, in place."""
        if self.world_size > 1:
            dist.all_reduce(x)
        return x

    def max(self, *values: float) -> list[float]:
        """The maximum of each value over ranks."""
        if self.world_size == 1:
            return list(values)
        # Exact for counts and signal numbers; on the host, so that the device is not waited for.
        reduced = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(reduced, dist.ReduceOp.MAX)
        maxima: list[float] = reduced.tolist()
        return maxima

    def sum_counts(self, *counts: int) -> list[int]:
        """The sum of each count over ranks."""
        if self.world_size == 1:
            return list(counts)
        reduced = torch.tensor(counts)
        dist.all_reduce(reduced)
        sums: list[int] = reduced.tolist()
        return sums

    def all(self, condition: bool) -> bool:
        """Whether a condition is true on every rank."""
        return self.max(float(not condition))[0] == 0

    def gather(self, value: Any) -> list[Any]:
        """A picklable value from every rank, in rank order."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Waits for every rank."""
        self.all(True)


def _device_index(cluster: ClusterEnvironment) -> int:
    """Which of the visible devices is the process's."""
    # `srun --gpus-per-task=1` shows each task its own GPU alone.
    alone = cluster.launcher in ("slurm", "mpi") and all(count == 1 for count in visible_devices().values())
    return 0 if alone else cluster.local_rank


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """The device of a process.

    Args:
        name: ``cpu``, ``cuda``, ``xpu``, ``mps``, or ``auto`` for the first kind of GPU that is there.
        local_rank: of the process on its machine.

    Raises:
        ConfigError: the kind is unavailable, or has fewer devices than local ranks.
    """
    visible = visible_devices()
    kind = next(iter(visible), "cpu") if name == "auto" else name
    if kind == "cpu":
        return torch.device("cpu")
    count = visible.get(kind, 0)
    if local_rank >= count:
        other = f"; there are {', '.join(visible)}" if visible and kind not in visible else ""
        raise ConfigError(
            f"train.device {name} for local rank {local_rank}, but {count} {NAMES[kind]} devices are visible{other}; "
            "start fewer processes, or set train.device=cpu"
        )
    return torch.device(kind, local_rank)


NAMES = {"cuda": "CUDA", "xpu": "XPU", "mps": "MPS"}


def device_named(name: str) -> torch.device:
    """A device by its name: ``auto``, ``cpu``, ``cuda``, ``xpu`` or ``mps``, with its number as in ``cuda:1``.

    Raises:
        ConfigError: there is no such device.
    """
    if name in ("auto", "cpu"):
        return choose_device(name)
    if not (match := re.fullmatch(r"(cuda|xpu|mps)(?::(\d+))?", name)):
        raise ConfigError(f"device {name!r} is unknown; it is auto, cpu, cuda or cuda:N, xpu or xpu:N, or mps")
    visible = visible_devices().get(match[1], 0)
    number = int(match[2] or 0)
    if number >= visible:
        raise ConfigError(
            f"device {name} is not available: {visible} {NAMES[match[1]]} devices are visible; use cpu or auto"
        )
    return torch.device(match[1], number)
