"""CTC: the symbols that are said in a sample, in order, told without their times (Graves et al., 2006).

Every step of a level scores each symbol and a blank. The loss sums over all ways to lay the symbols along the steps, so
that training needs a transcript alone.

Shapes: N steps of the level in the batch, B samples, S symbols of the longest target, K symbols, D width of the level.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field, PrivateAttr
from torch import Tensor, nn

from ...core.errors import BadSample, ConfigError
from ...core.host import on_host
from ...core.levels import HierarchyConfig
from ...core.tokens import Tokens
from ...data.sample import Sample
from ..base import Batch, TaskConfig, TaskOutput
from ..encoding import EncoderTask
from ..labels import linear_head
from . import Hypothesis, Lexicon, Steps, most_steps
from .decoders import Decode, Decoder, GreedyConfig
from .loss import NONE, UNKNOWN, asked_symbols, ctc_nats, error_counts, nothing_right, on_device, rows_of
from .prior import Prior
from .silence import edged
from .spelled import Spelled, SpelledConfig
from .steps import check_steps
from .symbols import SymbolHead

if TYPE_CHECKING:
    from ...data.tokenizer import Tokenizer


class CTCConfig(TaskConfig):
    """The symbols of each sample in order. Labels are lists of strings, the symbols those of the training set.

    A sample whose symbols do not fit into its steps is a bad one. A symbol that the training set has not cannot be
    found: it counts as an error, the sample has no part in the loss, and the metric ``unknown`` says how many symbols
    are such.
    """

    type: Literal["ctc"]
    unit: Literal["words", "phonemes", "characters", "symbols"] = "words"
    """What a symbol is; metrics are named after it. Characters give the error rate of words too, parted by spaces."""
    level: str | None = None
    """Level whose tokens are the steps; the coarsest when absent."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability to drop a value of what the head reads in training."""
    prior: Annotated[float, Field(ge=0, le=1)] = 0.0
    """How much of each symbol's usual log-probability is taken off in training and alignment (arXiv 2406.02560), at the
    finer level too; 0.3 is a good value. The blank, which is usual, then costs: symbols are learned much sooner, and
    they last as long as they are said."""
    silence: bool = False
    """Whether silence stands before and behind what is said in each sample, as a symbol of its own that is not told;
    for a prior, under which the blank does not stand for it."""
    finer: SpelledConfig | None = None
    """What symbols are spelled with, told at a finer level too: phonemes or characters of words. Many short symbols
    teach the fine levels sooner than a few long ones."""
    decoder: Decoder = GreedyConfig()
    """How symbols are told from the steps in evaluation."""
    monitor: Literal["error_rate", "sentence_accuracy", "ctc"] = "error_rate"
    """What chooses the best checkpoint: edits a symbol, sentences that are wholly right, or nats a symbol."""

    _model: HierarchyConfig | None = PrivateAttr(None)

    @property
    def stand_ins(self) -> tuple[str, ...]:
        """The symbols that are spelled out, where some are."""
        return tuple((self.finer and self.finer.spellings) or super().stand_ins)

    def reading(self, model: HierarchyConfig) -> CTCConfig:
        """The same, knowing the levels, so that loaders can tell whether symbols fit into the steps."""
        copy = self.model_copy()
        copy._model = model
        return copy

    def build(self, model: HierarchyConfig, tokenizer: Tokenizer, classes: tuple[str, ...] | None) -> CTC:
        """The task's module.

        Raises:
            ConfigError: the data has no symbols, there is no such level or it is no sequence, or a part of the model
                is never read.
        """
        if not classes:
            raise ConfigError(
                "task ctc needs the symbols of the training set, and the data has none; its labels must be lists, such "
                "as those of data.label: words, phonemes or characters"
            )
        return CTC(self, model, tokenizer, classes)

    def targets(self, samples: Sequence[Sample], tokens: Tokens, classes: tuple[str, ...] | None) -> Tensor:
        """(B, S) int64 places of the symbols, -1 behind the last and -2 for one that the training set has not.

        Raises:
            BadSample: a label is no list of strings, or has more symbols than steps.
        """
        places = {symbol: place for place, symbol in enumerate(classes or ())}
        model = self._model
        level = model.index(self.level) if model is not None else 0
        steps = most_steps(model, level, tokens) if model is not None else tokens.spans.lengths.tolist()
        rows = []
        for sample, most in zip(samples, steps, strict=True):
            row = [places.get(symbol, UNKNOWN) for symbol in _symbols(sample)]
            self._check_room(row, most, sample.name)
            rows.append(torch.tensor(row, dtype=torch.int64))
        return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=NONE)

    def _check_room(self, row: list[int], most: int, name: str) -> None:
        twice = sum(first == second >= 0 for first, second in pairwise(row))
        edges = 2 * self.silence
        if len(row) + twice + edges > most:
            again = f", {twice} of them the same as the one before" if twice else ""
            silence = ", with silence at both ends" if edges else ""
            level = self.level or "the coarsest"
            raise BadSample(
                name,
                f"has {len(row)} {self.unit}{again}{silence}, but {most} steps of level {level!r}; CTC needs a step a "
                "symbol, and one between two alike: read a finer level, or leave the sample out",
            )


