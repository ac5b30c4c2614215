"""What heads of CTC share: the scores of their symbols at the steps of a level, and where known symbols lie.

Shapes: N steps, B samples, K symbols, D width of the level.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from ...core.levels import HierarchyConfig
from ...core.pyramid import Pyramid
from . import Placed, Steps, forced_alignment, steps_of
from .prior import Prior
from .silence import as_blank


class SymbolHead(nn.Module):
    """A linear head over the steps of a level; silence, where it is a symbol, and the blank stand behind the others."""

    symbols: tuple[str, ...]
    unit: str
    level: int
    silence: int | None
    prior: Prior | None
    head: nn.Linear
    hierarchy: HierarchyConfig

    def raw(self, pyramid: Pyramid) -> Steps:
        """The steps with log-probabilities of the symbols, silence where it is one, and the blank: what is laid out."""
        steps = steps_of(pyramid, self.hierarchy, self.level)
        return Steps(self.raw_log_probs(steps.x_ND), steps.spans, steps.edges_N2)

    def told(self, steps: Steps) -> Steps:
        """The same with (N, K + 1) log-probabilities: silence is blank."""
        return Steps(self.as_told(steps.x_ND), steps.spans, steps.edges_N2)

    def scored(self, pyramid: Pyramid) -> Steps:
        """The steps of the level that is read, with (N, K + 1) log-probabilities of the symbols and the blank.

        A step's edges times ``seconds_per_token`` are its times.
        """
        return self.told(self.raw(pyramid))

    def raw_log_probs(self, x_ND: Tensor) -> Tensor:
        """(N, D) tokens of the level to float32 log-probabilities of the symbols, silence and the blank."""
        return F.log_softmax(self.head(x_ND).float(), -1)

    def as_told(self, log_probs_NK: Tensor) -> Tensor:
        """(N, K + 1): silence is blank."""
        return log_probs_NK if self.silence is None else as_blank(log_probs_NK)

    def log_probs(self, x_ND: Tensor) -> Tensor:
        """(N, D) tokens of the level to (N, K + 1) log-probabilities in float32; the blank is the last."""
        return self.as_told(self.raw_log_probs(x_ND))

    def without_prior(self, log_probs_NK: Tensor) -> Tensor:
        """Scores for alignment: raw log-probabilities less what is usual. They do not add up to 1."""
        return self.prior.scores(log_probs_NK) if self.prior is not None else log_probs_NK

    def placed(self, log_probs_NK: Tensor, symbols: Sequence[int], name: str = "the sample") -> list[Placed]:
        """Where known symbols of one sample lie, with silence before and behind them where it is a symbol and fits.

        Args:
            log_probs_NK: raw ones of its steps.
            symbols: what is said, in order.
            name: of the sample, for messages.

        Raises:
            UserError: there are more symbols than steps.
        """
        twice = sum(first == second for first, second in pairwise(symbols))
        room = len(log_probs_NK) - len(symbols) - twice
        edge = [self.silence] if self.silence is not None and room >= 2 else []
        found = forced_alignment(self.without_prior(log_probs_NK), [*edge, *symbols, *edge], name)
        return [one for one in found if one.symbol != self.silence]
