"""Streaming recognition: raw chunks go into a trained CTC model, and what is said comes out with its times."""

from __future__ import annotations

from typing import Any

import torch

from ..errors import UserError
from ..modality import Tokenizer
from ..tasks.base import Task
from ..tasks.ctc import CTC
from .heard import GreedyStream, Heard, Spelled
from .levels import Finished, latencies
from .stream import Stream


class Recognizer:
    """Symbols, or the words that characters spell, as they are finished.

    Args:
        task: a trained one with CTC, in evaluation mode.
        tokenizer: of the same run.
        growing: let levels that attend to everything remember ever more.
        source: what the tokenizer's ``stream`` takes: ``rate=44100`` for a sound.

    Raises:
        UserError: the task tells no symbols, or its model cannot stream; says why.
    """

    def __init__(self, task: Task, tokenizer: Tokenizer, *, growing: bool = False, **source: Any) -> None:
        self.task = recognizing(task)
        self.stream = Stream(self.task.encoder, tokenizer, growing=growing, **source)
        self._level = self.stream.levels.names[self.task.level]
        self._greedy = GreedyStream(self.task.symbols, tokenizer.seconds_per_token or 1.0)
        self._spelled = Spelled() if self.task.unit == "characters" else None

    @property
    def unit(self) -> str:
        """What it gives: ``words``, ``phonemes``."""
        return "words" if self._spelled is not None else self.task.unit

    @property
    def late(self) -> int | None:
        """Level-0 tokens until a step is finished after its end, at most; ``None`` where nothing bounds it."""
        return latencies(self.task.encoder.hierarchy.config)[self._level]

    def feed(self, chunk: Any) -> list[Heard]:
        """Takes in a raw chunk of any size, and gives what it finishes.

        Raises:
            BadSample: the chunk cannot be used; says why.
        """
        return self._written(self._scored(self.stream.feed(chunk)[self._level]))

    def flush(self) -> list[Heard]:
        """What the end of the sample finishes."""
        last = self._scored(self.stream.flush()[self._level])
        found = self._written([*last, *self._greedy.flush()])
        return found if self._spelled is None else [*found, *self._spelled.flush()]

    @torch.inference_mode()
    def _scored(self, steps: Finished) -> list[Heard]:
        return self._greedy.feed(self.task.log_probs(steps.x_ND).cpu(), steps.first_N, steps.last_N)

    def _written(self, symbols: list[Heard]) -> list[Heard]:
        return symbols if self._spelled is None else self._spelled.feed(symbols)


def recognizing(task: Task) -> CTC:
    """A task that tells what is said.

    Raises:
        UserError: it is another one.
    """
    if not isinstance(task, CTC):
        raise UserError(f"a run of task {type(task).__name__} tells no symbols in time; train one with task ctc")
    return task
