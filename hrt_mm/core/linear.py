"""Linear maps and embeddings that keep their initializer, so that ``reset_parameters`` restores their initial state."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

Init = Callable[[Tensor], Any]
"""An initializer that fills a tensor in place, such as those of ``torch.nn.init``."""


class _Initialized(nn.Module):
    """A module that fills its weight with ``init`` and, if it has a bias, zeroes it."""

    weight: Tensor
    init: Init | None = None

    def reset_parameters(self) -> None:
        """Reinitializes the parameters."""
        super().reset_parameters()  # type: ignore[misc]  # of the layer of torch.nn that the subclass also inherits
        self.init_weights()

    def init_weights(self) -> None:
        """Initializes the parameters."""
        if self.init is not None:  # the layers of torch.nn call reset_parameters before it is set
            self.init(self.weight)
            if (bias := getattr(self, "bias", None)) is not None:
                nn.init.zeros_(bias)


class InitLinear(_Initialized, nn.Linear):
    """A linear map with a given weight initializer and, if it has a bias, a zero bias.

    Args:
        width: input width.
        outputs: output width.
        init: fills the weight.
        bias: whether to add a bias.
        now: whether to initialize at construction. False lets the owner call :meth:`init_weights` later, where the
            order of random draws matters.
    """

    def __init__(self, width: int, outputs: int, init: Init, *, bias: bool = False, now: bool = True) -> None:
        super().__init__(width, outputs, bias=bias)
        self.init = init
        if now:
            self.init_weights()


class InitEmbedding(_Initialized, nn.Embedding):
    """An embedding table with normally distributed vectors of a given standard deviation.

    Args:
        count: number of vectors.
        width: width of a vector.
        std: the standard deviation.
        now: as in :class:`InitLinear`.
    """

    def __init__(self, count: int, width: int, std: float, *, now: bool = True) -> None:
        super().__init__(count, width)
        self.init = partial(nn.init.normal_, std=std)
        if now:
            self.init_weights()
