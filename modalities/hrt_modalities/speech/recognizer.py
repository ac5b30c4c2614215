"""Streaming recognition: raw chunks go into a trained CTC model, and what is said comes out with its times."""

from __future__ import annotations

from typing import Any, Protocol

import torch

from hrt_mm.core.errors import UserError
from hrt_mm.data.time_span import TimeSpan
from hrt_mm.data.tokenizer import Tokenizer
from hrt_mm.inference.streaming.levels import Finished, latencies
from hrt_mm.inference.streaming.stream import Stream
from hrt_mm.tasks.base import Task
from hrt_mm.tasks.ctc.decoders import GreedyConfig
from hrt_mm.tasks.ctc.task import CTC
from hrt_mm.tasks.ctc.words import GreedyStream, Spelled

from .utterances import UtteranceStream
from .windows import WindowStream

WINDOW_S = 6.0
"""Seconds of a window over a model that is not causal (tokens, where time has no unit)."""


SPACE = " "


class Steps(Protocol):
    """Gives the steps of a level as chunks finish them."""

    def feed(self, chunk: Any, /) -> Finished:
        """Those that a chunk finishes."""

    def flush(self) -> Finished:
        """Those that the end of the sample finishes."""


class Recognizer:
    """Symbols, or the words that characters spell, as they are finished.

    A causal model reads the stream itself. One that is not reads windows that overlap, each as a sample of its own.
    With a greedy ``task.decoder`` a symbol is given once the next step differs; with a beam, all of an utterance are
    given once a pause has ended it.

    Args:
        task: a trained one with CTC, in evaluation mode.
        tokenizer: of the same run.
        window: seconds of a window over a model that is not causal: about as long as what it was trained on.
        growing: let levels of a causal model that attend to everything remember ever more.
        source: what the tokenizer's ``stream`` takes: ``rate=44100`` for a sound.

    Raises:
        UserError: the task tells no symbols, or its model cannot stream; says why.
    """

    def __init__(
        self, task: Task, tokenizer: Tokenizer, *, window: float | None = None, growing: bool = False, **source: Any
    ) -> None:
        self.task = recognizing(task)
        self.head = self.task.told_by
        self.causal = self.task.encoder.hierarchy.config.causal
        seconds = tokenizer.seconds_per_token or 1.0
        if self.causal and window is not None:
            raise UserError("a window is for models that are not causal; this one reads the stream itself: drop it")
        self.late: int | None
        """Level-0 tokens until a step is finished after its end, at most; ``None`` where nothing bounds it."""
        if self.causal:
            self._steps: Steps = _LevelSteps(self.task, self.head.level, tokenizer, growing, source)
            config = self.task.encoder.hierarchy.config
            self.late = latencies(config)[config.levels[self.head.level].name]
        else:
            tokens = max(1, round((WINDOW_S if window is None else window) / seconds))
            windows = WindowStream(self.task.encoder, tokenizer, self.head.level, tokens, **source)
            self._steps, self.late = windows, windows.window
        self._decoded = _decoder(self.task, seconds)
        self._spelled = Spelled() if _spaced(self.task) else None

    @property
    def unit(self) -> str:
        """What it gives: ``words``, ``phonemes``."""
        if self.head is not self.task:
            return self.task.unit
        words = isinstance(self._decoded, UtteranceStream) and self._decoded.lexicon is not None
        return "words" if words or self._spelled is not None else self.task.unit

    def feed(self, chunk: Any) -> list[TimeSpan]:
        """Takes in a raw chunk of any size, and gives what it finishes.

        Raises:
            BadSample: the chunk cannot be used; says why.
        """
        return self._written(self._scored(self._steps.feed(chunk)))

    def flush(self) -> list[TimeSpan]:
        """What the end of the sample finishes."""
        found = self._written([*self._scored(self._steps.flush()), *self._decoded.flush()])
        return found if self._spelled is None else [*found, *self._spelled.flush()]

    @torch.inference_mode()
    def _scored(self, steps: Finished) -> list[TimeSpan]:
        return self._decoded.feed(self.head.raw_log_probs(steps.x_ND).cpu(), steps.first_N, steps.last_N)

    def _written(self, symbols: list[TimeSpan]) -> list[TimeSpan]:
        return symbols if self._spelled is None else self._spelled.feed(symbols)


def _decoder(task: CTC, seconds: float) -> GreedyStream | UtteranceStream:
    """What the run's configuration asks for: greedy at once, or a beam over each utterance."""
    if isinstance(task.config.decoder, GreedyConfig):
        return GreedyStream(task.symbols, seconds, task.as_told)
    head = task.told_by
    lexicon = None if _spaced(task) else task.lexicon
    return UtteranceStream(task.decoder, head.symbols, seconds, lexicon, told=head.as_told, placed=head.placed)


def _spaced(task: CTC) -> bool:
    """Whether symbols are characters with spaces between words."""
    return task.unit == "characters" and SPACE in task.symbols


class _LevelSteps:
    """The tokens of the level that a task reads, from a stream."""

    def __init__(self, task: CTC, level: int, tokenizer: Tokenizer, growing: bool, source: dict[str, Any]) -> None:
        self.stream = Stream(task.encoder, tokenizer, growing=growing, **source)
        self.level = self.stream.levels.names[level]

    def feed(self, chunk: Any) -> Finished:
        return self.stream.feed(chunk)[self.level]

    def flush(self) -> Finished:
        return self.stream.flush()[self.level]


def recognizing(task: Task) -> CTC:
    """A task that tells what is said.

    Raises:
        UserError: it is another one.
    """
    if not isinstance(task, CTC):
        raise UserError(f"a run of task {type(task).__name__} tells no symbols in time; train one with task ctc")
    return task
