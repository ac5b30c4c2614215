"""Section: images with their true and predicted masks, and the IoU of each class.

Shapes: H rows, W columns, K classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ...data.capabilities import DenseLabels, Restoring
from ...tasks.labels import NO_LABEL
from ...tasks.semantic import SemanticSegmentation, intersection_over_union
from .page import Page
from .style import panels
from .subject import Subject

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAMPLES = 20_000
"""Maximum number of samples to predict."""
DRAWN = 6
LISTED = 40
"""Maximum number of classes in the table."""
_COLORS = "tab20"


def masks_section(subject: Subject, page: Page) -> None:
    """Predicts the split of a run of task ``semantic_segmentation``, and draws its first images."""
    task, tokenizer = subject.run.task, subject.tokenizer
    if not isinstance(task, SemanticSegmentation):
        return
    assert isinstance(tokenizer, DenseLabels)
    counts_3K = torch.zeros(3, len(task.classes), dtype=torch.int64)
    drawn: list[tuple[Any, Tensor, Tensor]] = []
    for batch in subject.batches(SAMPLES):
        output = task(batch)
        assert output.predictions is not None and batch.target is not None
        counts_3K += output.rows["counts"].sum(0).cpu()
        if len(drawn) < DRAWN and isinstance(tokenizer, Restoring):
            images = tokenizer.restore(batch.tokens)
            masks = (tokenizer.label_maps(batch.tokens, labels) for labels in (batch.target, output.predictions))
            drawn += list(zip(images, *masks, strict=True))[: DRAWN - len(drawn)]
    if not counts_3K.any():
        page.text(f"No pixel of the {subject.split} split has a class.")
        return
    page.heading("Masks")
    if drawn:
        caption = f"Images of the {subject.split} split, their masks, and the predicted ones."
        page.picture("masks", draw_masks(drawn, task.classes), caption)
    _table(task, counts_3K, page)


def draw_masks(drawn: list[tuple[Any, Tensor, Tensor]], classes: tuple[str, ...]) -> Figure:
    """Images with true and predicted masks, one below another.

    Args:
        drawn: (C, H, W) images in 0..1, and (H, W) classes of their pixels, true and predicted.
        classes: names of the classes.
    """
    import matplotlib
    from matplotlib.patches import Patch

    colors = matplotlib.colormaps[_COLORS](np.arange(len(classes)) % 20)
    figure, grid = panels(3, len(drawn), width=1.7, height=1.7)
    for column, (image, *masks) in enumerate(drawn):
        pixels = np.clip(image.float().cpu().permute(1, 2, 0).numpy(), 0, 1)
        grid[0, column].imshow(pixels[..., 0] if pixels.shape[2] == 1 else pixels, cmap="gray", vmin=0, vmax=1)
        for row, mask in enumerate(masks, 1):
            labels = mask.cpu().numpy()
            picture = np.where((labels == NO_LABEL)[..., None], 1.0, colors[labels])
            grid[row, column].imshow(picture, interpolation="nearest")
    for row, title in enumerate(("image", "mask", "predicted")):
        grid[row, 0].set_ylabel(title)
    for axes in grid.flat:
        axes.set_xticks([])
        axes.set_yticks([])
    shown = [at for at in range(len(classes)) if any((mask == at).any() for _, *masks in drawn for mask in masks)]
    patches = [Patch(color=colors[at], label=classes[at]) for at in shown]
    figure.legend(handles=patches, loc="outside lower center", ncols=min(6, len(patches)), fontsize=8)
    return figure


def _table(task: SemanticSegmentation, counts_3K: Tensor, page: Page) -> None:
    iou_K = intersection_over_union(counts_3K)
    correct_K, predicted_K, true_K = counts_3K.double()
    order = sorted(range(len(task.classes)), key=lambda at: float(iou_K[at]) if true_K[at] else 2.0)[:LISTED]
    rows = [
        (
            task.classes[at],
            f"{float(true_K[at] / true_K.sum()):.2%}",
            f"{float(correct_K[at] / predicted_K[at]):.3f}" if predicted_K[at] else "-",
            f"{float(correct_K[at] / true_K[at]):.3f}" if true_K[at] else "-",
            f"{float(iou_K[at]):.3f}" if true_K[at] else "-",
        )
        for at in order
    ]
    page.table(("class", "pixels", "precision", "recall", "IoU"), rows)
