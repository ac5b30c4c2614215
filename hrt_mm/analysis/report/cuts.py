"""Report section: learned groups compared with the boundaries that the tokenizer knows.

Shapes: T level-0 tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from ...core.errors import BadSample
from ...core.levels import LearnedGroups
from ...core.pyramid import Pyramid
from ...core.tokens import Tokens
from ...data.capabilities import Generative
from ...data.tokenizer import Tokenizer
from ...metrics.boundaries import BoundaryScores, boundary_scores, random_boundaries, uniform_boundaries
from ...tasks.encoder import Encoder
from ...train.precision import autocast
from .page import Page
from .subject import Subject
from .view import cells_of_levels

log = logging.getLogger(__name__)

TOLERANCES = (0, 1)
"""Tolerances when comparing cuts with boundaries, in level-0 tokens."""
DRAWS = 20
"""Number of draws of random cuts."""
METHODS = {"cuts": "the model's", "even": "evenly spaced", "random": "at random"}
"""The methods that are compared, with their labels: the model, and controls with as many cuts."""
SAMPLES, TOKENS = 64, 32_768
"""Number of samples, and of level-0 tokens, after which no more are taken."""
NUM_TEXTS, TEXT_TOKENS = 2, 600
"""Number of texts to print with their cuts, and maximum tokens of each."""
MARKS = ("·", "¦", "‖", "⁞", "¤")
"""Characters to mark cuts with; the first that does not occur in the text is used."""

ScoreTable = dict[tuple[str, int], BoundaryScores]
"""By method and tolerance."""


@dataclass
class LevelCuts:
    """Comparison of the groups of one level with boundaries.

    Args:
        name: of the level.
        target: tokens per group that the ratio loss aims for.
        tokens: number of tokens of this level.
        groups: number of groups.
        scores: by boundary.
        texts: with a mark at each cut.
    """

    name: str
    target: float
    tokens: int = 0
    groups: int = 0
    scores: dict[str, ScoreTable] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)

    @property
    def best(self) -> str | None:
        """The boundary with the highest F1, of those that occur."""
        exact = {name: table["cuts", 0] for name, table in self.scores.items()}
        return max((name for name in exact if exact[name].reference), key=lambda name: exact[name].f1, default=None)

    def add(self, pyramid: Pyramid, tokens: Tokens, names: Sequence[str], generator: np.random.Generator) -> np.ndarray:
        """Scores one sample on the boundaries that it has. Returns its cuts, as positions in level-0 tokens."""
        cells = cells_of_levels(pyramid)
        coarse = pyramid.names[pyramid.names.index(self.name) + 1]
        candidates, cuts = (cells[level].host[1:-1].numpy() for level in (self.name, coarse))
        self.tokens += len(candidates) + 1
        self.groups += len(cuts) + 1
        true = {name: tokens.boundaries[name].numpy().nonzero()[0] for name in names}
        for name, scores in score_cuts(cuts, candidates, true, generator).items():
            table = self.scores.setdefault(name, {})
            for key, counts in scores.items():
                table[key] = table.get(key, BoundaryScores()) + counts
        return cuts


def score_cuts(
    cuts: np.ndarray, candidates: np.ndarray, true: dict[str, np.ndarray], generator: np.random.Generator
) -> dict[str, ScoreTable]:
    """Scores one sample's cuts, and as many evenly spaced and random ones.

    Random cuts are drawn ``DRAWS`` times, and their counts added up. The start of the sample is excluded.

    Args:
        cuts: positions in level-0 tokens.
        candidates: positions where a cut is possible.
        true: starts of groups, by boundary.
        generator: draws the random cuts.
    """
    count, length = len(cuts), len(candidates) + 1
    cuts_by_method = {
        "cuts": [cuts],
        "even": [candidates[uniform_boundaries(count, length) - 1]],
        "random": [candidates[random_boundaries(count, length, generator) - 1] for _ in range(DRAWS)],
    }
    tables: dict[str, ScoreTable] = {}
    for name, starts in true.items():
        inside = starts[starts > 0]
        tables[name] = {
            (method, tolerance): sum(
                (boundary_scores(drawn_cuts, inside, tolerance) for drawn_cuts in draws), BoundaryScores()
            )
            for method, draws in cuts_by_method.items()
            for tolerance in TOLERANCES
        }
    return tables


@dataclass
class Cuts:
    """Comparison of learned groups with boundaries.

    Args:
        levels: with learned groups.
        samples: number of samples measured.
        carried: number of samples with each boundary.
    """

    levels: list[LevelCuts]
    samples: int = 0
    carried: dict[str, int] = field(default_factory=dict)


def cuts_section(subject: Subject, page: Page) -> None:
    """Compares learned groups with boundaries, and prints some texts with cuts."""
    encoder = subject.encoder
    if not any(isinstance(level.group, LearnedGroups) for level in encoder.hierarchy.config.levels):
        return
    comparison = measure_cuts(subject, encoder)
    page.heading("Learned groups")
    page.text(_explanation(comparison))
    for level in comparison.levels:
        mean = level.tokens / max(1, level.groups)
        page.text(f"### {level.name}\n\n{mean:.3g} tokens per group, target {level.target:g}.")
        if level.scores:
            page.table(("boundary, cuts", *_HEAD), scores_rows(level.scores))
        for text in level.texts:
            page.text(_fenced(text))
        page.say(_summary(level, mean))


_HEAD = ("precision", "recall", "F1", "precision, within one", "recall, within one", "F1, within one")


def _explanation(comparison: Cuts) -> str:
    parts = [
        f"The model's cuts compared with the tokenizer's boundaries, on {comparison.samples:,} samples. A cut is "
        "correct if it is at a boundary or, within one, at most one level-0 token away. The controls have as many cuts "
        f"per sample: evenly spaced, and at random (mean of {DRAWS} draws). The first token of a sample is excluded, "
        "as every grouping starts there."
    ]
    if not comparison.carried:
        parts.append("The tokenizer knows no boundaries, so there is nothing to compare with.")
    for name, count in comparison.carried.items():
        if count < comparison.samples:
            rest = f"it is scored on {count:,} samples" if count else "it is left out"
            parts.append(f"Not all samples have `{name}`; {rest}.")
    return " ".join(parts)


def _summary(level: LevelCuts, mean: float) -> str:
    text = f"learned groups of {level.name}: {mean:.3g} tokens each (target {level.target:g})"
    if level.best is None:
        return text
    f1 = {method: level.scores[level.best][method, 0].f1 for method in METHODS}
    controls = f"evenly spaced {f1['even']:.2f}, random {f1['random']:.2f}"
    return f"{text}; nearest to {level.best}, F1 {f1['cuts']:.2f} ({controls})"


def scores_rows(scores: dict[str, ScoreTable]) -> list[tuple[str, ...]]:
    """A row for each boundary and method: precision, recall and F1 at each tolerance."""
    rows = []
    for boundary, table in scores.items():
        for method, text in METHODS.items():
            figures = (table[method, tolerance] for tolerance in TOLERANCES)
            cells = [
                f"{value:.3f}"
                for boundary_score in figures
                for value in (boundary_score.precision, boundary_score.recall, boundary_score.f1)
            ]
            rows.append((f"{boundary}, {text}", *cells))
    return rows


def measure_cuts(subject: Subject, encoder: Encoder) -> Cuts:
    """Compares the cuts of samples of the subject's split with boundaries."""
    tokenizer = subject.tokenizer
    hierarchy = encoder.hierarchy.config
    levels = [
        LevelCuts(level.name, level.group.target)
        for level in hierarchy.levels
        if isinstance(level.group, LearnedGroups)
    ]
    comparison = Cuts(levels, carried=dict.fromkeys(tokenizer.boundaries, 0))
    generator, tokens_seen = np.random.default_rng(0), 0
    cast = autocast(subject.run.config.train.precision, subject.device)
    for tokens, names in _samples(subject):
        with torch.no_grad(), cast():
            pyramid = encoder(tokens.to(subject.device))
        for level in levels:
            cuts = level.add(pyramid, tokens, names, generator)
            if (
                comparison.samples < NUM_TEXTS
                and (text := marked_text(tokenizer, tokens, cuts, TEXT_TOKENS)) is not None
            ):
                level.texts.append(text)
        for name in names:
            comparison.carried[name] += 1
        comparison.samples += 1
        tokens_seen += tokens.spans.total
        if comparison.samples == SAMPLES or tokens_seen >= TOKENS:
            break
    return comparison


