"""The CTC loss of packed steps, and error rates that add up over batches.

Shapes: N steps, B samples, S symbols of the longest target, K symbols and the blank, which is the last.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.segments import segment_sum
from ...core.spans import Spans
from ...metrics.edits import edits

NONE, UNKNOWN = -1, -2
"""Targets behind the last symbol of a sample, and in place of a symbol that the training set has not."""
_WRONG = -3
Stats = dict[str, tuple[Tensor, Tensor]]
"""By metric, a sum and the count it is over."""


def ctc_nats(
    log_probs_NK: Tensor, spans: Spans, target_BS: Tensor, all_N: Tensor | None = None
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """The negative logarithm of the sum over all ways to lay the symbols along the steps.

    What cannot be laid along them is taken out beforehand, so that a loss which is not finite shows.

    Args:
        log_probs_NK: of the steps; the probabilities of each add up to 1.
        spans: the samples.
        target_BS: symbols, -1 behind the last, -2 for unknown ones, whose samples have no part in the loss.
        all_N: what all ways get back for each step; nothing when ``None``.

    Returns:
        Nats of all samples; the symbols they are over, 1 for a sample without any; and how many samples' symbols do not
        fit, of how many.
    """
    length_B = (target_BS != NONE).sum(1)
    twice_B = ((target_BS[:, 1:] == target_BS[:, :-1]) & (target_BS[:, 1:] >= 0)).sum(1)
    fits_B = length_B + twice_B <= spans.counts
    used_B = fits_B & (target_BS != UNKNOWN).all(1)
    nats_B = F.ctc_loss(
        padded(log_probs_NK, spans).transpose(0, 1),
        target_BS.clamp(min=0),
        spans.counts,
        torch.where(used_B, length_B, 0),
        blank=log_probs_NK.shape[1] - 1,
        reduction="none",
    )
    if all_N is not None:
        nats_B = nats_B - segment_sum(all_N[:, None], spans)[:, 0]
    weight = torch.where(used_B, length_B.clamp(min=1), 0).sum()
    skipped = (~fits_B).sum(), torch.full_like(weight, len(fits_B))
    return torch.where(used_B, nats_B, 0).sum(), weight, skipped


def padded(x_NK: Tensor, spans: Spans) -> Tensor:
    """(B, longest, K): the rows of each run, with zeros behind them."""
    if spans.uniform:
        return x_NK.unflatten(0, (-1, spans.uniform))
    out = x_NK.new_zeros(len(spans), max(1, spans.max_seqlen), x_NK.shape[1])
    return out.index_put((spans.ids, spans.positions), x_NK)


def rows_of(target_BS: Tensor) -> list[list[int]]:
    """The symbols of each sample, without what stands behind the last."""
    return [[place for place in row if place != NONE] for row in target_BS.tolist()]


def asked_symbols(target_BS: Tensor) -> Tensor:
    """How many symbols samples ask for, 1 for one without any. Those with an unknown one have no part.

    Unlike what is laid along the steps, it is known from the targets alone.
    """
    length_B = (target_BS != NONE).sum(1).clamp(min=1)
    return torch.where((target_BS != UNKNOWN).all(1), length_B, 0).sum()


def nothing_right(true: Sequence[int]) -> list[int]:
    """In place of the symbols of a sample whose log-probabilities are NaN: as many as there are, all of them wrong."""
    return [_WRONG] * max(1, len(true))


def error_counts(
    found: Sequence[Sequence[Hashable]], true: Sequence[Sequence[Hashable]], name: str
) -> dict[str, tuple[float, float]]:
    """All edits, over all true symbols."""
    return {name: (sum(map(edits, found, true)), sum(map(len, true)))}


def on_device(counts: Mapping[str, tuple[float, float]], device: torch.device) -> Stats:
    """Counts as stats of a task."""
    return {
        name: (torch.tensor(float(value), device=device), torch.tensor(float(count), device=device))
        for name, (value, count) in counts.items()
    }
