"""Ragged runs take few kernel calls, with little padding, and one plan serves all layers."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from hrt_mm.core.attention import attend, sdpa
from hrt_mm.core.attention.buckets import bucket_plan
from hrt_mm.core.spans import Spans

MANY = tuple(1 + (7 * index) % 13 for index in range(600))


def queries_and_keys(queries: Sequence[int], keys: Sequence[int] | None) -> tuple[Tensor, Tensor, Spans, Spans]:
    q_spans = Spans.from_lengths(queries)
    k_spans = q_spans if keys is None else Spans.from_lengths(keys)
    return torch.randn(q_spans.total, 2, 8), torch.randn(k_spans.total, 2, 8), q_spans, k_spans


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The query shapes of the kernel calls that a test makes."""
    seen: list[tuple[int, ...]] = []
    real: Callable[..., Tensor] = torch.nn.functional.scaled_dot_product_attention

    def counting(q: Tensor, k: Tensor, v: Tensor, **kwargs: object) -> Tensor:
        assert q.ndim == k.ndim == v.ndim == 4, "other ranks fall to the mathematical kernel"
        seen.append(tuple(q.shape))
        return real(q, k, v, **kwargs)

    monkeypatch.setattr(sdpa, "scaled_dot_product_attention", counting)
    return seen


@pytest.mark.parametrize(
    ("queries", "keys", "window", "causal", "most"),
    [
        ((64,) * 32, None, None, False, 1),
        ((64,) * 32, None, None, True, 1),
        ((64,) * 32, None, 4, False, 4),
        (MANY, None, None, False, 13),
        (tuple(range(20, 120)), None, None, False, 9),
        ((1,) * 500, tuple(1 + index % 9 for index in range(500)), None, False, 9),
        (tuple(range(100, 1100, 10)), None, 16, True, 16),
        ((4096, 4096), None, 16, False, 4),
    ],
    ids=["uniform", "uniform-causal", "uniform-window", "groups", "spread", "pooling", "ragged-window", "long-window"],
)
def test_ragged_batches_take_few_kernel_calls(
    queries: tuple[int, ...],
    keys: tuple[int, ...] | None,
    window: int | None,
    causal: bool,
    most: int,
    calls: list[tuple[int, ...]],
) -> None:
    q, k, q_spans, k_spans = queries_and_keys(queries, keys)
    attend(q, k, k, q_spans, k_spans, window=window, causal=causal, backend="sdpa")
    assert 0 < len(calls) <= most, calls


def test_long_sliding_windows_do_not_score_whole_sequences(calls: list[tuple[int, ...]]) -> None:
    q, k, spans, _ = queries_and_keys((4096,), None)
    attend(q, k, k, spans, window=16, backend="sdpa")
    scores = sum(math.prod(bucket.size) for bucket in bucket_plan(spans, spans, (16, 16)).buckets)
    assert scores <= 4096 * 3 * 32
    assert sum(shape[0] * shape[2] for shape in calls) == 4096


@pytest.mark.parametrize("longest", [30, 120, 500])
def test_padding_of_ragged_batches_is_small(longest: int) -> None:
    lengths = [longest // 4 + (37 * index) % (3 * longest // 4) for index in range(64)]
    spans = Spans.from_lengths(lengths)
    padded = sum(math.prod(bucket.size) for bucket in bucket_plan(spans, spans, (-1, -1)).buckets)
    assert padded <= 1.45 * sum(length**2 for length in lengths)


def test_a_plan_is_made_once_for_all_layers() -> None:
    spans, other = Spans.from_lengths([3, 9, 4]), Spans.from_lengths([2, 1, 5])
    assert bucket_plan(spans, spans, (-1, -1)) is bucket_plan(spans, spans, (-1, -1))
    assert bucket_plan(spans, other, (-1, -1)) is bucket_plan(spans, other, (-1, -1))
    assert bucket_plan(spans, other, (-1, -1)) is not bucket_plan(spans, spans, (-1, -1))
    assert bucket_plan(spans, spans, (-1, 0)) is not bucket_plan(spans, spans, (-1, -1))


def test_plans_die_with_their_spans() -> None:
    gc.collect()
    gc.disable()
    try:
        q = k = torch.randn(10, 2, 8)
        spans = Spans.from_lengths([3, 5, 2])
        attend(q, k, k, spans, backend="sdpa")
        attend(q[:3], k, k, spans.singletons, spans, backend="sdpa")
        alive = weakref.ref(bucket_plan(spans, spans, (-1, -1)))
        del spans
        assert alive() is None, "a cycle keeps the masks of every batch until the collector runs"
    finally:
        gc.enable()


@pytest.mark.parametrize("lengths", [(6, 6, 6), (150, 300, 200)], ids=["uniform", "few-long"])
def test_runs_in_order_are_views(lengths: tuple[int, ...]) -> None:
    spans = Spans.from_lengths(lengths)
    plan = bucket_plan(spans, spans, (-1, 0))
    assert plan.q_rows is plan.k_rows is plan.order is None, "runs that lie in order were gathered"


def test_the_gradient_of_many_buckets_fills_one_tensor_each_for_queries_keys_values_and_outputs() -> None:
    q, k, spans, _ = queries_and_keys(tuple(range(20, 120)), None)
    q, k, v = (x.detach().requires_grad_() for x in (q, k, k.clone()))
    out = attend(q, k, v, spans, backend="sdpa")
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as run:
        out.sum().backward()
    filled = sum(event.count for event in run.key_averages() if event.key == "aten::new_zeros")
    assert len(bucket_plan(spans, spans, (-1, -1)).buckets) > 4
    assert filled <= 4
