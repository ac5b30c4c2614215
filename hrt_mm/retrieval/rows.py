"""What a vector is of: a row of plain data, kept beside it in JSON, a line each."""

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

LONGEST = 65_536
"""Bytes of a row; what a search shows is short."""
LARGEST = 1e15
"""Magnitude of a vector's numbers; the inner product of larger ones overflows float32."""


@dataclass(frozen=True)
class Row:
    """What one vector is of.

    Args:
        id: unique among the rows of its part.
        part: the modality's tower.
        level: what it is a piece of its parent at, such as ``scenes``; empty for whole samples.
        parent: the id of the coarser row that it lies in; empty for whole samples.
        span: where it lies in its sample, in the modality's units: seconds of sound, bytes of text.
        box: where it lies in its picture: left, top, right and bottom in pixels.
        file: what shows it: a file in the collection's folder ``media``.
        info: short texts by name, shown as they are.
    """

    id: str
    part: str
    level: str = ""
    parent: str = ""
    span: tuple[float, float] | None = None
    box: tuple[float, float, float, float] | None = None
    file: str = ""
    info: Mapping[str, str] = field(default_factory=dict)

    def json(self) -> bytes:
        """A line of JSON.

        Raises:
            UserError: the row has no id or part, or is too long.
        """
        if not self.id or not self.part:
            raise UserError(f"a row needs an id and a part, got id {self.id!r} and part {self.part!r}")
        line = self._line()
        if len(line) > LONGEST:
            raise UserError(
                f"the row {self.id!r:.80} has {len(line):,} bytes; it may have {LONGEST:,}: shorten its info"
            )
        return line

    def _line(self) -> bytes:
        value = self.__dict__ | {"info": dict(self.info)}
        try:
            return json.dumps(value, ensure_ascii=False).encode() + b"\n"
        except UnicodeEncodeError:
            # Names of files that are no UTF-8 hold lone surrogates.
            return json.dumps(value).encode() + b"\n"

    @classmethod
    def of(cls, line: bytes, where: str) -> Row:
        """From a line of JSON.

        Raises:
            UserError: it is not one that :meth:`json` gave.
        """
        try:
            value = parse_json(line, where)
            texts = {name: value[name] for name in ("id", "part", "level", "parent", "file")}
            span, info = value["span"], value["info"]
            if not all(isinstance(item, str) for item in [*texts.values(), *info, *info.values()]):
                raise TypeError("texts are expected")
            found = cls(span=None if span is None else (float(span[0]), float(span[1])), info=info, **texts)
            if (box := value.get("box")) is None:
                return found
            left, top, right, bottom = (float(place) for place in box)
            return replace(found, box=(left, top, right, bottom))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{where} is damaged: {error!r}") from error

    @property
    def key(self) -> int:
        """A fingerprint of part and id."""
        return key_of(self.part, self.id)


def key_of(part: str, name: str) -> int:
    """63 bits that stand for a row, or for the parent of rows."""
    digest = blake2b(json.dumps([part, name]).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@dataclass(frozen=True)
class Model:
    """Which model vectors are of: those of another cannot be compared with them.

    Args:
        fingerprint: of the weights.
        dim: width of the vectors.
        run: the run folder, where queries find the model.
    """

    fingerprint: str
    dim: PositiveInt
    run: str = ""

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
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
                f"{what} is of another model ({_named(other)}) than the index ({_named(self)}); vectors of different "
                "models cannot be compared: embed it with the index's model, or build another index"
            )


def check_query(query_D: np.ndarray, k: int, dim: int) -> np.ndarray:
    """A query's vector, checked.

    Raises:
        UserError: k is below 1, the vector's width is another than the index's, or it is not finite.
    """
    if k < 1:
        raise UserError(f"k is {k}; ask for 1 answer or more")
    try:
        with np.errstate(over="ignore"):
            query_D = np.asarray(query_D, np.float32)
    except (TypeError, ValueError) as error:
        raise UserError(f"the query is no vector of numbers: {error}") from error
    if query_D.shape != (dim,):
        raise UserError(f"the query is of shape {query_D.shape}, the index has vectors of {dim} numbers")
    if reason := not_comparable(query_D[None])[1]:
        raise UserError(
            f"the query's vector {reason}, so nothing is nearest to it; the model's weights or its half precision are "
            "broken: try another checkpoint, or float32"
        )
    return query_D


def not_comparable(vectors_ND: np.ndarray) -> tuple[int, str]:
    """The first vector whose inner products are not finite numbers, and why; no reason where there is none."""
    # The comparison is false for NaN too.
    bad = np.flatnonzero(~(np.abs(vectors_ND) <= LARGEST).all(1))
    if not bad.size:
        return 0, ""
    finite = bool(np.isfinite(vectors_ND[bad[0]]).all())
    return int(bad[0]), f"has numbers beyond {LARGEST:g}, which overflow" if finite else "is NaN or infinite"


def _named(model: Model) -> str:
    return f"{model.fingerprint[:12]}{f' in {model.run}' if model.run else ''}"
