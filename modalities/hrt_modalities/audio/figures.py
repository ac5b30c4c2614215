"""Draws sounds for reports.

Shapes: T tokens, F features of a frame, L frames.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hrt_mm.core.tokens import Tokens
from hrt_mm.data.tokenizer import Tokenizer

from .frames import Waveform
from .tokenizer import AudioTokenizer

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MAX_TOKENS = 2000
"""Limit of the tokens that are drawn; more could not be distinguished."""


def draw_audio(axes: Axes, tokenizer: Tokenizer, tokens: Tokens) -> None:
    """Draws one sound, each token a unit cell: the bands of its frames from low to high, or the samples of a waveform.

    Args:
        axes: to draw into.
        tokenizer: that the tokens come from.
        tokens: of one sound.
    """
    assert isinstance(tokenizer, AudioTokenizer)
    count = min(len(tokens.x), _MAX_TOKENS)
    frames_LF = tokens.x[:count].float().cpu().numpy().reshape(-1, tokenizer.framer.width)
    if isinstance(tokenizer.framer, Waveform):
        framing = tokenizer.framer.framing
        frames_LF = frames_LF[:, framing.before : framing.before + framing.hop]
        wave = frames_LF.reshape(-1)
        axes.plot(np.linspace(0, count, len(wave)), wave, linewidth=0.4, color="#222222")
        largest = float(np.abs(wave).max()) or 1.0
        axes.set_ylim(-1.05 * largest, 1.05 * largest)
    else:
        extent = (0.0, float(count), 0.0, float(tokenizer.framer.width))
        axes.imshow(frames_LF.T, origin="lower", aspect="auto", extent=extent, cmap="magma", interpolation="nearest")
        axes.set_ylim(0, tokenizer.framer.width)
    axes.set_xlim(0, count)
    axes.set_yticks([])
