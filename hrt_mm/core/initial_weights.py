"""Whether a module that is built needs initial weights, or is about to get those of a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_replaced: ContextVar[bool] = ContextVar("weights_are_replaced", default=False)


@contextmanager
def weights_replaced() -> Iterator[None]:
    """Inside, the weights of modules that are built are replaced later, so pretrained ones need not be read."""
    token = _replaced.set(True)
    try:
        yield
    finally:
        _replaced.reset(token)


def needs_weights() -> bool:
    """Whether the weights of a module that is built now will be used.

    Those on the meta device, which checks and descriptions build, have none.
    """
    return not _replaced.get() and torch.get_default_device().type != "meta"