def _samples(subject: Subject) -> Iterator[tuple[Tokens, list[str]]]:
    """Samples with the names of their boundaries, one by one."""
    for index in range(len(subject.dataset)):
        try:
            sample = subject.sample(index)
            if sample is None:
                continue
            tokens, names = with_boundaries(subject.tokenizer, [sample.value])
        except BadSample as error:
            log.warning("left out of the comparison of cuts: %s", error)
            continue
        if tokens.spans.total:
            yield tokens, names


def with_boundaries(tokenizer: Tokenizer, values: Sequence[object]) -> tuple[Tokens, list[str]]:
    """Raw tokens with all boundaries that the samples have, and the names of these.

    Annotated boundaries may be missing in some samples, and are then left out.

    Args:
        tokenizer: is not modified.
        values: raw samples.

    Raises:
        BadSample: a value cannot be tokenized even without boundaries.
    """

    def tokens(names: Sequence[str]) -> Tokens:
        return tokenizer.with_boundaries(tokenizer.requested_boundaries.union(names))(values)

    # All at once in the usual case; one by one if that fails, to find those that the sample has.
    names = list(tokenizer.boundaries)
    try:
        return tokens(names), names
    except BadSample:
        names = [name for name in names if _succeeds(lambda: tokens([name]))]  # noqa: B023
        return tokens(names), names


def _succeeds(call: Callable[[], object]) -> bool:
    try:
        call()
    except BadSample:
        return False
    return True


def marked_text(tokenizer: Tokenizer, tokens: Tokens, cuts: np.ndarray, limit: int | None = None) -> str | None:
    """The text of one sample with a mark at each cut; ``None`` if the modality is not text.

    Unprintable characters are replaced by U+FFFD. A cut within a character is marked before it.

    Args:
        tokenizer: of the sample.
        tokens: raw tokens of one sample.
        cuts: positions in them.
        limit: maximum number of tokens; all if absent.
    """
    if not isinstance(tokenizer, Generative):
        return None
    write = tokenizer.writer()
    parts = ["".join(map(_visible, write(token))) for token in tokens.x[:limit].tolist()]
    text = "".join(parts)
    mark = next((mark for mark in MARKS if mark not in text), MARKS[0])
    for cut in cuts[cuts < len(parts)]:
        parts[cut] = mark + parts[cut]
    return "".join(parts)


def _visible(char: str) -> str:
    return char if char.isprintable() or char in "\n\t" else "�"


def _fenced(text: str) -> str:
    """A fenced block of Markdown."""
    # The text may contain fences of its own.
    fence = "~~~"
    while fence in text:
        fence += "~"
    return f"{fence}text\n{text}\n{fence}"
