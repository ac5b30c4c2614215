"""Times of what is known to be said: forced alignment of labels with a trained CTC task, and where keywords are.

Times are in seconds where the tokenizer says what a token stands for, else in level-0 tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from hrt_mm.core.errors import BadSample, UserError
from hrt_mm.core.pyramid import Pyramid
from hrt_mm.data.time_span import TimeSpan, merge_spans
from hrt_mm.tasks.ctc import Lexicon, Placed, spot
from hrt_mm.tasks.ctc.symbols import SymbolHead
from hrt_mm.tasks.ctc.task import CTC

PAUSE = 0.08
"""Seconds. A shorter gap between two symbols is no silence: both reach to its middle."""


Tiers = dict[str, list[TimeSpan]]
"""By unit, what is said in order of time."""


@torch.no_grad()
def align(
    task: CTC,
    pyramid: Pyramid,
    labels: Sequence[Sequence[str]],
    *,
    lexicon: Lexicon | None = None,
    pause: float = PAUSE,
    names: Sequence[str] = (),
) -> list[Tiers]:
    """Lays known labels along the steps of their samples.

    A task that spells its symbols at a finer level is aligned there, and gives the symbols and their parts. With a
    lexicon labels are words, and are spelled with the task's symbols. Otherwise labels are the task's symbols.

    Args:
        task: trained.
        pyramid: the levels of the samples.
        labels: of each sample, in order.
        lexicon: spells words.
        pause: gaps that are shorter are split between their neighbours.
        names: of the samples, for messages.

    Raises:
        BadSample: a label is not known, or there are more than the steps allow.
    """
    finer = task.finer if lexicon is None else None
    head: SymbolHead = finer if finer is not None else task
    steps, symbols, unit = head.raw(pyramid), head.symbols, head.unit
    found = []
    for place, ((log_probs_NK, edges_N2), own) in enumerate(zip(steps.split(), labels, strict=True)):
        name = names[place] if names else f"sample {place} of the batch"
        parts = _spelled(task, own, lexicon, name)
        space = lexicon.space if lexicon is not None else None
        try:
            placed = head.placed(log_probs_NK, _flat(parts, space), name)
        except UserError as error:
            raise BadSample(name, str(error).removeprefix(f"{name}: ")) from error
        heard = [one for one in placed if one.symbol != space]
        timed = closed([_timed(task, symbols[one.symbol], one, edges_N2) for one in heard], pause)
        tiers: Tiers = {unit: timed}
        if finer is not None or lexicon is not None:
            tiers["words" if lexicon is not None else task.unit] = _words(own, parts, timed)
        found.append(tiers)
    return found


def closed(timed: Sequence[TimeSpan], pause: float) -> list[TimeSpan]:
    """The same, with gaps shorter than a pause split in the middle."""
    found = list(timed)
    for place, (one, other) in enumerate(pairwise(timed)):
        if 0 < other.start - one.end < pause:
            middle = (one.end + other.start) / 2
            found[place] = replace(found[place], end=middle)
            found[place + 1] = replace(found[place + 1], start=middle)
    return found


@torch.no_grad()
def spotted(
    task: CTC, pyramid: Pyramid, keyword: str, threshold: float = 0.5, *, finer: bool = False
) -> list[list[TimeSpan]]:
    """Where a keyword is said in each sample.

    Args:
        task: trained.
        pyramid: the levels of the samples.
        keyword: one of the task's symbols, or several with spaces between; of characters any text.
        threshold: the least score, from 0 to 1.
        finer: look for what the keyword is spelled with, at the finer level.

    Raises:
        UserError: the keyword has a symbol that the task does not know, or there is no finer level.
    """
    parts = list(keyword) if task.unit == "characters" else keyword.split()
    places = {symbol: place for place, symbol in enumerate(task.symbols)}
    if missing := sorted({part for part in parts if part not in places}):
        raise UserError(f"keyword {keyword!r} has {missing[0]!r}, which is not one of the {task.unit} that are known")
    if finer and task.finer is None:
        raise UserError("keywords cannot be found at a finer level, as the task has none; set task.finer")
    steps = task.scored(pyramid)
    symbols = [places[part] for part in parts]
    if finer and task.finer is not None:
        steps = task.finer.scored(pyramid)
        symbols = [place for part in symbols for place in task.finer.table_KL[part].tolist() if place >= 0]
    return [
        [
            TimeSpan(*_times(task, edges_N2, one.first, one.last), keyword, one.score)
            for one in spot(log_probs_NK, symbols, threshold)
        ]
        for log_probs_NK, edges_N2 in steps.split()
    ]


def _spelled(task: CTC, labels: Sequence[str], lexicon: Lexicon | None, name: str) -> list[list[int]]:
    """The places of the symbols of each label."""
    if lexicon is not None:
        if missing := sorted({label for label in labels if label not in lexicon.spellings}):
            raise BadSample(name, f"the lexicon lacks {', '.join(map(repr, missing))}; add them, or correct the text")
        return [list(lexicon.spellings[label][0]) for label in labels]
    places = {symbol: place for place, symbol in enumerate(task.symbols)}
    if missing := sorted({label for label in labels if label not in places}):
        raise BadSample(name, f"{', '.join(map(repr, missing))} is not one of the training set's {task.unit}")
    if task.finer is None:
        return [[places[label]] for label in labels]
    return [[part for part in task.finer.table_KL[places[label]].tolist() if part >= 0] for label in labels]


def _flat(parts: Sequence[Sequence[int]], space: int | None) -> list[int]:
    between = [space] if space is not None else []
    return [part for place, own in enumerate(parts) for part in (*(between if place else []), *own)]


def _words(labels: Sequence[str], parts: Sequence[Sequence[int]], timed: Sequence[TimeSpan]) -> list[TimeSpan]:
    found, first = [], 0
    for label, own in zip(labels, parts, strict=True):
        inside = timed[first : first + len(own)]
        first += len(own)
        found.append(merge_spans(label, inside))
    return found


def _timed(task: CTC, label: str, placed: Placed, edges_N2: Tensor) -> TimeSpan:
    return TimeSpan(*_times(task, edges_N2, placed.first, placed.last), label, math.exp(placed.log_prob))


def _times(task: CTC, edges_N2: Tensor, first: int, last: int) -> tuple[float, float]:
    unit = task.seconds_per_token or 1.0
    return float(edges_N2[first, 0]) * unit, float(edges_N2[last, 1]) * unit
