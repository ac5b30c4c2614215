"""Rows: what each vector represents, stored as lines of JSON beside the vectors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any

import numpy as np
from pydantic import PositiveInt

from ..core.errors import UserError
from ..data.storage import parse_json


class IndexUnavailable(UserError):
    """An index that was there is gone, or its database cannot be reached. The same request may succeed later."""


MAX_ROW_BYTES = 65_536
"""Maximum size of a row."""
MAX_MAGNITUDE = 1e15
"""Maximum magnitude of vector elements. Inner products of larger ones overflow float32."""


@dataclass(frozen=True)
class Row:
    """What a vector represents: a sample, or a piece of one.

    Args:
        id: unique among the rows of its tower.
        tower: the tower that encoded it.
        level: of a piece, such as ``scenes``; empty for samples.
        parent: id of the coarser row that contains a piece; empty for samples.
        span: start and end within the sample, in the modality's units: seconds of sound, bytes of text.
        box: position within the image: left, top, right and bottom in pixels.
        file: media file to display, in the collection's folder ``media``.
        info: short texts to display, by name.
        stamp: of a sample, changes with what it was made from; empty if unknown, and for pieces.
    """

    id: str
    tower: str
    level: str = ""
    parent: str = ""
    span: tuple[float, float] | None = None
    box: tuple[float, float, float, float] | None = None
    file: str = ""
    info: Mapping[str, str] = field(default_factory=dict)
    stamp: str = ""

    def json(self) -> bytes:
        """Encodes the row as a line of JSON.

        Raises:
            UserError: the row has no id or tower, or is too long.
        """
        if not self.id or not self.tower:
            raise UserError(f"a row needs an id and a tower, got id {self.id!r} and tower {self.tower!r}")
        line = self._line()
        if len(line) > MAX_ROW_BYTES:
            raise UserError(
                f"the row {self.id!r:.80} has {len(line):,} bytes; it may have {MAX_ROW_BYTES:,}: shorten its info"
            )
        return line

    def _line(self) -> bytes:
        value = self.__dict__ | {"info": dict(self.info)}
        try:
            return json.dumps(value, ensure_ascii=False).encode() + b"\n"
        except UnicodeEncodeError:
            # File names that are not valid UTF-8 contain lone surrogates.
            return json.dumps(value).encode() + b"\n"

    @classmethod
    def of(cls, line: bytes, where: str) -> Row:
        """Decodes a line of JSON.

        Raises:
            UserError: the line is damaged.
        """
        try:
            value = parse_json(line, where)
            # Rows of earlier versions call the tower "part".
            tower = value["tower"] if "tower" in value else value["part"]
            texts = {"tower": tower} | {name: value[name] for name in ("id", "level", "parent", "file")}
            texts["stamp"] = value.get("stamp", "")
            span, info = value["span"], value["info"]
            if not all(isinstance(item, str) for item in [*texts.values(), *info, *info.values()]):
                raise TypeError("texts are expected")
            if (box := value.get("box")) is not None:
                left, top, right, bottom = (float(edge) for edge in box)
                box = (left, top, right, bottom)
            span = None if span is None else (float(span[0]), float(span[1]))
            return cls(span=span, box=box, info=info, **texts)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{where} is damaged: {error!r}") from error

    def unchanged(self, vector_D: np.ndarray, old: Row, old_D: np.ndarray) -> bool:
        """Whether a row with the same tower and id was made from the same content.

        This is told by their stamps or, where one has none, by their vectors and all that is displayed.

        Args:
            vector_D: of this row.
            old: the other row.
            old_D: its vector.
        """
        if self.stamp and old.stamp:
            return self.stamp == old.stamp
        same = replace(self, file="", stamp="") == replace(old, file="", stamp="")
        return same and np.array_equal(vector_D, old_D)

    @property
    def key(self) -> int:
        """Fingerprint of tower and id."""
        return key_of(self.tower, self.id)


def key_of(tower: str, name: str) -> int:
    """63-bit fingerprint of the row with a tower and an id."""
    digest = blake2b(json.dumps([tower, name]).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@dataclass(frozen=True)
class Model:
    """The model that computed some vectors. Vectors of different models cannot be compared.

    Args:
        fingerprint: of the weights.
        dim: width of the vectors.
        run: the run folder, or a repository, to load the model for queries.
    """

    fingerprint: str
    dim: PositiveInt
    run: str = ""

    def plain(self) -> dict[str, Any]:
        """JSON-serializable form."""
        return dict(self.__dict__)

    def check(self, other: Model, what: str) -> None:
        """Refuses vectors of another model.

        Raises:
            UserError: names both.
        """
        if other.dim != self.dim:
            raise UserError(f"{what} has vectors of {other.dim} numbers, the index of {self.dim}; embed with its model")
        if other.fingerprint != self.fingerprint:
            raise UserError(
                f"{what} is of another model ({_describe(other)}) than the index ({_describe(self)}); vectors of "
                "different models cannot be compared: embed it with the index's model, or build another index"
            )


_ONE = "the query's vector"


def check_query(query_D: np.ndarray, k: int, dim: int) -> np.ndarray:
    """Validates the vector of a query, and returns it as float32.

    Raises:
        UserError: k is below 1, or the vector has another width than the index or is not finite.
    """
    usual = type(query_D) is np.ndarray and query_D.dtype == np.float32 and query_D.shape == (dim,) and k >= 1
    # A short vector has no long element, and the comparison is false for NaN.
    if usual and float(query_D @ query_D) <= MAX_MAGNITUDE:
        return query_D
    try:
        shape = np.shape(query_D)
    except ValueError as error:
        raise UserError(f"the query is no vector of numbers: {error}") from error
    if shape != (dim,):
        raise UserError(f"the query is of shape {shape}, the index has vectors of {dim} numbers")
    return check_queries(np.asarray(query_D)[None], k, dim)[0]


def check_queries(queries_QD: np.ndarray, k: int, dim: int) -> np.ndarray:
    """Validates the vectors of queries, and returns them as float32.

    Raises:
        UserError: k is below 1, or the vectors have another width than the index, or one is not finite.
    """
    if k < 1:
        raise UserError(f"k is {k}; ask for 1 answer or more")
    try:
        with np.errstate(over="ignore"):
            queries_QD = np.asarray(queries_QD, np.float32)
    except (TypeError, ValueError) as error:
        raise UserError(f"the query is no vector of numbers: {error}") from error
    if queries_QD.ndim != 2 or queries_QD.shape[1] != dim:
        raise UserError(
            f"the queries are of shape {queries_QD.shape}; they must be (queries, {dim}), as the index has vectors of "
            f"{dim} numbers"
        )
    number, reason = not_comparable(queries_QD)
    if reason:
        raise UserError(
            f"{f'the vector of query {number}' if len(queries_QD) > 1 else _ONE} {reason}, so nothing is "
            "nearest to it; the model's weights or its half precision are broken: try another checkpoint, or float32"
        )
    return queries_QD


def not_comparable(vectors_ND: np.ndarray) -> tuple[int, str]:
    """The first vector whose inner products may not be finite, and the reason, which is empty if there is none."""
    # The comparison is also false for NaN.
    bad = np.flatnonzero(~(np.abs(vectors_ND) <= MAX_MAGNITUDE).all(1))
    if not bad.size:
        return 0, ""
    finite = bool(np.isfinite(vectors_ND[bad[0]]).all())
    return int(bad[0]), f"has numbers beyond {MAX_MAGNITUDE:g}, which overflow" if finite else "is NaN or infinite"


def _describe(model: Model) -> str:
    return f"{model.fingerprint[:12]}{f' in {model.run}' if model.run else ''}"
