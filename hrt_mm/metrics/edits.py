"""Edit distance: what error rates of words, phonemes and characters count."""

from __future__ import annotations

from collections.abc import Hashable, Sequence


def edits(found: Sequence[Hashable], true: Sequence[Hashable]) -> int:
    """The fewest symbols to insert, leave out and replace that turn one sequence into the other."""
    row = list(range(len(true) + 1))
    for count, symbol in enumerate(found, 1):
        corner, row[0] = row[0], count
        for place, other in enumerate(true, 1):
            corner, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, corner + (symbol != other))
    return row[-1]
