"""Report section: reconstructions of masked modelling.

Shapes: T level-0 tokens, P features of a raw token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...tasks import Masked
from ...train.seeding import forked, seed_host
from .page import Page
from .style import panels
from .subject import Subject
from .view import View

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUM_SAMPLES = 4
"""Number of samples to draw."""


def reconstruction_section(subject: Subject, page: Page) -> None:
    """Masks parts of some samples and draws the reconstructions."""
    task = subject.run.task
    if not isinstance(task, Masked):
        return
    page.heading("Reconstructions")
    rows = [reconstruct(task, view, seed) for seed, (_, view) in enumerate(subject.views(NUM_SAMPLES))]
    if rows[0] is None:
        page.text("The raw tokens are not what the task reconstructs, so there is nothing to draw.")
        return
    caption = (
        f"Samples, what the model saw of them ({1 - task.ratio:.0%} of the units), its reconstruction of the masked "
        "part, and the absolute error (darker is larger)."
    )
    figure = draw_reconstructions([row for row in rows if row is not None])
    page.picture("reconstructions", figure, caption)
    if task.normalize and task.raw_targets(rows[0].view.tokens).is_floating_point():
        page.text(
            "The model predicts features normalized within each token. The true mean and standard deviation are used "
            "to undo the normalization here."
        )


class Reconstruction:
    """One sample with its masked part reconstructed.

    Args:
        view: the sample.
        hidden_T: true for masked tokens.
        prediction: (T, P) or (T,) raw tokens.
    """

    def __init__(self, view: View, hidden_T: Tensor, prediction: Tensor) -> None:
        self.view, self.hidden_T = view, hidden_T
        self.tokens = view.tokens.with_x(torch.where(_rows(hidden_T, prediction), prediction, view.tokens.x))

    @property
    def error_T(self) -> Tensor:
        """(T,) mean absolute error of each token; for ids, whether it is wrong."""
        true, predicted = self.view.tokens.x, self.tokens.x
        if not true.is_floating_point():
            return (true != predicted).float()
        return (true - predicted).abs().flatten(1).mean(1)


def _rows(mask_T: Tensor, like: Tensor) -> Tensor:
    return mask_T.view(-1, *[1] * (like.ndim - 1))


def reconstruct(task: Masked, view: View, seed: int) -> Reconstruction | None:
    """Masks and reconstructs a sample. ``None`` if the task's targets are not the raw tokens."""
    tokens = view.tokens
    target = task.raw_targets(tokens)
    if target.shape != tokens.x.shape or target.dtype != tokens.x.dtype:
        return None
    device = next(task.parameters()).device
    with forked(), torch.no_grad():
        seed_host(seed)
        hidden_T = task.hidden(tokens)
        output = task.reconstruct(tokens.to(device), hidden_T)
    assert output.predictions is not None
    prediction = output.predictions.cpu().to(target.dtype)
    if task.normalize and target.is_floating_point():
        # The model predicts shape, not level and contrast, which are taken from the true token.
        variance, mean = torch.var_mean(target, -1, correction=0, keepdim=True)
        prediction = prediction * (variance + 1e-6).sqrt() + mean
    return Reconstruction(view, hidden_T, prediction)


def draw_reconstructions(rows: list[Reconstruction]) -> Figure:
    """A row for each sample: the original, the visible part, the reconstruction and the error."""
    gridded = rows[0].view.gridded
    size = {"width": 2.0, "height": 2.05} if gridded else {"width": 3.2, "height": 1.3}
    figure, grid = panels(len(rows), 4, **size)
    for row, reconstruction in zip(grid, rows, strict=True):
        reconstruction.view.draw(row[0])
        reconstruction.view.draw(row[1])
        reconstruction.view.hide(row[1], reconstruction.hidden_T)
        replaced = View(reconstruction.view.tokenizer, reconstruction.tokens, reconstruction.view.backdrop)
        replaced.draw(row[2])
        reconstruction.view.draw(row[3])
        reconstruction.view.heat(row[3], reconstruction.error_T)
    for axes, title in zip(grid[0], ("sample", "visible", "reconstruction", "error"), strict=True):
        axes.set_title(title)
    return figure
