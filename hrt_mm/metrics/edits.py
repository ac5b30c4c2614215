"""Edit distance, the basis of word, phoneme and character error rates."""

from __future__ import annotations

from collections.abc import Hashable, Sequence


def edit_distance(predicted: Sequence[Hashable], reference: Sequence[Hashable]) -> int:
    """Levenshtein distance: the fewest insertions, deletions and substitutions between two sequences."""
    row = list(range(len(reference) + 1))
    for count, symbol in enumerate(predicted, 1):
        # One row of the dynamic program, updated in place; ``diagonal`` is the value above and to the left.
        diagonal, row[0] = row[0], count
        for column, other in enumerate(reference, 1):
            substitution = diagonal + (symbol != other)
            diagonal, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, substitution)
    return row[-1]
