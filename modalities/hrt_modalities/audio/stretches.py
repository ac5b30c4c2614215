"""A sound that is longer than any that training saw, in stretches of the longest one, encoded one by one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from hrt_mm.data.capabilities import Stretch

from .audio import Audio
from .files import blocks
from .tokenizer import AudioTokenizer


def stretches(path: Path, tokenizer: AudioTokenizer) -> Iterator[Stretch] | None:
    """The stretches of a file; nothing where a model was trained on sounds as long, or on lengths that are not known.

    A stretch holds whole tokens. No more than one is in memory at once.

    Args:
        path: the file.
        tokenizer: whose tokens are counted; its ``extents`` says how long a stretch is.

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
    return _each(chain((first, second), parts), longest)


def _each(parts: Iterator[Audio], longest: int) -> Iterator[Stretch]:
    # The end of the sound is known once there is no part after this one.
    waiting: Audio | None = None
    for number, part in enumerate(chain(parts, (None,))):
        if waiting is not None:
            begin = (number - 1) * longest
            yield Stretch(waiting, begin, (begin, math.inf if part is None else begin + longest))
        waiting = part
