"""Where the groups of a level lie among the tokens of its open group and new ones after them.

Shapes: S tokens of the open group, N new ones, M = S + N, R runs, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ...core.levels import FixedGroups, GivenGroups
from ...core.norm import rms_norm
from ...core.segments import limit_group_length
from ...core.spans import Spans
from ...core.transition import Transition
from .memory import LevelMemory

Flags = Mapping[str, np.ndarray]
"""By name, (N,) bool on the host, whether a given group starts at a token."""


@dataclass(frozen=True, eq=False)
class Runs:
    """The groups of the open group's tokens and of the new ones; the last one stays open.

    Args:
        heads: (R,) where each starts.
        open: tokens of the open group, S.
        total: M.
        chance_N: of learned groups, the probability of a boundary at each new token.
    """

    heads: np.ndarray
    open: int
    total: int
    chance_N: Tensor | None

    @classmethod
    def of(cls, transition: Transition, level: LevelMemory, x_ND: Tensor, starts: Flags) -> Runs:
        """The groups that follow when new tokens come; N is 1 or more."""
        held, group = len(level.open_SD), transition.group
        if isinstance(group, FixedGroups):
            stride = group.stride if isinstance(group.stride, int) else group.stride[0]
            return cls(np.arange(0, held + len(x_ND), stride), held, held + len(x_ND), None)
        chance_N = None
        if isinstance(group, GivenGroups):
            starts_N = starts[group.boundary]
        else:
            chance_N = _chances(transition, level.open_SD, x_ND)
            starts_N = (chance_N > 0.5).cpu().numpy()
        starts_M = np.concatenate([np.zeros(held, dtype=bool), starts_N])
        starts_M[0] = True
        if group.max is not None:
            starts_M = limit_group_length(torch.from_numpy(starts_M), group.max).numpy()
        return cls(np.flatnonzero(starts_M), held, held + len(x_ND), chance_N)

    @property
    def begun(self) -> np.ndarray:
        """Where groups start among the new tokens, counted from the open group's first."""
        return self.heads[1:] if self.open else self.heads

    @cached_property
    def sizes(self) -> np.ndarray:
        """(R,) tokens."""
        return np.diff(np.append(self.heads, self.total))

    @cached_property
    def new(self) -> Spans:
        """The new tokens alone, by run; the first one may have none."""
        sizes = self.sizes.copy()
        sizes[0] -= self.open
        return Spans.from_lengths(torch.from_numpy(sizes))

    def above(self, level: LevelMemory, starts: Flags, *, inclusive: bool) -> dict[str, np.ndarray]:
        """By name, whether a given group starts at each new token of the next level; notes what the open group has.

        Args:
            level: remembers the same of the open group.
            starts: of the new tokens.
            inclusive: a group's token knows what starts up to its first token, and since the first of the one before.
        """
        found = {}
        for name, flag in level.started.items():
            open_S = np.zeros(self.open, dtype=bool)
            open_S[: 2 if inclusive else 1] = flag
            flags_M = np.concatenate([open_S, starts[name]])
            if not inclusive:
                any_R = np.logical_or.reduceat(flags_M, self.heads)
                found[name], level.started[name] = any_R[:-1], bool(any_R[-1])
                continue
            first = flags_M[:1] if not self.open else flags_M[:0]
            open_S[:1] = False
            after_R = np.logical_or.reduceat(np.append(flags_M[1:], False), self.heads)
            found[name], level.started[name] = np.concatenate([first, after_R[:-1]]), bool(after_R[-1])
        return found


def _chances(transition: Transition, open_SD: Tensor, x_ND: Tensor) -> Tensor:
    """(N,) probability of a boundary at each new token; 1 at the first of all."""
    assert transition.router is not None
    normed_MD = rms_norm(torch.cat([open_SD[-1:], x_ND]))
    chance = transition.router.between(normed_MD[:-1], normed_MD[1:])
    return chance if len(open_SD) else torch.cat([chance.new_ones(1), chance])
