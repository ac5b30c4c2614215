"""Vectors as 8-bit integers, with bounds on the error of their inner products.

Shapes: Q queries, N vectors, D width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
from pydantic import FiniteFloat, TypeAdapter

from ..data.atomic_files import write_flushed
from ..data.storage import Format

LEVELS = 127
"""Codes are integers between -127 and 127."""
BLOCK = 65_536
"""Vectors per step."""
SMALLEST_STEP = 1e-20
"""Steps up to this are taken for none."""


@dataclass(frozen=True)
class _Values:
    """The content of the file."""

    offset: list[FiniteFloat]
    scale: list[FiniteFloat]
    error: FiniteFloat
    code_norm: FiniteFloat
    norm: FiniteFloat


_SCHEMA = TypeAdapter(_Values)


@dataclass(frozen=True)
class QuantizedQueries:
    """Queries for codes: the inner product of query and vector is near ``constant_Q + unit_Q * (code inner product)``.

    Args:
        codes_QD: integers between -127 and 127, as float32.
        constant_Q: float64.
        unit_Q: float32, positive.
        bound_Q: float64, the largest possible difference.
    """

    codes_QD: np.ndarray
    constant_Q: np.ndarray
    unit_Q: np.ndarray
    bound_Q: np.ndarray


@dataclass(frozen=True)
class Quantizer:
    """An affine map of each dimension to 8-bit integers: ``x`` is near ``offset_D + scale_D * code_D``.

    Args:
        offset_D: centre of each dimension's range.
        scale_D: width of a step, positive.
        error: largest distance of a vector from what its code stands for.
        code_norm: largest length of a code.
        norm: largest length of a vector.
    """

    offset_D: np.ndarray
    scale_D: np.ndarray
    error: float
    code_norm: float
    norm: float

    @classmethod
    def of(cls, vectors_ND: np.ndarray) -> Quantizer:
        """The map of some vectors, possibly memory-mapped; at least one."""
        low_D, high_D = np.full(vectors_ND.shape[1], np.inf), np.full(vectors_ND.shape[1], -np.inf)
        for block_ND in _blocks(vectors_ND):
            low_D, high_D = np.minimum(low_D, block_ND.min(0)), np.maximum(high_D, block_ND.max(0))
        scale_D = (high_D - low_D) / (2 * LEVELS)
        # A dimension that does not vary needs any step, and one so small that queries can be divided by it none.
        quantizer = cls((high_D + low_D) / 2, np.where(scale_D > SMALLEST_STEP, scale_D, 1.0), 0.0, 0.0, 0.0)
        error = code_norm = norm = 0.0
        for block_ND in _blocks(vectors_ND):
            codes_ND = quantizer.codes(block_ND)
            restored_ND = codes_ND * quantizer.scale_D + quantizer.offset_D
            error = max(error, float(np.linalg.norm(block_ND - restored_ND, axis=1).max()))
            code_norm = max(code_norm, float(np.linalg.norm(codes_ND, axis=1).max()))
            norm = max(norm, float(np.linalg.norm(block_ND.astype(np.float64), axis=1).max()))
        # These are computed with rounding.
        return cls(quantizer.offset_D, quantizer.scale_D, 1.001 * error, 1.001 * code_norm, 1.001 * norm)

    def codes(self, vectors_ND: np.ndarray) -> np.ndarray:
        """(N, D) codes, as float32."""
        codes_ND = (vectors_ND - self.offset_D.astype(np.float32)) / self.scale_D.astype(np.float32)
        return np.clip(np.rint(codes_ND), -LEVELS, LEVELS, out=codes_ND)

    @cached_property
    def step_D(self) -> np.ndarray:
        """``scale_D`` as float32."""
        return self.scale_D.astype(np.float32)

    @cached_property
    def _rounding(self) -> float:
        """A bound on the rounding of products and of queries in float32, by the query's length."""
        return 4 * len(self.scale_D) * 2.0**-24 * (self.norm + float(self.scale_D.max()) * self.code_norm)

    def queries(self, queries_QD: np.ndarray) -> QuantizedQueries:
        """Quantizes queries.

        By Cauchy-Schwarz, the error is at most that of the vector times the query's length, and the query's own error
        times the code's length.

        Args:
            queries_QD: float32.
        """
        scaled_QD = queries_QD * self.step_D
        largest_Q = np.abs(scaled_QD).max(1)
        unit_Q1 = np.where(largest_Q > 0, largest_Q / LEVELS, np.float32(1))[:, None]
        codes_QD = np.rint(scaled_QD / unit_Q1)
        residual_QD = scaled_QD - unit_Q1 * codes_QD
        residual_Q = np.sqrt(np.einsum("qd,qd->q", residual_QD, residual_QD))
        norm_Q = np.sqrt(np.einsum("qd,qd->q", queries_QD, queries_QD, dtype=np.float64))
        bound_Q = 1.00001 * (norm_Q * (self.error + self._rounding) + residual_Q * self.code_norm)
        return QuantizedQueries(codes_QD, queries_QD @ self.offset_D, unit_Q1[:, 0], bound_Q)

    def query(self, query_D: np.ndarray) -> tuple[np.ndarray, float, float, float]:
        """What :meth:`queries` gives for one query: its codes, constant, unit and bound."""
        scaled_D = query_D * self.step_D
        unit = max(scaled_D.max().item(), -scaled_D.min().item()) / LEVELS or 1.0
        codes_D = np.rint(scaled_D / np.float32(unit))
        residual_D = scaled_D - np.float32(unit) * codes_D
        residual, norm = math.sqrt(residual_D @ residual_D), math.sqrt(query_D @ query_D)
        bound = 1.00001 * (norm * (self.error + self._rounding) + residual * self.code_norm)
        return codes_D, (query_D @ self.offset_D).item(), unit, bound

    def write(self, path: Path, file_format: Format) -> None:
        """Writes the map to a file of JSON."""
        values = _Values(self.offset_D.tolist(), self.scale_D.tolist(), self.error, self.code_norm, self.norm)
        write_flushed(path, file_format.encode(values.__dict__))

    @classmethod
    def read(cls, path: Path, file_format: Format, dim: int) -> Quantizer:
        """Reads the map from a file.

        Raises:
            UserError: the file is missing or damaged.
        """
        values = file_format.check(path, file_format.read(path), _SCHEMA)
        if not len(values.offset) == len(values.scale) == dim or min(values.scale) <= 0:
            raise file_format.damaged(path, f"it is not for vectors of {dim} numbers")
        return cls(np.array(values.offset), np.array(values.scale), values.error, values.code_norm, values.norm)


