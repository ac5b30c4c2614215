"""Random orders of any length, the same one for the same seed. A long one is computed place by place and not held.

Shapes: N places.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import overload

import numpy as np
import torch

from .seeding import mix

HELD = 1 << 22
"""The longest order that is held in memory, at 8 bytes a place."""
_ROUNDS = 8


class Shuffle(Sequence[int]):
    """The numbers below ``length`` in a random order.

    Args:
        length: how many.
        seed: chooses the order.
        held: up to this length the order is drawn at once by torch; above, each place is computed when it is asked for.
    """

    def __init__(self, length: int, seed: int, held: int = HELD) -> None:
        self.length = length
        self._take: Callable[[range], np.ndarray]
        if length <= held:
            places_N = torch.randperm(length, generator=torch.Generator().manual_seed(seed)).numpy()
            self._take = lambda wanted: places_N[np.arange(wanted.start, wanted.stop, wanted.step)]
        else:
            permutation = _Permutation(length, seed)
            self._take = lambda wanted: permutation(np.arange(wanted.start, wanted.stop, wanted.step, dtype=np.uint64))

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> list[int]: ...
    def __getitem__(self, index: int | slice) -> int | list[int]:
        wanted = range(self.length)[index]
        if isinstance(wanted, range):
            found: list[int] = self._take(wanted).tolist()
            return found
        return int(self._take(range(wanted, wanted + 1))[0])


class _Permutation:
    """A Feistel network over a power of four, walked on from where it leads out of the length (cycle walking)."""

    def __init__(self, length: int, seed: int) -> None:
        self.length = np.uint64(length)
        self.bits = np.uint64(max(1, (max(1, length - 1).bit_length() + 1) // 2))
        self.mask = np.uint64((1 << int(self.bits)) - 1)
        self.keys = [np.uint64(mix(seed, "shuffle", number) & (1 << 64) - 1) for number in range(_ROUNDS)]

    def __call__(self, places: np.ndarray) -> np.ndarray:
        """Where each of the places leads."""
        found = self._once(places)
        # Less than four times as many places as are wanted: few steps lead back inside.
        while (outside := found >= self.length).any():
            found[outside] = self._once(found[outside])
        return found.astype(np.int64)

    def _once(self, places: np.ndarray) -> np.ndarray:
        left, right = places >> self.bits, places & self.mask
        for key in self.keys:
            left, right = right, left ^ (_scrambled(right ^ key) & self.mask)
        return (left << self.bits) | right


def _scrambled(x: np.ndarray) -> np.ndarray:
    """The finalizer of SplitMix64: each bit depends on all."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
