"""Overlapping windows over a sequence that is longer than what an encoder reads at once."""

from __future__ import annotations

from typing import NamedTuple

_MARGIN = 8
"""Outputs are used that lie this part of a window or more inside of it."""


class Window(NamedTuple):
    """A window of a sequence, and its part whose outputs are used; all four are positions in the sequence."""

    first: int
    last: int
    core_first: int
    core_last: int

    @property
    def core(self) -> slice:
        """The used part, relative to the window."""
        return slice(self.core_first - self.first, self.core_last - self.first)


def overlapping(length: int, size: int) -> list[Window]:
    """Windows that cover a sequence, and whose cores divide it.

    All but a single one have the full size, so that the first and the last outputs of the sequence have as much context
    as a window holds.

    Args:
        length: of the sequence, at least 1.
        size: of a window, at least 1.
    """
    if length <= size:
        return [Window(0, length, 0, length)]
    margin = size // _MARGIN
    firsts = [*range(0, length - size, size - 2 * margin), length - size]
    edges = [0, *(first + margin for first in firsts[1:]), length]
    return [Window(first, first + size, *core) for first, *core in zip(firsts, edges[:-1], edges[1:], strict=True)]
