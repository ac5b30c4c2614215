"""Sharded data parallelism: FSDP2 over a device mesh, which divides parameters, gradients and optimizer state.

PyTorch's modules for it are imported where they are used, as they take most of a second to import.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..core.block import Block
from ..core.errors import ConfigError
from ..core.initial_weights import weights_replaced
from ..tasks.base import Task
from .config import TrainConfig
from .weights import assign, is_sharded

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

SHARDABLE_OPTIMIZERS = ("adamw", "muon", "sgd", "adabelief", "adoptw", "lion", "nadamw")
"""Optimizers that work on shards. Those of timm that are missing take the mean or norm of each tensor in place, which
``DTensor`` refuses."""


class Sharding:
    """How the parameters of a task are divided over the ranks. See :func:`choose_sharding`.

    Args:
        mesh: the ranks: one dimension that shards, or two, of which the first replicates.
        dtype: of the parameters of blocks in forward and backward passes.
    """

    def __init__(self, mesh: DeviceMesh, dtype: torch.dtype) -> None:
        self.mesh, self.dtype = mesh, dtype
        self.count = mesh.size(mesh.ndim - 1)
        """Number of shards."""
        self.index = mesh.get_local_rank("shard")
        """Of this rank's shard, from 0."""
        self.replica = mesh.get_local_rank("replicate") if mesh.ndim > 1 else 0
        """Index of the replica that this rank is in."""

    def build(self, make: Callable[[], Task], device: torch.device) -> Task:
        """Builds a task of which each rank holds a shard, without initial weights; see :func:`scatter`.

        Args:
            make: builds the task.
            device: of this rank.

        Raises:
            ConfigError: a part of the task cannot be sharded.
        """
        with torch.device("meta"), weights_replaced():
            task = make()
        self._shard(task)
        _allocate(task, device)
        return task

    def _shard(self, task: Task) -> None:
        from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

        for name, module in task.named_modules():
            if not getattr(module, "shardable", True):
                raise ConfigError(
                    f"train.parallel: {name} cannot be sharded, as it caches the features of its weights or unfreezes "
                    "them in training; use ddp"
                )
        # Rotations, coordinates and the sums of residual branches are not to be rounded, so inputs are not cast.
        reduced = MixedPrecisionPolicy(self.dtype, torch.float32, cast_forward_inputs=False)
        if not task.leaves_unused:
            for module in task.modules():
                if isinstance(module, Block):
                    fully_shard(module, mesh=self.mesh, mp_policy=reduced)
        # Where a rank may skip a tower, or run it in another number of chunks, all is gathered together: ranks would
        # wait for each other forever at the blocks.
        scalars = {parameter for parameter in task.parameters() if not parameter.ndim}
        fully_shard(
            task, mesh=self.mesh, mp_policy=MixedPrecisionPolicy(cast_forward_inputs=False), ignored_params=scalars
        )
        assert isinstance(task, FSDPModule)
        task.set_reduce_scatter_unused_params(task.leaves_unused)


