"""What the CUDA backends hand to their kernels, seen on any machine: the kernels are stood in for."""

from __future__ import annotations

import importlib.util
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from hrt_mm.core.attention import BACKENDS, Call, choose, varlen
from hrt_mm.core.spans import Spans


class Kernel:
    """Records a call, and answers with the queries."""

    def __init__(self) -> None:
        self.args: tuple[Any, ...] = ()
        self.kwargs: dict[str, Any] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        self.args, self.kwargs = args, kwargs
        out: Tensor = args[0]
        return out


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    one = Kernel()
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", one)
    monkeypatch.setattr(varlen, "_accepts", lambda name: True)
    monkeypatch.setitem(sys.modules, "flash_attn", SimpleNamespace(flash_attn_varlen_func=one))
    return one


def call(
    queries: list[int], keys: list[int], window: tuple[int, int] = (-1, -1), heads: int = 2, kv_heads: int = 2
) -> Call:
    q_spans = Spans.from_lengths(queries)
    k_spans = q_spans if keys == queries else Spans.from_lengths(keys)
    k = torch.zeros(k_spans.total, kv_heads, 8)
    return Call(torch.zeros(q_spans.total, heads, 8), k, k, q_spans, k_spans, window, 0.5)


@pytest.mark.parametrize("name", ["varlen", "flash_attn"])
def test_offsets_are_int32_and_lengths_plain_integers(kernel: Kernel, name: str) -> None:
    one = call([3, 5], [4, 2])
    BACKENDS[name](one)
    q, k, _, cu_q, cu_k, max_q, max_k = kernel.args
    assert cu_q.dtype == cu_k.dtype == torch.int32
    assert cu_q.tolist() == [0, 3, 8]
    assert cu_k.tolist() == [0, 4, 6]
    assert type(max_q) is type(max_k) is int
    assert (max_q, max_k) == (5, 4)
    assert len(q) == 8
    assert len(k) == 6


@pytest.mark.parametrize("window", [(-1, -1), (-1, 0), (4, 0), (3, 3), (0, 0), (2, -1), (-1, 2)], ids=str)
def test_windows_pass_as_they_are(kernel: Kernel, window: tuple[int, int]) -> None:
    BACKENDS["varlen"](call([9, 5], [9, 5], window))
    assert kernel.kwargs["window_size"] == window
    assert isinstance(kernel.kwargs["window_size"], tuple), "a list is not known for causal"
    assert kernel.kwargs["scale"] == 0.5
    BACKENDS["flash_attn"](call([9, 5], [9, 5], window))
    assert kernel.kwargs["causal"] == (window[1] == 0)
    assert kernel.kwargs["softmax_scale"] == 0.5
    if window != (-1, 0):
        assert kernel.kwargs["window_size"] == window


@pytest.mark.parametrize(("queries", "keys"), [([3, 0, 5], [3, 0, 5]), ([3, 5], [0, 4]), ([0, 5], [3, 4])])
def test_empty_runs_stay_away_from_cudnn(kernel: Kernel, queries: list[int], keys: list[int]) -> None:
    BACKENDS["varlen"](call(queries, keys))
    assert kernel.kwargs["window_size"] == (max(keys), -1), "no window lets cuDNN have the call"
    BACKENDS["varlen"](call(queries, keys, (-1, 0)))
    assert kernel.kwargs["window_size"] == (-1, 0)


@pytest.mark.parametrize("known", [True, False], ids=["torch-2.12", "torch-2.11"])
def test_grouped_queries(kernel: Kernel, known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen, "_accepts", lambda name: known)
    BACKENDS["varlen"](call([3], [3], heads=4, kv_heads=2))
    assert kernel.kwargs.get("enable_gqa", False) == known
    assert kernel.args[1].shape[1] == (2 if known else 4)


def test_what_the_kernels_do_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen, "_no_device", lambda: None)
    monkeypatch.setattr(varlen, "_not_installed", lambda: None)
    half = call([3, 5], [3, 5])
    for name in ("varlen", "flash_attn"):
        assert "needs a CUDA device, the tensors are on cpu" in str(BACKENDS[name].why_not(half))

    def on_cuda(dtype: torch.dtype = torch.bfloat16, width: int = 64, **kwargs: Any) -> Any:
        base = call([9, 5], kwargs.get("keys", [9, 5]), kwargs.get("window", (-1, -1)))
        shape = SimpleNamespace(device=SimpleNamespace(type="cuda"), dtype=dtype, shape=(14, 2, width))
        return SimpleNamespace(q_THD=shape, window=base.window, q_spans=base.q_spans, k_spans=base.k_spans)

    varlen_backend = BACKENDS["varlen"]
    assert varlen_backend.why_not(on_cuda()) is None
    assert varlen_backend.why_not(on_cuda(window=(3, 30))) is None
    assert "takes float16 or bfloat16, not float32; use autocast" in str(varlen_backend.why_not(on_cuda(torch.float32)))
    assert "multiples of 8 up to 256, not 20" in str(varlen_backend.why_not(on_cuda(width=20)))
    assert "multiples of 8 up to 256, not 512" in str(varlen_backend.why_not(on_cuda(width=512)))
    # Nine queries over two keys: the first stands before them all, so a right bound of 4 hides them.
    reason = varlen_backend.why_not(on_cuda(keys=[2, 5], window=(3, 5)))
    assert "takes no right bound as long as the keys (5 for 5)" in str(reason)
    assert varlen_backend.why_not(on_cuda(keys=[2, 5], window=(3, 4))) is None


def test_choosing_a_backend_is_cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    one = call([3], [3])
    choose(one)

    def slow(*_: object) -> None:
        raise AssertionError("asked the machine again")

    monkeypatch.setattr(torch.cuda, "is_available", slow)
    monkeypatch.setattr(importlib.util, "find_spec", slow)
    assert choose(one).name == "sdpa"
