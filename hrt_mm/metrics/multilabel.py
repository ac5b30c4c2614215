"""Metrics of multi-label classification, and thresholds of scores.

Shapes: N samples, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor


def average_precisions(scores_NK: Tensor, labels_NK: Tensor) -> Tensor:
    """(K,) float64 area under the precision-recall curve of each class, without interpolation; NaN without positives.

    As ``sklearn.metrics.average_precision_score``: samples of one score are ranked together.
    """
    results = []
    for scores_N, labels_N in zip(scores_NK.T, labels_NK.T, strict=True):
        _, precision_M, recall_M = _curve(scores_N, labels_N)
        gained_M = torch.diff(recall_M, prepend=recall_M.new_zeros(1))
        results.append((gained_M * precision_M).sum())
    return torch.stack(results)


def best_thresholds(scores_NK: Tensor, labels_NK: Tensor, default: float = 0.5) -> Tensor:
    """(K,) float32 threshold of each class at which its F1 is best, half-way between two neighbouring scores.

    Args:
        scores_NK: probabilities. A class is predicted where its score is at least the threshold.
        labels_NK: whether the sample has the class.
        default: for classes that no sample has.
    """
    results = []
    for scores_N, labels_N in zip(scores_NK.T, labels_NK.T, strict=True):
        values_M, precision_M, recall_M = _curve(scores_N, labels_N)
        if not labels_N.any() or not len(values_M):
            results.append(default)
            continue
        f1_M = 2 * precision_M * recall_M / (precision_M + recall_M).clamp(min=1e-12)
        best = int(f1_M.argmax())
        below = float(values_M[best + 1]) if best + 1 < len(values_M) else 0.0
        results.append((float(values_M[best]) + below) / 2)
    return torch.tensor(results, dtype=torch.float32)


def f1_scores(predicted_NK: Tensor, labels_NK: Tensor) -> tuple[float, float, Tensor]:
    """Micro-F1, macro-F1 over the classes that have samples, and (K,) the F1 of each class.

    Args:
        predicted_NK: whether the class is predicted.
        labels_NK: whether the sample has the class.
    """
    predicted_NK, labels_NK = predicted_NK.bool(), labels_NK.bool()
    correct_K = (predicted_NK & labels_NK).sum(0).double()
    both_K = (predicted_NK.sum(0) + labels_NK.sum(0)).double()
    f1_K = 2 * correct_K / both_K.clamp(min=1)
    micro = float(2 * correct_K.sum() / both_K.sum().clamp(min=1))
    return micro, float(f1_K[labels_NK.any(0)].mean()), f1_K


def _curve(scores_N: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(M,) the different scores, falling, with precision and recall of what scores at least as much."""
    positives = labels_N.sum()
    # What has no score is never retrieved.
    finite_N = scores_N.isfinite()
    scores_N, labels_N = scores_N[finite_N], labels_N[finite_N]
    order = scores_N.argsort(descending=True, stable=True)
    sorted_N = scores_N[order].double()
    correct_N = labels_N[order].double().cumsum(0)
    # Samples of one score cannot be told apart: only the last of each counts.
    last_N = torch.diff(sorted_N, append=sorted_N.new_full((1,), -torch.inf)) != 0
    ranks_M = last_N.nonzero().flatten()
    correct_M = correct_N[ranks_M]
    return sorted_N[ranks_M], correct_M / (ranks_M + 1), correct_M / positives
