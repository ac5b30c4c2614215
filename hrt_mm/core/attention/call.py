"""An attention call over packed rows, and the interface of its backends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from ..spans import Spans

UNLIMITED = -1


@dataclass(frozen=True, eq=False)
class Call:
    """Arguments of an attention call: queries of run i attend to the keys of run i.

    Positions are aligned at the end of a run, as in FlashAttention-2: query a of L sees key b of M if
    ``-left <= b - a - (M - L) <= right``, with -1 for no bound. The output of a query that sees no key is zero.

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
        """Whether the window masks exactly the later keys."""
        return self.window == (UNLIMITED, 0)

    @property
    def is_full(self) -> bool:
        """Whether every query sees every key of its run."""
        return self.window == (UNLIMITED, UNLIMITED)


class Backend(ABC):
    """Computes attention calls."""

    name: str

    @abstractmethod
    def why_not(self, call: Call) -> str | None:
        """Why the backend does not support this call, or ``None`` if it does."""

    @abstractmethod
    def missing(self) -> str | None:
        """Why the backend does not work on this machine at all, or ``None`` if it does."""

    @abstractmethod
    def __call__(self, call: Call) -> Tensor:
        """Computes the call, (T, H, D)."""
