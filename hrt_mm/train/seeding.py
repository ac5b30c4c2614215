"""Counter-based seeding: every random number of a run is a function of the seed and of where it is drawn.

The generators are seeded before each step, sample and evaluation batch, from (seed, kind, index). A checkpoint needs no
generator state, and a resumed run draws the same numbers as an uninterrupted one.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch


def mix(*parts: int | str) -> int:
    """A 63-bit seed from integers and strings, the same on every machine and in every process."""
    # repr() tells 1 from '1', and ('a', 'bc') from ('ab', 'c'); hash() of a text differs from process to process.
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_all(seed: int) -> None:
    """Seeds torch on all devices, numpy and ``random``."""
    torch.manual_seed(seed)
    _seed_host_libraries(seed)


def seed_host(seed: int) -> None:
    """Seeds torch's CPU generator, numpy and ``random``, for loading samples."""
    # torch.manual_seed would seed the GPUs too, which samples do not draw from.
    torch.default_generator.manual_seed(seed)
    _seed_host_libraries(seed)


def _seed_host_libraries(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002  augmentations of other libraries use it


@contextmanager
def forked(*, host_only: bool = False) -> Iterator[None]:
    """Restores the generators of torch, numpy and ``random`` on exit, including those of GPUs unless ``host_only``."""
    with ExitStack() as generators:
        cuda = range(torch.cuda.device_count()) if torch.cuda.is_initialized() and not host_only else []
        generators.enter_context(torch.random.fork_rng(cuda))
        if torch.xpu.is_initialized() and not host_only:
            xpu = range(torch.xpu.device_count())
            generators.enter_context(torch.random.fork_rng(xpu, device_type="xpu"))
        if torch.backends.mps.is_available() and not host_only:
            generators.callback(torch.mps.set_rng_state, torch.mps.get_rng_state())
        python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002
