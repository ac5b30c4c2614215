"""Streaming recognition with a trained CTC model: chunks of sound in, symbols or words with times out."""

from __future__ import annotations

from typing import Any, Protocol

import torch

from hrt_mm.core.errors import UserError
from hrt_mm.data.capabilities import seconds_per_token
from hrt_mm.data.time_span import TimeSpan
from hrt_mm.data.tokenizer import Tokenizer
from hrt_mm.inference.streaming.levels import Finished, latencies
from hrt_mm.inference.streaming.stream import Stream
from hrt_mm.tasks.base import Task
from hrt_mm.tasks.ctc.decoders import GreedyConfig
from hrt_mm.tasks.ctc.task import CTC
from hrt_mm.tasks.ctc.words import GreedyStream, WordJoiner

from .utterances import UtteranceStream
from .windows import WindowStream

WINDOW_S = 6.0
"""Seconds per window for a model that is not causal (tokens, where time has no unit)."""


SPACE = " "


class FrameSource(Protocol):
    """Gives the frames of a level as they are finished."""

    def feed(self, chunk: Any, /) -> Finished:
        """Frames that a chunk finishes."""

    def flush(self) -> Finished:
        """Frames that the end of the sample finishes."""


class Recognizer:
    """Streams symbols, or the words that characters spell, with their times.

    A causal model reads the stream directly; any other model reads overlapping windows, each as a sample. With a greedy
    ``task.decoder`` a symbol is returned once the next frame differs; with a beam, an utterance is returned once a
    pause has ended it.

    Args:
        task: a trained CTC task, in evaluation mode.
        tokenizer: of the same run.
        window: seconds per window for a model that is not causal: about the length of the training samples.
        growing: allow levels of a causal model whose memory grows with the stream.
        source: arguments of the tokenizer's ``stream``: ``rate=44100`` for a sound.

    Raises:
        UserError: the task is not CTC, or its model cannot stream.
    """

    def __init__(
        self, task: Task, tokenizer: Tokenizer, *, window: float | None = None, growing: bool = False, **source: Any
    ) -> None:
        self.task = ctc_task(task)
        self.head = self.task.decode_head
        self.causal = self.task.encoder.hierarchy.config.causal
        seconds = seconds_per_token(tokenizer) or 1.0
        if self.causal and window is not None:
            raise UserError("a window is for models that are not causal; this one reads the stream directly: drop it")
        self.late: int | None
        """Latency bound: most level-0 tokens from the end of a frame until it is finished; ``None`` if unbounded."""
        if self.causal:
            self._frames: FrameSource = _LevelFrames(self.task, self.head.level, tokenizer, growing, source)
            config = self.task.encoder.hierarchy.config
            self.late = latencies(config)[config.levels[self.head.level].name]
        else:
            tokens = max(1, round((WINDOW_S if window is None else window) / seconds))
            windows = WindowStream(self.task.encoder, tokenizer, self.head.level, tokens, **source)
            self._frames, self.late = windows, windows.window
        self._decoder = _decoder(self.task, seconds)
        self._joiner = WordJoiner() if _spaced(self.task) else None

    @property
    def unit(self) -> str:
        """Unit of the results: ``words``, ``phonemes``."""
        if self.head is not self.task:
            return self.task.unit
        words = isinstance(self._decoder, UtteranceStream) and self._decoder.lexicon is not None
        return "words" if words or self._joiner is not None else self.task.unit

    def feed(self, chunk: Any) -> list[TimeSpan]:
        """Adds a raw chunk of any size; returns the spans that it finishes.

        Raises:
            BadSample: the chunk cannot be used.
        """
        return self._joined(self._decode(self._frames.feed(chunk)))

    def flush(self) -> list[TimeSpan]:
        """The spans that the end of the sample finishes."""
        spans = self._joined([*self._decode(self._frames.flush()), *self._decoder.flush()])
        return spans if self._joiner is None else [*spans, *self._joiner.flush()]

    @torch.inference_mode()
    def _decode(self, frames: Finished) -> list[TimeSpan]:
        return self._decoder.feed(self.head.raw_log_probs(frames.x_ND).cpu(), frames.first_N, frames.last_N)

    def _joined(self, symbols: list[TimeSpan]) -> list[TimeSpan]:
        return symbols if self._joiner is None else self._joiner.feed(symbols)


def _decoder(task: CTC, seconds: float) -> GreedyStream | UtteranceStream:
    """The decoder of the configuration: greedy, or a beam over each utterance."""
    if isinstance(task.config.decoder, GreedyConfig):
        return GreedyStream(task.symbols, seconds, task.merge_silence)
    head = task.decode_head
    lexicon = None if _spaced(task) else task.lexicon
    return UtteranceStream(
        task.decoder, head.symbols, seconds, lexicon, merge_silence=head.merge_silence, align=head.align
    )


def _spaced(task: CTC) -> bool:
    """Whether symbols are characters with spaces between words."""
    return task.unit == "characters" and SPACE in task.symbols


class _LevelFrames:
    """The frames of a level, from a stream."""

    def __init__(self, task: CTC, level: int, tokenizer: Tokenizer, growing: bool, source: dict[str, Any]) -> None:
        self.stream = Stream(task.encoder, tokenizer, growing=growing, **source)
        self.level = self.stream.levels.names[level]

    def feed(self, chunk: Any) -> Finished:
        return self.stream.feed(chunk)[self.level]

    def flush(self) -> Finished:
        return self.stream.flush()[self.level]


def ctc_task(task: Task) -> CTC:
    """The task, checked to be CTC.

    Raises:
        UserError: it is another task.
    """
    if not isinstance(task, CTC):
        raise UserError(f"a run of task {type(task).__name__} recognizes no symbols; train one with task ctc")
    return task
