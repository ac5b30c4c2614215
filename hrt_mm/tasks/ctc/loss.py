"""The CTC loss of packed frames, and error rates that add up over batches.

Shapes: N frames, B samples, S symbols of the longest target, K symbols and the blank, which is the last.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.segments import segment_sum
from ...core.spans import Spans
from ...metrics.edits import edit_distance

NONE, UNKNOWN = -1, -2
"""Padding of targets, and a symbol that is not in the training set."""
# Equal to no symbol of a target, not even to an unknown one.
_WRONG = -3
Stats = dict[str, tuple[Tensor, Tensor]]
"""By metric, a sum and the count it is over."""


def ctc_nats(
    log_probs_NK: Tensor, spans: Spans, target_BS: Tensor, log_norm_N: Tensor | None = None
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """The negative log-likelihood of the targets, summed over all alignments (CTC loss).

    Samples whose symbols do not fit into their frames are masked beforehand, so that any other loss which is not finite
    shows.

    Args:
        log_probs_NK: of the frames, normalized.
        spans: the samples.
        target_BS: symbols, padded with -1; samples with an unknown symbol, -2, have no part in the loss.
        log_norm_N: logarithm of the constant that each frame was divided by to normalize it; none when ``None``.

    Returns:
        Nats of all samples; the number of symbols they are over, 1 for a sample without any; and the number of samples
        whose symbols do not fit, of how many.
    """
    length_B = (target_BS != NONE).sum(1)
    repeats_B = ((target_BS[:, 1:] == target_BS[:, :-1]) & (target_BS[:, 1:] >= 0)).sum(1)
    fits_B = length_B + repeats_B <= spans.counts
    used_B = fits_B & (target_BS != UNKNOWN).all(1)
    nats_B = F.ctc_loss(
        pad_frames(log_probs_NK, spans).transpose(0, 1),
        # Padding is not read, but has to be a valid index.
        target_BS.clamp(min=0),
        spans.counts,
        # An empty target fits any number of frames. One that does not fit has infinite loss, and its gradient is NaN
        # even where the loss is masked.
        torch.where(used_B, length_B, 0),
        blank=log_probs_NK.shape[1] - 1,
        reduction="none",
    )
    if log_norm_N is not None:
        nats_B = nats_B - segment_sum(log_norm_N[:, None], spans)[:, 0]
    weight = torch.where(used_B, length_B.clamp(min=1), 0).sum()
    skipped = (~fits_B).sum(), torch.full_like(weight, len(fits_B))
    return torch.where(used_B, nats_B, 0).sum(), weight, skipped


def pad_frames(x_NK: Tensor, spans: Spans) -> Tensor:
    """(B, longest, K): the frames of each sample, padded with zeros."""
    if spans.uniform:
        return x_NK.unflatten(0, (-1, spans.uniform))
    out = x_NK.new_zeros(len(spans), max(1, spans.max_seqlen), x_NK.shape[1])
    return out.index_put((spans.ids, spans.positions), x_NK)


def unpad_targets(target_BS: Tensor) -> list[list[int]]:
    """The symbols of each sample, without padding."""
    return [[symbol for symbol in row if symbol != NONE] for row in target_BS.tolist()]


def count_target_symbols(target_BS: Tensor) -> Tensor:
    """Number of symbols in the targets, 1 for an empty one. Samples with an unknown symbol are left out.

    Unlike the number of symbols that fit into the frames, it is known from the targets alone.
    """
    length_B = (target_BS != NONE).sum(1).clamp(min=1)
    return torch.where((target_BS != UNKNOWN).all(1), length_B, 0).sum()


def all_wrong(true: Sequence[int]) -> list[int]:
    """Predictions for a sample whose log-probabilities are NaN: as many symbols as it has, all of them wrong."""
    return [_WRONG] * max(1, len(true))


def error_counts(
    predicted: Sequence[Sequence[Hashable]], true: Sequence[Sequence[Hashable]], name: str
) -> dict[str, tuple[float, float]]:
    """Total edits and total reference symbols."""
    return {name: (sum(map(edit_distance, predicted, true)), sum(map(len, true)))}


def on_device(counts: Mapping[str, tuple[float, float]], device: torch.device) -> Stats:
    """Counts as the stats of a task."""
    return {
        name: (torch.tensor(float(value), device=device), torch.tensor(float(count), device=device))
        for name, (value, count) in counts.items()
    }
