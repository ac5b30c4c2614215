"""Attention over packed rows: ``attend``, on the best backend that supports the call."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..dense import DenseSpans
from ..errors import BackendError, UserError
from ..spans import Spans
from .call import UNLIMITED, Backend, Call
from .dense import attend_dense
from .reference import Reference
from .sdpa import Sdpa
from .varlen import FlashAttn, Varlen

__all__ = ["BACKENDS", "Backend", "Call", "attend", "choose"]

BACKENDS: dict[str, Backend] = {backend.name: backend for backend in (Varlen(), FlashAttn(), Sdpa(), Reference())}
"""By name, in the order in which ``auto`` tries them. ``reference`` is used on request only: sdpa takes any call."""


def attend(
    q_THD: Tensor,
    k_SKD: Tensor,
    v_SKD: Tensor,
    q_spans: Spans,
    k_spans: Spans | None = None,
    *,
    window: int | tuple[int, int] | None = None,
    causal: bool = False,
    scale: float | None = None,
    backend: str = "auto",
) -> Tensor:
    """Attention within runs: the queries of run i attend to the keys of run i.

    Positions are aligned at the end of a run, as in FlashAttention-2 (arXiv 2307.08691): with L queries and M keys,
    query a is at the position of key a + M - L. The output of a query that sees no key is zero.

    Args:
        q_THD: (T, H, D) queries.
        k_SKD: (S, K, D) keys; H is a multiple of K (grouped-query attention).
        v_SKD: (S, K, D) values.
        q_spans: runs of the queries.
        k_spans: runs of the keys, as many as of the queries; ``q_spans`` by default.
        window: number of keys visible to each side of a query's position, or (left, right); unlimited by default.
        causal: mask later keys.
        scale: of the scores; 1/sqrt(D) by default.
        backend: ``auto``, or the name of a backend.

    Returns:
        (T, H, D).

    Raises:
        UserError: shapes, runs or window do not fit.
        BackendError: the requested backend does not support the call.
    """
    # The same object, not an equal one: plans are cached with the spans, and backends ask for identity.
    k_spans = q_spans if k_spans is None else k_spans
    scale = 1 / math.sqrt(q_THD.shape[-1]) if scale is None else scale
    if isinstance(q_spans, DenseSpans) and isinstance(k_spans, DenseSpans):
        bounds = (window, window) if isinstance(window, int) else window or (UNLIMITED, UNLIMITED)
        return attend_dense(q_THD, k_SKD, v_SKD, q_spans, k_spans, (bounds[0], 0 if causal else bounds[1]), scale)
    _check(q_THD, k_SKD, v_SKD, q_spans, k_spans)
    left, right = (window, window) if isinstance(window, int) else window or (UNLIMITED, UNLIMITED)
    if left < UNLIMITED or right < UNLIMITED:
        raise UserError(f"a window must be 0 or more, or -1 for no bound, got {(left, right)}")
    # A causal call is a window without later keys, so backends deal with windows only.
    call = Call(
        q_THD,
        k_SKD,
        v_SKD,
        q_spans,
        k_spans,
        (left, 0 if causal else right),
        scale,
    )
    chosen = choose(call, backend)
    if q_spans.total and k_spans.total:
        return chosen(call)
    # No kernel takes a batch without rows. The zeros stay on the graph, as DDP waits for the gradient of every input.
    return torch.zeros_like(q_THD) + 0 * (q_THD.sum() + k_SKD.sum() + v_SKD.sum())


def choose(call: Call, backend: str = "auto") -> Backend:
    """The first backend that supports the call, or the requested one.

    Raises:
        BackendError: the requested backend is unknown or does not support the call.
    """
    if backend == "auto":
        # sdpa takes every call, so there always is one.
        return next(candidate for candidate in BACKENDS.values() if candidate.why_not(call) is None)
    if backend not in BACKENDS:
        raise BackendError(f"unknown attention backend {backend!r}; one of auto, {', '.join(BACKENDS)}")
    reason = BACKENDS[backend].why_not(call)
    if reason is not None:
        able = [name for name, candidate in BACKENDS.items() if candidate.why_not(call) is None]
        raise BackendError(f"attention backend {backend!r} cannot serve: {reason}; able here: auto, {', '.join(able)}")
    return BACKENDS[backend]


def _check(q_THD: Tensor, k_SKD: Tensor, v_SKD: Tensor, q_spans: Spans, k_spans: Spans) -> None:
    if q_THD.ndim != 3 or k_SKD.ndim != 3 or v_SKD.shape != k_SKD.shape or q_THD.shape[2] != k_SKD.shape[2]:
        raise UserError(
            "q, k and v must be (rows, heads, width) with k and v alike and one width, got "
            f"{tuple(q_THD.shape)}, {tuple(k_SKD.shape)} and {tuple(v_SKD.shape)}"
        )
    if k_SKD.shape[1] == 0 or q_THD.shape[1] % k_SKD.shape[1]:
        raise UserError(f"{q_THD.shape[1]} query heads are not a multiple of {k_SKD.shape[1]} key heads")
    if len(q_spans) != len(k_spans):
        raise UserError(f"{len(q_spans)} runs of queries for {len(k_spans)} runs of keys; they must pair up")
    if q_spans.total != len(q_THD) or k_spans.total != len(k_SKD):
        raise UserError(
            f"spans cover {q_spans.total} query rows and {k_spans.total} key rows, "
            f"the tensors have {len(q_THD)} and {len(k_SKD)}"
        )
