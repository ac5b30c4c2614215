"""From a run's configuration to its tokenizer, datasets and task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..core.errors import ConfigError
from ..core.levels import GivenGroups, LearnedGroups
from ..data.dataset import Dataset
from ..data.stream import StreamedDataset
from ..data.tokenizer import SINGLE, Tokenizer, only_tokenizer
from ..tasks.base import Task
from ..tasks.contrastive import ContrastiveConfig
from .config import TrainConfig
from .negatives import Negatives
from .samples import BatchMaker

if TYPE_CHECKING:
    from .run_config import RunConfig

WITHOUT = {"val": "train.eval_every=null trains without evaluation", "test": "train.test=false leaves the test out"}


@dataclass(frozen=True)
class Data:
    """What a run reads.

    Args:
        tokenizers: by tower.
        splits: datasets by split.
        classes: names of the training set's labels, where they are classes.
    """

    tokenizers: Mapping[str, Tokenizer]
    splits: dict[str, Dataset]
    classes: tuple[str, ...] | None

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of a run over one modality."""
        return only_tokenizer(self.tokenizers)

    @property
    def counts(self) -> dict[str, int]:
        """Number of samples by split, without streams, whose length is not known."""
        return {
            split: len(dataset) for split, dataset in self.splits.items() if not isinstance(dataset, StreamedDataset)
        }

    @property
    def sizes(self) -> str:
        """The number of samples of each split, for messages."""
        return ", ".join(
            f"{self.counts[split]:,} {split}" if split in self.counts else f"streamed {split}" for split in self.splits
        )

    def maker(self, config: RunConfig, split: str) -> BatchMaker:
        """Makes batches of a split."""
        collator = config.task.collator(config.models, self.tokenizers, self.classes)
        return BatchMaker(self.splits[split], collator, config.train.seed)

    def training_maker(self, config: RunConfig) -> BatchMaker:
        """Makes batches to train on: with hard negatives, where the task names some.

        Raises:
            ConfigError: the table of negatives is missing or malformed, or was mined from other data.
        """
        maker, task = self.maker(config, "train"), config.task
        maker.collator.mixing = config.data.mixing()
        if isinstance(task, ContrastiveConfig) and task.negatives is not None:
            count, seed = task.negatives_per_sample, config.train.seed
            maker.negatives = Negatives.read(task.negatives, self.splits["train"], count, seed)
        return maker


def path_of(tower: str) -> str:
    """The path of a tower's keys: ``towers.NAME.``, or nothing for the only one."""
    return f"towers.{tower}." if tower != SINGLE else ""


def build_tokenizers(config: RunConfig) -> dict[str, Tokenizer]:
    """By tower, the modality's tokenizer, laid out for the model's windows, strides and boundaries."""
    tokenizers = {}
    for name, tower in config.towers.items():
        groups = [level.group for level in tower.model.levels]
        grouped = [group.boundary for group in groups if isinstance(group, GivenGroups)]
        taught = [group.supervise for group in groups if isinstance(group, LearnedGroups) and group.supervise]
        # Computing boundaries takes time, and a sample may lack those in the data: only what is read is asked for.
        boundaries = (*grouped, *taught, *config.task.boundaries)
        tokenizers[name] = tower.modality.build(tower.model).with_boundaries(boundaries)
    return tokenizers


def build_tokenizer(config: RunConfig) -> Tokenizer:
    """The tokenizer of a run over one modality.

    Raises:
        ConfigError: there are several towers.
    """
    return only_tokenizer(build_tokenizers(config))


def splits_of(options: TrainConfig) -> list[str]:
    """The splits that a run reads."""
    return ["train", *(["val"] if options.eval_every else []), *(["test"] if options.test else [])]


def given_groups(config: RunConfig) -> dict[str, list[str]]:
    """By tower, ``""`` for the only one, the boundaries that its model groups by."""
    return {
        name: [level.group.boundary for level in tower.model.levels if isinstance(level.group, GivenGroups)]
        for name, tower in config.towers.items()
    }


