"""Tensors in one or several safetensors files, read as a whole or by rows.

A file of shards names the first row of each in its metadata, in the format of ``torch.distributed.checkpoint``
(``HuggingFaceStorageWriter``), whose reader therefore reads these files too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..core.errors import UserError
from ..data.files import special

SHARDING_KEY = "DCP_SHARDING_INFO"
"""Key of the metadata of a file, of the offsets of its shards by name."""


_SHARDING = TypeAdapter(dict[str, dict[str, list[int]]])


@dataclass(frozen=True)
class Shard:
    """Rows of a tensor.

    Args:
        rows: the rows.
        first: the index of the first one in the whole tensor.
    """

    rows: Tensor
    first: int = 0


def encode_shards(shards: Mapping[str, Shard]) -> bytes:
    """The content of a file with shards by the name of their tensors."""
    offsets = {
        name: {"saved_offsets": [shard.first, *[0] * (shard.rows.ndim - 1)][: shard.rows.ndim]}
        for name, shard in shards.items()
    }
    metadata = {"format": "pt", "DCP_VERSION": "1.0", SHARDING_KEY: json.dumps(offsets)}
    return safetensors.torch.save(
        {name: shard.rows.detach().cpu().contiguous() for name, shard in shards.items()}, metadata
    )


@dataclass(frozen=True)
class _Piece:
    """Where some rows of a tensor are.

    Args:
        path: the file.
        first: the index of the first row in the tensor; 0 of scalars.
        shape: of the rows.
    """

    path: Path
    first: int
    shape: tuple[int, ...]

    @property
    def end(self) -> int:
        return self.first + (self.shape[0] if self.shape else 1)


class SavedTensors(Mapping[str, Tensor]):
    """The tensors of some files by name. Each access reads one from disk, to the host.

    Args:
        paths: the files.
        remedy: the fix for a damaged file, for messages.
        error: class of the exceptions.

    Raises:
        UserError: a file is missing or damaged, or they are not all that belong together.
    """

    def __init__(self, paths: Sequence[Path], remedy: str, error: type[UserError] = UserError) -> None:
        self._remedy, self._error = remedy, error
        self._pieces: dict[str, list[_Piece]] = {}
        self._files: dict[Path, Any] = {}
        for path in paths:
            self._open(path)
        self.shapes = {name: self._shape(name, pieces) for name, pieces in self._pieces.items()}
        """Shapes of the tensors by name."""

    def _open(self, path: Path) -> None:
        try:
            # Opening a FIFO would block.
            if (other := special(path.stat().st_mode)) is not None:
                raise self._error(f"{path} is {other}, not a file; {self._remedy}")
            file: Any = safe_open(path, "pt")
            self._files[path] = file
            sharding = _SHARDING.validate_json((file.metadata() or {}).get(SHARDING_KEY, "{}"))
            for name in file.keys():  # noqa: SIM118  it is no mapping
                shape = tuple(file.get_slice(name).get_shape())
                offsets = sharding.get(name, {}).get("saved_offsets", [])
                if any(offsets[1:]) or (offsets and offsets[0] < 0):
                    raise ValueError(f"{name} has offsets {offsets}")
                self._pieces.setdefault(name, []).append(_Piece(path, offsets[0] if offsets else 0, shape))
        except OSError as reason:
            raise self._error(f"{path} cannot be read: {reason.strerror or reason}; {self._remedy}") from reason
        except UserError:
            raise
        except (SafetensorError, ValueError, RuntimeError, MemoryError, RecursionError) as reason:
            raise self._error(f"{path} is damaged, or no safetensors file: {reason}; {self._remedy}") from reason

    def _shape(self, name: str, pieces: list[_Piece]) -> torch.Size:
        pieces.sort(key=lambda piece: piece.first)
        end = 0
        for piece in pieces:
            if piece.first != end or piece.shape[1:] != pieces[0].shape[1:]:
                raise self._error(
                    f"{piece.path} holds {name} from row {piece.first}, and the files before it {end} rows: files "
                    f"are missing, or of another checkpoint; {self._remedy}"
                )
            end = piece.end
        return torch.Size((end, *pieces[0].shape[1:]) if pieces[0].shape else ())

    def __iter__(self) -> Iterator[str]:
        return iter(self._pieces)

    def __len__(self) -> int:
        return len(self._pieces)

    def __contains__(self, name: object) -> bool:
        return name in self._pieces

    def __getitem__(self, name: str) -> Tensor:
        """The whole tensor."""
        pieces = [self._read(piece, name, slice(None)) for piece in self._pieces[name]]
        return torch.cat(pieces) if len(pieces) > 1 else pieces[0]

    def rows(self, name: str, first: int, count: int) -> Tensor:
        """Some rows of a tensor. Other rows are not read.

        Args:
            name: of the tensor.
            first: the first row.
            count: number of rows.
        """
        end, pieces = first + count, self._pieces[name]
        chosen = [piece for piece in pieces if piece.first < end and first < piece.end] or pieces[:1]
        parts = [
            self._read(
                piece, name, slice(max(first, piece.first) - piece.first, max(0, min(end, piece.end) - piece.first))
            )
            for piece in chosen
        ]
        return torch.cat(parts)[:count] if len(parts) > 1 else parts[0][:count]

    def _read(self, piece: _Piece, name: str, rows: slice) -> Tensor:
        try:
            file = self._files[piece.path]
            read: Tensor = file.get_slice(name)[rows] if piece.shape and piece.shape[0] else file.get_tensor(name)
            # Cloned, as it is a view of the mapped file, which may change.
            return read.clone()
        except (OSError, SafetensorError, ValueError, RuntimeError, MemoryError) as reason:
            raise self._error(f"{piece.path} is damaged: {reason}; {self._remedy}") from reason
