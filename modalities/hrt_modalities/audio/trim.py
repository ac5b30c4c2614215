"""Silence at both ends of a sound, cut off.

Shapes: S samples, N stretches.
"""

from __future__ import annotations

from dataclasses import replace

from torch.nn import functional

from .audio import Audio

_STRETCH_S = 0.01
"""Seconds over which loudness is measured."""


def trimmed(audio: Audio, db: float) -> Audio:
    """A sound without its quiet ends: stretches of 10 ms that are so much quieter than the loudest one.

    A stretch more stays at each end, where stops and fricatives begin and end. Groups move along with the sound; those
    that lie in what is cut off are gone. Silence through and through stays as it is.

    Args:
        audio: the sound, before augmentation.
        db: decibels under the loudest stretch.
    """
    assert not audio.hidden, "what is hidden would have to move along"
    size = max(1, round(_STRETCH_S * audio.rate))
    padded_S = functional.pad(audio.waveform_S, (0, -len(audio.waveform_S) % size))
    power_N = padded_S.reshape(-1, size).square().mean(1)
    loud = (power_N >= power_N.max() * 10 ** (-db / 10)).nonzero().flatten()
    first, last = max(0, int(loud[0]) - 1), int(loud[-1]) + 2
    before, after = first * size / audio.rate, min(last * size, len(audio.waveform_S)) / audio.rate
    inside = {name: _inside(starts, before, after) for name, starts in audio.boundaries.items()}
    return replace(
        audio,
        waveform_S=audio.waveform_S[first * size : last * size],
        boundaries={
            name: tuple(max(0.0, audio.boundaries[name][index] - before) for index in indices)
            for name, indices in inside.items()
        },
        labels={
            name: tuple(unit_labels[index] for index in inside[name]) if name in inside else unit_labels
            for name, unit_labels in audio.labels.items()
        },
    )


def _inside(starts: tuple[float, ...], before: float, after: float) -> list[int]:
    """Places of the groups that a part of the sound has something of."""
    ends = (*starts[1:], float("inf"))
    return [
        index for index, (start, end) in enumerate(zip(starts, ends, strict=True)) if end > before and start < after
    ]
