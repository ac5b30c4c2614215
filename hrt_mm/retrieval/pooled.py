"""Vectors of runs that were not trained to compare: the mean of the tokens of the coarsest level, as length 1.

Shapes: N rows, B samples, D width of the level.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor
from torch.nn import functional as F

from ..core.errors import ConfigError
from ..core.pyramid import Pyramid
from ..data.dataset import Dataset
from ..data.sample import Sample
from ..data.tokenizer import SINGLE
from ..inference.trained import TrainedRun
from ..tasks.contrastive_views import LevelView
from ..tasks.encoder import Encoder
from ..tasks.encoding import EncoderTask


@dataclass(frozen=True)
class PooledHeads:
    """Normalizes tokens and their means.

    Args:
        levels: by tower, the level that is read.
    """

    levels: Mapping[str, int]
    soft: bool = False

    def mapped(self, tower: str, x: Tensor) -> Tensor:
        """(N, D) rows of the tower's level, as length 1."""
        return F.normalize(x.float(), dim=-1)

    def query(self, tower: str, pyramid: Pyramid) -> Tensor:
        """(B, D) a vector for each sample."""
        return self.mapped(tower, pyramid.pooled(self.levels[tower]))


class PooledEncoder:
    """The encoder of a run over one modality, as a tower whose samples are compared by their means.

    Args:
        task: with the trained weights.
        tower: its name, that of the modality.
    """

    def __init__(self, task: EncoderTask, tower: str) -> None:
        self.encoder, self.towers = task.encoder, (tower,)
        levels = task.encoder.hierarchy.config.levels
        read = {tower: len(levels) - 1}
        self.width = levels[-1].dim
        self.views, self.heads = (LevelView(read),), (PooledHeads(read),)
        self.shared: dict[str, str] = {}

    def encoder_of(self, tower: str) -> Encoder:
        """The only encoder."""
        return self.encoder

    def width_of(self, view: int) -> int:
        """Width of the vectors of a view."""
        return self.width


def pooled(run: TrainedRun) -> tuple[TrainedRun, PooledEncoder]:
    """A run over one modality with a tower that is named after it, and its pooled encoder.

    Raises:
        ConfigError: the run has several towers.
    """
    if not isinstance(run.task, EncoderTask):
        raise ConfigError(
            f"{run.folder} was trained on task {run.config.task.type} over several modalities; their vectors can be "
            "compared in runs of task contrastive alone"
        )
    tower = run.config.single.modality.type
    named = run.config.model_copy(update={"towers": {tower: run.config.single}})
    return replace(run, config=named, tokenizers={tower: run.tokenizer}), PooledEncoder(run.task, tower)


class NamedValues(Dataset):
    """The samples of a dataset of one modality as those of a tower.

    Args:
        dataset: the samples. Of several values of a sample, such as windows of a video, the first is read.
        tower: the name.
    """

    def __init__(self, dataset: Dataset, tower: str) -> None:
        self.dataset, self.tower, self.classes = dataset, tower, dataset.classes

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        sample = self.dataset[index]
        value = sample.value[0] if isinstance(sample.value, tuple) else sample.value
        return replace(sample, value={self.tower: value})

    def name(self, index: int) -> str:
        return self.dataset.name(index)

    def class_of(self, index: int) -> str | None:
        return self.dataset.class_of(index)

    def describe(self, index: int) -> Mapping[str, str]:
        """What the dataset says, and the class."""
        described, label = dict(self.dataset.describe(index)), self.dataset.class_of(index)
        return described | ({"label": label} if label is not None else {})

    def file_of(self, index: int, tower: str) -> Path | None:
        return self.dataset.file_of(index, tower)


def plain_split(run: TrainedRun, split: str, tower: str) -> NamedValues:
    """The samples of a split of a run that :func:`pooled` named.

    Raises:
        ConfigError: the split is missing.
    """
    dataset = run.config.data.suited_towers({SINGLE: run.config.towers[tower].modality}).plain(split)
    dataset.limit(run.tokenizers[tower])
    return NamedValues(dataset, tower)
