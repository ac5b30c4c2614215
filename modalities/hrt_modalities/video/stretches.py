"""Divides a video of any length into stretches that are encoded separately. Each frame is decoded once.

Shapes: N frames.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from hrt_mm.data.capabilities import Stretch

from .readers import VideoFile
from .tokenizer import VideoTokenizer, frames_at
from .video import Video

BLOCK = 32
"""Frames that are decoded at once, before they are resized for the tokenizer."""
MARGIN = 0.2
"""Margin on each side of a stretch, as a fraction of its length."""


def stretches(path: Path, tokenizer: VideoTokenizer, seconds: float) -> Iterator[Stretch] | None:
    """The stretches of a file; ``None`` if it is no longer than one.

    They begin at blocks of the tokenizer's order, so that groups and windows are those of the whole.

    Args:
        path: the file.
        tokenizer: of the model, whose steps are counted.
        seconds: approximate duration of a stretch, which has whole blocks and at least one.

    Raises:
        BadSample: the file is missing or no video.
    """
    file = VideoFile(path, path.name)
    index = file.index
    even_N = tokenizer.even_times(index.times_N, index.seconds)
    times_N = index.times_N if even_N is None else even_N
    unit = tokenizer.config.tube * max((block[0] for block in tokenizer.blocks), default=1)
    blocks = max(1, round(seconds * len(times_N) / index.seconds / unit))
    if index.seconds <= seconds or len(times_N) <= blocks * unit:
        return None
    return _each(file, tokenizer, times_N, blocks * unit, math.ceil(blocks * MARGIN) * unit)


def _each(file: VideoFile, tokenizer: VideoTokenizer, times_N: Tensor, length: int, margin: int) -> Iterator[Stretch]:
    index, total = file.index, len(times_N)
    frames_N = frames_at(index.times_N, times_N).tolist()
    pending_N, start_index = torch.empty(0), 0
    with file:
        for first in range(0, total, length):
            begin, last, end = max(0, first - margin), first + length, min(total, first + length + margin)
            # The margins of neighbours overlap: frames from the stretch before are reused.
            reused_N = [pending_N[begin - start_index :]] if len(pending_N) else []
            fresh = range(start_index + len(pending_N), end, BLOCK)
            blocks = [tokenizer.fitted(file.steady(frames_N[one : min(one + BLOCK, end)])) for one in fresh]
            pending_N, start_index = torch.cat([*reused_N, *blocks]), begin
            seconds = float(times_N[end]) if end < total else max(index.seconds, float(times_N[-1]) + 1e-3)
            inside = tuple(start for start in index.chapters if float(times_N[begin]) <= start < seconds)
            video = Video(pending_N, times_N[begin:end], seconds, {"chapters": inside} if index.chapters else {})
            edges = _step(times_N, first, tokenizer), math.inf
            if last < total:
                edges = edges[0], _step(times_N, last, tokenizer)
            yield Stretch(video, _step(times_N, begin, tokenizer), edges)


def _step(times_N: Tensor, number: int, tokenizer: VideoTokenizer) -> float:
    """The tokenizer's step of the whole video that begins with a frame."""
    tube = tokenizer.config.tube
    return float(times_N[number : number + tube].mean() - times_N[:tube].mean()) / tokenizer.seconds_per_step
