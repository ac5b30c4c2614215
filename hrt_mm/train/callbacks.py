"""Code of users that runs at set points of training.

``train(config, callbacks=[...])`` takes them from Python; ``train.callbacks`` names those that installed packages
register in the entry-point group ``hrt_mm.callbacks``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

from torch import nn
from torch.optim import Optimizer

from ..core.errors import ConfigError
from .state import TrainState

GROUP = "hrt_mm.callbacks"


class CallbackRun(Protocol):
    """What callbacks see of a run."""

    @property
    def folder(self) -> Path:
        """The run folder."""

    @property
    def config(self) -> Any:
        """The :class:`~hrt_mm.train.RunConfig`."""

    @property
    def task(self) -> nn.Module:
        """The model with its loss."""

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer."""

    @property
    def state(self) -> TrainState:
        """Counters: ``state.step`` is the number of finished steps."""


class Callback:
    """Code that runs at set points of training, on every rank. Override what is needed.

    An exception ends the run, as one of the training loop does.
    """

    def on_start(self, run: CallbackRun) -> None:
        """Before the first step, also of a resumed run."""

    def on_step(self, run: CallbackRun) -> None:
        """After an optimizer step."""

    def on_evaluation(self, run: CallbackRun, metrics: Mapping[str, float]) -> None:
        """After an evaluation on ``val``, with its metrics."""

    def on_save(self, run: CallbackRun) -> None:
        """After a checkpoint was written."""

    def on_end(self, run: CallbackRun, metrics: Mapping[str, float]) -> None:
        """At the end, with the metrics of the best weights on ``val`` and ``test``; not after a failure or a signal."""


def registered(names: Sequence[str]) -> list[Callback]:
    """Callbacks by their registered names, each made without arguments.

    Raises:
        ConfigError: no installed package registers one, or it makes something else.
    """
    known = {entry.name: entry for entry in entry_points(group=GROUP)}
    callbacks = []
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            available = f"one of {', '.join(sorted(known))}" if known else "no installed package registers any"
            raise ConfigError(f"train.callbacks: there is no callback {name!r}; {available}{hint}")
        made = known[name].load()()
        if not isinstance(made, Callback):
            raise ConfigError(f"train.callbacks: {name} is {made!r}, not a Callback")
        callbacks.append(made)
    return callbacks
