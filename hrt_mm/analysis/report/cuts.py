"""Section: where learned groups begin, beside the boundaries that the tokenizer finds.

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
"""Level-0 tokens that a cut may lie beside a boundary."""
DRAWS = 20
"""Times that cuts are drawn at random."""
CONTENDERS = {"cuts": "the model's", "even": "evenly spaced", "random": "at random"}
"""What is scored, and how it is called: the model's cuts, and as many that know nothing."""
SAMPLES, TOKENS = 64, 32_768
"""Samples, and level-0 tokens, from which no more are taken."""
SHOWN, SIZE = 2, 600
"""Texts that are printed with their cuts, and tokens of each."""
MARKS = ("·", "¦", "‖", "⁞", "¤")
"""Marks of cuts; the first that a text does not have."""

Table = dict[tuple[str, int], BoundaryScores]
"""By contender and tolerance."""


@dataclass
class LevelCuts:
    """How the groups of one level compare with boundaries.

    Args:
        name: of the level.
        target: tokens of this level a group that its loss pulls towards.
        tokens: of this level.
        groups: that they were cut into.
        scores: by boundary.
        shown: texts with a mark at each cut.
    """

    name: str
    target: float
    tokens: int = 0
    groups: int = 0
    scores: dict[str, Table] = field(default_factory=dict)
    shown: list[str] = field(default_factory=list)

    @property
    def best(self) -> str | None:
        """The boundary that the cuts are nearest to, of those that are there at all."""
        exact = {name: table["cuts", 0] for name, table in self.scores.items()}
        return max((name for name in exact if exact[name].reference), key=lambda name: exact[name].f1, default=None)

    def add(self, pyramid: Pyramid, tokens: Tokens, names: Sequence[str], generator: np.random.Generator) -> np.ndarray:
        """Counts one sample with the boundaries that it has; returns where it was cut, in level-0 tokens."""
        cells = cells_of_levels(pyramid)
        above = pyramid.names[pyramid.names.index(self.name) + 1]
        room, cuts = (cells[level].host[1:-1].numpy() for level in (self.name, above))
        self.tokens += len(room) + 1
        self.groups += len(cuts) + 1
        true = {name: tokens.boundaries[name].numpy().nonzero()[0] for name in names}
        for name, scores in score_cuts(cuts, room, true, generator).items():
            table = self.scores.setdefault(name, {})
            for key, counts in scores.items():
                table[key] = table.get(key, BoundaryScores()) + counts
        return cuts


def score_cuts(
    cuts: np.ndarray, room: np.ndarray, true: dict[str, np.ndarray], generator: np.random.Generator
) -> dict[str, Table]:
    """Scores one sample's cuts, and beside them as many evenly spaced and random ones.

    The random ones are drawn ``DRAWS`` times and their counts added up. Where the sample starts is left out.

    Args:
        cuts: places in level-0 tokens.
        room: places where a cut could have been.
        true: by boundary, where its groups start.
        generator: draws the random cuts.
    """
    count, length = len(cuts), len(room) + 1
    known = {
        "cuts": [cuts],
        "even": [room[uniform_boundaries(count, length) - 1]],
        "random": [room[random_boundaries(count, length, generator) - 1] for _ in range(DRAWS)],
    }
    found: dict[str, Table] = {}
    for name, places in true.items():
        inside = places[places > 0]
        found[name] = {
            (who, tolerance): sum((boundary_scores(own, inside, tolerance) for own in draws), BoundaryScores())
            for who, draws in known.items()
            for tolerance in TOLERANCES
        }
    return found


@dataclass
class Cuts:
    """What was measured of a run.

    Args:
        levels: those with learned groups.
        samples: how many were looked at.
        carried: by boundary, how many of these have it.
    """

    levels: list[LevelCuts]
    samples: int = 0
    carried: dict[str, int] = field(default_factory=dict)


def cuts_section(subject: Subject, page: Page) -> None:
    """Compares learned groups with known boundaries, and prints where they cut."""
    encoder = subject.encoder
    assert encoder is not None
    if not any(isinstance(level.group, LearnedGroups) for level in encoder.hierarchy.config.levels):
        return
    found = measure_cuts(subject, encoder)
    page.heading("Learned groups")
    page.text(_explanation(found))
    for level in found.levels:
        mean = level.tokens / max(1, level.groups)
        page.text(f"### {level.name}\n\n{mean:.3g} tokens a group, {level.target:g} asked for.")
        if level.scores:
            page.table(("boundary, cuts", *_HEAD), scores_rows(level.scores))
        for text in level.shown:
            page.text(_fenced(text))
        page.say(_summary(level, mean))


_HEAD = ("precision", "recall", "F1", "precision, within one", "recall, within one", "F1, within one")


