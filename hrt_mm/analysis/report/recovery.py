"""Section: how much of a level can be given back from the next one.

Shapes: T tokens of a level, G groups.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ...core.hierarchy import Hierarchy
from ...core.pooling import recovery
from ...core.spans import Spans
from ...core.transition import Pooled, Transition
from ...tasks.encoder import Encoder
from .page import Page
from .style import BLUE, GREY, ORANGE, panels
from .subject import Subject

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAMPLES = 2048
TOKENS = 200_000
"""Level-0 tokens from which no more samples are taken."""


@dataclass
class _Pairs:
    """Tokens of a level with those that they became, over several batches, on the host."""

    fine: list[Tensor] = field(default_factory=list)
    coarse: list[Tensor] = field(default_factory=list)
    fine_final: list[Tensor] = field(default_factory=list)
    coarse_final: list[Tensor] = field(default_factory=list)
    spans: list[Spans] = field(default_factory=list)
    taps: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class Recovery:
    """What is left of a level in the next one.

    Args:
        fine: name of the level.
        coarse: name of the next one.
        pooled: share of variance explained from the tokens that pooling made; ``None`` with too few groups.
        final: the same between the levels' final tokens.
        groups: that it was measured on.
        width: of the coarse tokens.
    """

    fine: str
    coarse: str
    pooled: float | None
    final: float | None
    groups: int
    width: int

    @property
    def scarce(self) -> bool:
        """Whether there are too few groups for a regression of this width, so that the numbers are too low."""
        return self.groups < 4 * self.width


def recovery_section(subject: Subject, page: Page) -> None:
    """Measures and draws what pooling keeps."""
    assert subject.encoder is not None
    found = measure_recovery(subject, subject.encoder)
    if not found:
        return
    page.heading("Pooling recovery")
    caption = (
        "How much of a level's variance a linear map gives back from the next level's tokens, on groups it was not "
        "fitted on. 1 means nothing is lost, 0 that the coarse token says no more than the mean. Just pooled: the "
        "tokens before and after pooling. Final: the levels' outputs."
    )
    page.picture("recovery", draw_recovery(found), caption)
    page.table(
        ("levels", "just pooled", "final", "groups", ""),
        [
            (
                f"{one.fine} from {one.coarse}",
                _number(one.pooled),
                _number(one.final),
                f"{one.groups:,}",
                "few groups: too low" if one.scarce else "",
            )
            for one in found
        ],
    )
    for one in found:
        few = " (few groups: too low)" if one.scarce else ""
        page.say(f"pooling {one.fine} to {one.coarse} keeps {_number(one.pooled)} of the variance, linearly{few}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def measure_recovery(subject: Subject, encoder: Encoder) -> list[Recovery]:
    """Recovery between each level and the next, over samples of the subject's split."""
    hierarchy = encoder.hierarchy
    names = [level.name for level in hierarchy.config.levels]
    pairs = [_Pairs() for _ in names[1:]]
    seen = 0
    with _caught(hierarchy, pairs):
        for tokens in subject.packs(SAMPLES):
            pyramid = encoder(tokens)
            for pair, fine, coarse in zip(pairs, names, names[1:], strict=False):
                pair.fine_final.append(pyramid[fine].x.float().cpu())
                pair.coarse_final.append(pyramid[coarse].x.float().cpu())
            seen += tokens.spans.total
            if seen >= TOKENS:
                break
    return [_measure(pair, fine, coarse) for pair, fine, coarse in zip(pairs, names, names[1:], strict=False)]


def _measure(pair: _Pairs, fine: str, coarse: str) -> Recovery:
    spans, taps = Spans.concat(pair.spans), torch.cat(pair.taps)
    coarse_GE = torch.cat(pair.coarse)
    pooled = final = None
    if len(spans) >= 4:
        pooled = recovery(torch.cat(pair.fine), coarse_GE, spans, taps)
        final = recovery(torch.cat(pair.fine_final), torch.cat(pair.coarse_final), spans, taps)
    return Recovery(fine, coarse, pooled, final, len(spans), coarse_GE.shape[1])


@contextmanager
def _caught(hierarchy: Hierarchy, pairs: list[_Pairs]) -> Iterator[None]:
    """Inside, every transition that runs leaves what it pooled and what came of it."""
    handles = [
        transition.register_forward_hook(partial(_catch, pair))
        for transition, pair in zip(hierarchy.transitions, pairs, strict=True)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _catch(pair: _Pairs, module: nn.Module, args: tuple[Any, ...], output: Pooled) -> None:
    assert isinstance(module, Transition)
    pair.fine.append(args[0].float().cpu())
    pair.coarse.append(output.x_GE.float().cpu())
    pair.spans.append(output.groups.spans.to("cpu"))
    pair.taps.append(output.groups.position_in_group_T.cpu())


def draw_recovery(found: list[Recovery]) -> Figure:
    """Two bars for each pair of levels."""
    figure, grid = panels(1, 1, width=5.5, height=1.0 + 0.55 * len(found))
    axes = grid[0, 0]
    places = np.arange(len(found))[::-1]
    for offset, color, label in ((0.19, BLUE, "just pooled"), (-0.19, ORANGE, "final")):
        values = [one.pooled if label == "just pooled" else one.final for one in found]
        shown = [0.0 if value is None else max(0.0, value) for value in values]
        bars = axes.barh(places + offset, shown, height=0.34, color=color, label=label)
        for bar, value, one in zip(bars, values, found, strict=True):
            bar.set_alpha(0.45 if one.scarce else 1.0)
            axes.text(bar.get_width(), bar.get_y() + 0.17, f" {_number(value)}", va="center", fontsize=8)
    axes.set_yticks(places, [f"{one.fine}\nfrom {one.coarse}" for one in found])
    axes.set_xlim(0, 1.08)
    axes.axvline(1, color=GREY, linestyle="--", linewidth=0.8)
    pale = " (pale: few groups)" if any(one.scarce for one in found) else ""
    axes.set_xlabel(f"share of variance given back{pale}")
    figure.legend(loc="outside upper center", ncols=2)
    return figure
