"""Report section: how much of a level can be reconstructed linearly from the next one.

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
"""Number of level-0 tokens after which no more samples are taken."""


@dataclass
class _Pairs:
    """Tokens of a level with those of the next one, over several batches, on the host."""

    fine: list[Tensor] = field(default_factory=list)
    coarse: list[Tensor] = field(default_factory=list)
    fine_final: list[Tensor] = field(default_factory=list)
    coarse_final: list[Tensor] = field(default_factory=list)
    spans: list[Spans] = field(default_factory=list)
    positions_in_group: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class Recovery:
    """The fraction of a level's variance that the next level explains linearly.

    Args:
        fine: name of the level.
        coarse: name of the next one.
        pooled: explained variance right after pooling; ``None`` with too few groups.
        final: the same between the levels' outputs.
        groups: number of groups measured.
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
        """Whether there are too few groups for a regression of this width, which underestimates recovery."""
        return self.groups < 4 * self.width


def recovery_section(subject: Subject, page: Page) -> None:
    """Measures and draws recovery."""
    recoveries = measure_recovery(subject, subject.encoder)
    if not recoveries:
        return
    page.heading("Pooling recovery")
    caption = (
        "The fraction of a level's variance that a linear map reconstructs from the next level's tokens, on held-out "
        "groups. 1 means that nothing is lost, 0 that the coarse token is no better than the mean. Just pooled: tokens "
        "right before and after pooling. Final: the levels' outputs."
    )
    page.picture("recovery", draw_recovery(recoveries), caption)
    page.table(
        ("levels", "just pooled", "final", "groups", ""),
        [
            (
                f"{pair.fine} from {pair.coarse}",
                _number(pair.pooled),
                _number(pair.final),
                f"{pair.groups:,}",
                "few groups: too low" if pair.scarce else "",
            )
            for pair in recoveries
        ],
    )
    for pair in recoveries:
        few = " (few groups: too low)" if pair.scarce else ""
        page.say(f"pooling {pair.fine} to {pair.coarse} keeps {_number(pair.pooled)} of the variance, linearly{few}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def measure_recovery(subject: Subject, encoder: Encoder) -> list[Recovery]:
    """Recovery between each level and the next, over samples of the subject's split."""
    hierarchy = encoder.hierarchy
    names = [level.name for level in hierarchy.config.levels]
    pairs = [_Pairs() for _ in names[1:]]
    seen = 0
    with _recording(hierarchy, pairs):
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
    spans, positions_in_group_T = Spans.concat(pair.spans), torch.cat(pair.positions_in_group)
    coarse_GE = torch.cat(pair.coarse)
    pooled = final = None
    # A map is fitted on one half of the groups and measured on the other; one group has no variance.
    if len(spans) >= 4:
        pooled = recovery(torch.cat(pair.fine), coarse_GE, spans, positions_in_group_T)
        final = recovery(torch.cat(pair.fine_final), torch.cat(pair.coarse_final), spans, positions_in_group_T)
    return Recovery(fine, coarse, pooled, final, len(spans), coarse_GE.shape[1])


@contextmanager
def _recording(hierarchy: Hierarchy, pairs: list[_Pairs]) -> Iterator[None]:
    """Records the inputs and outputs of every transition that runs inside of the block."""
    handles = [
        transition.register_forward_hook(partial(_record, pair))
        for transition, pair in zip(hierarchy.transitions, pairs, strict=True)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _record(pair: _Pairs, module: nn.Module, args: tuple[Any, ...], output: Pooled) -> None:
    assert isinstance(module, Transition)
    # On the host, as all samples together may not fit on the device.
    pair.fine.append(args[0].float().cpu())
    pair.coarse.append(output.x_GE.float().cpu())
    pair.spans.append(output.groups.spans.to("cpu"))
    pair.positions_in_group.append(output.groups.position_in_group_T.cpu())


def draw_recovery(recoveries: list[Recovery]) -> Figure:
    """Two bars for each pair of levels."""
    figure, grid = panels(1, 1, width=5.5, height=1.0 + 0.55 * len(recoveries))
    axes = grid[0, 0]
    ys = np.arange(len(recoveries))[::-1]
    for offset, color, label in ((0.19, BLUE, "just pooled"), (-0.19, ORANGE, "final")):
        values = [pair.pooled if label == "just pooled" else pair.final for pair in recoveries]
        lengths = [0.0 if value is None else max(0.0, value) for value in values]
        bars = axes.barh(ys + offset, lengths, height=0.34, color=color, label=label)
        for bar, value, pair in zip(bars, values, recoveries, strict=True):
            bar.set_alpha(0.45 if pair.scarce else 1.0)
            axes.text(bar.get_width(), bar.get_y() + 0.17, f" {_number(value)}", va="center", fontsize=8)
    axes.set_yticks(ys, [f"{pair.fine}\nfrom {pair.coarse}" for pair in recoveries])
    axes.set_xlim(0, 1.08)
    axes.axvline(1, color=GREY, linestyle="--", linewidth=0.8)
    pale = " (pale: few groups)" if any(pair.scarce for pair in recoveries) else ""
    axes.set_xlabel(f"fraction of variance reconstructed{pale}")
    figure.legend(loc="outside upper center", ncols=2)
    return figure
