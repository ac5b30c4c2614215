"""Continuing texts: prompts of different lengths in one batch, each until it stops.

Shapes: B texts that go on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from ...core.errors import UserError
from ...data.capabilities import writing
from ...tasks.decoding import Continuation, Sampling
from ...tasks.language import LanguageModel
from .session import Session

log = logging.getLogger(__name__)

Ending = Literal["separator", "stop", "length"]


@dataclass(frozen=True)
class GeneratedText:
    """What was written just now.

    Args:
        sample: index of the text in the batch.
        text: what goes on its end; may be empty.
        ended: why the text ends here: the model ended it, a stop string came, or it is as long as it may be.
    """

    sample: int
    text: str
    ended: Ending | None = None


def generate(
    model: LanguageModel,
    prompts: Sequence[Any],
    *,
    max_tokens: int = 200,
    sampling: Sampling | None = None,
    seeds: Sequence[int] | None = None,
    stop: Sequence[str] = (),
    context: int | None = None,
) -> Iterator[GeneratedText]:
    """Continues prompts, and gives the text as it comes.

    Texts may become longer than what the model was trained on: positions are rotations by distance, so they go on, but
    a level without a window then sees farther than it ever did, and often writes worse.

    Args:
        model: a trained one.
        prompts: what its tokenizer takes; may be empty.
        max_tokens: tokens that each text gets at most.
        sampling: how tokens are drawn; from the whole distribution when absent.
        seeds: one a prompt; 0, 1, ... when absent. The same seed gives the same text, alone or in a batch.
        stop: strings that end a text; they are not written.
        context: tokens of the texts that the model was trained on, where it is known; where a prompt and what is
            written may become longer, a warning is logged.

    Yields:
        A piece whenever there is text to show, and one at the end of each text.

    Raises:
        UserError: a value is out of range, or the tokenizer cannot write.
    """
    seeds = range(len(prompts)) if seeds is None else seeds
    _check(len(prompts), max_tokens, seeds, stop)
    model.eval()
    session = Session(model, writing(model.tokenizer).prompts(prompts))
    yield from continued(session, max_tokens=max_tokens, sampling=sampling, seeds=seeds, stop=stop, context=context)


def continued(
    session: Continuation,
    *,
    max_tokens: int = 200,
    sampling: Sampling | None = None,
    seeds: Sequence[int] | None = None,
    stop: Sequence[str] = (),
    context: int | None = None,
) -> Iterator[GeneratedText]:
    """Continues the texts of a session, such as a saved one, and gives the text as it comes.

    Args:
        session: stepped along; what it remembers afterwards is of the texts that went on longest.
        max_tokens: as for :func:`generate`, like all that follow.
        sampling: how tokens are drawn.
        seeds: one a text.
        stop: strings that end a text.
        context: tokens of the texts that the model was trained on.

    Yields:
        As :func:`generate` does.

    Raises:
        UserError: a value is out of range, or the tokenizer cannot write.
    """
    seeds = range(len(session)) if seeds is None else seeds
    _check(len(session), max_tokens, seeds, stop)
    if context is not None and session.longest + max_tokens > context:
        log.warning(
            "a prompt of %d tokens and up to %d new ones are %d, more than the %d of the texts that the model was "
            "trained on (data.context); it often writes worse from there on",
            *(session.longest, max_tokens, session.longest + max_tokens, context),
        )
    sampling, tokenizer = sampling or Sampling(), writing(session.tokenizer)
    writers = [_Writer(tokenizer.writer(), tuple(stop)) for _ in seeds]
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    alive = list(range(len(session)))
    for count in range(1, max_tokens + 1):
        # Each text draws from its own generator, so that it is the same alone and in a batch.
        ids_B = sampling.draw(session.logits_BV, [generators[sample] for sample in alive])
        going = []
        for row, (sample, token) in enumerate(zip(alive, ids_B.tolist(), strict=True)):
            text, ended = writers[sample].write(token, ended="separator" if token == tokenizer.separator else None)
            if ended is None and count == max_tokens:
                text, ended = text + writers[sample].rest(), "length"
            if text or ended:
                yield GeneratedText(sample, text, ended)
            if ended is None:
                going.append(row)
        if not going:
            return
        # Finished texts leave the batch, so that the rest is no slower than without them.
        if len(going) < len(alive):
            session.select(going)
            alive, ids_B = [alive[row] for row in going], ids_B[going]
        session.step(ids_B)


def _check(count: int, max_tokens: int, seeds: Sequence[int], stop: Sequence[str]) -> None:
    if max_tokens < 1:
        raise UserError(f"max_tokens {max_tokens} must be 1 or more")
    if not all(stop):
        raise UserError("a stop string is empty; every text would end before it begins")
    if len(seeds) != count or not count:
        raise UserError(f"{count} prompts and {len(seeds)} seeds; give one of each for every text, at least one")


class _Writer:
    """Decodes the ids of one text, and holds back what may be the beginning of a stop string."""

    def __init__(self, write: Callable[[int], str], stop: tuple[str, ...]) -> None:
        self._write, self._stop = write, stop
        self._waiting = ""

    def write(self, token: int, ended: Ending | None) -> tuple[str, Ending | None]:
        """Returns the text to show after a token, and why the text ends if it does."""
        self._waiting += self._write(token)
        positions = [position for stop in self._stop if (position := self._waiting.find(stop)) >= 0]
        if positions:
            text, self._waiting = self._waiting[: min(positions)], ""
            return text, "stop"
        if ended is not None:
            return self.rest(), ended
        # What could be the beginning of a stop string is shown once the next tokens decide.
        end = len(self._waiting) - max((self._overlap(stop) for stop in self._stop), default=0)
        text, self._waiting = self._waiting[:end], self._waiting[end:]
        return text, None

    def rest(self) -> str:
        """What waited, once nothing more will come."""
        text, self._waiting = self._waiting, ""
        return text

    def _overlap(self, stop: str) -> int:
        """Characters at the end that could begin a stop string."""
        # The longest overlap first: a shorter one would show part of the stop string.
        sizes = range(min(len(stop) - 1, len(self._waiting)), 0, -1)
        return next((size for size in sizes if self._waiting.endswith(stop[:size])), 0)
