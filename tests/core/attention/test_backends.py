"""Every backend against the reference, forward and gradients; the reference against a loop over queries."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from hrt_mm.core.attention import BACKENDS, Call, attend, choose, sdpa
from hrt_mm.core.errors import BackendError, UserError
from hrt_mm.core.spans import Spans

Window = int | tuple[int, int] | None


@dataclass(frozen=True)
class Case:
    """Shapes of one call; ``keys`` are the queries' lengths where absent."""

    queries: tuple[int, ...]
    keys: tuple[int, ...] | None = None
    heads: int = 2
    kv_heads: int = 2
    width: int = 8
    window: Window = None
    causal: bool = False

    def __str__(self) -> str:
        lengths = sorted(set(self.queries))
        longest = f"{lengths[0]}to{lengths[-1]}" if len(lengths) > 1 else f"{lengths[0]}" if lengths else "0"
        text = f"B{len(self.queries)}-T{longest}-H{self.heads}-D{self.width}"
        if self.keys is not None:
            text += f"-S{min(self.keys)}to{max(self.keys)}"
        if self.kv_heads != self.heads:
            text += f"-K{self.kv_heads}"
        if self.window is not None:
            text += "-W" + str(self.window).replace(" ", "")
        return text + "-causal" * self.causal


RAGGED = (5, 1, 0, 17, 3, 64, 0, 33)
MANY = tuple(1 + (7 * index) % 13 for index in range(60))
CASES = [
    Case((16, 16, 16)),
    Case((1, 1, 1)),
    Case((7,)),
    Case(RAGGED),
    Case(MANY),
    Case((300, 1, 129)),
    Case((0, 0)),
    Case(()),
    Case((9, 9), (5, 5)),
    Case((3, 8, 0, 6), (6, 2, 4, 0)),
    Case((1,) * 20, MANY[:20]),
    Case(MANY[:20], (1,) * 20),
    Case((4, 4), (0, 0)),
    Case((0, 0), (4, 4)),
    Case(RAGGED, causal=True),
    Case((16, 16, 16), causal=True),
    Case((3, 8, 0, 6), (6, 2, 4, 0), causal=True),
    Case((4, 4), (9, 9), causal=True),
    Case((9, 9), (4, 4), causal=True),
    Case(RAGGED, window=4),
    Case((64, 64), window=4),
    Case((700, 35, 0, 1), window=5),
    Case((700,), window=(300, 20)),
    Case((700, 2), window=5, causal=True),
    Case(RAGGED, window=(3, 0)),
    Case(RAGGED, window=(0, 3)),
    Case(RAGGED, window=(2, -1)),
    Case(RAGGED, window=(-1, 2)),
    Case(RAGGED, window=(-1, 0)),
    Case(RAGGED, window=0),
    Case((300, 40), window=(2, -1)),
    Case((300, 40), window=(-1, 1), causal=True),
    Case((30, 8, 5), (40, 3, 5), window=2),
    Case((300, 8), (90, 40), window=(6, 3)),
    Case((90, 8), (300, 2), window=6, causal=True),
    Case(RAGGED, heads=4, kv_heads=2),
    Case(RAGGED, heads=4, kv_heads=1, window=4, causal=True),
    Case((16, 16), heads=6, kv_heads=2, causal=True),
    Case((3, 8, 0, 6), (6, 2, 4, 0), heads=4, kv_heads=1),
    Case((40, 3), heads=1, kv_heads=1, width=2),
]


@dataclass(frozen=True)
class Inputs:
    q: Tensor
    k: Tensor
    v: Tensor
    q_spans: Spans
    k_spans: Spans
    weight: Tensor


def inputs(case: Case, dtype: torch.dtype = torch.float64, device: str = "cpu") -> Inputs:
    generator = torch.Generator().manual_seed(0)
    q_spans = Spans.from_lengths(case.queries, device)
    k_spans = q_spans if case.keys is None else Spans.from_lengths(case.keys, device)

    def draw(rows: int, heads: int) -> Tensor:
        return torch.randn(rows, heads, case.width, generator=generator).to(device, dtype)

    q, weight = draw(q_spans.total, case.heads), draw(q_spans.total, case.heads)
    k, v = draw(k_spans.total, case.kv_heads), draw(k_spans.total, case.kv_heads)
    return Inputs(q.requires_grad_(), k.requires_grad_(), v.requires_grad_(), q_spans, k_spans, weight)


