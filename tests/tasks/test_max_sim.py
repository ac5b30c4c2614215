from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from hrt_mm.core.spans import Spans
from hrt_mm.tasks import max_sim as module
from hrt_mm.tasks.max_sim import max_sim


def tokens(lengths: list[int], seed: int) -> tuple[Tensor, Spans]:
    generator = torch.Generator().manual_seed(seed)
    x_TD = normalize(torch.randn(sum(lengths), 6, generator=generator), dim=1)
    return x_TD.requires_grad_(), Spans.from_lengths(lengths)


def reference(x_TD: Tensor, x_spans: Spans, y_UD: Tensor, y_spans: Spans) -> Tensor:
    rows = [
        [(x @ y.T).amax(1).mean() if len(y) else x_TD.new_tensor(module.NOTHING) for y in y_spans.split(y_UD)]
        for x in x_spans.split(x_TD)
    ]
    return torch.stack([torch.stack(row) for row in rows])


@pytest.mark.parametrize("chunk", [1, 20, 1 << 24])
@pytest.mark.parametrize(
    ("queries", "answers"),
    [([2, 5, 1, 2], [3, 1, 7, 3, 1]), ([4, 4], [3, 3, 3]), ([1], [5, 2]), ([3, 1], [0, 2, 0, 4])],
    ids=["ragged", "uniform", "one", "empty"],
)
def test_scores_and_gradients_are_those_of_the_formula(
    queries: list[int], answers: list[int], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", chunk)
    x_TD, x_spans = tokens(queries, 0)
    y_UD, y_spans = tokens(answers, 1)
    weight_NM = torch.randn(len(queries), len(answers))
    scores_NM = max_sim(x_TD, x_spans, y_UD, y_spans)
    expected_NM = reference(x_TD, x_spans, y_UD, y_spans)
    torch.testing.assert_close(scores_NM, expected_NM)
    gradients = torch.autograd.grad((scores_NM * weight_NM).sum(), (x_TD, y_UD))
    torch.testing.assert_close(gradients, torch.autograd.grad((expected_NM * weight_NM).sum(), (x_TD, y_UD)))
    with torch.no_grad():
        assert torch.equal(max_sim(x_TD, x_spans, y_UD, y_spans), scores_NM)


def test_nothing_to_score() -> None:
    x_TD, x_spans = tokens([2, 3], 0)
    y_UD, y_spans = tokens([], 1)
    assert max_sim(x_TD, x_spans, y_UD, y_spans).shape == (2, 0)
    scores_NM = max_sim(y_UD, y_spans, x_TD, x_spans)
    assert scores_NM.shape == (0, 2)
    scores_NM.sum().backward()
    assert y_UD.grad is not None and y_UD.grad.shape == (0, 6)


def test_products_are_in_float32_under_autocast() -> None:
    x_TD, x_spans = tokens([3, 2], 0)
    y_UD, y_spans = tokens([4, 1], 1)
    with torch.autocast("cpu", torch.bfloat16):
        scores_NM = max_sim(x_TD, x_spans, y_UD, y_spans)
    assert torch.equal(scores_NM, max_sim(x_TD, x_spans, y_UD, y_spans))