def rounding(norm_Q: np.ndarray, norm: float, dim: int) -> np.ndarray:
    """(Q,) bounds on the rounding of inner products in float32, twice that of a sum of D products."""
    return 2 * dim * 2.0**-24 * norm_Q * norm


def inner_products(vectors: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Inner products over the last axis. Those of equal vectors are equal, as a matrix product's may not be."""
    # NumPy has vecdot since 2.0.
    products: np.ndarray = (
        np.vecdot(vectors, queries) if hasattr(np, "vecdot") else np.einsum("...d,...d->...", vectors, queries)
    )
    return products


def integer_products(codes_QD: np.ndarray, codes_ND: np.ndarray) -> np.ndarray:
    """(Q, N) inner products of the codes of queries with int8 codes, as int32."""
    import torch  # which takes seconds, and commands such as `hrt-mm index show` do without

    queries_QD = torch.from_numpy(codes_QD.astype(np.int8))
    products_QN: np.ndarray = torch._int_mm(queries_QD, torch.from_numpy(codes_ND).t()).numpy()
    return products_QN


@cache
def has_integer_products() -> bool:
    """Whether this build of torch multiplies 8-bit matrices, and without saturation, which some processors need."""
    codes_QD = np.full((16, 256), LEVELS, np.float32)
    codes_QD[1::2] *= -1
    codes_ND = np.where(np.arange(64)[:, None] % 2, -LEVELS, LEVELS).repeat(256, 1).astype(np.int8)
    try:
        products = [integer_products(codes_QD[:count], codes_ND) for count in (16, 1)]
    except (AttributeError, RuntimeError):
        return False
    return all((each == codes_QD[: len(each)] @ codes_ND.astype(np.float32).T).all() for each in products)


def _blocks(vectors_ND: np.ndarray) -> Iterator[np.ndarray]:
    for first in range(0, len(vectors_ND), BLOCK):
        yield vectors_ND[first : first + BLOCK]