def widened(one: Inputs, case: Case) -> Inputs:
    """The same numbers in float64 on the CPU."""
    q, k, v = (x.detach().cpu().double().requires_grad_() for x in (one.q, one.k, one.v))
    exact = inputs(case)
    return Inputs(q, k, v, exact.q_spans, exact.k_spans, one.weight.cpu().double())


def run(one: Inputs, case: Case, backend: str) -> tuple[Tensor, ...]:
    """The output and the gradients of q, k and v."""
    out = attend(one.q, one.k, one.v, one.q_spans, one.k_spans, window=case.window, causal=case.causal, backend=backend)
    assert out.shape == one.q.shape
    assert out.dtype == one.q.dtype
    if not out.requires_grad:
        return (out, *(torch.zeros_like(x) for x in (one.q, one.k, one.v)))
    grads = torch.autograd.grad((out * one.weight).sum(), (one.q, one.k, one.v), allow_unused=True)
    return (out, *(torch.zeros_like(x) if g is None else g for g, x in zip(grads, (one.q, one.k, one.v), strict=True)))


def assert_alike(got: tuple[Tensor, ...], want: tuple[Tensor, ...], tolerance: float) -> None:
    for name, one, two in zip(("out", "dq", "dk", "dv"), got, want, strict=True):
        assert one.isfinite().all(), f"{name} is not finite"
        off = (one.double() - two.double()).abs() - tolerance * two.double().abs()
        assert not one.numel() or off.max() <= tolerance, f"{name} is off by {off.max():.2e}"


