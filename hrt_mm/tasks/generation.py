"""Text from anything: a causal text hierarchy that reads the pyramid of a picture, sound, video or text.

Shapes: B samples, T level-0 tokens of the text, D width of its level 0, V ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from ..core.errors import BadSample, ConfigError
from ..core.levels import HierarchyConfig
from ..core.pyramid import Pyramid
from ..core.source import SourceMemory
from ..core.source_reader import SourceReader
from ..core.spans import Spans
from ..core.tokens import Tokens
from ..data.capabilities import Discrete, Generative, writing
from ..data.sample import Sample
from ..data.tokenizer import Tokenizer, TokenizerConfig
from ..metrics.texts import check_text_metrics, text_metrics
from .base import TaskOutput
from .batch import Batch, TowerTokens
from .decoding import Continuation, Written, search
from .encoder import Encoder
from .encoding import TowerTask, check_reads
from .fingerprints import fingerprint
from .joint import JointCollator, JointTaskConfig
from .labels import linear_head
from .language import bits_per_byte, learned_group_sizes, next_ids, next_token_nats, noisy, prediction_count

_END = -1
"""Ends a text among the rows that evaluation keeps."""
_SHARES = 1 << 20
"""Resolution of ``decode_share``."""


class GenerationConfig(JointTaskConfig):
    """A causal text hierarchy writes a text and reads a source: captions, transcripts, summaries.

    There are two towers. The samples of a split have both modalities; to generate, the source is enough.
    """

    type: Literal["generation"]
    target: str = "text"
    """Tower of the text, whose model is causal. The other tower is the source."""
    read: dict[str, str | Annotated[tuple[str, ...], Field(min_length=1)]] = {}
    """By level of the text's hierarchy, the level of the source that its blocks read, or several; by default, all
    levels read the coarsest of the source."""
    max_tokens: PositiveInt = 256
    """Most tokens of a text. Longer ones are bad samples, and decoding stops there."""
    noise: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the text's tokens that are replaced by random ones of the batch in training; targets stay as they are
    (unigram noise, arXiv 1703.02573)."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Label smoothing in training."""
    decode_share: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Share of the samples that evaluation decodes, chosen by their names; 0 leaves the metrics of texts out."""
    beams: PositiveInt = 1
    """Beams of the search in evaluation; 1 is greedy decoding."""
    length_penalty: NonNegativeFloat = 1.0
    """Exponent of the length that the log-probability of a hypothesis is divided by."""
    monitor: Literal["cross_entropy", "character_error_rate", "word_error_rate", "bleu", "rouge_l", "exact_match"] = (
        "cross_entropy"
    )
    """Selects the best checkpoint."""

    @property
    def predicted_tower(self) -> str:
        """That of the text."""
        return self.target

    @property
    def labelled(self) -> bool:
        """Never: the text is the target."""
        return False

    def source(self, towers: Sequence[str] | Mapping[str, Any]) -> str:
        """The tower that is read.

        Raises:
            ConfigError: there are not two towers, or none is the target.
        """
        names = tuple(towers)
        if self.target not in names:
            raise ConfigError(f"task.target names a tower {self.target!r}; the towers are {', '.join(names)}")
        others = [name for name in names if name != self.target]
        if len(others) != 1:
            raise ConfigError(
                f"task generation reads one tower and writes another; there are {len(names)}: {', '.join(names)}"
            )
        return others[0]

    def check_towers(self, modalities: Mapping[str, TokenizerConfig], models: Mapping[str, HierarchyConfig]) -> None:
        """Checks the towers and the levels that are read."""
        source = self.source(models)
        if self.shared:
            raise ConfigError("task.shared has no use for task generation, whose text is causal; drop it")
        if not models[self.target].causal:
            raise ConfigError(
                f"task generation needs towers.{self.target}.model.causal: true, or each token would see the one it "
                "predicts"
            )
        self.reads(models[source], models[self.target])

    def reads(self, source: HierarchyConfig, target: HierarchyConfig) -> dict[int, tuple[int, ...]]:
        """By index of a level of the text's hierarchy, the indices of the source's levels that it reads.

        Raises:
            ConfigError: a level is unknown or named twice.
        """
        if not self.read:
            return {index: (len(source.levels) - 1,) for index in range(len(target.levels))}
        reads: dict[int, tuple[int, ...]] = {}
        for name, levels in self.read.items():
            try:
                index = target.index(name)
                chosen = tuple(map(source.index, levels if isinstance(levels, tuple) else (levels,)))
            except ConfigError as error:
                raise ConfigError(f"task.read.{name}: {error}") from error
            if len(set(chosen)) != len(chosen):
                raise ConfigError(f"task.read.{name} names a level twice: {', '.join(levels)}")
            reads[index] = chosen
        return dict(sorted(reads.items()))

    def collator(
        self,
        models: Mapping[str, HierarchyConfig],
        tokenizers: Mapping[str, Tokenizer],
        classes: tuple[str, ...] | None,
    ) -> GenerationCollator:
        """Makes batches of samples."""
        return GenerationCollator(self, tokenizers)

    def build_towers(
        self,
        models: Mapping[str, HierarchyConfig],
        tokenizers: Mapping[str, Tokenizer],
        classes: tuple[str, ...] | None,
    ) -> Generation:
        """The task's module.

        Raises:
            ConfigError: there are not two towers, the text is not causal or its tokenizer cannot write, a level is
                unknown, or a part of a model is never read.
            MissingLibrary: evaluation decodes, and the library of its metrics is not installed.
        """
        source = self.source(models)
        if not isinstance(tokenizers[self.target], Generative):
            raise ConfigError(
                f"task.target is {self.target!r}, whose {type(tokenizers[self.target]).__name__} does not write text"
            )
        if self.decode_share:
            check_text_metrics()
        elif self.monitor != "cross_entropy":
            raise ConfigError(
                f"task.monitor: {self.monitor} needs decoded texts, and task.decode_share is 0; raise it, or monitor "
                "cross_entropy"
            )
        return Generation(self, source, models, tokenizers)


class GenerationCollator(JointCollator):
    """Packs sources and texts. A text becomes a document: a separator, its tokens, and a separator.

    Args:
        config: of the task.
        tokenizers: by tower.
    """

    config: GenerationConfig

    def __init__(self, config: GenerationConfig, tokenizers: Mapping[str, Tokenizer]) -> None:
        super().__init__(config, tokenizers, None)
        self.source, self.target = config.source(tokenizers), config.target

    def towers(self, samples: Sequence[Sample]) -> dict[str, TowerTokens]:
        """The tokens of the sources, which all samples have, and of the texts, if they have some.

        Raises:
            BadSample: a sample has no source, only some have texts, a tokenizer refuses a value, or a text is too long.
        """
        for sample in samples:
            if not isinstance(sample.value, Mapping):
                kind = type(sample.value).__name__
                raise BadSample(sample.name, f"its value is {kind}; towers need a mapping by name")
            if sample.value.get(self.source) is None:
                what = "has a text, but no" if sample.value.get(self.target) is not None else "has no"
                raise BadSample(sample.name, f"{what} {self.source} that the text could be written from")
        sources = self.tokenizers[self.source]([sample.value[self.source] for sample in samples])
        towers = {self.source: TowerTokens.of(sources, len(samples))}
        texts = [sample.value.get(self.target) for sample in samples]
        if all(text is None for text in texts):
            return towers
        if None in texts:
            raise BadSample(
                samples[texts.index(None)].name, f"has no {self.target} to learn from; add it, or leave the sample out"
            )
        tokens = self._documents(texts)
        self._check_lengths(tokens, samples)
        return towers | {self.target: TowerTokens.of(tokens, len(samples))}

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """The batch of some samples.

        Raises:
            BadSample: as for :meth:`towers`, or a sample has no text.
        """
        towers = self.towers(samples)
        if self.target not in towers:
            raise BadSample(samples[0].name, f"has no {self.target} to learn from; add it, or leave the sample out")
        return Batch(towers, None, tuple(sample.name for sample in samples))

    def _documents(self, texts: Sequence[Any]) -> Tokens:
        tokenizer = writing(self.tokenizers[self.target])
        tokens = tokenizer.prompts(texts)
        # The separator at the end is a group of its own, as it is within a text of several documents.
        spans = Spans.from_lengths(tokens.spans.lengths + 1)
        old_T = torch.ones(spans.total, dtype=torch.bool)
        old_T[spans.host[1:] - 1] = False
        ids_T = torch.full((spans.total,), tokenizer.separator, dtype=tokens.x.dtype).masked_scatter(old_T, tokens.x)
        boundaries = {
            name: torch.ones(spans.total, dtype=torch.bool).masked_scatter(old_T, starts_T)
            for name, starts_T in tokens.boundaries.items()
        }
        return Tokens(ids_T, spans, spans.positions[:, None].float(), boundaries=boundaries)

    def _check_lengths(self, tokens: Tokens, samples: Sequence[Sample]) -> None:
        limit = self.config.max_tokens
        for sample, length in zip(samples, tokens.spans.lengths.tolist(), strict=True):
            # Both separators are no part of the text.
            if length - 2 > limit:
                raise BadSample(
                    sample.name,
                    f"its {self.target} has {length - 2} tokens, more than task.max_tokens {limit}; raise that, or "
                    "shorten the text",
                )


class Generation(TowerTask):
    """Two encoders, one of the source and a causal one of the text, which reads the first, and a linear head.

    Metrics are those of a language model over the text; of the samples that evaluation decodes, those of
    :func:`hrt_mm.metrics.texts.text_metrics`.

    Args:
        config: the task.
        source: name of the source's tower.
        models: the hierarchies by tower.
        tokenizers: by tower; they give the axes and the embeddings.

    Raises:
        ConfigError: a part of a model is never read.
    """

    def __init__(
        self,
        config: GenerationConfig,
        source: str,
        models: Mapping[str, HierarchyConfig],
        tokenizers: Mapping[str, Tokenizer],
    ) -> None:
        super().__init__()
        self.config, self.source, self.target = config, source, config.target
        self.monitor = config.monitor
        errors = ("cross_entropy", "character_error_rate", "word_error_rate")
        self.monitor_mode = "min" if config.monitor in errors else "max"
        self.towers = (source, config.target)
        reads = config.reads(models[source], models[config.target])
        for tower, levels in (
            (source, sorted({level for read in reads.values() for level in read})),
            (self.target, [0]),
        ):
            try:
                check_reads(models[tower], levels)
            except ConfigError as error:
                raise ConfigError(f"towers.{tower}: {error}".replace("task.level", "task.read")) from error
        self.tokenizers = dict(tokenizers)
        self.encoders = nn.ModuleDict({name: Encoder(models[name], tokenizers[name]) for name in self.towers})
        self.reader = SourceReader(self.encoder.hierarchy, self.encoder_of(source).hierarchy, reads)
        assert isinstance(self.tokenizer, Discrete)
        # Named by tower, so that train.init_from finds it.
        self.heads = nn.ModuleDict(
            {self.target: linear_head(models[self.target].levels[0].dim, self.tokenizer.vocabulary)}
        )
        self.leaves_unused = any(getattr(part, "leaves_unused", False) for part in self.encoders.modules())

    @property
    def encoder(self) -> Encoder:
        """The encoder of the text."""
        return self.encoder_of(self.target)

    @property
    def tokenizer(self) -> Tokenizer:
        """Of the text."""
        return self.tokenizers[self.target]

    def encoder_of(self, tower: str) -> Encoder:
        """The encoder of a tower."""
        encoder = self.encoders[tower]
        assert isinstance(encoder, Encoder)
        return encoder

    def encoder_name(self, tower: str) -> str:
        """The module name of a tower's encoder."""
        return f"encoders.{tower}"

    def forward(self, batch: Batch) -> TaskOutput:
        """Loss and metrics; predictions are (T,) ids, at each token of the text that of the next one."""
        tokens = batch.towers[self.target].tokens
        source, losses = self._read(batch)
        read = tokens.with_x(noisy(tokens.x, self.config.noise)) if self.training and self.config.noise else tokens
        pyramid = self.encoder(read, source)
        target_T = next_ids(tokens)
        smoothing = self.config.label_smoothing if self.training else 0.0
        vocabulary = self._head.out_features
        nats_T, guess_T = next_token_nats(self.logits, vocabulary, pyramid[0].x, target_T, smoothing)
        self.encoder_of(self.target).hierarchy.learn_uncertainty(pyramid, nats_T)
        count = prediction_count(tokens)
        nats, right = nats_T.sum(), ((guess_T == target_T) & nats_T.detach().isfinite()).sum()
        losses |= {f"{self.target}/{name}": value for name, value in pyramid.losses.items()}
        parts = {"cross_entropy": nats / count.clamp(min=1)} | losses
        loss = torch.stack(list(parts.values())).sum()
        stats = {
            "loss": (loss.detach() * count, count),
            "cross_entropy": (nats.detach(), count),
            "accuracy": (right, count),
        }
        stats |= bits_per_byte(self.tokenizer, tokens, nats)
        stats |= learned_group_sizes(self.encoder.hierarchy.config, pyramid)
        output = TaskOutput(loss, {name: part.detach() for name, part in parts.items()}, stats, guess_T)
        if not self.training:
            output.rows = self._decoded(batch, source)
        return output

    def read(self, batch: Batch) -> SourceMemory:
        """The keys and values of the sources of a batch."""
        return self._read(batch)[0]

    def logits(self, x_TD: Tensor) -> Tensor:
        """(..., D) tokens of level 0 of the text to (..., V) logits of the next tokens, in float32."""
        logits: Tensor = self._head(x_TD).float()
        return logits

    def begin(self, source: SourceMemory, prompt: Any = "") -> Continuation:
        """The start of a text for each sample of a source.

        Args:
            source: of the samples.
            prompt: how each text begins.
        """
        prompts = writing(self.tokenizer).prompts([prompt] * len(source))
        return Continuation(self, prompts, source)

    @torch.no_grad()
    def write(
        self,
        batch: Batch,
        *,
        prompt: Any = "",
        max_tokens: int | None = None,
        beams: int | None = None,
        length_penalty: float | None = None,
    ) -> list[Written]:
        """The most likely text of each sample of a batch, whose own texts are not read.

        Args:
            batch: of sources, on the device of the weights.
            prompt: how each text begins; it is not part of what is returned.
            max_tokens: most tokens to write; ``task.max_tokens`` if absent.
            beams: of the search; ``task.beams`` if absent.
            length_penalty: exponent of the length; ``task.length_penalty`` if absent.

        Raises:
            UserError: a value is out of range.
        """
        return self._search(self.read(batch), prompt, max_tokens, beams, length_penalty)

    def text(self, ids: Sequence[int], *, ended: bool = True) -> str:
        """The text that ids stand for.

        Args:
            ids: without separators.
            ended: whether the text ends there; otherwise, bytes of a character that is incomplete are left out.
        """
        tokenizer = writing(self.tokenizer)
        return "".join(map(tokenizer.writer(), (*ids, *([tokenizer.separator] if ended else []))))

    def summarize(self, rows: Mapping[str, Tensor]) -> dict[str, float]:
        """The metrics of the decoded texts."""
        if "written" not in rows:
            return {}
        return text_metrics(*(_unpacked(rows[name]) for name in ("written", "references")))

    @property
    def _head(self) -> nn.Linear:
        head = self.heads[self.target]
        assert isinstance(head, nn.Linear)
        return head

    def _read(self, batch: Batch) -> tuple[SourceMemory, dict[str, Tensor]]:
        pyramid: Pyramid = self.encoder_of(self.source)(batch.towers[self.source].tokens)
        source: SourceMemory = self.reader(pyramid)
        return source, {f"{self.source}/{name}": value for name, value in pyramid.losses.items()}

    def _search(
        self,
        source: SourceMemory,
        prompt: Any = "",
        max_tokens: int | None = None,
        beams: int | None = None,
        length_penalty: float | None = None,
    ) -> list[Written]:
        config = self.config
        return search(
            self.begin(source, prompt),
            max_tokens=config.max_tokens if max_tokens is None else max_tokens,
            beams=config.beams if beams is None else beams,
            length_penalty=config.length_penalty if length_penalty is None else length_penalty,
        )

    def _decoded(self, batch: Batch, source: SourceMemory) -> dict[str, Tensor]:
        """The written texts and their references, of the samples that are decoded."""
        limit = self.config.decode_share * _SHARES
        chosen = [
            index for index, name in enumerate(batch.names) if fingerprint("decoded", name.encode()) % _SHARES < limit
        ]
        if not chosen:
            return {}
        ids = batch.towers[self.target].tokens.split()
        references = [self.text(ids[index][1:-1].tolist()) for index in chosen]
        written = [self.text(text.ids, ended=text.ended) for text in self._search(source.select(chosen))]
        return {"written": _packed(written), "references": _packed(references)}


def _packed(texts: Sequence[str]) -> Tensor:
    """Texts as one row of bytes, each followed by an end."""
    return torch.tensor([byte for text in texts for byte in (*text.encode(), _END)], dtype=torch.int16)


def _unpacked(bytes_N: Tensor) -> list[str]:
    texts, current = [], bytearray()
    for byte in bytes_N.tolist():
        if byte == _END:
            texts.append(current.decode())
            current.clear()
        else:
            current.append(byte)
    return texts
