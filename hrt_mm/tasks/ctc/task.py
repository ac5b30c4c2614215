"""Connectionist temporal classification: sequences of symbols without their times (Graves et al., 2006).

Every frame of a level scores each symbol and a blank. The loss sums over all alignments of the symbols with the frames,
so that training needs transcripts only.

Shapes: N frames of the level in the batch, B samples, S symbols of the longest target, K symbols, D width of the level.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ...core.errors import BadSample, ConfigError
from ...core.host import on_host
from ...core.levels import HierarchyConfig
from ...core.tokens import Tokens
from ...data.capabilities import seconds_per_token
from ...data.sample import Sample
from ..base import TaskOutput
from ..batch import Batch
from ..encoding import EncoderTask, EncoderTaskConfig, SingleCollator
from ..labels import linear_head
from . import Frames, Hypothesis, Lexicon, max_frames
from .decoders import Decode, Decoder, GreedyConfig
from .frames import check_sequence
from .loss import NONE, UNKNOWN, all_wrong, count_target_symbols, ctc_nats, error_counts, on_device, unpad_targets
from .prior import Prior
from .silence import add_silence
from .spelling import SpellingHead, SpellingHeadConfig
from .symbols import SymbolHead

if TYPE_CHECKING:
    from ...data.tokenizer import Tokenizer


class CTCConfig(EncoderTaskConfig):
    """The symbols of each sample, in order. Labels are lists of strings, the symbols those of the training set.

    A sample whose symbols do not fit into its frames is a bad sample. A symbol outside the training set cannot be
    predicted: it counts as an error, its sample has no part in the loss, and the metric ``unknown`` is the share of
    such symbols.
    """

    type: Literal["ctc"]
    unit: Literal["words", "phonemes", "characters", "symbols"] = "words"
    """What a symbol is; metrics are named after it. Characters give the word error rate too, with words split at
    spaces."""
    level: str | None = None
    """Level whose tokens are the frames; the coarsest when absent."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout of the head's input."""
    prior: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Weight of the label prior that is subtracted in training and alignment, at the finer level too (arXiv
    2406.02560); 0.3 is a good value. It penalizes the blank, which is the most frequent output: symbols are learned
    much sooner, and span the frames in which they are spoken."""
    silence: bool = False
    """Whether silence before and after the symbols of a sample is a symbol of its own, which is never decoded; for use
    with a prior, under which the blank does not cover silence."""
    finer: SpellingHeadConfig | None = None
    """A second CTC head at a finer level, for the phonemes or characters that symbols are spelled with. Many short
    symbols train the fine levels sooner than a few long ones."""
    decoder: Decoder = GreedyConfig()
    """How frames are decoded in evaluation."""
    monitor: Literal["error_rate", "sentence_accuracy", "ctc"] = "error_rate"
    """Selects the best checkpoint: edits per symbol, sentences without an error, or nats per symbol."""

    @property
    def stand_ins(self) -> tuple[str, ...]:
        """The symbols with a spelling, where spellings are given."""
        return tuple((self.finer and self.finer.spellings) or super().stand_ins)

    def collator(
        self,
        models: Mapping[str, HierarchyConfig],
        tokenizers: Mapping[str, Tokenizer],
        classes: tuple[str, ...] | None,
    ) -> CTCCollator:
        """Makes batches of samples, and checks whether symbols fit into the frames."""
        return CTCCollator(self, models, tokenizers, classes)

    def build(self, model: HierarchyConfig, tokenizer: Tokenizer, classes: tuple[str, ...] | None) -> CTC:
        """The task's module.

        Raises:
            ConfigError: the data has no symbols, there is no such level or its tokens are no sequence, or a
                part of the model is never read.
        """
        if not classes:
            raise ConfigError(
                "task ctc needs the symbols of the training set, and the data has none; its labels must be lists, such "
                "as those of data.label: words, phonemes or characters"
            )
        return CTC(self, model, tokenizer, classes)

    def targets(
        self,
        samples: Sequence[Sample],
        tokens: Tokens,
        classes: tuple[str, ...] | None,
        model: HierarchyConfig | None = None,
    ) -> Tensor:
        """(B, S) int64 indices of the symbols, padded with -1; -2 for one that is not in the training set.

        Args:
            samples: with lists of symbols as labels.
            tokens: of the samples.
            classes: the symbols of the training set.
            model: the hierarchy, which says how many frames a sample has; as many as tokens without it.

        Raises:
            BadSample: a label is not a list of strings, or has more symbols than frames.
        """
        symbol_index = {symbol: index for index, symbol in enumerate(classes or ())}
        level = model.index(self.level) if model is not None else 0
        frames = max_frames(model, level, tokens) if model is not None else tokens.spans.lengths.tolist()
        rows = []
        for sample, available in zip(samples, frames, strict=True):
            row = [symbol_index.get(symbol, UNKNOWN) for symbol in _symbols(sample)]
            self._check_length(row, available, sample.name)
            rows.append(torch.tensor(row, dtype=torch.int64))
        return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=NONE)

    def _check_length(self, row: list[int], frames: int, name: str) -> None:
        repeats = sum(first == second >= 0 for first, second in pairwise(row))
        silences = 2 * self.silence
        if len(row) + repeats + silences > frames:
            again = f", {repeats} of them the same as the one before" if repeats else ""
            silence = ", with silence at both ends" if silences else ""
            level = self.level or "the coarsest"
            raise BadSample(
                name,
                f"has {len(row)} {self.unit}{again}{silence}, but {frames} frames of level {level!r}; CTC needs a "
                "frame per symbol, and one more between two equal ones: read a finer level, or leave the sample out",
            )


class CTCCollator(SingleCollator):
    """Collation that knows the frames of each sample."""

    config: CTCConfig

    def targets(self, samples: Sequence[Sample], tokens: Tokens) -> Tensor:
        """(B, S) indices of the symbols."""
        return self.config.targets(samples, tokens, self.classes, self.model)


class CTC(EncoderTask, SymbolHead):
    """Encoder, linear head over the frames of a level, and the CTC loss, in nats per symbol.

    Metrics in evaluation: the error rate, which is total edits over total reference symbols, and the share of samples
    without an error; ``skipped`` is the share of samples whose symbols did not fit into learned groups.

    Args:
        config: the task.
        model: the hierarchy.
        tokenizer: gives the axes, the embedding and the duration of a token.
        symbols: in the order of the outputs; the blank is the last output.
    """

    def __init__(
        self, config: CTCConfig, model: HierarchyConfig, tokenizer: Tokenizer, symbols: tuple[str, ...]
    ) -> None:
        self.level, self.hierarchy = model.index(config.level), model
        check_sequence(model, self.level, tokenizer.axes, config.type)
        finer = None
        if config.decoder.spelled and config.finer is None:
            raise ConfigError(
                "task.decoder.spelled decodes the spellings of symbols, and task.finer is not set; set it, or drop "
                "the key"
            )
        if config.finer is not None:
            finer = SpellingHead(config.finer, model, tokenizer, symbols, config.prior, silence=config.silence)
        super().__init__(model, tokenizer, [self.level, *([finer.level] if finer is not None else [])])
        self.finer = finer
        self.symbols, self.blank = symbols, len(symbols)
        self.unit = config.unit
        self.error_rate = f"{config.unit.removesuffix('s')}_error_rate"
        self.monitor = self.error_rate if config.monitor == "error_rate" else config.monitor
        self.monitor_mode = "max" if config.monitor == "sentence_accuracy" else "min"
        self.seconds_per_token = seconds_per_token(tokenizer)
        self.config = config
        outputs = len(symbols) + 1 + config.silence
        self.silence = len(symbols) if config.silence else None
        self.prior = Prior(outputs, config.prior) if config.prior else None
        self.dropout = nn.Dropout(config.dropout)
        self.head = linear_head(model.levels[self.level].dim, outputs)

    def forward(self, batch: Batch) -> TaskOutput:
        """Loss and metrics; predictions are (B, S) symbols, padded with -1, in evaluation."""
        assert batch.target is not None
        _ = self.decoder  # A wrong lexicon is an error in the first batch, not in the first evaluation.
        pyramid = self.encoder(batch.tokens)
        frames, target_BS = self.frames(pyramid), batch.target
        aligned_BS = self._with_silence(target_BS)
        scores_NK, log_norm_N = self.prior(frames.x_ND) if self.prior is not None else (frames.x_ND, None)
        nats, weight, skipped = ctc_nats(scores_NK, frames.spans, aligned_BS, log_norm_N)
        stats = {"skipped": skipped, "unknown": ((target_BS == UNKNOWN).sum(), (target_BS != NONE).sum())}
        # Divided by all symbols, including those of samples that do not fit into learned groups: how many fit is only
        # known after the forward pass. Such samples still train the other terms.
        count = count_target_symbols(aligned_BS)
        parts = {"ctc": nats / count.clamp(min=1)} | pyramid.losses
        if self.finer is not None:
            (mean, finer_count), finer_stats = self.finer(pyramid, target_BS)
            finer = self.finer.weight * self.over("finer", mean, finer_count, count)
            parts, stats = parts | {"finer": finer}, stats | finer_stats
        loss = torch.stack(list(parts.values())).sum()
        stats |= {"loss": (loss.detach() * count, count), "ctc": (nats.detach(), weight)}
        parts = {name: part.detach() for name, part in parts.items()}
        if self.training:
            return TaskOutput(loss, parts, stats)
        is_own_head = self.decode_head is self
        decodable = self.with_merged_silence(frames) if is_own_head else self.decode_head.scores(pyramid)
        predicted = self._predicted(decodable, unpad_targets(target_BS))
        # Symbols that are wrong on purpose, where frames are not finite, are no predictions to report.
        rows = [torch.tensor([symbol for symbol in row if symbol >= 0], dtype=torch.int64) for row in predicted]
        predicted_BS = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=NONE)
        return TaskOutput(loss, parts, stats | self._errors(predicted, target_BS), predicted_BS.to(loss.device))

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Number of symbols, and of the finer symbols that spell them."""
        assert batch.target is not None
        if self.finer is None:
            return {}
        return {
            "ctc": count_target_symbols(self._with_silence(batch.target)),
            "finer": self.finer.count_targets(batch.target),
        }

    def _with_silence(self, target_BS: Tensor) -> Tensor:
        """The targets that are aligned with the frames."""
        return target_BS if self.silence is None else add_silence(target_BS, self.silence)

    @property
    def decode_head(self) -> SymbolHead:
        """The head whose frames the decoder reads: this one, or the finer one that spells the symbols."""
        return self.finer if self.config.decoder.spelled and self.finer is not None else self

    @cached_property
    def lexicon(self) -> Lexicon | None:
        """The words that the decoder is restricted to, where it is.

        Raises:
            ConfigError: the lexicon cannot be read, or has a word that cannot be spelled.
        """
        if self.config.decoder.spelled and self.finer is not None:
            return self.finer.lexicon
        return self.config.decoder.read_lexicon(self.symbols, self.unit)

    @cached_property
    def decoder(self) -> Decode:
        """Decodes the frames of one sample to symbols, with a lexicon to words.

        Raises:
            ConfigError: the lexicon cannot be read, or has a word that cannot be spelled.
        """
        return self.config.decoder.build(self.lexicon)

    def raw_log_probs(self, x_ND: Tensor) -> Tensor:
        """(N, D) tokens of the level to float32 log-probabilities of the symbols, silence and the blank."""
        return super().raw_log_probs(self.dropout(x_ND))

    @torch.no_grad()
    @on_host
    def decode(self, frames: Frames) -> list[Hypothesis]:
        """The best hypothesis of each sample.

        Args:
            frames: of :attr:`decode_head`, with log-probabilities.
        """
        return [self.decoder(log_probs) for log_probs in frames.spans.split(frames.x_ND.detach().cpu())]

    @torch.no_grad()
    @on_host
    def _predicted(self, frames: Frames, true: list[list[int]]) -> list[list[int]]:
        """The predicted symbols of each sample; all wrong where the log-probabilities are NaN."""
        symbol_index = {symbol: index for index, symbol in enumerate(self.symbols)}
        predicted: list[list[int]] = []
        for log_probs_NK, target in zip(frames.spans.split(frames.x_ND.detach().cpu()), true, strict=True):
            if log_probs_NK.isnan().any():
                predicted.append(all_wrong(target))
                continue
            hypothesis = self.decoder(log_probs_NK)
            if self.decode_head is self:
                predicted.append(list(hypothesis.symbols))
            else:
                predicted.append([symbol_index[word] for word in hypothesis.words])
        return predicted

    @on_host
    def _errors(self, predicted: list[list[int]], target_BS: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Edits over reference symbols, and the share of samples without an error."""
        true = unpad_targets(target_BS)
        counts = error_counts(predicted, true, self.error_rate)
        counts["sentence_accuracy"] = (sum(map(operator.eq, predicted, true)), len(true))
        if self.unit == "characters":
            counts |= error_counts([*map(self.words, predicted)], [*map(self.words, true)], "word_error_rate")
        return on_device(counts, target_BS.device)

    def words(self, symbols: Sequence[int]) -> list[str]:
        """The words that characters spell. Characters outside the training set become U+FFFD, which is in no word."""
        return "".join(
            self.symbols[symbol] if symbol >= 0 else "\N{REPLACEMENT CHARACTER}" for symbol in symbols
        ).split()


def _symbols(sample: Sample) -> Sequence[str]:
    label = sample.label
    if not isinstance(label, list | tuple) or not all(isinstance(symbol, str) for symbol in label):
        raise BadSample(
            sample.name,
            f"task ctc needs a list of symbols, got {label!r:.60}; set data.label to words, phonemes or characters",
        )
    return label
