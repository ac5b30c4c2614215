"""Ragged runs as a few dense batches: runs of similar length share a bucket, so no loop runs over sequences.

A plan depends on the spans and the window only. It is made once on the host, cached with the spans, and serves all
layers. Long windows are first split into blocks of queries, each with the range of keys it can see.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..host import on_host
from ..spans import Spans

_LARGE = 128 * 128
"""Attention scores from which a run gets a bucket of its exact length instead of padding."""
_MANY = 16
"""Runs of one length from which they get a bucket of that exact length."""
_GROWTH = 1.3
"""Ratio between consecutive lengths of padded buckets."""


@dataclass(frozen=True)
class RunPairs:
    """Pairs of a query range and the key range it attends to, as host arrays with one entry per pair.

    ``shift`` aligns positions: query a and key b of a pair are ``b - a - shift`` apart.
    """

    q_start: np.ndarray
    q_len: np.ndarray
    k_start: np.ndarray
    k_len: np.ndarray
    shift: np.ndarray

    def take(self, index: np.ndarray) -> RunPairs:
        """A subset of the pairs."""
        return RunPairs(*(getattr(self, name)[index] for name in ("q_start", "q_len", "k_start", "k_len", "shift")))


@dataclass(frozen=True, eq=False)
class Bucket:
    """Run pairs as one dense batch.

    Args:
        size: number of pairs N, padded query length L and padded key length M.
        mask: bool, broadcastable to (N, 1, L, M), true where visible; ``None`` if everything is visible.
        fully_masked: bool, broadcastable to (N, L, 1, 1), true for queries that see no key; ``None`` if there are none.
        causal: the mask is exactly the lower triangle, so the kernel can apply it without a tensor.
    """

    size: tuple[int, int, int]
    mask: Tensor | None
    fully_masked: Tensor | None
    causal: bool


@dataclass(frozen=True, eq=False)
class BucketPlan:
    """All buckets of a call.

    Args:
        buckets: in the order of their first runs.
        q_rows: query rows to gather so that the buckets are contiguous; ``None`` if they already are. All buckets share
            one gather, because the gradient of one gather per bucket would fill and add as many full tensors.
        k_rows: key rows, likewise.
        order: rows of the concatenated bucket outputs, in packed order; ``None`` if they are in it already.
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
    """The plan of a call, computed once per pair of spans and window."""
    return q_spans.cached(("buckets", window), lambda: _make_plan(q_spans, k_spans, window), k_spans)


def _make_plan(q_spans: Spans, k_spans: Spans, window: tuple[int, int]) -> BucketPlan:
    all_pairs = _run_pairs(q_spans, k_spans, window)
    by_bucket = [all_pairs.take(index) for index in _assign_buckets(all_pairs)]
    device = q_spans.device
    buckets = tuple(_bucket(pairs, window, device) for pairs in by_bucket)
    order = np.empty(q_spans.total, dtype=np.int64)
    offset = 0
    for pairs, bucket in zip(by_bucket, buckets, strict=True):
        count, width, _ = bucket.size
        # Query ``row`` of ``pair`` is row ``pair * width + row`` of the bucket's flattened, padded output.
        pair, row = _range_positions(pairs.q_len)
        order[pairs.q_start[pair] + row] = offset + pair * width + row
        offset += count * width
    # A gather needs rows that exist, so padding repeats the last row of a range; the mask hides it.
    queries = [_padded_rows(pairs.q_start, pairs.q_len, b.size[1]) for pairs, b in zip(by_bucket, buckets, strict=True)]
    keys = [_padded_rows(pairs.k_start, pairs.k_len, b.size[2]) for pairs, b in zip(by_bucket, buckets, strict=True)]
    return BucketPlan(
        buckets,
        _gather_index(queries, q_spans.total, device),
        _gather_index(keys, k_spans.total, device),
        _gather_index([order], offset, device),
    )


