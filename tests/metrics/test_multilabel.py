from __future__ import annotations

import math

import pytest
import torch

from hrt_mm.metrics.multilabel import average_precisions, best_thresholds, f1_scores


def drawn(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    # Rounded, so that many scores are equal.
    scores = torch.rand(60, 4, generator=generator).mul(20).round() / 20
    labels = (torch.rand(60, 4, generator=generator) < 0.3).float()
    return scores, labels


@pytest.mark.parametrize("seed", range(3))
def test_as_scikit_learn(seed: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    scores, labels = drawn(seed)
    ours = average_precisions(scores, labels)
    theirs = metrics.average_precision_score(labels.numpy(), scores.numpy(), average=None)
    torch.testing.assert_close(ours, torch.tensor(theirs))
    predicted = scores >= 0.5
    micro, macro, by_class = f1_scores(predicted, labels)
    assert micro == pytest.approx(metrics.f1_score(labels.numpy(), predicted.numpy(), average="micro"))
    assert macro == pytest.approx(metrics.f1_score(labels.numpy(), predicted.numpy(), average="macro"))
    assert by_class.tolist() == pytest.approx(metrics.f1_score(labels.numpy(), predicted.numpy(), average=None))


def test_no_other_threshold_has_a_better_f1() -> None:
    scores, labels = drawn(7)
    chosen = best_thresholds(scores, labels)
    best = f1_scores(scores >= chosen, labels)[2]
    for threshold in torch.linspace(0.01, 0.99, 50):
        assert (f1_scores(scores >= threshold, labels)[2] <= best + 1e-9).all()


def test_classes_without_samples_and_scores_that_are_no_numbers() -> None:
    scores = torch.tensor([[0.9, 0.2], [math.nan, 0.6]])
    labels = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    precisions = average_precisions(scores, labels)
    assert precisions[0] == 0.5
    assert precisions[1].isnan()
    assert best_thresholds(scores, labels).tolist() == pytest.approx([0.45, 0.5])
    assert f1_scores(scores >= 0.5, labels)[1] == pytest.approx(2 / 3)