def carried_groups(config: RunConfig, tokenizers: Mapping[str, Tokenizer]) -> dict[str, list[str]]:
    """Of :func:`given_groups`, those that come with the data; towers without any are left out.

    A bare file does not have them, unless the data's ``prepare`` supplies them.
    """
    lacking = {
        name: [
            boundary
            for boundary in given
            if boundary in tokenizers[name].carried and boundary not in config.data.supplies.get(name, ())
        ]
        for name, given in given_groups(config).items()
    }
    return {name: boundaries for name, boundaries in lacking.items() if boundaries}


def build_data(config: RunConfig, splits: Sequence[str]) -> Data:
    """Tokenizer and datasets, with the classes of the train split.

    Args:
        config: of the run.
        splits: which datasets; ``train`` is among them.

    Raises:
        ConfigError: a split is missing or empty, or has a class that train has not.
    """
    check_towers(config)
    tokenizers = build_tokenizers(config)
    datasets = {split: build_dataset(config, split, tokenizers, WITHOUT.get(split, "")) for split in splits}
    classes = datasets["train"].classes
    for split, dataset in datasets.items():
        check_classes(dataset, split, classes)
    return Data(tokenizers, datasets, classes)


def check_towers(config: RunConfig) -> None:
    """Refuses a tower that the data has no values for, and what the task cannot do with the towers.

    Raises:
        ConfigError: names it, and what there is.
    """
    available = config.data.towers()
    for name in config.towers:
        if name not in available:
            key = f"towers.{name}" if name != SINGLE else "modality"
            form = "modality and model" if SINGLE in available else f"towers named {', '.join(available)}"
            raise ConfigError(f"{key}: data.type {config.data.type} has no such values; give {form}")
    config.task.check_towers(config.modalities, config.models)
    if config.data.mixing() is not None and not config.task.mixes:
        raise ConfigError(
            f"data.augment: mixup and cutmix mix the classes of samples, which task {config.task.type} cannot learn; "
            "they are for task classification without balance"
        )


def build_dataset(
    config: RunConfig, split: str, tokenizers: Mapping[str, Tokenizer] | None = None, advice: str = ""
) -> Dataset:
    """The samples of a split.

    Args:
        config: of the run.
        split: which one.
        tokenizers: by tower, that take the samples; without them files that are too long are read whole.
        advice: what to do without the split, for messages.

    Raises:
        ConfigError: it is missing or empty.
    """
    try:
        suited = config.data.suited_towers(config.modalities)
        dataset = suited.build(split)
        if not isinstance(dataset, StreamedDataset) and not len(dataset):
            raise ConfigError(f"data.type {config.data.type}: the {split} split is empty")
    except ConfigError as error:
        if not advice:
            raise
        raise ConfigError(f"{error} ({advice})") from error
    if tokenizers is not None:
        dataset.limit_towers(tokenizers)
    return dataset


def check_classes(dataset: Dataset, split: str, classes: tuple[str, ...] | None) -> None:
    """Refuses a split with a class that the model was not trained on.

    Raises:
        ConfigError: names the classes.
    """
    if dataset.classes is None or classes is None:
        return
    if strange := [name for name in dataset.classes if name not in classes]:
        more = f" and {len(strange) - 5} more" if len(strange) > 5 else ""
        raise ConfigError(
            f"the {split} split has {'classes' if len(strange) > 1 else 'a class'} that the train split has not: "
            f"{', '.join(map(repr, strange[:5]))}{more}; add training samples of it, or remove it"
        )


def build_task(config: RunConfig, tokenizers: Mapping[str, Tokenizer], classes: tuple[str, ...] | None) -> Task:
    """The task's module.

    Args:
        config: of the run.
        tokenizers: by tower, as :func:`build_tokenizers` gives them.
        classes: names of the training set's labels, where they are classes.
    """
    return config.task.build_towers(config.models, tokenizers, classes)
