"""Seeded permutations of any length. Long ones are computed on access and need no memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import overload

import numpy as np
import torch

from .seeding import mix

MAX_IN_MEMORY = 1 << 22
"""Longest permutation that is held in memory, at 8 bytes per element."""
_ROUNDS = 8


class Shuffle(Sequence[int]):
    """A random permutation of ``range(length)``.

    Args:
        length: of the permutation.
        seed: of the permutation.
        max_in_memory: up to this length, :func:`torch.randperm` draws all of it; above, each element is computed on
            access.
    """

    def __init__(self, length: int, seed: int, max_in_memory: int = MAX_IN_MEMORY) -> None:
        self.length = length
        self._take: Callable[[range], np.ndarray]
        if length <= max_in_memory:
            permuted = torch.randperm(length, generator=torch.Generator().manual_seed(seed)).numpy()
            self._take = lambda indices: permuted[np.arange(indices.start, indices.stop, indices.step)]
        else:
            permute = _FeistelPermutation(length, seed)
            self._take = lambda indices: permute(np.arange(indices.start, indices.stop, indices.step, dtype=np.uint64))

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> list[int]: ...
    def __getitem__(self, index: int | slice) -> int | list[int]:
        indices = range(self.length)[index]
        if isinstance(indices, range):
            elements: list[int] = self._take(indices).tolist()
            return elements
        return int(self._take(range(indices, indices + 1))[0])


class _FeistelPermutation:
    """A Feistel network over the next power of four, restricted to ``range(length)`` by cycle walking."""

    def __init__(self, length: int, seed: int) -> None:
        self.length = np.uint64(length)
        self.bits = np.uint64(max(1, (max(1, length - 1).bit_length() + 1) // 2))
        self.mask = np.uint64((1 << int(self.bits)) - 1)
        self.keys = [np.uint64(mix(seed, "shuffle", number) & (1 << 64) - 1) for number in range(_ROUNDS)]

    def __call__(self, indices: np.ndarray) -> np.ndarray:
        """The elements at some indices."""
        elements = self._network(indices)
        # Cycle walking: applying the network again to elements outside of the range keeps it a permutation. The domain
        # is less than four times the range, so few rounds are needed.
        while (outside := elements >= self.length).any():
            elements[outside] = self._network(elements[outside])
        return elements.astype(np.int64)

    def _network(self, indices: np.ndarray) -> np.ndarray:
        left, right = indices >> self.bits, indices & self.mask
        for key in self.keys:
            left, right = right, left ^ (_splitmix(right ^ key) & self.mask)
        return (left << self.bits) | right


def _splitmix(x: np.ndarray) -> np.ndarray:
    """The finalizer of SplitMix64, in which each output bit depends on all input bits."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
