"""Queries: texts, files, pictures and arrays, alone or combined.

Shapes: D width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ..core.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from .vector_encoder import VectorEncoder

MAX_TEXT = 2_000
"""Maximum characters of a text as a query."""
MAX_TERMS = 32
"""Maximum number of terms in a query."""
MODALITIES = {"text": "text", "image": "vision", "audio": "audio", "video": "video"}
"""The modality of each kind of query. A tower of that name takes precedence over towers of the modality."""

Source: TypeAlias = "str | Path | Image | np.ndarray | Tensor | Any"
"""A text, a file, or a raw sample of a modality."""


@dataclass(frozen=True, eq=False)
class Term:
    """A part of a query.

    Args:
        source: a text, a file, or a raw sample.
        kind: of :data:`MODALITIES`, or the name of a tower; found by the source if empty.
        weight: of its vector in the sum; negative to move away from it.
    """

    source: Source
    kind: str = ""
    weight: float = 1.0

    @property
    def label(self) -> str:
        """The text or the path, or the type of another source."""
        if isinstance(self.source, str | Path):
            return str(self.source)
        return f"{type(self.source).__name__}{tuple(getattr(self.source, 'shape', ())) or ''}"

    def __str__(self) -> str:
        return f'"{self.source}"' if isinstance(self.source, str) else self.label


@dataclass(frozen=True, eq=False)
class Query:
    """What to search for: the normalized weighted sum of the vectors of its terms.

    Queries are added, subtracted and multiplied by weights: ``Query.image("a.png") + 0.5 * Query.text("at night")
    - Query.text("people")``.

    Args:
        terms: one or more.
    """

    terms: tuple[Term, ...]

    @classmethod
    def text(cls, words: str | Path) -> Query:
        """A text, or a text file."""
        return cls((Term(words, "text"),))

    @classmethod
    def image(cls, source: Source) -> Query:
        """A picture: a file, a Pillow image, an array (H, W[, C]) or a tensor (C, H, W)."""
        return cls.of("image", source)

    @classmethod
    def audio(cls, source: Source) -> Query:
        """A sound: a file, or a raw sample."""
        return cls.of("audio", source)

    @classmethod
    def video(cls, source: Source) -> Query:
        """A video: a file, or a raw sample."""
        return cls.of("video", source)

    @classmethod
    def of(cls, kind: str, source: Source) -> Query:
        """A query for a tower.

        Args:
            kind: name of the tower, or a kind of :data:`MODALITIES`.
            source: a file or a raw sample. A ``str`` is the path of a file, unless the tower reads text.
        """
        return cls((Term(source, kind),))

    @classmethod
    def guess(cls, source: Query | Source) -> Query:
        """A query of anything: a ``str`` is a text, and the tower of other sources is found when they are read."""
        if isinstance(source, Query):
            return source
        return cls.text(source) if isinstance(source, str) else cls.of("", source)

    def __add__(self, other: Query) -> Query:
        return Query((*self.terms, *other.terms)) if isinstance(other, Query) else NotImplemented

    def __sub__(self, other: Query) -> Query:
        return self + -other if isinstance(other, Query) else NotImplemented

    def __mul__(self, weight: float) -> Query:
        return Query(tuple(replace(term, weight=term.weight * weight) for term in self.terms))

    __rmul__ = __mul__

    def __neg__(self) -> Query:
        return self * -1.0

    def __str__(self) -> str:
        text = ""
        for term in self.terms:
            weight = "" if abs(term.weight) == 1 else f"{abs(term.weight):g} * "
            sign = ("- " if term.weight < 0 else "") if not text else " - " if term.weight < 0 else " + "
            text += f"{sign}{weight}{term}"
        return text

    def plain(self) -> list[dict[str, Any]]:
        """JSON-serializable form."""
        return [{"kind": term.kind, "source": term.label, "weight": term.weight} for term in self.terms]


@dataclass(frozen=True, eq=False)
class ReadTerm:
    """A term with its tower and raw sample.

    Args:
        tower: that reads it.
        value: the raw sample.
        weight: of its vector.
        text: for lexical search; empty if the source is no text.
    """

    tower: str
    value: Any
    weight: float
    text: str = ""


def read(query: Query, embedder: VectorEncoder) -> list[ReadTerm]:
    """Reads the sources of a query.

    Raises:
        BadSample: a file or value cannot be read.
        UserError: a term fits no tower or several, a text is too long, or a weight is 0 or not finite.
    """
    from ..data.capabilities import Textual  # which imports PyTorch

    if not query.terms or len(query.terms) > MAX_TERMS:
        raise UserError(f"the query has {len(query.terms)} terms; it may have 1 to {MAX_TERMS}")
    terms = []
    for term in query.terms:
        if term.weight == 0 or not math.isfinite(term.weight):
            raise UserError(f"the weight of {term} is {term.weight:g}; weights are finite and not 0")
        tower = tower_of(term, embedder)
        is_text = issubclass(embedder.modality(tower), Textual)
        text = term.source if is_text and isinstance(term.source, str) else ""
        terms.append(ReadTerm(tower, _value(term, tower, embedder), term.weight, text))
    return terms


def tower_of(term: Term, embedder: VectorEncoder) -> str:
    """The tower that reads a term.

    Raises:
        UserError: no tower does, or several with different weights.
    """
    if term.kind in embedder.towers:
        return term.kind
    towers = [tower for tower in embedder.towers if _fits(term, tower, embedder)]
    if not towers:
        what = f"has no tower {term.kind!r}" if term.kind else f"cannot read {term}"
        raise UserError(f"the model {what}; its towers are {_described(embedder)}")
    shared = embedder.shared
    if len({shared.get(tower, tower) for tower in towers}) > 1:
        listed = " or ".join(f'Query.of("{tower}", ...)' for tower in towers)
        options = " or ".join(f"--query {tower}=..." for tower in towers)
        raise UserError(f"{', '.join(towers)} can read {term}; name one with {listed} ({options})")
    return towers[0]


def _fits(term: Term, tower: str, embedder: VectorEncoder) -> bool:
    from ..data.capabilities import ValueReading  # which imports PyTorch

    modality = embedder.modality(tower)
    if term.kind:
        return modality.name == MODALITIES.get(term.kind)
    if isinstance(term.source, Path):
        suffixes, others = embedder.suffixes(tower)
        suffix = term.source.suffix.lower()
        return suffix in suffixes if suffixes is not None else suffix not in others
    return issubclass(modality, ValueReading) and modality.reads_value(term.source)


def _described(embedder: VectorEncoder) -> str:
    return ", ".join(f"{tower} ({embedder.modality(tower).name})" for tower in embedder.towers)


def _value(term: Term, tower: str, embedder: VectorEncoder) -> Any:
    from ..data.capabilities import Textual, ValueReading  # which imports PyTorch

    source, modality = term.source, embedder.modality(tower)
    if isinstance(source, str) and not issubclass(modality, Textual):
        source = Path(source)
    if isinstance(source, str) and len(source) > MAX_TEXT:
        raise UserError(f"the query has {len(source):,} characters; it may have {MAX_TEXT:,}: shorten it")
    if isinstance(source, str | Path):
        return embedder.read(tower, source)
    if issubclass(modality, ValueReading):
        source = modality.from_value(source)
    return embedder.prepare(tower, source)


def vectors(
    queries: Sequence[Sequence[ReadTerm]], embedder: VectorEncoder, find: Sequence[str | None]
) -> list[dict[str, np.ndarray]]:
    """(D,) vectors of queries by level of the tower to search; ``""`` for samples.

    Levels that training did not compare with the towers of all terms are left out. Terms of one tower are embedded
    together.

    Args:
        queries: as :func:`read` returns them.
        embedder: the model.
        find: the tower to search for each query; if it is not one of the model's, vectors are for samples alone.

    Raises:
        BadSample: a value is unusable.
        UserError: the terms of a query cancel out.
    """
    by_tower: dict[tuple[str, str | None], list[Any]] = {}
    terms_by_query: list[list[tuple[tuple[str, str | None], int, float]]] = []
    for terms, tower in zip(queries, find, strict=True):
        searched = tower if tower in embedder.towers else None
        terms_by_query.append([])
        for term in terms:
            values = by_tower.setdefault((term.tower, searched), [])
            terms_by_query[-1].append(((term.tower, searched), len(values), term.weight))
            values.append(term.value)
    embedded = {group: embedder.query_vectors(*group, values=values) for group, values in by_tower.items()}
    return [_combined(terms, embedded) for terms in terms_by_query]


def _combined(
    terms: Sequence[tuple[tuple[str, str | None], int, float]],
    embedded: Mapping[tuple[str, str | None], Mapping[str, np.ndarray]],
) -> dict[str, np.ndarray]:
    if len(terms) == 1 and terms[0][2] > 0:
        group, index, _ = terms[0]
        return {level: vectors_ND[index] for level, vectors_ND in embedded[group].items()}
    levels = [level for level in embedded[terms[0][0]] if all(level in embedded[group] for group, _, _ in terms)]
    combined = {}
    for level in levels:
        sum_D = np.sum([weight * embedded[group][level][index] for group, index, weight in terms], axis=0)
        norm = float(np.linalg.norm(sum_D))
        if norm < 1e-6:
            raise UserError("the terms of the query cancel out; change a weight")
        combined[level] = (sum_D / norm).astype(np.float32)
    return combined
