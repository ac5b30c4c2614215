"""Divides a sound that is longer than any in training into stretches of the longest training length."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain, pairwise
from pathlib import Path

from hrt_mm.data.capabilities import Stretch

from .files import blocks
from .tokenizer import AudioTokenizer


def stretches(path: Path, tokenizer: AudioTokenizer) -> Iterator[Stretch] | None:
    """Stretches of whole tokens; ``None`` if training had sounds as long, or its lengths are unknown.

    One stretch is in memory at a time, and one more ahead.

    Args:
        path: the file.
        tokenizer: of the model; its ``extents`` give the length of a stretch.

    Raises:
        BadSample: the file is missing, no sound, or broken.
    """
    if tokenizer.extents is None:
        return None
    longest = tokenizer.extents.largest[0]
    parts = blocks(path, path.name, longest * tokenizer.seconds_per_token)
    first, second = next(parts, None), next(parts, None)
    if first is None or second is None:
        return None

    def cores() -> Iterator[Stretch]:
        # Each part waits for the next one, without which it is the last.
        for number, (part, following) in enumerate(pairwise(chain((first, second), parts, (None,)))):
            begin = number * longest
            yield Stretch(part, begin, (begin, math.inf if following is None else begin + longest))

    return cores()
