"""Ragged runs as a few dense batches: runs of like length share a bucket, so no loop runs over sequences.

A plan depends on the spans and the window alone. It is made once on the host, kept with the spans, and serves all
layers. Long windows are first cut into blocks of queries, each with the range of keys it can see.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..spans import Spans

_LARGE = 128 * 128
"""Scores from which a run is worth a call of its own length rather than padding."""
_MANY = 16
"""Runs of one length from which they are worth a call of their own."""
_STEP = 1.3
"""Ratio between the lengths that padded buckets round up to."""


@dataclass(frozen=True)
class Runs:
    """Pairs of a query range and the key range that it attends to, as host arrays of one entry a run.

    ``shift`` aligns positions: query a and key b of a run are ``b - a - shift`` apart.
    """

    q_start: np.ndarray
    q_len: np.ndarray
    k_start: np.ndarray
    k_len: np.ndarray
    shift: np.ndarray

    def take(self, index: np.ndarray) -> Runs:
        """Some of the runs."""
        return Runs(*(getattr(self, name)[index] for name in ("q_start", "q_len", "k_start", "k_len", "shift")))


@dataclass(frozen=True, eq=False)
class Bucket:
    """Runs as one dense batch.

    Args:
        size: runs N, padded query length L and padded key length M.
        q_rows, k_rows: (N*L,) and (N*M,) rows to gather, or the first row where they lie back to back.
        mask: bool, broadcastable to (N, 1, L, M), true where seen; ``None`` where all is seen.
        blind: bool, broadcastable to (N, L, 1, 1), true for queries that see nothing; ``None`` for none.
        causal: the mask is exactly the lower triangle, so the kernel may make it itself.
    """

    size: tuple[int, int, int]
    q_rows: Tensor | int
    k_rows: Tensor | int
    mask: Tensor | None
    blind: Tensor | None
    causal: bool


@dataclass(frozen=True, eq=False)
class BucketPlan:
    """All buckets of a call; ``order`` takes their outputs, laid back to back, to the packed order, if it differs."""

    buckets: tuple[Bucket, ...]
    order: Tensor | None


def bucket_plan(q_spans: Spans, k_spans: Spans, window: tuple[int, int]) -> BucketPlan:
    """The plan of a call, made once per pair of spans and window."""
    return q_spans.cached(("buckets", window), lambda: _make_plan(q_spans, k_spans, window), k_spans)


def _make_plan(q_spans: Spans, k_spans: Spans, window: tuple[int, int]) -> BucketPlan:
    runs = _runs(q_spans, k_spans, window)
    groups = _classes(runs)
    device = q_spans.device
    buckets = tuple(_bucket(runs.take(index), window, device) for index in groups)
    order = np.empty(q_spans.total, dtype=np.int64)
    base = 0
    for index, bucket in zip(groups, buckets, strict=True):
        count, width, _ = bucket.size
        rank, row = _ranges(runs.q_len[index])
        order[runs.q_start[index][rank] + row] = base + rank * width + row
        base += count * width
    in_order = base == q_spans.total and bool((order == np.arange(base)).all())
    return BucketPlan(buckets, None if in_order else torch.from_numpy(order).to(device))


def _runs(q_spans: Spans, k_spans: Spans, window: tuple[int, int]) -> Runs:
    q_host, k_host = q_spans.host.numpy(), k_spans.host.numpy()
    q_len, k_len = np.diff(q_host), np.diff(k_host)
    whole = Runs(q_host[:-1], q_len, k_host[:-1], k_len, k_len - q_len)
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
    return Runs(q_host[:-1][run] + begin, length, k_host[:-1][run] + first, last - first, key - first)


def _ranges(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For ranges of these lengths laid back to back: of each element, its range and its place there."""
    owner = np.repeat(np.arange(len(lengths)), lengths)
    return owner, np.arange(len(owner)) - (np.cumsum(lengths) - lengths)[owner]


def _classes(runs: Runs) -> list[np.ndarray]:
    """Indices of the runs of each bucket, ascending within it."""
    keys = np.stack([runs.q_len, runs.k_len, runs.shift], 1)
    _, kind, count = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    kind = kind.reshape(-1)
    exact = (count[kind] >= _MANY) | (runs.q_len * runs.k_len > _LARGE) | (runs.k_len == 0)
    padded = np.stack([_round_up(runs.q_len), _round_up(runs.k_len), np.zeros_like(kind)], 1)
    label = np.where(exact[:, None], np.stack([kind, np.full_like(kind, -1), np.ones_like(kind)], 1), padded)
    _, bucket = np.unique(label, axis=0, return_inverse=True)
    bucket = bucket.reshape(-1)
    order = np.argsort(bucket, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(bucket[order])) + 1) if len(order) else []


def _round_up(lengths: np.ndarray) -> np.ndarray:
    """The class of a length: up to 8 together, then in steps of a ratio."""
    return np.ceil(np.log(np.maximum(lengths, 8) / 8) / np.log(_STEP) - 1e-9).astype(np.int64)


def _bucket(runs: Runs, window: tuple[int, int], device: torch.device) -> Bucket:
    queries, keys = int(runs.q_len.max()), int(runs.k_len.max())
    alike = bool((runs.q_len == queries).all() and (runs.k_len == keys).all() and (runs.shift == runs.shift[0]).all())
    shown = runs.take(np.array([0])) if alike else runs
    mask, blind = _mask(shown, queries, keys, window)
    causal = alike and window == (-1, 0) and queries == keys and int(runs.shift[0]) == 0
    return Bucket(
        (len(runs.q_len), queries, keys),
        _rows(runs.q_start, runs.q_len, queries, device),
        _rows(runs.k_start, runs.k_len, keys, device),
        None if mask is None or causal else mask.to(device),
        None if blind is None else blind.to(device),
        causal,
    )


def _rows(start: np.ndarray, length: np.ndarray, width: int, device: torch.device) -> Tensor | int:
    if len(start) and (start == start[0] + np.arange(len(start)) * width).all() and (length == width).all():
        return int(start[0])
    place = np.minimum(np.arange(width), np.maximum(length[:, None] - 1, 0))
    return torch.from_numpy((start[:, None] + place).reshape(-1)).to(device)


def _mask(runs: Runs, queries: int, keys: int, window: tuple[int, int]) -> tuple[Tensor | None, Tensor | None]:
    left, right = window
    place = np.arange(keys)
    seen = np.broadcast_to(place < runs.k_len[:, None, None], (len(runs.q_len), queries, keys))
    if left >= 0 or right >= 0:
        apart = place - np.arange(queries)[:, None] - runs.shift[:, None, None]
        seen = seen & (apart >= -left if left >= 0 else True) & (apart <= right if right >= 0 else True)
    if seen.all():
        return None, None
    blind = ~seen.any(-1, keepdims=True)
    mask = torch.from_numpy(np.ascontiguousarray(seen | blind))[:, None]
    return mask, torch.from_numpy(np.ascontiguousarray(blind))[..., None] if blind.any() else None
