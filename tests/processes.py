"""Processes for tests: forks of one server that has imported what takes long, and has done nothing else."""

from __future__ import annotations

import multiprocessing
import socket
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist

from hrt_mm.train.distributed import ProcessGroup

forkserver = multiprocessing.get_context("forkserver")
# Preloading is a setting of the one server that all contexts share, so it is made here once.
forkserver.set_forkserver_preload(
    ["hrt_mm.train.loop", "hrt_mm.config", "hrt_modalities.text.corpus", "torch._dynamo", "torch.distributed.fsdp"]
)


def on_two_ranks(function: Callable[..., Any], *args: Any) -> list[Any]:
    """:func:`on_ranks` with two of them."""
    return on_ranks(2, function, *args)


def on_ranks(world_size: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    """Calls ``function(ranks, *args)`` in the processes of a process group; returns what each of them returned.

    Results are sent between processes, so tensors should be lists.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    connections, processes = [], []
    for rank in range(world_size):
        ours, theirs = forkserver.Pipe()
        process = forkserver.Process(
            target=_on_rank, args=(rank, world_size, port, theirs, function, args), daemon=True
        )
        process.start()
        connections.append(ours)
        processes.append(process)
    results = [connection.recv() for connection in connections if connection.poll(120)]
    for process in processes:
        process.join(30)
    assert len(results) == world_size, "a rank hangs"
    return results


def _on_rank(
    rank: int, world_size: int, port: int, answer: Connection, function: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size)
    answer.send(function(ProcessGroup(torch.device("cpu"), rank, world_size), *args))
    dist.destroy_process_group()