def by_hand(one: Inputs, case: Case) -> Tensor:
    """One query at a time, from the definition."""
    left, right = case.window if isinstance(case.window, tuple) else (case.window, case.window)
    left = None if left in (None, -1) else left
    right = 0 if case.causal else None if right in (None, -1) else right
    share = case.heads // case.kv_heads
    rows = []
    for q, k, v in zip(one.q_spans.split(one.q), one.k_spans.split(one.k), one.k_spans.split(one.v), strict=True):
        for position, query in enumerate(q):
            here = position + len(k) - len(q)
            seen = [
                key
                for key in range(len(k))
                if (left is None or key >= here - left) and (right is None or key <= here + right)
            ]
            for head in range(case.heads):
                if not seen:
                    rows.append(torch.zeros(case.width, dtype=q.dtype))
                    continue
                scores = torch.stack([query[head] @ k[key, head // share] for key in seen]) / math.sqrt(case.width)
                rows.append(scores.softmax(0) @ v[seen, head // share])
    return torch.stack(rows).view_as(one.q) if rows else torch.zeros_like(one.q)


@pytest.mark.parametrize("case", [case for case in CASES if sum(case.queries) <= 150], ids=str)
def test_the_reference_is_the_definition(case: Case) -> None:
    one = inputs(case)
    got = attend(
        one.q, one.k, one.v, one.q_spans, one.k_spans, window=case.window, causal=case.causal, backend="reference"
    )
    torch.testing.assert_close(got, by_hand(one, case))


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("backend", ["sdpa", "auto"])
def test_forward_and_gradients(case: Case, backend: str) -> None:
    one = inputs(case)
    assert_alike(run(one, case, backend), run(one, case, "reference"), 1e-9)


def test_many_random_calls() -> None:
    rng = random.Random(5)
    for _ in range(60):
        count = rng.randint(1, 12)
        queries = tuple(rng.choice([0, 1, rng.randint(0, 12), rng.randint(0, 90)]) for _ in range(count))
        keys = None if rng.random() < 0.5 else tuple(rng.randint(0, 40) for _ in range(count))
        window = rng.choice([None, 0, 3, (rng.randint(-1, 9), rng.randint(-1, 9)), (40, 2)])
        heads, kv_heads = rng.choice([(1, 1), (2, 1), (4, 2)])
        case = Case(queries, keys, heads, kv_heads, 4, window, rng.random() < 0.4)
        one = inputs(case)
        try:
            assert_alike(run(one, case, "sdpa"), run(one, case, "reference"), 1e-9)
        except AssertionError as error:
            raise AssertionError(f"{case!r}: {error}") from error


@pytest.mark.parametrize("case", [case for case in CASES if sum(case.queries) <= 200], ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 4e-2)], ids=str)
def test_lower_precision_stays_near_the_float64_reference(case: Case, dtype: torch.dtype, tolerance: float) -> None:
    one = inputs(case, dtype)
    truth = widened(one, case)
    assert_alike(run(one, case, "sdpa"), run(truth, case, "reference"), tolerance)


@pytest.mark.parametrize("short", [True, False], ids=["products", "fused-in-float32"])
def test_half_precision_training_kernels_on_the_cpu(short: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sdpa, "_SHORT", 128 if short else 1)
    for case in (Case((20, 20)), Case(RAGGED), Case((20, 20), causal=True), Case(RAGGED, heads=4, kv_heads=2)):
        one = inputs(case, torch.bfloat16)
        truth = widened(one, case)
        assert_alike(run(one, case, "sdpa"), run(truth, case, "reference"), 4e-2)


@pytest.mark.parametrize(
    "case",
    [
        Case((12,) * 6),
        Case((12,) * 6, causal=True),
        Case((12,) * 6, window=3),
        Case((12,) * 6, (5,) * 6),
        Case((12,) * 6, heads=4, kv_heads=2),
        Case((1,) * 6, (7,) * 6),
    ],
    ids=str,
)
def test_uniform_runs_equal_ragged_ones(case: Case) -> None:
    one = inputs(case)
    uniform = run(one, case, "sdpa")
    odd_q, odd_k = torch.randn(2, 5, max(case.heads, 1), case.width, dtype=torch.float64)
    keys = case.keys or case.queries
    ragged = Inputs(
        torch.cat([one.q.detach(), odd_q]).requires_grad_(),
        torch.cat([one.k.detach(), odd_k[:, : case.kv_heads]]).requires_grad_(),
        torch.cat([one.v.detach(), odd_k[:, : case.kv_heads]]).requires_grad_(),
        Spans.from_lengths([*case.queries, 5]),
        Spans.from_lengths([*keys, 5]),
        torch.cat([one.weight, torch.zeros_like(odd_q)]),
    )
    assert ragged.q_spans.uniform is None
    for got, want in zip(run(ragged, case, "sdpa"), uniform, strict=True):
        torch.testing.assert_close(got[: len(want)], want)


def test_a_scale_is_used() -> None:
    case = Case(RAGGED)
    one = inputs(case)
    for backend in ("sdpa", "reference"):
        flat = attend(one.q, one.k, one.v, one.q_spans, scale=0.0, backend=backend)
        means = [v.mean(0, keepdim=True).expand_as(v) for v in one.q_spans.split(one.v)]
        torch.testing.assert_close(flat, torch.cat(means))


def test_runs_do_not_see_each_other() -> None:
    case = Case(MANY)
    one = inputs(case)
    out = attend(one.q, one.k, one.v, one.q_spans, backend="sdpa")
    spoilt_k, spoilt_v = one.k.detach().clone(), one.v.detach().clone()
    first, last = one.q_spans.host[10], one.q_spans.host[11]
    spoilt_k[first:last] = spoilt_v[first:last] = float("nan")
    spoilt = attend(one.q, spoilt_k, spoilt_v, one.q_spans, backend="sdpa")
    assert spoilt[first:last].isnan().all()
    kept = torch.cat([torch.arange(int(first)), torch.arange(int(last), len(out))])
    assert torch.equal(spoilt[kept], out[kept])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"q": (4, 2, 8), "lengths": [3]}, "spans cover 3 query rows and 3 key rows, the tensors have 4 and 3"),
        ({"q": (3, 3, 8)}, "3 query heads are not a multiple of 2 key heads"),
        ({"q": (3, 2, 4)}, r"one width, got \(3, 2, 4\), \(3, 2, 8\) and \(3, 2, 8\)"),
        ({"v": (3, 2, 4)}, r"k and v alike"),
        ({"q": (3, 16)}, r"must be \(rows, heads, width\)"),
        ({"k_lengths": [2, 1]}, "1 runs of queries for 2 runs of keys; they must pair up"),
        ({"window": -2}, r"a window must be 0 or more, or -1 for no bound, got \(-2, -2\)"),
        ({"window": (3, -4)}, r"got \(3, -4\)"),
    ],
    ids=["rows", "heads", "width", "values", "rank", "runs", "window", "right"],
)
def test_misfits_are_named(kwargs: dict[str, object], message: str) -> None:
    k = torch.zeros(3, 2, 8)
    q, v = (torch.zeros(*kwargs.get(name, (3, 2, 8))) for name in "qv")  # type: ignore[misc]
    spans = Spans.from_lengths(kwargs.get("lengths", [3]))  # type: ignore[arg-type]
    k_spans = Spans.from_lengths(kwargs["k_lengths"]) if "k_lengths" in kwargs else spans  # type: ignore[arg-type]
    with pytest.raises(UserError, match=message):
        attend(q, k, v, spans, k_spans, window=kwargs.get("window"))  # type: ignore[arg-type]


