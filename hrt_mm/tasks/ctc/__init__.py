"""Connectionist temporal classification: symbols without times from steps in time, with decoders and alignment.

Nothing here knows what a step is: frames of sound and of video are alike.
"""

from __future__ import annotations

from ...metrics.edits import edits
from .alignment import Placed, forced_alignment
from .beam import BeamSearch, Hypothesis, beam_search
from .greedy import collapsed, greedy
from .language import WordModel
from .lexicon import Lexicon
from .spotting import Spotted, spot
from .steps import Steps, most_steps, runs_of, steps_of

__all__ = [
    "BeamSearch",
    "Hypothesis",
    "Lexicon",
    "Placed",
    "Spotted",
    "Steps",
    "WordModel",
    "beam_search",
    "collapsed",
    "edits",
    "forced_alignment",
    "greedy",
    "most_steps",
    "runs_of",
    "spot",
    "steps_of",
]
