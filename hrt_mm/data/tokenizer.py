"""The contract of tokenizers: raw samples to tokens.

What only some tokenizers can do is in :mod:`hrt_mm.data.capabilities`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any, Self

from torch import nn

from ..core.component import Component
from ..core.errors import ConfigError
from ..core.tokens import Tokens

if TYPE_CHECKING:
    from ..core.levels import HierarchyConfig


class Tokenizer(ABC):
    """Turns raw samples into tokens. It has no parameters, so that it can run in loader workers."""

    axes: int
    """Number of coordinate axes: 1 for text and sound, 2 for images, 3 for video."""
    levels: tuple[str, ...]
    """Suggested names of the levels, fine to coarse."""
    boundaries: tuple[str, ...] = ()
    """Names of the boundaries that it can compute or read."""
    carried: tuple[str, ...] = ()
    """The subset of ``boundaries`` that is annotated in the data. A bare file does not have them."""
    requested_boundaries: frozenset[str] = frozenset()
    """The boundaries that its tokens must have; others need not be computed. See :meth:`with_boundaries`."""

    @abstractmethod
    def __call__(self, values: Sequence[Any]) -> Tokens:
        """Packs raw samples.

        Raises:
            BadSample: a value cannot be tokenized; says which and why.
        """

    @abstractmethod
    def embedding(self, dim: int) -> nn.Module:
        """The module that maps packed raw tokens to tokens of width ``dim``: ``forward(Tokens) -> Tokens``."""

    def with_boundaries(self, names: Iterable[str]) -> Self:
        """A copy whose tokens have exactly these boundaries.

        Args:
            names: of ``boundaries``.
        """
        tokenizer = copy(self)
        tokenizer.requested_boundaries = frozenset(names)
        return tokenizer


SINGLE = ""
"""Name of the only tower of a run over one modality."""


def only_tokenizer(tokenizers: Mapping[str, Tokenizer]) -> Tokenizer:
    """The tokenizer of a run over one modality.

    Args:
        tokenizers: by tower.

    Raises:
        ConfigError: there are several; names their towers.
    """
    if len(tokenizers) != 1:
        raise ConfigError(f"this needs one modality, and there are several towers: {', '.join(tokenizers)}")
    return next(iter(tokenizers.values()))


class TokenizerConfig(Component):
    """Configuration of a modality's tokenizer; a subclass fixes ``type`` to the modality's name."""

    type: str

    def build(self, model: HierarchyConfig | None = None) -> Tokenizer:
        """The tokenizer.

        Args:
            model: the hierarchy that reads the tokens. Tokens on more than one axis are ordered by its windows and
                strides (:func:`hrt_mm.core.levels.blocks`); raster order without it.
        """
        raise NotImplementedError(type(self))
