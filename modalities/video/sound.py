"""The audio track of a video file, as the audio modality takes it.

Shapes: S samples, C channels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from hrt_mm.errors import BadSample

from ..audio import Audio
from ..audio.audio import check_waveform
from .readers.index import opened, video_stream


def read_sound(path: Path, name: str | None = None, begin: float = 0.0, end: float | None = None) -> Audio:
    """The sound of a file or of a part of it, its channels averaged, at the file's own rate.

    Times count from the first frame of the picture, so that picture and sound stay together: where the sound begins
    later there are zeros, and where it begins earlier that is left out.

    Args:
        path: the file.
        name: what messages call it.
        begin: seconds at which the part begins.
        end: seconds at which it ends; with the track when ``None``.

    Raises:
        BadSample: the file is missing, no video, has no audio track, or none of it can be decoded in the part.
    """
    import av

    name = name or str(path)
    if not 0 <= begin < (float("inf") if end is None else end):
        raise BadSample(name, f"a part from {begin:g} s to {end} s has no length; mend its times")
    with opened(path, name) as container:
        if not container.streams.audio:
            raise BadSample(name, "has no audio track")
        picture = video_stream(container, name)
        zero = float((picture.start_time or 0) * picture.time_base)
        stream = container.streams.audio[0]
        rate = int(stream.codec_context.sample_rate)
        if begin:
            # A little earlier: decoders of sound need some packets to settle.
            container.seek(max(0, round((begin + zero - 0.3) / float(stream.time_base))), stream=stream)
        parts: list[tuple[int, np.ndarray]] = []
        try:
            for frame in container.decode(stream):
                start = round((float(frame.time or 0.0) - zero - begin) * rate)
                if end is not None and start >= round((end - begin) * rate):
                    break
                parts.append((start, _mono(frame)))
        except av.FFmpegError:
            pass  # what was decoded is used
    waveform = _laid(parts, None if end is None else round((end - begin) * rate))
    if not len(waveform):
        raise BadSample(name, "none of its audio track can be decoded there")
    waveform_S = torch.from_numpy(waveform)
    check_waveform(waveform_S, name)
    return Audio(waveform_S, rate)


def _mono(frame: Any) -> np.ndarray:
    """(S,) float32 at full scale 1."""
    samples: np.ndarray = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    if samples.dtype == np.uint8:
        mono = samples.mean(0, dtype=np.float32) / 128 - 1
    elif np.issubdtype(samples.dtype, np.integer):
        mono = samples.mean(0, dtype=np.float64) / -float(np.iinfo(samples.dtype).min)
    else:
        mono = samples.mean(0)
    return mono.astype(np.float32)


def _laid(parts: list[tuple[int, np.ndarray]], most: int | None) -> np.ndarray:
    """Pieces at their places, zeros where there is none; what lies before the beginning is left out."""
    last = max((start + len(piece) for start, piece in parts), default=0)
    waveform = np.zeros(max(0, last if most is None else min(last, most)), dtype=np.float32)
    for start, piece in parts:
        first, end = max(0, start), min(len(waveform), start + len(piece))
        if first < end:
            waveform[first:end] = piece[first - start : end - start]
    return waveform
