"""Fused classification: one label per sample from several modalities, any of which may be missing.

Shapes: B samples, N towers, D the common width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import ConfigError
from ..core.levels import HierarchyConfig
from ..core.norm import rms_norm
from ..core.per_step import training_step
from ..core.spans import Spans
from ..data.sample import Sample
from ..data.tokenizer import Tokenizer
from .base import TaskOutput
from .batch import Batch
from .encoding import check_reads
from .fusion import Experts, Fusion, TowerStream, build_head
from .fusion.config import GatedConfig, TokensConfig
from .joint import JointTask, JointTaskConfig
from .labels import NO_LABEL, LabelConfig, LabelScores, class_indices, linear_head

if TYPE_CHECKING:
    from .batch import TowerTokens


class FusedConfig(JointTaskConfig, LabelConfig):
    """One label per sample of several modalities."""

    type: Literal["fused_classification"]
    level: dict[str, str] = {}
    """Level whose tokens are fused, by tower; the coarsest by default."""
    fusion: Fusion = GatedConfig(type="gated")
    """How they are fused."""
    drop_modality: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Modality dropout: probability that a modality of a training sample is left out; one always stays."""
    alone: NonNegativeFloat = 0.0
    """Weight of the loss of each modality alone, with the same fusion and head. Without it the modality that is learned
    first leaves little gradient to the others (arXiv 1905.12681)."""
    without: tuple[str, ...] = ()
    """Towers to leave out of every sample, for ablations."""

    def labels(self, samples: Sequence[Sample], classes: tuple[str, ...] | None) -> Tensor:
        """(B,) int64 class indices.

        Raises:
            BadSample: a label is not one of the training set's.
        """
        return class_indices(samples, classes)

    def build_towers(
        self,
        models: Mapping[str, HierarchyConfig],
        tokenizers: Mapping[str, Tokenizer],
        classes: tuple[str, ...] | None,
    ) -> Fused:
        """The task's module.

        Raises:
            ConfigError: the data has no classes, a tower or level is unknown, or a part of a model is never read.
        """
        timed = self.fusion.time if isinstance(self.fusion, TokensConfig) else {}
        for key, names in (("level", self.level), ("without", self.without), ("fusion.time", timed)):
            for name in names:
                if name not in models:
                    raise ConfigError(f"task.{key} names a tower {name!r}; the towers are {', '.join(models)}")
        if len(set(self.without)) == len(models):
            raise ConfigError("task.without names every tower; leave one")
        return Fused(self, models, tokenizers, self.checked_classes(classes))


