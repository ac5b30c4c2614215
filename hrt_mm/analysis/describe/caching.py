"""What decoding keeps of a sample, by formula: a part that stays, and one that grows with every token.

Counted are the tensors of :class:`~hrt_mm.inference.generation.Cache`, in elements. What grows has room for up to as
many tokens again, as its arrays double.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...core.causal.groups import OPEN_ROOM
from ...core.hierarchy import Hierarchy
from ...core.levels import LearnedGroups, Level
from ...core.transition import Transition
from .layout import Laid


@dataclass(frozen=True)
class Kept:
    """Elements that decoding keeps of one sample.

    Args:
        constant: however long the sample is.
        per_token: more for each level-0 token, on average.
    """

    constant: int
    per_token: float


def cache_elements(hierarchy: Hierarchy, levels: list[Laid]) -> Kept | None:
    """What decoding keeps of a sample; ``None`` for models that do not decode."""
    config = hierarchy.config
    if not config.causal or hierarchy.axes != 1:
        return None
    shares = [level.tokens / max(1, levels[0].tokens) for level in levels]
    constant, per_token = 0, 0.0
    for index, level in enumerate(config.levels):
        last = index + 1 == len(config.levels)
        layers = level.depth + (0 if last or not config.top_down else level.decoder_depth)
        pairs = [(layers * _pair(level.kv_heads or level.heads, level), level, shares[index])]
        if not last:
            transition = hierarchy.transitions[index]
            constant += _open(transition) + (level.dim if config.top_down else 0)
            if config.cross_scale.down:
                pairs.append((_pair(level.heads, level), config.levels[index + 1], shares[index + 1]))
        for elements, seen, share in pairs:
            window = seen.window_tokens
            if window is None:
                per_token += elements * share
            else:
                # A ring holds the keys of the window and of the token itself.
                constant += elements * (window + 1)
    return Kept(constant, per_token)


def _pair(heads: int, level: Level) -> int:
    """A key and a value."""
    return 2 * heads * level.head_dim


def _open(transition: Transition) -> int:
    """The group that is not complete yet: its tokens with their positions, and what learned groups compare with.

    A position is a float64, which takes the room of two elements.
    How sure the boundary that it starts at was is kept where groups are smoothed.
    """
    dim, group = transition.fine.dim, transition.group
    tokens = 0 if transition.inclusive else (group.longest or OPEN_ROOM) * (dim + 2)
    return tokens + (dim + group.smooth if isinstance(group, LearnedGroups) else 0)
