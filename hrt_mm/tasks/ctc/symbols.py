"""What CTC heads share: log-probabilities of symbols at the frames of a level, and forced alignment.

Shapes: N frames, B samples, K symbols, D width of the level.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from ...core.levels import HierarchyConfig
from ...core.pyramid import Pyramid
from . import AlignedSymbol, Frames, forced_alignment, frames_of
from .prior import Prior
from .silence import merge_silence


class SymbolHead(nn.Module):
    """A linear head over the frames of a level. Silence, where it is a symbol, and the blank come last."""

    symbols: tuple[str, ...]
    unit: str
    level: int
    silence: int | None
    prior: Prior | None
    head: nn.Linear
    hierarchy: HierarchyConfig

    def frames(self, pyramid: Pyramid) -> Frames:
        """The frames with log-probabilities of the symbols, of silence where it is one, and of the blank."""
        frames = frames_of(pyramid, self.hierarchy, self.level)
        return Frames(self.raw_log_probs(frames.x_ND), frames.spans, frames.edges_N2)

    def scores(self, pyramid: Pyramid) -> Frames:
        """The frames with (N, K + 1) log-probabilities of the symbols and the blank, as decoders read them.

        A frame's edges times ``seconds_per_token`` are its times.
        """
        return self.with_merged_silence(self.frames(pyramid))

    def with_merged_silence(self, frames: Frames) -> Frames:
        """The same frames with (N, K + 1) log-probabilities: silence counts as blank."""
        return Frames(self.merge_silence(frames.x_ND), frames.spans, frames.edges_N2)

    def raw_log_probs(self, x_ND: Tensor) -> Tensor:
        """(N, D) tokens of the level to float32 log-probabilities of the symbols, silence and the blank."""
        # Half precision cannot tell the log-probabilities of rare symbols apart.
        return F.log_softmax(self.head(x_ND).float(), -1)

    def merge_silence(self, log_probs_NK: Tensor) -> Tensor:
        """(N, K + 1) log-probabilities: silence counts as blank."""
        return log_probs_NK if self.silence is None else merge_silence(log_probs_NK)

    def log_probs(self, x_ND: Tensor) -> Tensor:
        """(N, D) tokens of the level to (N, K + 1) log-probabilities in float32; the blank is the last."""
        return self.merge_silence(self.raw_log_probs(x_ND))

    def without_prior(self, log_probs_NK: Tensor) -> Tensor:
        """Scores for alignment: log-probabilities minus the weighted prior. They are not normalized."""
        return self.prior.scores(log_probs_NK) if self.prior is not None else log_probs_NK

    def align(self, log_probs_NK: Tensor, symbols: Sequence[int], name: str = "the sample") -> list[AlignedSymbol]:
        """Aligns the symbols of one sample, with silence around them where it is a symbol and there is room.

        Args:
            log_probs_NK: of its frames, with silence.
            symbols: indices of the symbols, in order.
            name: of the sample, for messages.

        Raises:
            UserError: there are more symbols than frames.
        """
        if not symbols:
            return []
        repeats = sum(first == second for first, second in pairwise(symbols))
        room = len(log_probs_NK) - len(symbols) - repeats
        edge = [self.silence] if self.silence is not None and room >= 2 else []
        aligned = forced_alignment(self.without_prior(log_probs_NK), [*edge, *symbols, *edge], name)
        return [symbol for symbol in aligned if symbol.symbol != self.silence]