def _run_pairs(q_spans: Spans, k_spans: Spans, window: tuple[int, int]) -> RunPairs:
    """Runs with at least one query; those of a bounded window are split into blocks of queries."""
    q_host, k_host = q_spans.host.numpy(), k_spans.host.numpy()
    q_len, k_len = np.diff(q_host), np.diff(k_host)
    # Positions are aligned at the ends of runs, so the first query is k_len - q_len keys in.
    runs = RunPairs(q_host[:-1], q_len, k_host[:-1], k_len, k_len - q_len)
    left, right = window
    if left < 0 or right < 0:
        return runs.take(np.flatnonzero(q_len))
    # A block of queries as long as the window sees at most three times its own length of keys.
    block = min(max(32, left + right), 256)
    blocks_per_run = -(-q_len // block)
    run, index = _range_positions(blocks_per_run)
    q_first = index * block
    length = np.minimum(block, q_len[run] - q_first)
    # Position of the block's first query among the keys of its run, from which both bounds of the window are counted.
    aligned = q_first + runs.shift[run]
    k_first = np.clip(aligned - left, 0, k_len[run])
    k_end = np.clip(aligned + length + right, k_first, k_len[run])
    return RunPairs(q_host[:-1][run] + q_first, length, k_host[:-1][run] + k_first, k_end - k_first, aligned - k_first)


def _range_positions(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For consecutive ranges of these lengths: the range of each element, and its position there."""
    owner = np.repeat(np.arange(len(lengths)), lengths)
    # Subtracting where each range starts turns a running count into a position.
    return owner, np.arange(len(owner)) - (np.cumsum(lengths) - lengths)[owner]


def _assign_buckets(pairs: RunPairs) -> list[np.ndarray]:
    """Ascending indices of the pairs of each bucket. Buckets are in the order of their first pairs."""
    # 1. Pairs of equal lengths and alignment have one shape. Frequent or large shapes get a bucket of their own, which
    #    needs no padding; pairs without keys must not share one with others.
    shapes = _row_keys(np.stack([pairs.q_len, pairs.k_len, pairs.shift], 1))
    _, shape, count = np.unique(shapes, return_inverse=True, return_counts=True)
    exact = (count[shape] >= _MANY) | (pairs.q_len * pairs.k_len > _LARGE) | (pairs.k_len == 0)
    # 2. All others share buckets by rounded lengths. Adding the number of shapes keeps the two kinds of labels apart.
    rounded = _row_keys(np.stack([_round_up(pairs.q_len), _round_up(pairs.k_len)], 1))
    label = np.where(exact, shape, len(count) + rounded)
    # 3. np.unique numbers labels by value; renumber them by where each occurs first.
    _, first, bucket = np.unique(label, return_index=True, return_inverse=True)
    number = np.empty_like(first)
    number[first.argsort()] = np.arange(len(first))
    # 4. A stable sort by number puts the pairs of a bucket side by side, in ascending order; split where it changes.
    order = np.argsort(number[bucket], kind="stable")
    return np.split(order, np.flatnonzero(np.diff(number[bucket][order])) + 1) if len(order) else []


def _row_keys(rows: np.ndarray) -> np.ndarray:
    """One integer per row of integers, equal for equal rows. Sorting whole rows would take ten times as long."""
    keys = np.zeros(len(rows), dtype=np.int64)
    for column in rows.T:
        low = column.min(initial=0)
        keys = keys * (column.max(initial=0) - low + 1) + (column - low)
    return keys


def _round_up(lengths: np.ndarray) -> np.ndarray:
    """Class of a padded length: up to 8 in one class, then in geometric steps."""
    return np.ceil(np.log(np.maximum(lengths, 8) / 8) / np.log(_GROWTH) - 1e-9).astype(np.int64)


def _bucket(pairs: RunPairs, window: tuple[int, int], device: torch.device) -> Bucket:
    queries, keys = int(pairs.q_len.max()), int(pairs.k_len.max())
    same_lengths = (pairs.q_len == queries).all() and (pairs.k_len == keys).all()
    # One shape and alignment for all pairs.
    uniform = bool(same_lengths and (pairs.shift == pairs.shift[0]).all())
    # Pairs of one shape have one mask, which broadcasts over them.
    mask, fully_masked = _mask(pairs.take(np.array([0])) if uniform else pairs, queries, keys, window)
    causal = uniform and window == (-1, 0) and queries == keys and int(pairs.shift[0]) == 0
    return Bucket(
        (len(pairs.q_len), queries, keys),
        None if mask is None or causal else mask.to(device),
        None if fully_masked is None else fully_masked.to(device),
        causal,
    )


def _padded_rows(start: np.ndarray, length: np.ndarray, width: int) -> np.ndarray:
    """Rows of consecutive ranges, each padded to ``width`` by repeating its last row."""
    position = np.minimum(np.arange(width), np.maximum(length[:, None] - 1, 0))
    rows: np.ndarray = (start[:, None] + position).reshape(-1)
    return rows


def _gather_index(rows_by_bucket: list[np.ndarray], total: int, device: torch.device) -> Tensor | None:
    """The rows as one index on the device, or ``None`` if it would select all rows in order."""
    rows = np.concatenate(rows_by_bucket) if rows_by_bucket else np.empty(0, dtype=np.int64)
    if len(rows) == total and bool((rows == np.arange(total)).all()):
        return None
    return torch.from_numpy(rows).to(device)


def _mask(pairs: RunPairs, queries: int, keys: int, window: tuple[int, int]) -> tuple[Tensor | None, Tensor | None]:
    """The mask of a bucket, and its fully masked queries."""
    left, right = window
    key = np.arange(keys)
    # A view at first: without a window the lengths alone decide.
    visible = np.broadcast_to(key < pairs.k_len[:, None, None], (len(pairs.q_len), queries, keys))
    if left >= 0 or right >= 0:
        distance = key - np.arange(queries)[:, None] - pairs.shift[:, None, None]
        visible = visible & (distance >= -left if left >= 0 else True) & (distance <= right if right >= 0 else True)
    if visible.all():
        return None, None
    fully_masked = ~visible.any(-1, keepdims=True)
    # A softmax over masked scores alone is NaN, so such queries attend to all keys and are zeroed afterwards.
    mask = torch.from_numpy(np.ascontiguousarray(visible | fully_masked))[:, None]
    return mask, torch.from_numpy(np.ascontiguousarray(fully_masked))[..., None] if fully_masked.any() else None
