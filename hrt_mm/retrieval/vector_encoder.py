"""What computes vectors: the contract of a trained run and of a pretrained model.

Shapes: N values, D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..core.errors import UserError
from ..core.tokens import Tokens
from ..data.capabilities import Renderable, Stretch, positions_at
from ..data.dataset import Dataset
from ..data.modality import Modality
from ..data.tokenizer import Tokenizer
from ..inference.reading import TowerReader
from .passages import Passages
from .reading import CHUNK
from .rows import Model

MIN_MEDIA_SECONDS = 0.3
"""Shorter pieces get no media file."""


class VectorEncoder(ABC):
    """Computes vectors of values, their pieces, and queries."""

    model: Model
    """Identifies the weights."""

    @property
    @abstractmethod
    def towers(self) -> tuple[str, ...]:
        """Names of the towers."""

    @property
    @abstractmethod
    def shared(self) -> Mapping[str, str]:
        """Towers that share the encoder of another, with the name of the other."""

    @abstractmethod
    def dataset(self, split: str) -> Dataset:
        """The samples of a split of the model's data, as mappings by tower.

        Raises:
            ConfigError: the split is missing, or the model has no data.
        """

    @abstractmethod
    def modality(self, tower: str) -> type[Modality]:
        """The modality of a tower.

        Raises:
            UserError: there is no such tower; names those available.
        """

    @abstractmethod
    def tokenizer(self, tower: str) -> Tokenizer:
        """The tokenizer of a tower.

        Raises:
            UserError: there is no such tower.
        """

    @abstractmethod
    def reader(self, tower: str) -> TowerReader:
        """Reads what a tower takes.

        Raises:
            UserError: there is no such tower.
        """

    @abstractmethod
    def levels(self, tower: str) -> dict[str, int]:
        """The levels whose pieces can be embedded, coarse to fine, each with the index of the view that compares it."""

    @abstractmethod
    def encode(self, tower: str, tokens: Tokens, levels: Sequence[str] = ()) -> tuple[np.ndarray, list[list[Passages]]]:
        """(N, D) vectors of tokenized samples, and the pieces of each by level; see :meth:`embed_values`."""

    @abstractmethod
    def embed_stretches(
        self, tower: str, stretches: Iterable[Stretch], levels: Sequence[str] = (), *, media: bool = False
    ) -> tuple[Any, np.ndarray, list[Passages]]:
        """Embeds a long sample and its pieces from overlapping stretches, which are encoded one by one.

        Args:
            tower: of the sample.
            stretches: of the sample; at least one.
            levels: of the pieces, a subset of :meth:`levels`.
            media: create a media file for each piece.

        Returns:
            The raw value of the first stretch, the (D,) vector, and the pieces by level, coarse to fine.

        Raises:
            BadSample: a stretch is unusable.
            UserError: there is no such tower.
        """

    @abstractmethod
    def query_vectors(self, tower: str, target: str | None, *, values: Sequence[Any]) -> dict[str, np.ndarray]:
        """(N, D) vectors of queries by level of the tower to search; ``""`` for samples.

        Levels that training did not compare with the queries' tower are left out.

        Args:
            tower: of the queries.
            target: the tower to search, for its levels; none if absent.
            values: raw values of the queries.

        Raises:
            BadSample: a value is unusable.
            UserError: there is no such tower.
        """

    @abstractmethod
    def query_tokens(self, tower: str, target: str, level: str, values: Sequence[Any]) -> list[np.ndarray]:
        """(T, D) vectors of each query to compare with the pieces of a level by MaxSim.

        These are the query's tokens where training compared tokens (``align: soft``), or else one vector.

        Args:
            tower: of the queries.
            target: the tower to search.
            level: of the pieces.
            values: raw values of the queries.

        Raises:
            BadSample: a value is unusable.
            UserError: training did not compare the level with the queries' tower.
        """

    @abstractmethod
    def prepare(self, tower: str, value: Any) -> Any:
        """A raw value as the model's data prepares it."""

    def suffixes(self, tower: str) -> tuple[frozenset[str] | None, frozenset[str]]:
        """Suffixes of the files that a tower reads (``None`` for all), and suffixes to exclude, of other modalities.

        Raises:
            UserError: there is no such tower.
        """
        return self.reader(tower).suffixes()

    def vectors(self, tower: str, values: Sequence[Any]) -> np.ndarray:
        """(N, D) vectors of raw values.

        Raises:
            BadSample: a value cannot be used.
            UserError: there is no such tower.
        """
        return self.embed_values(tower, values)[0]

    def embed_values(
        self, tower: str, values: Sequence[Any], levels: Sequence[str] = ()
    ) -> tuple[np.ndarray, list[list[Passages]]]:
        """Embeds raw values and their pieces.

        Args:
            tower: of the values.
            values: raw values.
            levels: of the pieces, a subset of :meth:`levels`.

        Returns:
            (N, D) vectors, and the pieces of each value by level, coarse to fine.

        Raises:
            BadSample: a value is unusable.
            UserError: there is no such tower.
        """
        tokenizer = self.tokenizer(tower)
        vectors, passages = [np.zeros((0, self.model.dim), np.float32)], []
        for first in range(0, len(values), CHUNK):
            vectors_ND, pieces = self.encode(tower, tokenizer(list(values[first : first + CHUNK])), levels)
            vectors.append(vectors_ND)
            passages += pieces
        return np.concatenate(vectors), passages

    def media(self, tower: str, value: Any, edges_N2A: Tensor) -> tuple[tuple[str, bytes] | None, ...]:
        """Suffix and bytes of a media file for each piece; None for very short ones."""
        modality, tokenizer = self.modality(tower), self.tokenizer(tower)
        if not issubclass(modality, Renderable):
            return (None,) * len(edges_N2A)
        spans = [positions_at(tokenizer, value, edges_2A[:, 0].tolist()) for edges_2A in edges_N2A]
        return tuple(
            modality.render(value, (first, last)) if last - first >= MIN_MEDIA_SECONDS else None
            for first, last in spans
        )

    def query(self, tower: str, source: str | Path) -> np.ndarray:
        """(D,) the vector of a text or a file.

        Raises:
            BadSample: the file cannot be read, or is of another modality.
            UserError: there is no such tower.
        """
        return self.vectors(tower, [self.read(tower, source)])[0]

    def read(self, tower: str, source: str | Path) -> Any:
        """Reads a text or a file as the model's data prepares it; see :meth:`TowerReader.read`."""
        return self.reader(tower).read(source)


def no_tower(tower: str, towers: Sequence[str]) -> UserError:
    """The error for a tower that a model does not have."""
    return UserError(f"the model has no {tower!r}; it reads {', '.join(towers)}")
