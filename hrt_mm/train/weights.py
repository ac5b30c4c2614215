"""A module's weights by name: reading and loading them, and their exponential moving average."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..core.errors import UserError


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
    whole: Tensor = value.full_tensor() if hasattr(value, "full_tensor") else value
    return whole.contiguous().cpu()


def mismatches(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> list[str]:
    """Names and shapes of ``weights`` that differ from ``expected``, one phrase each."""
    phrases = [f"{name} is missing" for name in expected if name not in weights]
    phrases += [f"{name} is unknown" for name in weights if name not in expected]
    phrases += [
        f"{name} has shape {tuple(weights[name].shape)}, not {tuple(value.shape)}"
        for name, value in expected.items()
        if name in weights and weights[name].shape != value.shape
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
            value.copy_(weights[name])


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
        torch._foreach_lerp_([self.weights[name] for name in averaged], [current[name] for name in averaged], rate)
        for name in current.keys() - averaged:
            self.weights[name].copy_(current[name])

    def restore(self, weights: Mapping[str, Tensor], source: str) -> None:
        """Restores a saved average.

        Raises:
            UserError: it is of another model; names ``source``.
        """
        refuse(mismatches(self.weights, weights), source)
        self.weights = {name: weights[name].to(value.device) for name, value in self.weights.items()}

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