def test_a_forced_backend_that_cannot_serve_says_why_and_what_can() -> None:
    one = inputs(Case((4,)), torch.float32)
    with pytest.raises(BackendError, match=r"'varlen' cannot serve: .+; able here: auto, sdpa, reference"):
        attend(one.q, one.k, one.v, one.q_spans, backend="varlen")
    with pytest.raises(BackendError, match=r"'flash_attn' cannot serve: .+; able here: auto, sdpa, reference"):
        attend(one.q, one.k, one.v, one.q_spans, backend="flash_attn")
    with pytest.raises(BackendError, match="unknown attention backend 'xformers'; one of auto, varlen, flash_attn"):
        attend(one.q, one.k, one.v, one.q_spans, backend="xformers")


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without CUDA")
def test_backends_that_are_missing_say_why() -> None:
    assert BACKENDS["varlen"].missing() == "no CUDA device"
    assert "flash" in str(BACKENDS["flash_attn"].missing()) or "CUDA" in str(BACKENDS["flash_attn"].missing())
    assert BACKENDS["sdpa"].missing() is None
    assert BACKENDS["reference"].missing() is None


CUDA = [case for case in CASES if case.width % 8 == 0]
CUDA += [Case((400, 0, 130, 129), width=64), Case((400, 260), heads=4, kv_heads=4, width=64)]
NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.gpu
@NEEDS_CUDA
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "case", [*CUDA, Case((400, 0, 130, 129), width=64), Case((400, 260), heads=4, width=64)], ids=str
)
@pytest.mark.parametrize("backend", ["varlen", "flash_attn", "sdpa", "auto"])
def test_half_precision_on_cuda(case: Case, backend: str, dtype: torch.dtype) -> None:
    """Against the float64 reference of the same rounded inputs, on the CPU."""
    if backend in BACKENDS and (reason := BACKENDS[backend].missing()):
        pytest.skip(reason)
    one = inputs(case, dtype, "cuda")
    truth = widened(one, case)
    got = tuple(x.cpu() for x in run(one, case, backend))
    assert_alike(got, run(truth, case, "reference"), 4e-2)


@pytest.mark.gpu
@NEEDS_CUDA
@pytest.mark.parametrize("case", CASES, ids=str)
def test_float32_on_cuda(case: Case) -> None:
    one = inputs(case, torch.float32, "cuda")
    truth = widened(one, case)
    assert_alike(tuple(x.cpu() for x in run(one, case, "auto")), run(truth, case, "reference"), 1e-4)


@pytest.mark.gpu
@NEEDS_CUDA
def test_half_precision_takes_flash_attention_by_itself() -> None:
    one = inputs(Case((40, 0, 7), width=64), torch.bfloat16, "cuda")
    call = Call(one.q, one.k, one.v, one.q_spans, one.k_spans, (-1, -1), 0.125)
    assert choose(call).name == "varlen"
