"""Connectionist temporal classification: symbols without times from frames in time, with decoders and alignment.

Nothing here knows what a frame is: frames of sound and of video are alike.
"""

from __future__ import annotations

from ...metrics.edits import edit_distance
from .alignment import AlignedSymbol, forced_alignment
from .beam import BeamSearch, Hypothesis, beam_search
from .frames import Frames, frames_of, max_frames, token_ranges
from .greedy import collapsed, greedy
from .language import WordModel
from .lexicon import Lexicon
from .spotting import KeywordMatch, spot

__all__ = [
    "AlignedSymbol",
    "BeamSearch",
    "Frames",
    "Hypothesis",
    "KeywordMatch",
    "Lexicon",
    "WordModel",
    "beam_search",
    "collapsed",
    "edit_distance",
    "forced_alignment",
    "frames_of",
    "greedy",
    "max_frames",
    "spot",
    "token_ranges",
]