def _explanation(found: Cuts) -> str:
    parts = [
        f"Where the model cut, beside the boundaries that the tokenizer finds, on {found.samples:,} samples. A cut is "
        "right where a group starts too, or, within one, at most one level-0 token beside it. The controls have as "
        f"many cuts in each sample: evenly spaced, and at random, the mean of {DRAWS} draws. The first token of a "
        "sample does not count, as every grouping starts there."
    ]
    if not found.carried:
        parts.append("The tokenizer finds no boundaries, so there is nothing to compare with.")
    for name, count in found.carried.items():
        if count < found.samples:
            rest = f"it is scored on {count:,} samples" if count else "it is left out"
            parts.append(f"The data does not carry `{name}` everywhere; {rest}.")
    return " ".join(parts)


def _summary(level: LevelCuts, mean: float) -> str:
    text = f"learned groups of {level.name}: {mean:.3g} tokens each (target {level.target:g})"
    if level.best is None:
        return text
    f1 = {who: level.scores[level.best][who, 0].f1 for who in CONTENDERS}
    controls = f"evenly spaced {f1['even']:.2f}, random {f1['random']:.2f}"
    return f"{text}; nearest to {level.best}, F1 {f1['cuts']:.2f} ({controls})"


def scores_rows(scores: dict[str, Table]) -> list[tuple[str, ...]]:
    """A row for each boundary and contender: precision, recall and F1, for each tolerance."""
    rows = []
    for boundary, table in scores.items():
        for who, text in CONTENDERS.items():
            figures = (table[who, tolerance] for tolerance in TOLERANCES)
            cells = [f"{share:.3f}" for one in figures for share in (one.precision, one.recall, one.f1)]
            rows.append((f"{boundary}, {text}", *cells))
    return rows


def measure_cuts(subject: Subject, encoder: Encoder) -> Cuts:
    """Cuts samples of the subject's split and compares."""
    tokenizer = subject.tokenizer
    hierarchy = encoder.hierarchy.config
    levels = [
        LevelCuts(level.name, level.group.target)
        for level in hierarchy.levels
        if isinstance(level.group, LearnedGroups)
    ]
    found = Cuts(levels, carried=dict.fromkeys(tokenizer.boundaries, 0))
    generator, tokens_seen = np.random.default_rng(0), 0
    cast = autocast(subject.run.config.train.precision, subject.device)
    for tokens, names in _samples(subject):
        with torch.no_grad(), cast():
            pyramid = encoder(tokens.to(subject.device))
        for level in levels:
            cuts = level.add(pyramid, tokens, names, generator)
            if found.samples < SHOWN and (text := marked_text(tokenizer, tokens, cuts, SIZE)) is not None:
                level.shown.append(text)
        for name in names:
            found.carried[name] += 1
        found.samples += 1
        tokens_seen += tokens.spans.total
        if found.samples == SAMPLES or tokens_seen >= TOKENS:
            break
    return found


def _samples(subject: Subject) -> Iterator[tuple[Tokens, list[str]]]:
    """Samples one by one, each with the boundaries that it has."""
    for index in range(len(subject.dataset)):
        try:
            sample = subject.sample(index)
            if sample is None:
                continue
            tokens, names = with_boundaries(subject.tokenizer, subject.values(sample))
        except BadSample as error:
            log.warning("left out of the comparison of cuts: %s", error)
            continue
        if tokens.spans.total:
            yield tokens, names


def with_boundaries(tokenizer: Tokenizer, values: Sequence[object]) -> tuple[Tokens, list[str]]:
    """Raw tokens with all boundaries that they have, and the names of these.

    Data that carries boundaries need not have them everywhere, so those that a value lacks are left out.

    Args:
        tokenizer: stays as it is.
        values: raw samples.

    Raises:
        BadSample: a value cannot be tokenized, with or without them.
    """

    def tokens(names: Sequence[str]) -> Tokens:
        return tokenizer.with_boundaries(tokenizer.requested_boundaries.union(names))(values)

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


def marked_text(tokenizer: Tokenizer, tokens: Tokens, cuts: np.ndarray, most: int | None = None) -> str | None:
    """The text of one sample with a mark at each cut; nothing where the modality writes no text.

    Characters that cannot be seen are U+FFFD. A cut within a character stands before it.

    Args:
        tokenizer: writes it.
        tokens: raw tokens of one sample.
        cuts: places in them.
        most: tokens that are written; all when absent.
    """
    if not isinstance(tokenizer, Generative):
        return None
    write = tokenizer.writer()
    parts = ["".join(map(_visible, write(token))) for token in tokens.x[:most].tolist()]
    whole = "".join(parts)
    mark = next((mark for mark in MARKS if mark not in whole), MARKS[0])
    for cut in cuts[cuts < len(parts)]:
        parts[cut] = mark + parts[cut]
    return "".join(parts)


def _visible(char: str) -> str:
    return char if char.isprintable() or char in "\n\t" else "�"


def _fenced(text: str) -> str:
    """A block of Markdown that shows a text as it is."""
    fence = "~~~"
    while fence in text:
        fence += "~"
    return f"{fence}text\n{text}\n{fence}"
