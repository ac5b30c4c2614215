"""Ragged runs as a few dense batches: runs of like length share a bucket, so no loop runs over sequences.

A plan depends on the spans and the window alone. It is made once on the host, kept with the spans, and serves all
layers. Long windows are first cut into blocks of queries, each with the range of keys it can see.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..host import on_host
from ..spans import Spans

_LARGE = 128 * 128
"""Scores from which a run is worth a call of its own length rather than padding."""
_MANY = 16
"""Runs of one length from which they are worth a call of their own."""
_STEP = 1.3
"""Ratio between the lengths that padded buckets round up to."""


@dataclass(frozen=True)
class RunPairs:
    """Pairs of a query range and the key range that it attends to, as host arrays of one entry a run.

    ``shift`` aligns positions: query a and key b of a run are ``b - a - shift`` apart.
    """

    q_start: np.ndarray
    q_len: np.ndarray
    k_start: np.ndarray
    k_len: np.ndarray
    shift: np.ndarray

    def take(self, index: np.ndarray) -> RunPairs:
        """Some of the runs."""
        return RunPairs(*(getattr(self, name)[index] for name in ("q_start", "q_len", "k_start", "k_len", "shift")))


@dataclass(frozen=True, eq=False)
class Bucket:
    """Runs as one dense batch.

    Args:
        size: runs N, padded query length L and padded key length M.
        mask: bool, broadcastable to (N, 1, L, M), true where seen; ``None`` where all is seen.
        fully_masked: bool, broadcastable to (N, L, 1, 1), true for queries that see nothing; ``None`` for none.
        causal: the mask is exactly the lower triangle, so the kernel may make it itself.
    """

    size: tuple[int, int, int]
    mask: Tensor | None
    fully_masked: Tensor | None
    causal: bool


@dataclass(frozen=True, eq=False)
class BucketPlan:
    """All buckets of a call.

    Args:
        buckets: by where they start.
        q_rows: rows to gather so that the buckets lie back to back; ``None`` where they already do. One gather for
            all buckets: the gradient of one gather per bucket would fill and add as many whole tensors.
        k_rows: the same for keys and values.
        order: takes the buckets' outputs, laid back to back, to the packed order; ``None`` where they are in it.
    """

    buckets: tuple[Bucket, ...]
    q_rows: Tensor | None
    k_rows: Tensor | None
    order: Tensor | None

    @property
    def q_sizes(self) -> list[int]:
        """Gathered query rows of each bucket."""
        return [bucket.size[0] * bucket.size[1] for bucket in self.buckets]

    @property
    def k_sizes(self) -> list[int]:
        """Gathered key rows of each bucket."""
        return [bucket.size[0] * bucket.size[2] for bucket in self.buckets]


@on_host
def bucket_plan(q_spans: Spans, k_spans: Spans, window: tuple[int, int]) -> BucketPlan:
    """The plan of a call, made once per pair of spans and window."""
    return q_spans.cached(("buckets", window), lambda: _make_plan(q_spans, k_spans, window), k_spans)


def _make_plan(q_spans: Spans, k_spans: Spans, window: tuple[int, int]) -> BucketPlan:
    runs = _runs(q_spans, k_spans, window)
    parts = [runs.take(index) for index in _classes(runs)]
    device = q_spans.device
    buckets = tuple(_bucket(part, window, device) for part in parts)
    order = np.empty(q_spans.total, dtype=np.int64)
    base = 0
    for part, bucket in zip(parts, buckets, strict=True):
        count, width, _ = bucket.size
        rank, row = _ranges(part.q_len)
        order[part.q_start[rank] + row] = base + rank * width + row
        base += count * width
    queries = [_rows(part.q_start, part.q_len, bucket.size[1]) for part, bucket in zip(parts, buckets, strict=True)]
    keys = [_rows(part.k_start, part.k_len, bucket.size[2]) for part, bucket in zip(parts, buckets, strict=True)]
    return BucketPlan(
        buckets,
        _unless_in_order(queries, q_spans.total, device),
        _unless_in_order(keys, k_spans.total, device),
        _unless_in_order([order], base, device),
    )


def _runs(q_spans: Spans, k_spans: Spans, window: tuple[int, int]) -> RunPairs:
    q_host, k_host = q_spans.host.numpy(), k_spans.host.numpy()
    q_len, k_len = np.diff(q_host), np.diff(k_host)
    whole = RunPairs(q_host[:-1], q_len, k_host[:-1], k_len, k_len - q_len)
    left, right = window
    if left < 0 or right < 0:
        kept = np.flatnonzero(q_len)
        return whole.take(kept)
    # A block of queries as long as the window sees at most three times its own length of keys.
    block = min(max(32, left + right), 256)
    pieces = -(-q_len // block)
    run, rank = _ranges(pieces)
    begin = rank * block
    length = np.minimum(block, q_len[run] - begin)
    key = begin + whole.shift[run]
    first = np.clip(key - left, 0, k_len[run])
    last = np.clip(key + length + right, first, k_len[run])
    return RunPairs(q_host[:-1][run] + begin, length, k_host[:-1][run] + first, last - first, key - first)


def _ranges(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For ranges of these lengths laid back to back: of each element, its range and its place there."""
    owner = np.repeat(np.arange(len(lengths)), lengths)
    return owner, np.arange(len(owner)) - (np.cumsum(lengths) - lengths)[owner]


