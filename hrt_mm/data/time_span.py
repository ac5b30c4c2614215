"""A labelled span of time: words, phonemes, captions, clips and keywords alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class TimeSpan:
    """A span of time with a label.

    Args:
        start: seconds (level-0 tokens where the tokenizer has no unit of time).
        end: the same; that of a point in time is its start.
        label: a word, phoneme, caption or class; empty for silence and where nothing is named.
        score: probability of the label, from 0 to 1; ``None`` where times are given rather than predicted.
    """

    start: float
    end: float
    label: str
    score: float | None = None


def merge_spans(label: str, spans: Sequence[TimeSpan]) -> TimeSpan:
    """One span from the start of the first to the end of the last, with their mean score.

    Args:
        label: of the result.
        spans: one or more, in order of time; all with a score, or none.
    """
    scores = [span.score for span in spans if span.score is not None]
    assert len(scores) in (0, len(spans))
    return TimeSpan(spans[0].start, spans[-1].end, label, sum(scores) / len(scores) if scores else None)
