"""Section: what masked modelling gives back.

Shapes: T level-0 tokens, P features of a raw token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...core.tokens import Tokens
from ...tasks import Masked
from ...train.seeding import forked, seed_host
from .page import Page
from .style import panels
from .subject import Subject
from .view import View

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 4
"""Samples that are drawn."""


def reconstruction_section(subject: Subject, page: Page) -> None:
    """Hides parts of some samples and draws what the model gives back."""
    task = subject.run.task
    if not isinstance(task, Masked):
        return
    page.heading("Reconstructions")
    rows = [reconstruct(task, view, seed) for seed, (_, view) in enumerate(subject.views(SHOWN))]
    if rows[0] is None:
        page.text("The raw tokens are not what the task reconstructs, so there is nothing to draw.")
        return
    caption = (
        f"Samples, what the model saw of them ({1 - task.ratio:.0%} of the units), what it gave back for the hidden "
        "part with the rest as it was, and the absolute error, the darker, the larger."
    )
    figure = draw_reconstructions([row for row in rows if row is not None])
    page.picture("reconstructions", figure, caption)
    if task.normalize and task.raw_targets(rows[0].view.tokens).is_floating_point():
        page.text(
            "The model was trained on features less their mean and over their deviation within each token; the true "
            "mean and deviation are put back here."
        )


class Rebuilt:
    """One sample with its hidden part given back.

    Args:
        view: the sample.
        hidden_T: true where a token was hidden.
        guess: (T, P) or (T,) raw tokens as the model has them.
    """

    def __init__(self, view: View, hidden_T: Tensor, guess: Tensor) -> None:
        self.view, self.hidden_T = view, hidden_T
        self.tokens = view.tokens.with_x(torch.where(_rows(hidden_T, guess), guess, view.tokens.x))

    @property
    def error_T(self) -> Tensor:
        """(T,) mean absolute error of each token; of ids whether it is wrong."""
        true, guess = self.view.tokens.x, self.tokens.x
        if not true.is_floating_point():
            return (true != guess).float()
        return (true - guess).abs().flatten(1).mean(1)


def _rows(mask_T: Tensor, like: Tensor) -> Tensor:
    return mask_T.view(-1, *[1] * (like.ndim - 1))


def reconstruct(task: Masked, view: View, seed: int) -> Rebuilt | None:
    """Hides a part, the same one for a seed. ``None`` where the task's targets are not the raw tokens."""
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
    guess = output.predictions.cpu().to(target.dtype)
    if task.normalize and target.is_floating_point():
        variance, mean = torch.var_mean(target, -1, correction=0, keepdim=True)
        guess = guess * (variance + 1e-6).sqrt() + mean
    return Rebuilt(view, hidden_T, guess)


def draw_reconstructions(rows: list[Rebuilt]) -> Figure:
    """A row a sample: as it is, what was seen, what was given back, and the error."""
    gridded = rows[0].view.gridded
    size = {"width": 2.0, "height": 2.05} if gridded else {"width": 3.2, "height": 1.3}
    figure, grid = panels(len(rows), 4, **size)
    for row, one in zip(grid, rows, strict=True):
        one.view.draw(row[0])
        one.view.draw(row[1])
        one.view.hide(row[1], one.hidden_T)
        _at(one.view, one.tokens).draw(row[2])
        one.view.draw(row[3])
        one.view.heat(row[3], one.error_T)
    for axes, title in zip(grid[0], ("sample", "seen", "given back", "error"), strict=True):
        axes.set_title(title)
    return figure


def _at(view: View, tokens: Tokens) -> View:
    return View(view.tokenizer, tokens, view.backdrop)