class Fused(JointTask):
    """Encoders, a map for each to the common width, the fusion, and a linear head where the fusion gives vectors.

    Args:
        config: the task.
        models: the hierarchies by tower.
        tokenizers: by tower; they give the axes and the embeddings.
        classes: names of the labels.
    """

    def __init__(
        self,
        config: FusedConfig,
        models: Mapping[str, HierarchyConfig],
        tokenizers: Mapping[str, Tokenizer],
        classes: tuple[str, ...],
    ) -> None:
        levels: dict[str, int] = {}
        for tower, model in models.items():
            try:
                levels[tower] = model.index(config.level.get(tower))
                check_reads(model, [levels[tower]])
            except ConfigError as error:
                raise ConfigError(f"towers.{tower}: {error}") from error
        super().__init__(models, tokenizers, config.shared)
        self.levels = levels
        self.monitor, self.monitor_mode = config.monitor, "min" if config.monitor == "cross_entropy" else "max"
        self.drop, self.without, self.alone = config.drop_modality, config.without, config.alone
        self.scores = LabelScores(config, len(classes))
        self.classes = classes
        self.time = dict(config.fusion.time) if isinstance(config.fusion, TokensConfig) else {}
        dim = config.fusion.dim
        self.maps = nn.ModuleDict(
            {tower: nn.Linear(model.levels[levels[tower]].dim, dim) for tower, model in models.items()}
        )
        self.fusion = build_head(self.towers, config.fusion, len(classes))
        self.dropout = nn.Dropout(config.dropout)
        # Experts classify by themselves.
        self.head = linear_head(dim, len(classes)) if not isinstance(self.fusion, Experts) else None
        self.dim = dim

    @property
    def classifier(self) -> nn.Module:
        """The module whose output is the logits."""
        return self.head if self.head is not None else self.fusion

    def forward(self, batch: Batch) -> TaskOutput:
        """Loss, accuracy, macro-F1 and the predicted classes (B,)."""
        assert batch.target is not None
        # Towers that share an encoder are batched together.
        with training_step(self):
            streams, losses = self._streams(batch)
        # The single modalities are a help in training, and no part of the task that is measured.
        if self.training and self.alone:
            losses |= self._alone(streams, batch)
        output: TaskOutput = self.scores(self._logits(streams), batch.target, losses)
        return output

    def logits(self, batch: Batch) -> Tensor:
        """(B, K) of the samples of a batch, whose targets need not be there."""
        return self._logits(self._streams(batch)[0])

    def fused(self, batch: Batch) -> Tensor:
        """(B, D) what the head classifies; of fusions that have a head."""
        return rms_norm(self.fusion(self._streams(batch)[0]))

    def _logits(self, streams: Mapping[str, TowerStream]) -> Tensor:
        if self.head is None:
            logits_BK: Tensor = self.fusion(streams, self.dropout)
        else:
            logits_BK = self.head(self.dropout(rms_norm(self.fusion(streams))))
        return logits_BK

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Number of labelled samples, in total and by modality."""
        assert batch.target is not None
        if not self.alone:
            return {}
        labelled_B = batch.target != NO_LABEL
        counts = {"fused": labelled_B.sum()}
        for tower in self.towers:
            part = None if tower in self.without else batch.towers.get(tower)
            counts[tower] = (
                labelled_B[part.samples.to(labelled_B.device)].sum() if part is not None else 0 * counts["fused"]
            )
        return counts

    def _alone(self, streams: Mapping[str, TowerStream], batch: Batch) -> dict[str, Tensor]:
        """The weighted loss of each modality alone, over the samples in which it is present."""
        assert batch.target is not None
        target_B, counts = batch.target, self.counts(batch)
        none_B = torch.zeros(len(target_B), dtype=torch.bool)
        losses = {}
        for tower in self.towers:
            present_B = streams[tower].present_B.to(target_B.device)
            count = (present_B & (target_B != NO_LABEL)).sum()
            alone = {name: stream if name == tower else stream.only(none_B) for name, stream in streams.items()}
            labels_B = torch.where(present_B, target_B, NO_LABEL)
            total = F.cross_entropy(self._logits(alone).float(), labels_B, ignore_index=NO_LABEL, reduction="sum")
            mean = total / count.clamp(min=1)
            losses[f"{tower}/alone"] = self.alone * self.over(tower, mean, counts[tower], counts["fused"])
        return losses

    def _streams(self, batch: Batch) -> tuple[dict[str, TowerStream], dict[str, Tensor]]:
        """The stream of each tower after modality dropout, and the auxiliary losses of the encoders."""
        keep_BN = self._modality_mask(batch)
        streams: dict[str, TowerStream] = {}
        losses: dict[str, Tensor] = {}
        for index, tower in enumerate(self.towers):
            part = batch.towers.get(tower)
            if part is None or tower in self.without:
                x_TD, none = next(self.maps.parameters()).new_zeros(0, self.dim), torch.zeros(0, dtype=torch.int64)
                streams[tower] = TowerStream.of(x_TD, Spans.from_lengths([], x_TD.device), none, len(batch))
                continue
            stream, aside = self._stream(tower, part, len(batch))
            streams[tower] = stream if bool(keep_BN[:, index].all()) else stream.only(keep_BN[:, index])
            losses |= {f"{tower}/{name}": value for name, value in aside.items()}
        return streams, losses

    def _stream(self, tower: str, part: TowerTokens, batch: int) -> tuple[TowerStream, dict[str, Tensor]]:
        pyramid = self.encoder_of(tower)(part.tokens)
        tokens = pyramid[self.levels[tower]]
        step = self.time.get(tower)
        time_T = tokens.coords_TC[:, 0] * step if step is not None else None
        return TowerStream.of(self.maps[tower](tokens.x), tokens.spans, part.samples, batch, time_T), pyramid.losses

    def _modality_mask(self, batch: Batch) -> Tensor:
        """(B, N) bool on the host: the modalities to keep; in training some are dropped at random."""
        present_BN = torch.zeros(len(batch), len(self.towers), dtype=torch.bool)
        for index, tower in enumerate(self.towers):
            if tower in batch.towers and tower not in self.without:
                present_BN[batch.towers[tower].samples, index] = True
        if not self.training or not self.drop:
            return torch.ones_like(present_BN)
        # On the host, as the layout of the streams is planned there.
        draw_BN = torch.rand(present_BN.shape)
        # The present modality with the largest draw always stays.
        last_B = draw_BN.masked_fill(~present_BN, -1).argmax(1)
        keep_BN = draw_BN >= self.drop
        keep_BN[torch.arange(len(batch)), last_B] = True
        return keep_BN
