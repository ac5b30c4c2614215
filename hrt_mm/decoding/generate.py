"""Continuing texts: prompts of different lengths in one batch, each until it stops.

Shapes: B texts that go on, V ids, R recent tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import UserError
from ..levels import GivenGroups
from ..spans import Spans
from ..tasks.language import LanguageModel
from ..tokens import Tokens
from .prefill import prefill
from .sampling import Sampling
from .stepping import step

log = logging.getLogger(__name__)

Ending = Literal["separator", "stop", "length"]


@dataclass(frozen=True)
class Piece:
    """What was written just now.

    Args:
        sample: place of the text in the batch.
        text: what goes on its end; may be empty.
        ended: why the text ends here: the model ended it, a stop string came, or it is as long as it may be.
    """

    sample: int
    text: str
    ended: Ending | None = None


class Session:
    """A batch of token sequences that a language model continues.

    Args:
        model: in evaluation mode.
        tokens: raw prompts of one token or more each, as its tokenizer gives them.
    """

    @torch.inference_mode()
    def __init__(self, model: LanguageModel, tokens: Tokens) -> None:
        if int(tokens.spans.lengths.min()) == 0:
            raise UserError("a prompt has no token; start with the tokenizer's separator")
        self.model, self.tokenizer = model, model.tokenizer
        levels = model.encoder.hierarchy.config.levels
        self._names = [level.group.boundary for level in levels if isinstance(level.group, GivenGroups)]
        tokens = tokens.to(next(model.parameters()).device)
        pyramid, self.cache = prefill(model.encoder.hierarchy, model.encoder.embedding(tokens))
        last_B = tokens.spans.host[1:].to(tokens.device) - 1
        self.logits_BV = model.logits(pyramid[0].x[last_B])
        self._recent = [ids[-self.tokenizer.recent :] for ids in tokens.split()]

    def __len__(self) -> int:
        return len(self._recent)

    @torch.inference_mode()
    def step(self, ids_B: Tensor) -> Tensor:
        """Takes in the next token of every sequence, and gives the logits of the one after, (B, V)."""
        previous_B = torch.stack([ids[-1] for ids in self._recent])
        starts = {name: self.tokenizer.starts(name, previous_B, ids_B).cpu().numpy() for name in self._names}
        count = self.tokenizer.recent
        self._recent = [torch.cat([ids, new[None]])[-count:] for ids, new in zip(self._recent, ids_B, strict=True)]
        spans = Spans.from_lengths([len(ids) for ids in self._recent], ids_B.device)
        tokens = Tokens(torch.cat(self._recent), spans, spans.positions[:, None].float())
        x_BD = self.model.encoder.embedding(tokens).x[spans.host[1:].to(ids_B.device) - 1]
        self.logits_BV = self.model.logits(step(self.model.encoder.hierarchy, x_BD, self.cache, starts))
        return self.logits_BV

    def select(self, samples: list[int]) -> None:
        """Goes on with some of the sequences alone, in this order."""
        self.cache.select(samples)
        self._recent = [self._recent[sample] for sample in samples]
        self.logits_BV = self.logits_BV[samples]


def generate(
    model: LanguageModel,
    prompts: Sequence[Any],
    *,
    max_tokens: int = 200,
    sampling: Sampling | None = None,
    seeds: Sequence[int] | None = None,
    stop: Sequence[str] = (),
    context: int | None = None,
) -> Iterator[Piece]:
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
    if max_tokens < 1:
        raise UserError(f"max_tokens {max_tokens} must be 1 or more")
    if any(not own for own in stop):
        raise UserError("a stop string is empty; every text would end before it begins")
    seeds = range(len(prompts)) if seeds is None else seeds
    if len(seeds) != len(prompts) or not prompts:
        raise UserError(f"{len(prompts)} prompts and {len(seeds)} seeds; give one of each for every text, at least one")
    sampling = sampling or Sampling()
    model.eval()
    tokenizer = model.tokenizer
    writers = [_Writer(tokenizer.writer(), tuple(stop)) for _ in prompts]
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    tokens = tokenizer.prompts(prompts)
    longest = int(tokens.spans.lengths.max())
    if context is not None and longest + max_tokens > context:
        log.warning(
            "a prompt of %d tokens and up to %d new ones are %d, more than the %d of the texts that the model was "
            "trained on (data.context); it often writes worse from there on",
            *(longest, max_tokens, longest + max_tokens, context),
        )
    session = Session(model, tokens)
    alive = list(range(len(prompts)))
    for count in range(1, max_tokens + 1):
        ids_B = sampling.draw(session.logits_BV, [generators[sample] for sample in alive])
        going = []
        for row, (sample, token) in enumerate(zip(alive, ids_B.tolist(), strict=True)):
            text, ended = writers[sample].write(token, ended="separator" if token == tokenizer.separator else None)
            if ended is None and count == max_tokens:
                text, ended = text + writers[sample].rest(), "length"
            if text or ended:
                yield Piece(sample, text, ended)
            if ended is None:
                going.append(row)
        if not going:
            return
        if len(going) < len(alive):
            session.select(going)
            alive, ids_B = [alive[row] for row in going], ids_B[going]
        session.step(ids_B)


class _Writer:
    """Turns one text's ids into what may be shown: what could be the start of a stop string waits."""

    def __init__(self, write: Callable[[int], str], stop: tuple[str, ...]) -> None:
        self._write, self._stop = write, stop
        self._waiting = ""

    def write(self, token: int, ended: Ending | None) -> tuple[str, Ending | None]:
        """What can be shown after a token, and why the text ends if it does."""
        self._waiting += self._write(token)
        found = [place for own in self._stop if (place := self._waiting.find(own)) >= 0]
        if found:
            text, self._waiting = self._waiting[: min(found)], ""
            return text, "stop"
        if ended is not None:
            return self.rest(), ended
        held = max((self._overlap(own) for own in self._stop), default=0)
        shown = len(self._waiting) - held
        text, self._waiting = self._waiting[:shown], self._waiting[shown:]
        return text, None

    def rest(self) -> str:
        """What waited, once nothing more will come."""
        text, self._waiting = self._waiting, ""
        return text

    def _overlap(self, stop: str) -> int:
        """Characters at the end that could begin a stop string."""
        sizes = range(min(len(stop) - 1, len(self._waiting)), 0, -1)
        return next((size for size in sizes if self._waiting.endswith(stop[:size])), 0)
