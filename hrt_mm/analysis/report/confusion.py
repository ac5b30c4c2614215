"""Section: what a classifier takes for what, and where it is most wrongly sure.

Shapes: B samples, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from ...core.errors import printable
from ...core.tokens import Tokens
from ...data.capabilities import Restoring, Textual, seconds_per_token
from ...data.splits import some
from ...tasks import Tagging
from ...tasks.batch import Batch
from ...tasks.fused import Fused
from ...tasks.labels import NO_LABEL, LabelTask
from .page import Page
from .style import panels
from .subject import Subject
from .view import one_sample

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAMPLES = 20_000
"""Maximum number of samples to classify."""
NUMBERED = 20
"""Maximum number of classes for which the matrix shows counts."""
LISTED = 30
"""Maximum number of classes in the table."""
MISTAKES = 12
EXCERPT = 300
"""Maximum characters of a text in the table of mistakes."""


@dataclass(frozen=True, eq=False)
class Scores:
    """Classified samples.

    Args:
        classes: names of the labels.
        target_B: index of the true class.
        guess_B: index of the predicted class.
        confidence_B: probability of the prediction.
        names: of the samples.
        kept: raw tokens of the mistakes to draw, by index.
    """

    classes: tuple[str, ...]
    target_B: Tensor
    guess_B: Tensor
    confidence_B: Tensor
    names: tuple[str, ...]
    kept: Mapping[int, Tokens]

    @property
    def matrix(self) -> np.ndarray:
        """(K, K) confusion matrix: true classes are rows, predicted ones columns."""
        count = len(self.classes)
        flat = torch.bincount(self.target_B * count + self.guess_B, minlength=count * count)
        return flat.view(count, count).numpy()

    def per_class(self) -> np.ndarray:
        """(K, 3) precision, recall and F1; 0 where nothing was predicted, NaN where the class has no sample."""
        matrix = self.matrix.astype(float)
        hits, true, predicted = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
        precision = np.divide(hits, predicted, out=np.zeros_like(hits), where=predicted > 0)
        recall = np.divide(hits, true, out=np.full_like(hits, np.nan), where=true > 0)
        f1 = np.divide(2 * hits, true + predicted, out=np.zeros_like(hits), where=true + predicted > 0)
        return np.stack([precision, recall, np.where(true > 0, f1, np.nan)], 1)

    @property
    def macro_f1(self) -> float:
        """Mean F1 over the classes that have samples."""
        return float(np.nanmean(self.per_class()[:, 2]))

    def missing(self) -> list[str]:
        """The classes that have no sample."""
        return [name for name, count in zip(self.classes, self.matrix.sum(1), strict=True) if not count]

    def mistakes(self) -> list[int]:
        """Indices of drawable mistakes, the most confident first."""
        return [index for index in _surest(self.confidence_B, self.guess_B != self.target_B) if index in self.kept]


def confusion_section(subject: Subject, page: Page) -> None:
    """Classifies the split and draws the matrix and the mistakes."""
    if not isinstance(subject.run.task, LabelTask | Fused):
        return
    scores = classify(subject, subject.run.task)
    if not len(scores.target_B):
        page.text(f"The {subject.split} split has no labels.")
        return
    right, count = int((scores.guess_B == scores.target_B).sum()), len(scores.target_B)
    missing = scores.missing()
    over = f" over {len(scores.classes) - len(missing)} of {len(scores.classes)} classes" if missing else ""
    page.say(
        f"{subject.split} accuracy {right / count:.2%} ({right:,} of {count:,}), macro-F1 {scores.macro_f1:.4f}{over}"
    )
    if missing:
        page.text(f"None of the {count:,} samples of {subject.split} is of {some(missing)}.")
    page.heading("Confusion")
    caption = f"Samples of the {subject.split} split by true and predicted class; colours are shares of a row."
    page.picture("confusion", draw_matrix(scores), caption)
    _class_table(scores, page)
    show_mistakes(subject, scores, page)


def classify(subject: Subject, task: LabelTask | Fused) -> Scores:
    """Predictions for the subject's split with their probabilities, and the tokens of the most confident mistakes.

    Segments of samples, as in tagging, are not drawn. Of a pair the first side is, and of several modalities the first.
    """
    probs: list[Tensor] = []
    targets: list[Tensor] = []
    names: list[str] = []
    kept_tokens: dict[int, Tokens] = {}

    def keep(module: nn.Module, args: object, logits_BK: Tensor) -> None:
        probs.append(logits_BK.detach().float().cpu().softmax(-1))

    # The task returns classes alone; their probabilities pass through its head.
    classifier = task.classifier if isinstance(task, Fused) else task.head
    handle = classifier.register_forward_hook(keep)
    try:
        for batch in subject.batches(SAMPLES):
            task(batch)
            assert batch.target is not None
            labelled = batch.target.cpu() != NO_LABEL
            probs[-1] = probs[-1][labelled]
            targets.append(batch.target.cpu()[labelled])
            # Its rows are units of text, which no sample shows on its own.
            if isinstance(task, Tagging):
                continue
            first = sum(map(len, targets)) - len(batch)
            confidence_B, guess_B = probs[-1].max(-1)
            rows = _rows(subject, batch)
            for index in _surest(confidence_B, guess_B != targets[-1]):
                if index in rows:
                    tokens, row = rows[index]
                    kept_tokens[first + index] = one_sample(tokens, row)
            names += batch.names
    finally:
        handle.remove()
    if not targets:
        probs, targets = [torch.zeros(0, len(task.classes))], [torch.zeros(0, dtype=torch.int64)]
    confidence_B, guess_B = torch.cat(probs).max(-1)
    return Scores(task.classes, torch.cat(targets), guess_B, confidence_B, tuple(names), kept_tokens)


def _rows(subject: Subject, batch: Batch) -> dict[int, tuple[Tokens, int]]:
    """By sample, the tokens that it is drawn from and its row in them; a sample without that modality is left out."""
    tower = batch.towers.get(subject.tower)
    rows: dict[int, tuple[Tokens, int]] = {}
    if tower is not None:
        for row, sample in enumerate(tower.samples.tolist()):
            rows.setdefault(sample, (tower.tokens, row))
    return rows


def _surest(confidence_B: Tensor, wrong_B: Tensor) -> list[int]:
    """Indices of the mistakes of highest confidence, the surest first."""
    wrong = wrong_B.nonzero().flatten()
    order = confidence_B[wrong].argsort(descending=True, stable=True)
    indices: list[int] = wrong[order][:MISTAKES].tolist()
    return indices


def draw_matrix(scores: Scores) -> Figure:
    """The confusion matrix."""
    matrix = scores.matrix
    count = len(scores.classes)
    # Shares of a row: counts of frequent classes would hide all others.
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    side = min(9.0, max(3.6, 0.42 * count + 1.2))
    figure, grid = panels(1, 1, width=side + 0.6, height=side)
    axes = grid[0, 0]
    picture = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(picture, ax=axes, shrink=0.75, label="share of the true class")
    if count <= NUMBERED:
        for row, column in np.argwhere(matrix):
            color = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, str(matrix[row, column]), ha="center", va="center", color=color, fontsize=8)
    if count <= 2 * NUMBERED:
        short = [*map(_short, scores.classes)]
        upright = max(map(len, short)) > 2
        axes.set_xticks(range(count), short, rotation=90 if upright else 0)
        axes.set_yticks(range(count), short)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0)
    return figure


def _short(name: str) -> str:
    return name if len(name) <= 18 else f"{name[:16]}.."


def _class_table(scores: Scores, page: Page) -> None:
    table, counts = scores.per_class(), scores.matrix.sum(1)
    indices = list(range(len(scores.classes)))
    if len(indices) > LISTED:
        indices = sorted(indices, key=lambda index: (np.isnan(table[index, 2]), table[index, 2]))[:LISTED]
        page.text(f"The {LISTED} classes of lowest F1, of {len(scores.classes)}:")
    rows = [
        (scores.classes[index], f"{counts[index]:,}", *("-" if np.isnan(x) else f"{x:.3f}" for x in table[index]))
        for index in indices
    ]
    means = [f"{x:.3f}" for x in np.nanmean(table, 0)]
    page.table(("class", "samples", "precision", "recall", "F1"), [*rows, ("mean", f"{counts.sum():,}", *means)])


def show_mistakes(subject: Subject, scores: Scores, page: Page) -> None:
    """Draws and lists the surest mistakes. Texts are not drawn but read in the list."""
    chosen = scores.mistakes()
    wrong = int((scores.guess_B != scores.target_B).sum())
    if not chosen:
        page.text(f"{wrong:,} were classified wrongly." if wrong else "Nothing was classified wrongly.")
        return
    page.text(f"{wrong:,} samples were classified wrongly. The surest of these mistakes:")
    # Tokenizers of other modalities may restore something else than text.
    text = issubclass(subject.modality, Textual) and isinstance(subject.tokenizer, Restoring)
    if not text:
        caption = "The surest mistakes, with what they are and what they were taken for."
        page.picture("mistakes", draw_mistakes(subject, scores, chosen), caption)
    rows = []
    for index in chosen:
        true, guess = (scores.classes[int(classes_B[index])] for classes_B in (scores.target_B, scores.guess_B))
        name = scores.names[index] if index < len(scores.names) else ""
        name = name or f"number {index}"
        if text:
            name += f": {_excerpt(subject, scores.kept[index])}"
        rows.append((name, true, guess, f"{scores.confidence_B[index]:.3f}"))
    page.table(("sample", "true", "predicted", "confidence"), rows)


def _excerpt(subject: Subject, tokens: Tokens) -> str:
    """The beginning of a text, in a line."""
    tokenizer = subject.tokenizer
    assert isinstance(tokenizer, Restoring)
    text = " ".join(tokenizer.restore(tokens)[0].decode("utf-8", "replace").split())
    return printable(text if len(text) <= EXCERPT else f"{text[:EXCERPT]}...")


def draw_mistakes(subject: Subject, scores: Scores, chosen: list[int]) -> Figure:
    """The samples of some mistakes."""
    views = [subject.view(scores.kept[index]) for index in chosen]
    seconds = seconds_per_token(subject.tokenizer)
    most, width, height = (6, 1.7, 2.05) if views[0].gridded else (2, 3.6, 1.6)
    columns = min(most, len(chosen))
    figure, grid = panels(-(-len(chosen) // columns), columns, width=width, height=height)
    for axes in grid.flat[len(chosen) :]:
        axes.set_visible(False)
    for axes, index, view in zip(grid.flat, chosen, views, strict=False):
        view.draw(axes)
        true, guess = (scores.classes[int(classes_B[index])] for classes_B in (scores.target_B, scores.guess_B))
        axes.set_title(f"{_short(true)}\nas {_short(guess)}, {scores.confidence_B[index]:.0%}", fontsize=9)
        if seconds is not None and not view.gridded:
            axes.xaxis.set_major_formatter(lambda token, _: f"{token * seconds:.3g} s")
    return figure