class CTC(EncoderTask, SymbolHead):
    """Encoder, linear head over the steps of a level, and the CTC loss, in nats a symbol.

    Metrics in evaluation: the error rate, which is all edits over all true symbols, and the share of samples that are
    wholly right; ``skipped`` is the share of samples whose symbols did not fit into learned groups.

    Args:
        config: the task.
        model: the hierarchy.
        tokenizer: gives the axes, the embedding and the time of a step.
        symbols: what is told apart. The blank stands behind them.
    """

    def __init__(
        self, config: CTCConfig, model: HierarchyConfig, tokenizer: Tokenizer, symbols: tuple[str, ...]
    ) -> None:
        self.level, self.hierarchy = model.index(config.level), model
        check_steps(model, self.level, tokenizer.axes, config.type)
        finer = None
        if config.decoder.spelled and config.finer is None:
            raise ConfigError(
                "task.decoder.spelled reads what symbols are spelled with, and task.finer is not set; set it, or drop "
                "the key"
            )
        if config.finer is not None:
            finer = Spelled(config.finer, model, tokenizer, symbols, config.prior, silence=config.silence)
        super().__init__(model, tokenizer, [self.level, *([finer.level] if finer is not None else [])])
        self.finer = finer
        self.symbols, self.blank = symbols, len(symbols)
        self.unit = config.unit
        self.error_rate = f"{config.unit.removesuffix('s')}_error_rate"
        self.monitor = self.error_rate if config.monitor == "error_rate" else config.monitor
        self.monitor_mode = "max" if config.monitor == "sentence_accuracy" else "min"
        self.seconds_per_token = tokenizer.seconds_per_token
        self.config = config
        outputs = len(symbols) + 1 + config.silence
        self.silence = len(symbols) if config.silence else None
        self.prior = Prior(outputs, config.prior) if config.prior else None
        self.dropout = nn.Dropout(config.dropout)
        self.head = linear_head(model.levels[self.level].dim, outputs)

    def forward(self, batch: Batch) -> TaskOutput:
        """Loss and metrics; predictions are (B, S) symbols, -1 behind the last, in evaluation."""
        assert batch.target is not None
        _ = self.decoder  # A wrong lexicon shows in the first batch, not in the first evaluation.
        pyramid = self.encoder(batch.tokens)
        steps, target_BS = self.raw(pyramid), batch.target
        laid_BS = self._laid(target_BS)
        scores_NK, all_N = self.prior(steps.x_ND) if self.prior is not None else (steps.x_ND, None)
        nats, weight, skipped = ctc_nats(scores_NK, steps.spans, laid_BS, all_N)
        stats = {"skipped": skipped, "unknown": ((target_BS == UNKNOWN).sum(), (target_BS != NONE).sum())}
        # Over all symbols, those of samples that do not fit into learned groups among them: how many fit differs from
        # batch to batch, and is not known before. Such samples still teach the other terms.
        asked = asked_symbols(laid_BS)
        parts = {"ctc": nats / asked.clamp(min=1)} | pyramid.losses
        if self.finer is not None:
            (mean, count), found_stats = self.finer(pyramid, target_BS)
            finer = self.finer.weight * self.over("finer", mean, count, asked)
            parts, stats = parts | {"finer": finer}, stats | found_stats
        loss = torch.stack(list(parts.values())).sum()
        stats |= {"loss": (loss.detach() * asked, asked), "ctc": (nats.detach(), weight)}
        parts = {name: part.detach() for name, part in parts.items()}
        if self.training:
            return TaskOutput(loss, parts, stats)
        told = self.told(steps) if self.told_by is self else self.told_by.scored(pyramid)
        found = self._found(told, rows_of(target_BS))
        return TaskOutput(loss, parts, stats | self._errors(found, target_BS), _padded(found, loss.device))

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Symbols, and what those are spelled with."""
        assert batch.target is not None
        if self.finer is None:
            return {}
        return {"ctc": asked_symbols(self._laid(batch.target)), "finer": self.finer.asked(batch.target)}

    def _laid(self, target_BS: Tensor) -> Tensor:
        """The symbols that are laid along the steps."""
        return target_BS if self.silence is None else edged(target_BS, self.silence)

    @property
    def told_by(self) -> SymbolHead:
        """The head whose steps the decoder reads: this one, or that of what symbols are spelled with."""
        return self.finer if self.config.decoder.spelled and self.finer is not None else self

    @cached_property
    def lexicon(self) -> Lexicon | None:
        """The words that the decoder writes, where it writes words.

        Raises:
            ConfigError: the lexicon cannot be read, or has a word that cannot be spelled.
        """
        if self.config.decoder.spelled and self.finer is not None:
            return self.finer.lexicon
        return self.config.decoder.read_lexicon(self.symbols, self.unit)

    @cached_property
    def decoder(self) -> Decode:
        """Tells the symbols of one sample's steps, or with a lexicon its words.

        Raises:
            ConfigError: the lexicon cannot be read, or has a word that cannot be spelled.
        """
        return self.config.decoder.build(self.lexicon)

    def raw_log_probs(self, x_ND: Tensor) -> Tensor:
        """(N, D) tokens of the level to float32 log-probabilities of the symbols, silence and the blank."""
        return super().raw_log_probs(self.dropout(x_ND))

    @torch.no_grad()
    @on_host
    def decode(self, steps: Steps) -> list[Hypothesis]:
        """What is said in each sample.

        Args:
            steps: of the head that :attr:`told_by` names, with their log-probabilities.
        """
        return [self.decoder(log_probs) for log_probs in steps.spans.split(steps.x_ND.detach().cpu())]

    @torch.no_grad()
    @on_host
    def _found(self, steps: Steps, true: list[list[int]]) -> list[list[int]]:
        """The symbols that are said in each sample; none of them right where the log-probabilities are NaN."""
        places = {symbol: place for place, symbol in enumerate(self.symbols)}
        found: list[list[int]] = []
        for log_probs_NK, own in zip(steps.spans.split(steps.x_ND.detach().cpu()), true, strict=True):
            if log_probs_NK.isnan().any():
                found.append(nothing_right(own))
                continue
            hypothesis = self.decoder(log_probs_NK)
            own_level = self.told_by is self
            found.append(list(hypothesis.symbols) if own_level else [places[word] for word in hypothesis.words])
        return found

    @on_host
    def _errors(self, found: list[list[int]], target_BS: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Edits over true symbols, and samples that are wholly right."""
        true = rows_of(target_BS)
        counts = error_counts(found, true, self.error_rate)
        counts["sentence_accuracy"] = (sum(map(operator.eq, found, true)), len(true))
        if self.unit == "characters":
            counts |= error_counts([*map(self.words, found)], [*map(self.words, true)], "word_error_rate")
        return on_device(counts, target_BS.device)

    def words(self, places: Sequence[int]) -> list[str]:
        """The words that characters spell. One that the training set has not is a sign that stands in no word."""
        return "".join(self.symbols[place] if place >= 0 else "\N{REPLACEMENT CHARACTER}" for place in places).split()


def _symbols(sample: Sample) -> Sequence[str]:
    label = sample.label
    if not isinstance(label, list | tuple) or not all(isinstance(symbol, str) for symbol in label):
        raise BadSample(
            sample.name,
            f"task ctc needs a list of symbols, got {label!r:.60}; set data.label to words, phonemes or characters",
        )
    return label


def _padded(found: list[list[int]], device: torch.device) -> Tensor:
    rows = [torch.tensor([place for place in row if place >= 0], dtype=torch.int64) for row in found]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=NONE).to(device)