def choose_sharding(
    options: TrainConfig,
    optimizer: str,
    dtype: torch.dtype,
    device: torch.device,
    world_size: int,
    ranks_per_machine: int,
) -> Sharding | None:
    """The sharding that ``train.parallel`` asks for; ``None`` for replicas, and in a single process.

    Args:
        options: of the run.
        optimizer: its ``optim.type``.
        dtype: that the run computes in.
        device: of this rank.
        world_size: number of ranks.
        ranks_per_machine: number of those that share a machine.

    Raises:
        ConfigError: the ranks cannot be divided as asked, or the optimizer does not work on shards.
    """
    parallel = options.parallel
    if parallel in ("auto", "ddp") or world_size == 1:
        return None
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule

    if not hasattr(FSDPModule, "set_reduce_scatter_unused_params"):
        raise ConfigError(f"train.parallel {parallel} needs PyTorch 2.14 or newer, and this is {torch.__version__}")
    if optimizer not in SHARDABLE_OPTIMIZERS:
        raise ConfigError(
            f"optim.type {optimizer} does not work on shards of parameters, which train.parallel {parallel} makes; use "
            f"ddp, or one of {', '.join(SHARDABLE_OPTIMIZERS)}"
        )
    shape, names = (world_size,), ("shard",)
    if parallel == "hsdp":
        size = options.shard_size or ranks_per_machine
        if size < 2 or world_size % size:
            key = "train.shard_size" if options.shard_size else "train.shard_size, the number of ranks of a machine,"
            raise ConfigError(
                f"train.parallel hsdp: {key} is {size}, which must be 2 or more and divide the {world_size} ranks"
            )
        shape, names = (world_size // size, size), ("replicate", "shard")  # type: ignore[assignment]
    mesh = init_device_mesh(device.type, shape, mesh_dim_names=names)
    for group in mesh.get_all_groups():
        # Groups within the ranks have PyTorch's default otherwise.
        dist.set_timeout(timedelta(minutes=options.collective_timeout), group)
    return Sharding(mesh, dtype)


def is_sharded_module(module: nn.Module) -> bool:
    """Whether FSDP2 shards a module."""
    return hasattr(module, "set_requires_gradient_sync")


@contextmanager
def unsharded(module: nn.Module) -> Iterator[None]:
    """Inside, each rank holds all weights and runs the module on its own, without gradients.

    All ranks enter and leave together. Without this, each pass would have to be taken by all ranks. Weights that are
    changed inside are lost.
    """
    if not is_sharded_module(module):
        yield
        return
    root: Any = module
    units: list[Any] = [part for part in module.modules() if is_sharded_module(part)]
    root.set_reshard_after_forward(False)
    for unit in units:
        unit.unshard()
    try:
        yield
    finally:
        for unit in units:
            unit.reshard()
        root.set_reshard_after_forward(True)
        # The backward pass begins with what the root holds.
        root.set_reshard_after_forward(False, recurse=False)


@contextmanager
def synchronized(module: nn.Module, *, last: bool) -> Iterator[None]:
    """Forward and backward pass of one batch of a step of a sharded module; the last one reduces the gradients.

    Args:
        module: sharded.
        last: whether it is the last batch of the step.
    """
    root: Any = module
    root.set_requires_gradient_sync(last)
    root.set_is_last_backward(last)
    yield
    if not last:
        return
    for parameter in module.parameters():
        # FSDP2 does not shard scalars.
        if parameter.requires_grad and not is_sharded(parameter):
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)
            parameter.grad /= dist.get_world_size()


def _allocate(task: nn.Module, device: torch.device) -> None:
    """Replaces what is on the meta device by memory of its size; weights that are tied stay so."""
    swap = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        task.to_empty(device=device)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(swap)


@torch.no_grad()
def scatter(source: Task | None, task: Task, device: torch.device) -> None:
    """Gives each rank its shard of initial weights, and all buffers.

    Weights are drawn in the order of construction, and labels and other runs may set some. For a sharded run to start
    from the weights of an unsharded one, the first rank therefore makes them all, in host memory.

    Args:
        source: has the weights, on the first rank.
        task: sharded.
        device: of this rank.
    """
    from torch.distributed.tensor import DTensor, distribute_tensor

    weights = {} if source is None else {**dict(source.named_parameters()), **dict(source.named_buffers())}
    for name, value in (*task.named_parameters(), *task.named_buffers()):
        whole: Tensor
        if dist.get_rank() == 0:
            whole = weights[name].detach().to(device, value.dtype)
        else:
            whole = torch.empty(value.shape, dtype=value.dtype, device=device)
        if isinstance(value, DTensor):
            whole = distribute_tensor(whole, value.device_mesh, value.placements)
        else:
            dist.broadcast(whole, 0)
        assign(value, whole)
