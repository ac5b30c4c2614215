"""Linear maps that know how they start, so that ``reset_parameters`` starts them again as they were built."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

Start = Callable[[Tensor], Any]
"""One of ``torch.nn.init``, which fills a tensor in place."""


class InitLinear(nn.Linear):
    """A linear map whose weights start as they are told to, and whose bias, where there is one, starts at zero.

    Args:
        width: of what comes in.
        outputs: width of what comes out.
        start: fills the weights.
        bias: whether there is one.
        now: whether :meth:`begin` is called already; later keeps the order of draws where a seed fixes them.
    """

    start: Start | None = None

    def __init__(self, width: int, outputs: int, start: Start, *, bias: bool = False, now: bool = True) -> None:
        super().__init__(width, outputs, bias=bias)
        self.start = start
        if now:
            self.init_weights()

    def reset_parameters(self) -> None:
        """Starts again."""
        super().reset_parameters()
        self.init_weights()

    def init_weights(self) -> None:
        """Fills the weights as they start."""
        if self.start is not None:
            self.start(self.weight)
            if self.bias is not None:
                nn.init.zeros_(self.bias)


class InitEmbedding(nn.Embedding):
    """A table whose vectors start with a deviation of their own.

    Args:
        count: vectors.
        width: of each.
        std: the deviation.
        now: as of :class:`InitLinear`.
    """

    std: float | None = None

    def __init__(self, count: int, width: int, std: float, *, now: bool = True) -> None:
        super().__init__(count, width)
        self.std = std
        if now:
            self.init_weights()

    def reset_parameters(self) -> None:
        """Starts again."""
        super().reset_parameters()
        self.init_weights()

    def init_weights(self) -> None:
        """Fills the vectors as they start."""
        if self.std is not None:
            nn.init.normal_(self.weight, std=self.std)
