"""Vectors as 8-bit integers, with bounds on the error of their inner products.

Shapes: Q queries, N vectors, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from pydantic import FiniteFloat, TypeAdapter

from ..data.atomic_files import write_flushed
from ..data.storage import Format

LEVELS = 127
"""Codes are integers between -127 and 127."""
BLOCK = 65_536
"""Vectors per step."""


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
        unit_Q: float64, positive.
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
        # A dimension that does not vary needs any step.
        quantizer = cls((high_D + low_D) / 2, np.where(scale_D > 0, scale_D, 1.0), 0.0, 0.0, 0.0)
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

    def queries(self, queries_QD: np.ndarray) -> QuantizedQueries:
        """Quantizes queries.

        By Cauchy-Schwarz, the error is at most that of the vector times the query's length, and the query's own error
        times the code's length. Scores are computed in float32, whose rounding is bounded too.
        """
        exact_QD = queries_QD.astype(np.float64)
        scaled_QD = exact_QD * self.scale_D
        largest_Q = np.abs(scaled_QD).max(1)
        unit_Q = np.where(largest_Q > 0, largest_Q / LEVELS, 1.0)
        codes_QD = np.rint(scaled_QD / unit_Q[:, None])
        residual_QD = scaled_QD - unit_Q[:, None] * codes_QD
        residual_Q = np.sqrt(np.einsum("qd,qd->q", residual_QD, residual_QD))
        norm_Q = np.sqrt(np.einsum("qd,qd->q", exact_QD, exact_QD))
        bound_Q = norm_Q * self.error + residual_Q * self.code_norm + rounding(norm_Q, self.norm, exact_QD.shape[1])
        return QuantizedQueries(codes_QD.astype(np.float32), exact_QD @ self.offset_D, unit_Q, bound_Q)

    def write(self, path: Path, file_format: Format) -> None:
        """Writes the map to a file of JSON."""
        value = self.__dict__ | {"offset": self.offset_D.tolist(), "scale": self.scale_D.tolist()}
        del value["offset_D"], value["scale_D"]
        write_flushed(path, file_format.encode(value))

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


def integer_products(codes_QD: np.ndarray, bytes_ND: np.ndarray) -> np.ndarray:
    """(Q, N) inner products of queries' codes with those that faiss stores, which are larger by 128, as int32."""
    import torch  # which takes seconds, and commands such as `hrt-mm index show` do without

    codes_ND = torch.from_numpy((bytes_ND ^ np.uint8(128)).view(np.int8))
    products_QN: np.ndarray = torch._int_mm(torch.from_numpy(codes_QD.astype(np.int8)), codes_ND.t()).numpy()
    return products_QN


@cache
def has_integer_products() -> bool:
    """Whether this build of torch multiplies 8-bit matrices, and without saturation, which some processors need."""
    codes_QD = np.full((16, 256), LEVELS, np.float32)
    codes_QD[1::2] *= -1
    bytes_ND = np.where(np.arange(64)[:, None] % 2, 128 - LEVELS, 128 + LEVELS).repeat(256, 1).astype(np.uint8)
    try:
        products_QN = integer_products(codes_QD, bytes_ND)
    except (AttributeError, RuntimeError):
        return False
    return bool((products_QN == codes_QD @ (bytes_ND.astype(np.float32) - 128).T).all())


def _blocks(vectors_ND: np.ndarray) -> Iterator[np.ndarray]:
    for first in range(0, len(vectors_ND), BLOCK):
        yield vectors_ND[first : first + BLOCK]
