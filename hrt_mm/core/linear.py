"""Linear maps and embeddings that keep their initializer, so that ``reset_parameters`` restores their initial state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

Init = Callable[[Tensor], Any]
"""An initializer that fills a tensor in place, such as those of ``torch.nn.init``."""


class InitLinear(nn.Linear):
    """A linear map with a given weight initializer and, if it has a bias, a zero bias.

    Args:
        width: input width.
        outputs: output width.
        init: fills the weight.
        bias: whether to add a bias.
        now: whether to initialize at construction. False lets the owner call :meth:`init_weights` later, where the
            order of random draws matters.
    """

    init: Init | None = None

    def __init__(self, width: int, outputs: int, init: Init, *, bias: bool = False, now: bool = True) -> None:
        super().__init__(width, outputs, bias=bias)
        self.init = init
        if now:
            self.init_weights()

    def reset_parameters(self) -> None:
        """Reinitializes the weight and the bias."""
        super().reset_parameters()
        self.init_weights()

    def init_weights(self) -> None:
        """Initializes the weight and the bias."""
        if self.init is not None:  # nn.Linear calls reset_parameters before it is set
            self.init(self.weight)
            if self.bias is not None:
                nn.init.zeros_(self.bias)


class InitEmbedding(nn.Embedding):
    """An embedding table with normally distributed vectors of a given standard deviation.

    Args:
        count: number of vectors.
        width: width of a vector.
        std: the standard deviation.
        now: as in :class:`InitLinear`.
    """

    std: float | None = None

    def __init__(self, count: int, width: int, std: float, *, now: bool = True) -> None:
        super().__init__(count, width)
        self.std = std
        if now:
            self.init_weights()

    def reset_parameters(self) -> None:
        """Reinitializes the vectors."""
        super().reset_parameters()
        self.init_weights()

    def init_weights(self) -> None:
        """Initializes the vectors."""
        if self.std is not None:  # nn.Embedding calls reset_parameters before it is set
            nn.init.normal_(self.weight, std=self.std)
