"""A second CTC head at a finer level, for the spellings of symbols: phonemes of words.

Shapes: N frames of the finer level, B samples, S symbols and W finer ones of the longest target, K symbols, F finer
symbols, L of them in the longest spelling.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from ...core.component import Component
from ...core.errors import ConfigError
from ...core.host import on_host
from ...core.levels import HierarchyConfig
from ...core.pyramid import Pyramid
from ..labels import linear_head
from . import Lexicon
from .frames import Frames, check_sequence
from .greedy import greedy
from .loss import (
    NONE,
    UNKNOWN,
    Stats,
    all_wrong,
    count_target_symbols,
    ctc_nats,
    error_counts,
    on_device,
    unpad_targets,
)
from .prior import Prior
from .silence import add_silence
from .symbols import SymbolHead

if TYPE_CHECKING:
    from ...data.tokenizer import Tokenizer


class SpellingHeadConfig(Component):
    """A second head with a CTC loss of its own."""

    unit: Literal["phonemes", "characters"] = "characters"
    """Unit of the spellings; the error rate is named after it."""
    level: str
    """Level whose tokens are the frames."""
    spellings: Annotated[dict[str, str], Field(min_length=1)] | None = None
    """The spelling of each symbol, separated by spaces: ``bin: B IH N``. Its letters when absent."""
    weight: PositiveFloat = 1.0
    """Weight of the loss."""


class SpellingHead(SymbolHead):
    """Linear head over the frames of the finer level, whose symbols are phonemes or characters.

    Args:
        config: of the head.
        model: the hierarchy.
        tokenizer: gives the axes.
        symbols: those to spell.
        prior: see :class:`~hrt_mm.tasks.ctc.task.CTCConfig`.
        silence: see there.

    Raises:
        ConfigError: there is no such level, its tokens are no sequence, or a symbol has no spelling.
    """

    def __init__(
        self,
        config: SpellingHeadConfig,
        model: HierarchyConfig,
        tokenizer: Tokenizer,
        symbols: tuple[str, ...],
        prior: float = 0.0,
        *,
        silence: bool = False,
    ) -> None:
        super().__init__()
        self.level, self.unit = model.index(config.level), config.unit
        self.weight, self.hierarchy = config.weight, model
        self.spelled_symbols = symbols
        check_sequence(model, self.level, tokenizer.axes, "ctc")
        spellings = [tuple(symbol) for symbol in symbols] if config.spellings is None else _read(config, symbols)
        self.symbols = tuple(sorted({part for parts in spellings for part in parts}))
        symbol_index = {part: index for index, part in enumerate(self.symbols)}
        rows = [
            torch.tensor([symbol_index[part] for part in parts], dtype=torch.int64, device="cpu") for parts in spellings
        ]
        # Not a buffer: it comes from the configuration, and to_empty() or load_state_dict() must not touch it.
        self.table_KL = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=NONE)
        self._tables: dict[torch.device, Tensor] = {}
        self.error_rate = f"{config.unit.removesuffix('s')}_error_rate"
        outputs = len(self.symbols) + 1 + silence
        self.silence = len(self.symbols) if silence else None
        self.prior = Prior(outputs, prior) if prior else None
        self.head = linear_head(model.levels[self.level].dim, outputs)

    def forward(self, pyramid: Pyramid, target_BS: Tensor) -> tuple[tuple[Tensor, Tensor], Stats]:
        """The mean loss with the number of symbols it is over, and stats: nats per symbol and the error rate."""
        frames = self.frames(pyramid)
        target_BW = self.spell(target_BS)
        aligned_BW = self._with_silence(target_BW)
        scores_NK, log_norm_N = self.prior(frames.x_ND) if self.prior is not None else (frames.x_ND, None)
        nats, weight, skipped = ctc_nats(scores_NK, frames.spans, aligned_BW, log_norm_N)
        stats = {"finer": (nats.detach(), weight), "finer_skipped": skipped}
        if not self.training:
            stats |= self._errors(self.with_merged_silence(frames), target_BW)
        count = count_target_symbols(aligned_BW)
        return (nats / count.clamp(min=1), count), stats

    def count_targets(self, target_BS: Tensor) -> Tensor:
        """Number of finer symbols in the targets."""
        return count_target_symbols(self._with_silence(self.spell(target_BS)))

    def _with_silence(self, target_BW: Tensor) -> Tensor:
        return target_BW if self.silence is None else add_silence(target_BW, self.silence)

    @cached_property
    def lexicon(self) -> Lexicon:
        """The symbols of the task as words, with their spellings."""
        rows = self.table_KL.tolist()
        return Lexicon(
            (symbol, tuple(part for part in row if part >= 0))
            for symbol, row in zip(self.spelled_symbols, rows, strict=True)
        )

    def spell(self, target_BS: Tensor) -> Tensor:
        """(B, S) symbols to (B, W) finer ones; an unknown symbol becomes one unknown finer symbol."""
        if target_BS.device not in self._tables:
            with torch.inference_mode(False):
                self._tables[target_BS.device] = self.table_KL.to(target_BS.device)
        parts_BSL = self._tables[target_BS.device][target_BS.clamp(min=0)]
        first_L = torch.arange(parts_BSL.shape[2], device=parts_BSL.device) == 0
        unknown_L = torch.where(first_L, UNKNOWN, NONE)
        parts_BSL = torch.where((target_BS == UNKNOWN)[:, :, None], unknown_L, parts_BSL)
        parts_BW = torch.where((target_BS == NONE)[:, :, None], NONE, parts_BSL).flatten(1)
        return parts_BW.gather(1, (parts_BW == NONE).long().argsort(dim=1, stable=True))

    @on_host
    def _errors(self, frames: Frames, target_BW: Tensor) -> Stats:
        true = unpad_targets(target_BW)
        pairs = zip(frames.spans.split(frames.x_ND.detach().cpu()), true, strict=True)
        predicted = [greedy(log_probs) if not log_probs.isnan().any() else all_wrong(row) for log_probs, row in pairs]
        return on_device(error_counts(predicted, true, self.error_rate), target_BW.device)


def _read(config: SpellingHeadConfig, symbols: tuple[str, ...]) -> list[tuple[str, ...]]:
    assert config.spellings is not None
    missing = [symbol for symbol in symbols if not config.spellings.get(symbol, "").split()]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise ConfigError(
            f"task.finer.spellings lacks {', '.join(map(repr, missing[:5]))}{more} of the training set; spell them"
        )
    return [tuple(config.spellings[symbol].split()) for symbol in symbols]
