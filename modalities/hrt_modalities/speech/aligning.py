"""Forced alignment of labels and keyword spotting with a trained CTC task.

Times are in seconds where the tokenizer gives the duration of a token, else in level-0 tokens.
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
from hrt_mm.tasks.ctc import Lexicon, spot
from hrt_mm.tasks.ctc.symbols import SymbolHead
from hrt_mm.tasks.ctc.task import CTC

PAUSE = 0.08
"""Seconds. A shorter gap between two symbols is no silence: it is split in the middle."""


Tiers = dict[str, list[TimeSpan]]
"""Spans by unit, in order of time."""


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
    """Aligns known labels with the frames of their samples.

    A task with a finer head is aligned there, which gives the symbols and their parts. With a lexicon, labels are words
    that are spelled with the task's symbols. Otherwise they are the task's symbols.

    Args:
        task: trained.
        pyramid: the levels of the samples.
        labels: of each sample, in order.
        lexicon: spellings of words.
        pause: shorter gaps are split between their neighbours.
        names: of the samples, for messages.

    Raises:
        BadSample: a label is unknown, or there are more than fit into the frames.
    """
    finer = task.finer if lexicon is None else None
    head: SymbolHead = finer if finer is not None else task
    frames, symbols, unit = head.frames(pyramid), head.symbols, head.unit
    alignments = []
    for index, ((log_probs_NK, edges_N2), words) in enumerate(zip(frames.split(), labels, strict=True)):
        name = names[index] if names else f"sample {index} of the batch"
        parts = _spell(task, words, lexicon, name)
        space = lexicon.space if lexicon is not None else None
        between = [space] if space is not None else []
        # The spellings one after another, with spaces between words if the lexicon has them.
        sequence = [symbol for n, spelling in enumerate(parts) for symbol in (*(between if n else []), *spelling)]
        try:
            aligned = head.align(log_probs_NK, sequence, name)
        except UserError as error:
            raise BadSample(name, str(error).removeprefix(f"{name}: ")) from error
        spans = [
            TimeSpan(*_times(task, edges_N2, part.first, part.last), symbols[part.symbol], math.exp(part.log_prob))
            for part in aligned
            if part.symbol != space
        ]
        spans = close_gaps(spans, pause)
        tiers: Tiers = {unit: spans}
        if finer is not None or lexicon is not None:
            tiers["words" if lexicon is not None else task.unit] = _words(words, parts, spans)
        alignments.append(tiers)
    return alignments


def close_gaps(spans: Sequence[TimeSpan], pause: float) -> list[TimeSpan]:
    """The same spans, with gaps shorter than a pause split in the middle."""
    closed = list(spans)
    for index, (first, second) in enumerate(pairwise(spans)):
        if 0 < second.start - first.end < pause:
            middle = (first.end + second.start) / 2
            closed[index] = replace(closed[index], end=middle)
            closed[index + 1] = replace(closed[index + 1], start=middle)
    return closed


@torch.no_grad()
def spot_keyword(
    task: CTC, pyramid: Pyramid, keyword: str, threshold: float = 0.5, *, finer: bool = False
) -> list[list[TimeSpan]]:
    """The occurrences of a keyword in each sample.

    Args:
        task: trained.
        pyramid: the levels of the samples.
        keyword: symbols of the task, separated by spaces; any text where symbols are characters.
        threshold: minimum score, from 0 to 1.
        finer: look for the spelling of the keyword at the finer level.

    Raises:
        UserError: the keyword has a symbol outside the training set, or there is no finer level.
    """
    parts = list(keyword) if task.unit == "characters" else keyword.split()
    symbol_index = {symbol: index for index, symbol in enumerate(task.symbols)}
    if missing := sorted({part for part in parts if part not in symbol_index}):
        raise UserError(
            f"keyword {keyword!r} has {missing[0]!r}, which is not one of the {task.unit} of the training set"
        )
    if finer and task.finer is None:
        raise UserError("keywords cannot be found at a finer level, as the task has none; set task.finer")
    frames = task.scores(pyramid)
    symbols = [symbol_index[part] for part in parts]
    if finer and task.finer is not None:
        frames = task.finer.scores(pyramid)
        symbols = [part for symbol in symbols for part in task.finer.table_KL[symbol].tolist() if part >= 0]
    return [
        [
            TimeSpan(*_times(task, edges_N2, match.first, match.last), keyword, match.score)
            for match in spot(log_probs_NK, symbols, threshold)
        ]
        for log_probs_NK, edges_N2 in frames.split()
    ]


def _spell(task: CTC, labels: Sequence[str], lexicon: Lexicon | None, name: str) -> list[list[int]]:
    """The symbols of each label."""
    if lexicon is not None:
        if missing := sorted({label for label in labels if label not in lexicon.spellings}):
            raise BadSample(name, f"the lexicon lacks {', '.join(map(repr, missing))}; add them, or correct the text")
        return [list(lexicon.spellings[label][0]) for label in labels]
    symbol_index = {symbol: index for index, symbol in enumerate(task.symbols)}
    if missing := sorted({label for label in labels if label not in symbol_index}):
        raise BadSample(name, f"{', '.join(map(repr, missing))} is not one of the training set's {task.unit}")
    if task.finer is None:
        return [[symbol_index[label]] for label in labels]
    return [[part for part in task.finer.table_KL[symbol_index[label]].tolist() if part >= 0] for label in labels]


def _words(labels: Sequence[str], parts: Sequence[Sequence[int]], spans: Sequence[TimeSpan]) -> list[TimeSpan]:
    words, first = [], 0
    for label, spelling in zip(labels, parts, strict=True):
        words.append(merge_spans(label, spans[first : first + len(spelling)]))
        first += len(spelling)
    return words


def _times(task: CTC, edges_N2: Tensor, first: int, last: int) -> tuple[float, float]:
    unit = task.seconds_per_token or 1.0
    return float(edges_N2[first, 0]) * unit, float(edges_N2[last, 1]) * unit
