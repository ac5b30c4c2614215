"""What the symbols of CTC are spelled with, told at a finer level of the same hierarchy: phonemes under words.

Shapes: N steps of the finer level, B samples, S symbols and W finer ones of the longest target, K symbols, F finer
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
from .greedy import greedy
from .loss import NONE, UNKNOWN, Stats, asked_symbols, ctc_nats, error_counts, nothing_right, on_device, rows_of
from .prior import Prior
from .silence import edged
from .steps import Steps, check_steps
from .symbols import SymbolHead

if TYPE_CHECKING:
    from ...data.tokenizer import Tokenizer


class SpelledConfig(Component):
    """A second head with a CTC loss of its own."""

    unit: Literal["phonemes", "characters"] = "characters"
    """What symbols are spelled with; the error rate is named after it."""
    level: str
    """Level whose tokens are the steps."""
    spellings: Annotated[dict[str, str], Field(min_length=1)] | None = None
    """How each symbol is spelled, parted by spaces: ``bin: B IH N``. Its letters when absent."""
    weight: PositiveFloat = 1.0
    """Weight of the loss."""


class Spelled(SymbolHead):
    """Linear head over the steps of the finer level, whose symbols are phonemes or characters.

    Args:
        config: of the head.
        model: the hierarchy.
        tokenizer: gives the axes.
        symbols: those that are spelled.
        prior: see :class:`~hrt_mm.tasks.ctc.task.CTCConfig`.
        silence: see there.

    Raises:
        ConfigError: there is no such level, it is no sequence, or a symbol is not spelled.
    """

    def __init__(
        self,
        config: SpelledConfig,
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
        self.over = symbols
        check_steps(model, self.level, tokenizer.axes, "ctc")
        spelled = [tuple(symbol) for symbol in symbols] if config.spellings is None else _read(config, symbols)
        self.symbols = tuple(sorted({part for parts in spelled for part in parts}))
        places = {part: place for place, part in enumerate(self.symbols)}
        rows = [torch.tensor([places[part] for part in parts], dtype=torch.int64, device="cpu") for parts in spelled]
        # No buffer: it is of the configuration, and nothing that empties or loads a module may lose it.
        self.table_KL = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=NONE)
        self._tables: dict[torch.device, Tensor] = {}
        self.error_rate = f"{config.unit.removesuffix('s')}_error_rate"
        outputs = len(self.symbols) + 1 + silence
        self.silence = len(self.symbols) if silence else None
        self.prior = Prior(outputs, prior) if prior else None
        self.head = linear_head(model.levels[self.level].dim, outputs)

    def forward(self, pyramid: Pyramid, target_BS: Tensor) -> tuple[tuple[Tensor, Tensor], Stats]:
        """The mean loss and the symbols it is over; and stats: nats a finer symbol, in evaluation the error rate."""
        steps = self.raw(pyramid)
        target_BW = self.spelled(target_BS)
        laid_BW = self._laid(target_BW)
        scores_NK, all_N = self.prior(steps.x_ND) if self.prior is not None else (steps.x_ND, None)
        nats, weight, skipped = ctc_nats(scores_NK, steps.spans, laid_BW, all_N)
        found = {"finer": (nats.detach(), weight), "finer_skipped": skipped}
        if not self.training:
            found |= self._errors(self.told(steps), target_BW)
        asked = asked_symbols(laid_BW)
        return (nats / asked.clamp(min=1), asked), found

    def asked(self, target_BS: Tensor) -> Tensor:
        """How many finer symbols the samples ask for."""
        return asked_symbols(self._laid(self.spelled(target_BS)))

    def _laid(self, target_BW: Tensor) -> Tensor:
        return target_BW if self.silence is None else edged(target_BW, self.silence)

    @cached_property
    def lexicon(self) -> Lexicon:
        """The symbols above as words, with how they are spelled here."""
        rows = self.table_KL.tolist()
        return Lexicon(
            (symbol, tuple(place for place in row if place >= 0)) for symbol, row in zip(self.over, rows, strict=True)
        )

    def spelled(self, target_BS: Tensor) -> Tensor:
        """(B, S) symbols to (B, W) finer ones; an unknown symbol is an unknown one."""
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
    def _errors(self, steps: Steps, target_BW: Tensor) -> Stats:
        true = rows_of(target_BW)
        parts = zip(steps.spans.split(steps.x_ND.detach().cpu()), true, strict=True)
        found = [greedy(part) if not part.isnan().any() else nothing_right(own) for part, own in parts]
        return on_device(error_counts(found, true, self.error_rate), target_BW.device)


def _read(config: SpelledConfig, symbols: tuple[str, ...]) -> list[tuple[str, ...]]:
    assert config.spellings is not None
    missing = [symbol for symbol in symbols if not config.spellings.get(symbol, "").split()]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise ConfigError(
            f"task.finer.spellings lacks {', '.join(map(repr, missing[:5]))}{more} of the training set; spell them"
        )
    return [tuple(config.spellings[symbol].split()) for symbol in symbols]
