"""One attention call over packed rows, and what a backend is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from ..spans import Spans

UNLIMITED = -1


@dataclass(frozen=True, eq=False)
class Call:
    """Queries of run i attend to the keys of run i.

    Positions are aligned at the end of a run, as in FlashAttention-2: query a of L sees key b of M where
    ``-left <= b - a - (M - L) <= right``; -1 stands for no bound. A query that sees no key gives zeros.

    Shapes: T query rows, S key rows, H query heads, K key heads (H a multiple of K), D head width.
    """

    q_THD: Tensor
    k_SKD: Tensor
    v_SKD: Tensor
    q_spans: Spans
    k_spans: Spans
    window: tuple[int, int]
    scale: float

    @property
    def is_causal(self) -> bool:
        """Whether the window is exactly "nothing later"."""
        return self.window == (UNLIMITED, 0)

    @property
    def is_full(self) -> bool:
        """Whether every query sees every key of its run."""
        return self.window == (UNLIMITED, UNLIMITED)


class Backend(ABC):
    """A way to compute a call."""

    name: str

    @abstractmethod
    def why_not(self, call: Call) -> str | None:
        """Why it cannot serve this call, or ``None`` where it can."""

    @abstractmethod
    def missing(self) -> str | None:
        """Why it cannot serve any call on this machine, or ``None``."""

    @abstractmethod
    def __call__(self, call: Call) -> Tensor:
        """Attention of the call, (T, H, D)."""
