"""Weights by name: taking a module's tensors, putting them back, and their moving average."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..core.errors import UserError


def named_weights(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, one name for each: tied weights have the first of theirs."""
    seen: set[int] = set()
    weights: dict[str, Tensor] = {}
    for name, value in module.state_dict(keep_vars=True).items():
        if id(value) not in seen:
            seen.add(id(value))
            weights[name] = value.detach()
    return weights


def differing(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """What keeps ``found`` from being loaded where ``expected`` is: names and shapes, one phrase each."""
    wrong = [f"{name} is missing" for name in expected if name not in found]
    wrong += [f"{name} is unknown" for name in found if name not in expected]
    wrong += [
        f"{name} has shape {tuple(found[name].shape)}, not {tuple(value.shape)}"
        for name, value in expected.items()
        if name in found and found[name].shape != value.shape
    ]
    return wrong


def refuse(wrong: Sequence[str], source: str) -> None:
    """Refuses tensors of another model.

    Raises:
        UserError: anything is wrong; names ``source`` and the first few.
    """
    if wrong:
        more = f", and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise UserError(
            f"{source} is not of this model: {'; '.join(wrong[:5])}{more}; use the configuration that it was saved with"
        )


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Copies weights into a module that has the same names and shapes.

    Raises:
        UserError: names or shapes differ; names ``source`` and the first of them.
    """
    own = named_weights(module)
    refuse(differing(own, weights), source)
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(weights[name])


class EMA:
    """Exponential moving average of a module's weights, kept where the weights are.

    The decay warms up as ``(1 + step) / (10 + step)``, so that short runs do not carry their initial weights along.

    Args:
        module: its weights at the time are the first average.
        decay: share of the average that stays at each step, in the long run.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: value.clone() for name, value in named_weights(module).items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Takes in the weights after a step, counted from 0. Integer buffers are copied."""
        rate = 1 - min(self.decay, (1 + step) / (10 + step))
        own = named_weights(module)
        moving = [name for name, value in own.items() if value.is_floating_point()]
        torch._foreach_lerp_([self.weights[name] for name in moving], [own[name] for name in moving], rate)
        for name in own.keys() - moving:
            self.weights[name].copy_(own[name])

    def restore(self, weights: Mapping[str, Tensor], source: str) -> None:
        """Goes on from a saved average.

        Raises:
            UserError: it is of another model; names ``source``.
        """
        refuse(differing(self.weights, weights), source)
        self.weights = {name: weights[name].to(value.device) for name, value in self.weights.items()}

    @contextmanager
    def swapped_into(self, module: nn.Module) -> Iterator[None]:
        """The module holds the average inside the ``with``, and its own weights again after it."""
        own = {name: value.clone() for name, value in named_weights(module).items()}
        load_weights(module, self.weights, "the moving average")
        try:
            yield
        finally:
            load_weights(module, own, "the module itself")
