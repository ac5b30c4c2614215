"""Section: predicted numbers against true ones, and the classes of a multi-label task with their thresholds.

Shapes: N samples, K classes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...metrics.multilabel import average_precisions, f1_scores
from ...tasks.multilabel import Multilabel
from ...tasks.regression import Regression, scores_of
from .page import Page
from .style import panels
from .subject import Subject

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAMPLES = 20_000
"""Maximum number of samples to predict."""
LISTED = 30
"""Maximum number of classes in the table."""


def outputs_section(subject: Subject, page: Page) -> None:
    """Predicts the split of a regression or multi-label run, and shows errors by output."""
    task = subject.run.task
    if not isinstance(task, Regression | Multilabel):
        return
    kept: dict[str, list[Tensor]] = {}
    for batch in subject.batches(SAMPLES):
        for name, rows in task(batch).rows.items():
            kept.setdefault(name, []).append(rows.cpu())
    if not kept:
        page.text(f"The {subject.split} split has no labels.")
        return
    rows = {name: torch.cat(parts) for name, parts in kept.items()}
    if isinstance(task, Regression):
        _numbers(task, rows["predicted"], rows["target"], subject.split, page)
    else:
        _classes(task, rows["scores"], rows["labels"], subject.split, page)


def _numbers(task: Regression, predicted_NR: Tensor, target_NR: Tensor, split: str, page: Page) -> None:
    page.heading("Predicted numbers")
    mae_R, rmse_R, r2_R = scores_of(predicted_NR.double(), target_NR.double())
    page.picture(
        "numbers",
        _draw(task.outputs, predicted_NR, target_NR),
        f"Predicted against true numbers of the {split} split; on the line both are equal.",
    )
    spread_R = target_NR.double().std(0, correction=0)
    table = [
        (name, *(f"{float(values[at]):.4g}" for values in (mae_R, rmse_R, r2_R, spread_R)))
        for at, name in enumerate(task.outputs)
    ]
    page.table(("number", "MAE", "RMSE", "R2", "standard deviation"), table)


def _draw(names: tuple[str, ...], predicted_NR: Tensor, target_NR: Tensor) -> Figure:
    columns = min(3, len(names))
    figure, grid = panels(-(-len(names) // columns), columns, width=3.6, height=3.4)
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    for at, (axes, name) in enumerate(zip(grid.flat, names, strict=False)):
        true, predicted = target_NR[:, at].tolist(), predicted_NR[:, at].tolist()
        axes.scatter(true, predicted, s=8, alpha=0.4, linewidths=0)
        bounds = [min(true + predicted), max(true + predicted)]
        axes.plot(bounds, bounds, color="black", linewidth=0.8)
        axes.set_title(name)
        axes.set_xlabel("true")
        axes.set_ylabel("predicted")
    return figure


def _classes(task: Multilabel, scores_NK: Tensor, labels_NK: Tensor, split: str, page: Page) -> None:
    page.heading("Classes")
    threshold_K = task.threshold_K.cpu()
    predicted_NK, labels_NK = scores_NK >= threshold_K, labels_NK.bool()
    _, _, f1_K = f1_scores(predicted_NK, labels_NK)
    precision_K = average_precisions(scores_NK, labels_NK)
    correct_K = (predicted_NK & labels_NK).sum(0)
    order = precision_K.nan_to_num(2.0).argsort().tolist()[:LISTED]
    if len(task.classes) > LISTED:
        page.text(f"The {LISTED} classes of lowest average precision, of {len(task.classes)}:")
    rows = [
        (
            task.classes[at],
            f"{int(labels_NK[:, at].sum()):,}",
            f"{float(threshold_K[at]):.3f}",
            _ratio(correct_K[at], predicted_NK[:, at].sum()),
            _ratio(correct_K[at], labels_NK[:, at].sum()),
            f"{float(f1_K[at]):.3f}" if labels_NK[:, at].any() else "-",
            "-" if math.isnan(float(precision_K[at])) else f"{float(precision_K[at]):.3f}",
        )
        for at in order
    ]
    page.text(f"Samples of the {split} split; a class is predicted where its probability reaches the threshold.")
    page.table(("class", "samples", "threshold", "precision", "recall", "F1", "average precision"), rows)


def _ratio(part: Tensor, whole: Tensor) -> str:
    return f"{float(part / whole):.3f}" if whole else "-"
