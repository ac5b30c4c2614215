"""A module's weights by name: reading and loading them, and their exponential moving average."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..core.errors import UserError
from .saved_tensors import SavedTensors

ADDED = ("router.offset", "router.next_offset", "router.steps")
"""Ends of the names of buffers that were added since the first release. They are 0 in checkpoints from before."""


def named_weights(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name. Tied weights appear once, under their first name."""
    seen: set[int] = set()
    weights: dict[str, Tensor] = {}
    # With keep_vars, tied weights are one object; without, each name has a tensor of its own.
    for name, value in module.state_dict(keep_vars=True).items():
        if id(value) not in seen:
            seen.add(id(value))
            weights[name] = value.detach()
    return weights


def gathered(value: Tensor) -> Tensor:
    """A tensor as it is stored: contiguous, on the host, and whole if FSDP shards it, to which all ranks contribute."""
    whole: Tensor = value.full_tensor() if is_sharded(value) else value  # type: ignore[attr-defined]
    return whole.contiguous().cpu()


def is_sharded(value: Tensor) -> bool:
    """Whether a tensor is a ``DTensor``, of which this rank holds a shard."""
    # Importing the class takes most of a second.
    return hasattr(value, "full_tensor")


def local(value: Tensor) -> Tensor:
    """This rank's shard of a tensor, which shares its memory; a tensor that is not sharded is returned as it is."""
    if not is_sharded(value):
        return value
    with torch.no_grad():
        shard: Tensor = value.to_local()  # type: ignore[attr-defined]
    return shard


def local_rows(value: Tensor) -> tuple[int, int]:
    """First row of this rank's shard of a sharded tensor, and the number of rows."""
    mesh, placements = value.device_mesh, value.placements  # type: ignore[attr-defined]
    (dimension,) = [index for index, placement in enumerate(placements) if placement.is_shard()]
    assert placements[dimension].dim == 0
    chunk = -(-value.shape[0] // mesh.size(dimension))
    first = min(value.shape[0], chunk * mesh.get_local_rank(dimension))
    return first, len(local(value))


def assign_saved(value: Tensor, weights: Mapping[str, Tensor], name: str) -> None:
    """Copies one of ``weights`` into a tensor. For a shard, only its rows are read from a file."""
    if name not in weights and name.endswith(ADDED):
        value.zero_()
    elif is_sharded(value) and isinstance(weights, SavedTensors):
        with torch.no_grad():
            local(value).copy_(weights.rows(name, *local_rows(value)))
    else:
        assign(value, weights[name])


@torch.no_grad()
def assign(value: Tensor, whole: Tensor) -> None:
    """Copies a tensor into one of its shape, or into this rank's shard of it.

    Args:
        value: to change in place.
        whole: the new values, all of them or sharded alike.
    """
    if is_sharded(value) and not is_sharded(whole):
        first, count = local_rows(value)
        whole = whole.narrow(0, first, count)
    local(value).copy_(local(whole))


def mismatches(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> list[str]:
    """Names and shapes of ``weights`` that differ from ``expected``, one phrase each."""
    phrases = [f"{name} is missing" for name in expected if name not in weights and not name.endswith(ADDED)]
    phrases += [f"{name} is unknown" for name in weights if name not in expected]
    # Those of files need not be read for that.
    shapes = weights.shapes if isinstance(weights, SavedTensors) else {name: weights[name].shape for name in weights}
    phrases += [
        f"{name} has shape {tuple(shapes[name])}, not {tuple(value.shape)}"
        for name, value in expected.items()
        if name in shapes and shapes[name] != value.shape
    ]
    return phrases


def refuse(mismatched: Sequence[str], source: str) -> None:
    """Refuses the tensors of another model.

    Raises:
        UserError: ``mismatched`` is not empty; names ``source`` and the first few.
    """
    if mismatched:
        more = f", and {len(mismatched) - 5} more" if len(mismatched) > 5 else ""
        raise UserError(
            f"{source} is not of this model: {'; '.join(mismatched[:5])}{more}; use the configuration that it was "
            "saved with"
        )


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Copies weights into a module.

    Raises:
        UserError: names or shapes differ; names ``source`` and the first of them.
    """
    current = named_weights(module)
    refuse(mismatches(current, weights), source)
    with torch.no_grad():
        for name, value in current.items():
            assign_saved(value, weights, name)


class EMA:
    """Exponential moving average of a module's weights, on their device.

    The decay warms up as ``(1 + step) / (10 + step)``, so that the initial weights do not dominate short runs.

    Args:
        module: its current weights initialize the average.
        decay: fraction of the average that is kept at each step, after the warm-up.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: value.clone() for name, value in named_weights(module).items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Updates the average after a step, counted from 0. Integer buffers are copied."""
        # One kernel over all weights. A loop over them would take longer than the step of a small model.
        rate = 1 - min(self.decay, (1 + step) / (10 + step))
        current = named_weights(module)
        averaged = [name for name, value in current.items() if value.is_floating_point()]
        torch._foreach_lerp_(
            [local(self.weights[name]) for name in averaged], [local(current[name]) for name in averaged], rate
        )
        for name in current.keys() - averaged:
            self.weights[name].copy_(current[name])

    def restore(self, weights: Mapping[str, Tensor], source: str) -> None:
        """Restores a saved average.

        Raises:
            UserError: it is of another model; names ``source``.
        """
        refuse(mismatches(self.weights, weights), source)
        for name, value in self.weights.items():
            assign_saved(value, weights, name)

    @contextmanager
    def swapped_into(self, module: nn.Module) -> Iterator[None]:
        """Puts the average into the module for the duration of the block."""
        # Values are copied and tensors stay, as the optimizer and compiled code refer to them.
        current = {name: value.clone() for name, value in named_weights(module).items()}
        load_weights(module, self.weights, "the moving average")
        try:
            yield
        finally:
            load_weights(module, current, "the module itself")
