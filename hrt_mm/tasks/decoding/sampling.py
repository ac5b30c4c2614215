"""Sampling the next token from its logits.

Shapes: B samples, V ids.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.errors import UserError


@dataclass(frozen=True)
class Sampling:
    """How tokens are sampled. The filters apply in the order given here.

    Args:
        temperature: divides the logits; 0 always takes the most likely token.
        top_k: sample from the k most likely tokens; among equals, lower ids come first.
        top_p: sample from the smallest set of tokens whose probabilities sum to this (arXiv 1904.09751).
        min_p: sample from tokens with at least this fraction of the highest probability (arXiv 2407.01082).

    Raises:
        UserError: a value is out of range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise UserError(f"temperature {self.temperature} must be 0 or more; 0 takes the likeliest token")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k {self.top_k} must be 1 or more; leave it out to draw among all tokens")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p {self.top_p} must be above 0, up to 1")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise UserError(f"min_p {self.min_p} must be between 0 and 1")
        limits = [name for name in ("top_k", "top_p", "min_p") if getattr(self, name) is not None]
        if self.temperature == 0 and limits:
            raise UserError(f"{limits[0]} has no effect at temperature 0; drop it or raise the temperature")

    def probabilities(self, logits_BV: Tensor) -> Tensor:
        """(B, V) probabilities of the tokens, in float64.

        Raises:
            UserError: the logits of a row are NaN or infinite, or all minus infinity.
        """
        # In float64, sums of the probabilities of a large vocabulary are exact enough to draw by.
        logits_BV = _checked(logits_BV.double())
        if self.temperature == 0:
            return torch.nn.functional.one_hot(logits_BV.argmax(-1), logits_BV.shape[-1]).double()
        # Subtract the maximum first: dividing by a small temperature could overflow.
        p_BV = ((logits_BV - logits_BV.amax(-1, keepdim=True)) / self.temperature).softmax(-1)
        if self.top_k is not None and self.top_k < p_BV.shape[-1]:
            p_BV = self._among(p_BV, _largest(logits_BV, self.top_k))
        if self.top_p is not None:
            sorted_BV, order_BV = p_BV.sort(stable=True, descending=True)
            # The probability before a token decides, so the token that reaches top_p is included, and at least one is.
            before_BV = sorted_BV.cumsum(-1) - sorted_BV
            p_BV = self._among(p_BV, torch.empty_like(p_BV).bool().scatter(-1, order_BV, before_BV < self.top_p))
        if self.min_p is not None:
            p_BV = self._among(p_BV, p_BV >= self.min_p * p_BV.amax(-1, keepdim=True))
        return p_BV

    @staticmethod
    def _among(p_BV: Tensor, kept_BV: Tensor) -> Tensor:
        p_BV = p_BV * kept_BV
        return p_BV / p_BV.sum(-1, keepdim=True)

    def draw(self, logits_BV: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Samples (B,) ids. Each text has its own generator, so that its ids do not depend on the rest of the batch.

        Args:
            logits_BV: of the next token.
            generators: one per text, on the CPU.
        """
        p_BV = self.probabilities(logits_BV)
        if self.temperature == 0:
            return p_BV.argmax(-1)
        draw_B1 = torch.stack([torch.rand(1, generator=generator, dtype=torch.float64) for generator in generators])
        sums_BV = p_BV.cumsum(-1)
        # Inverse transform sampling. Scaling the draw by the last sum replaces a division of all sums.
        id_B1 = torch.searchsorted(sums_BV, draw_B1.to(p_BV.device) * sums_BV[:, -1:], right=True)
        # Rounding must not select an id past the last token of nonzero probability.
        last_B = p_BV.shape[-1] - 1 - (p_BV.flip(-1) > 0).int().argmax(-1)
        return torch.minimum(id_B1[:, 0], last_B)


def _checked(logits_BV: Tensor) -> Tensor:
    best_B = logits_BV.amax(-1)
    if not bool(best_B.isfinite().all()):
        row = int((~best_B.isfinite()).nonzero()[0, 0])
        raise UserError(
            f"the logits of text {row} of the batch are not finite (the largest is {float(best_B[row])}), so no token "
            "can be drawn; the model's weights or its half precision are broken: try another checkpoint, or float32"
        )
    return logits_BV


def _largest(x_BV: Tensor, count: int) -> Tensor:
    """(B, V) bool, the ``count`` largest values of each row; among equals the first ones."""
    least_B1 = x_BV.topk(count).values[:, -1:]
    above_BV, alike_BV = x_BV > least_B1, x_BV == least_B1
    # Equal values at the limit fill the room that larger ones leave, in the order of their ids.
    room_B1 = count - above_BV.sum(-1, keepdim=True)
    return above_BV | (alike_BV & (alike_BV.cumsum(-1) <= room_B1))
