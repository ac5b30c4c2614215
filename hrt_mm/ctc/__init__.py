"""Connectionist temporal classification: symbols without times from steps in time, with decoders and alignment.

Nothing here knows what a step is: frames of sound and of video are alike.
"""

from __future__ import annotations

from .edits import edits
from .greedy import collapsed, greedy
from .steps import Steps, most_steps, steps_of

__all__ = ["Steps", "collapsed", "edits", "greedy", "most_steps", "steps_of"]