def _classes(runs: RunPairs) -> list[np.ndarray]:
    """Indices of the runs of each bucket, ascending within it. Buckets come in the order of their first runs."""
    keys = np.stack([runs.q_len, runs.k_len, runs.shift], 1)
    _, kind, count = np.unique(_joined(keys), return_inverse=True, return_counts=True)
    exact = (count[kind] >= _MANY) | (runs.q_len * runs.k_len > _LARGE) | (runs.k_len == 0)
    padded = _joined(np.stack([_round_up(runs.q_len), _round_up(runs.k_len)], 1))
    label = np.where(exact, kind, len(count) + padded)
    _, first, bucket = np.unique(label, return_index=True, return_inverse=True)
    rank = np.empty_like(first)
    rank[first.argsort()] = np.arange(len(first))
    order = np.argsort(rank[bucket], kind="stable")
    return np.split(order, np.flatnonzero(np.diff(rank[bucket][order])) + 1) if len(order) else []


def _joined(keys: np.ndarray) -> np.ndarray:
    """One number for each row of whole numbers, the same for equal rows; sorting rows would take ten times as long."""
    joined = np.zeros(len(keys), dtype=np.int64)
    for column in keys.T:
        low = column.min(initial=0)
        joined = joined * (column.max(initial=0) - low + 1) + (column - low)
    return joined


def _round_up(lengths: np.ndarray) -> np.ndarray:
    """The class of a length: up to 8 together, then in steps of a ratio."""
    return np.ceil(np.log(np.maximum(lengths, 8) / 8) / np.log(_STEP) - 1e-9).astype(np.int64)


def _bucket(runs: RunPairs, window: tuple[int, int], device: torch.device) -> Bucket:
    queries, keys = int(runs.q_len.max()), int(runs.k_len.max())
    alike = bool((runs.q_len == queries).all() and (runs.k_len == keys).all() and (runs.shift == runs.shift[0]).all())
    shown = runs.take(np.array([0])) if alike else runs
    mask, fully_masked = _mask(shown, queries, keys, window)
    causal = alike and window == (-1, 0) and queries == keys and int(runs.shift[0]) == 0
    return Bucket(
        (len(runs.q_len), queries, keys),
        None if mask is None or causal else mask.to(device),
        None if fully_masked is None else fully_masked.to(device),
        causal,
    )


def _rows(start: np.ndarray, length: np.ndarray, width: int) -> np.ndarray:
    """The rows of runs padded to a width, back to back; the last row of a run stands in for those that it lacks."""
    place = np.minimum(np.arange(width), np.maximum(length[:, None] - 1, 0))
    rows: np.ndarray = (start[:, None] + place).reshape(-1)
    return rows


def _unless_in_order(parts: list[np.ndarray], total: int, device: torch.device) -> Tensor | None:
    """The parts as one index on the device, or ``None`` where it would take all rows as they lie."""
    rows = np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
    if len(rows) == total and bool((rows == np.arange(total)).all()):
        return None
    return torch.from_numpy(rows).to(device)


def _mask(runs: RunPairs, queries: int, keys: int, window: tuple[int, int]) -> tuple[Tensor | None, Tensor | None]:
    left, right = window
    place = np.arange(keys)
    seen = np.broadcast_to(place < runs.k_len[:, None, None], (len(runs.q_len), queries, keys))
    if left >= 0 or right >= 0:
        apart = place - np.arange(queries)[:, None] - runs.shift[:, None, None]
        seen = seen & (apart >= -left if left >= 0 else True) & (apart <= right if right >= 0 else True)
    if seen.all():
        return None, None
    fully_masked = ~seen.any(-1, keepdims=True)
    mask = torch.from_numpy(np.ascontiguousarray(seen | fully_masked))[:, None]
    return mask, torch.from_numpy(np.ascontiguousarray(fully_masked))[..., None] if fully_masked.any() else None
