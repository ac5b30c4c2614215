"""Seeds. Every random draw of a run is a pure function of its seed and of where it is drawn.

A step, a sample and an evaluation each seed the generators from (seed, what it is, its number). There is then no
generator state to save: a resumed run draws what the uninterrupted one would have drawn.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def mix(*parts: int | str) -> int:
    """A 63-bit seed from integers and words, the same on every machine and in every process."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_all(seed: int) -> None:
    """Seeds torch on all devices, numpy and ``random``."""
    torch.manual_seed(seed)
    _seed_host_libraries(seed)


def seed_host(seed: int) -> None:
    """Seeds torch's CPU generator, numpy and ``random``; for loading samples, where no device takes part."""
    torch.default_generator.manual_seed(seed)
    _seed_host_libraries(seed)


def _seed_host_libraries(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002  the generator that others' augmentations draw from


@contextmanager
def forked(*, host_only: bool = False) -> Iterator[None]:
    """Gives the generators of torch, numpy and ``random`` back as they were; those of devices too, unless told."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() and not host_only else []
    with torch.random.fork_rng(devices):
        python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002
