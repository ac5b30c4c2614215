"""Trained runs: loading their weights, and evaluating them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..config import RunConfig, load_config
from ..core.component import Component, with_current_keys
from ..core.errors import ConfigError, UserError
from ..data.capabilities import SizeAdapting, read_file
from ..data.registry import modalities
from ..data.sample import Sample
from ..data.tokenizer import SINGLE, Tokenizer, only_tokenizer
from ..tasks.base import Collator, Task
from ..tasks.batch import Batch
from ..tasks.classification import Classification
from ..tasks.encoding import EncoderTask
from ..tasks.fused import Fused
from ..train.build import Data, build_dataset, build_task, build_tokenizers, check_classes, given_groups
from ..train.checkpoint import Checkpoint, CheckpointError
from ..train.distributed import ProcessGroup
from ..train.evaluate import EvaluationLoader, evaluate, extents_of, load_trained
from ..train.identity import SPLITS_MAY_DIFFER, check_same_vocabularies
from ..train.precision import autocast, numerics
from ..train.seeding import forked
from ..train.store import open_store

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prediction:
    """The predicted class of a sample.

    Args:
        label: the most likely class.
        probabilities: of all classes by name, most likely first.
    """

    label: str
    probabilities: Mapping[str, float]

    @property
    def probability(self) -> float:
        """Of ``label``."""
        return self.probabilities[self.label]


@dataclass(frozen=True)
class TrainedRun:
    """A trained model with its configuration.

    Args:
        folder: the run folder.
        config: of the run.
        task: with the trained weights, in evaluation mode.
        tokenizers: by tower.
        classes: names of the training set's labels, where they are classes.
        checkpoint: that the weights were read from.
    """

    folder: Path
    config: RunConfig
    task: Task
    tokenizers: Mapping[str, Tokenizer]
    classes: tuple[str, ...] | None
    checkpoint: Checkpoint

    def loader(self, split: str, ranks: ProcessGroup) -> EvaluationLoader:
        """The batches of a split.

        Raises:
            ConfigError: the split is missing, or has classes that the model was not trained on.
        """
        # Named in the error, for data that lacks this split.
        other = "test" if split == "val" else "val"
        try:
            dataset = build_dataset(self.config, split, self.tokenizers, f"--split {other} evaluates another one")
        except ConfigError as error:
            raise ConfigError(f"{error}{self._relative_path_hint()}") from error
        check_classes(dataset, split, self.classes)
        trained_count = self.checkpoint.state.get("counts", {}).get(split, len(dataset))
        # Other data than the run's may have any number of samples; a changed number matters for the same data alone.
        trained_data = with_current_keys(self.checkpoint.state.get("config", {}).get("data"), self.config.data)
        if ranks.is_main and trained_count != len(dataset) and trained_data == self.config.data.model_dump(mode="json"):
            log.warning(
                "the data changed since the run was trained: %s had %d samples, now %d; %s",
                split, trained_count, len(dataset), SPLITS_MAY_DIFFER,
            )  # fmt: skip
        maker = Data(self.tokenizers, {split: dataset}, self.classes).maker(self.config, split)
        return EvaluationLoader(split, maker, self.config.train, ranks)

    @torch.inference_mode()
    def predict(self, inputs: Sequence[Any], *, batch_size: int = 32) -> list[Prediction]:
        """Classifies samples with a run of task ``classification`` or ``fused_classification``.

        Args:
            inputs: files as :class:`~pathlib.Path`, or raw samples. With towers each is a mapping by tower, in which
                modalities may be missing.
            batch_size: samples a batch.

        Raises:
            ConfigError: the run's task has no predictions of this kind.
            BadSample: an input cannot be read or tokenized; says which and why.
        """
        if not isinstance(self.task, Classification | Fused):
            raise ConfigError(
                f"{self.folder} was trained on task {self.config.task.type}; predictions need task classification or "
                "fused_classification"
            )
        predictions: list[Prediction] = []
        for batch in self._batches(inputs, batch_size):
            for probabilities_K in self.task.logits(batch).float().softmax(-1).cpu():
                values, order = probabilities_K.sort(descending=True)
                ranked = zip(order.tolist(), values.tolist(), strict=True)
                probabilities = {self.task.classes[place]: probability for place, probability in ranked}
                predictions.append(Prediction(next(iter(probabilities)), probabilities))
        return predictions

    @torch.inference_mode()
    def embed(self, inputs: Sequence[Any], level: str | None = None, *, batch_size: int = 32) -> Tensor:
        """(B, D) vectors of samples: the mean of the tokens of a level. For runs with one tower.

        Args:
            inputs: files as :class:`~pathlib.Path`, or raw samples.
            level: name of the level; the coarsest when absent.
            batch_size: samples a batch.

        Raises:
            ConfigError: the run has several towers (:class:`hrt_mm.retrieval.Embedder` embeds those of task
                ``contrastive``), or no such level.
            BadSample: an input cannot be read or tokenized; says which and why.
        """
        if not isinstance(self.task, EncoderTask):
            raise ConfigError(f"{self.folder} has several towers; use hrt_mm.retrieval.Embedder")
        encoder = self.task.encoder
        index = encoder.hierarchy.config.index(level)
        return torch.cat([encoder(batch.tokens).pooled(index) for batch in self._batches(inputs, batch_size)]).cpu()

    def _batches(self, inputs: Sequence[Any], batch_size: int) -> Iterator[Batch]:
        """Batches of files and raw samples on the task's device, as the run's data prepares them."""
        device = next(self.task.parameters()).device
        for first in range(0, len(inputs), batch_size):
            samples = [
                Sample(self._value(value), None, f"input {first + number}")
                for number, value in enumerate(inputs[first : first + batch_size])
            ]
            # Without targets, since files have no labels.
            yield Batch(self.collator.towers(samples), None, tuple(sample.name for sample in samples)).to(device)

    def _value(self, value: Any) -> Any:
        towers = self.config.towers
        if SINGLE in towers:
            return self._read(SINGLE, value)
        if not isinstance(value, Mapping):
            raise UserError(f"inputs are mappings by tower ({', '.join(towers)}), got {value!r:.40}")
        return {name: self._read(name, value[name]) for name in towers if value.get(name) is not None}

    def _read(self, tower: str, value: Any) -> Any:
        if isinstance(value, Path):
            modality = modalities()[self.config.towers[tower].modality.type]
            value = read_file(modality, value, self.tokenizers[tower])
        return self.config.data.prepare(tower, value)

    @property
    def collator(self) -> Collator:
        """Makes batches of the task's samples."""
        return self.config.task.collator(self.config.models, self.tokenizers, self.classes)

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of a run over one modality.

        Raises:
            ConfigError: there are several towers.
        """
        return only_tokenizer(self.tokenizers)

    def _relative_path_hint(self) -> str:
        """Names the folder that the run was started in, if relative paths of the data exist there and not here."""
        started_in = self.checkpoint.state.get("started_in")
        if not isinstance(started_in, str):
            return ""
        # Only a path that is missing here and exists there explains the error.
        for path in _paths(self.config.data):
            if not path.is_absolute() and not path.exists() and (Path(started_in) / path).exists():
                return (
                    f"; the run was started in {started_in}, where {path} is: evaluate it from there, or give an "
                    "absolute path"
                )
        return ""


def _paths(value: object) -> Iterator[Path]:
    """All paths in a configuration."""
    if isinstance(value, Path):
        yield value
    elif isinstance(value, Component):
        for name in type(value).model_fields:
            yield from _paths(getattr(value, name))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _paths(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _paths(item)


def load_task(
    run_dir: Path,
    which: str | int = "best",
    *,
    overrides: Sequence[str] = (),
    config: RunConfig | None = None,
    inputs: Literal["own", "other", "files"] = "own",
) -> TrainedRun:
    """Loads a trained run on the CPU, with the moving average of its weights if it was kept.

    Args:
        run_dir: the run folder.
        which: ``best``, ``latest`` or a step.
        overrides: changes to the run's configuration, each ``a.b.c=value``.
        config: replaces the folder's ``config.yaml``.
        inputs: what will be read: the run's own data, other data, or files without annotations. Inputs from elsewhere
            are resized or resampled to the nearest size or rate seen in training. Files need only the boundaries that
            the model groups by.

    Raises:
        ConfigError: the folder is not a run folder.
        CheckpointError: the checkpoint is missing or damaged.
    """
    if config is None:
        config = read_config(run_dir, overrides)
    checkpoint = open_store(run_dir).read(which)
    classes = checkpoint.state["classes"]
    names = tuple(classes) if classes is not None else None
    tokenizers = build_tokenizers(config)
    check_same_vocabularies(checkpoint, tokenizers, "evaluate with the file that it was trained with")
    # Random initial weights are replaced, so drawing them must not advance the caller's generators.
    with forked():
        task = build_task(config, tokenizers, names)
    load_trained(task, checkpoint)
    if inputs != "own":
        # Sizes and rates that training never saw are brought to the nearest ones that it saw.
        extents = extents_of(checkpoint.state)
        tokenizers = {
            name: tokenizer.with_extents(extents.get(name)) if isinstance(tokenizer, SizeAdapting) else tokenizer
            for name, tokenizer in tokenizers.items()
        }
    if inputs == "files":
        # Files have no labels, so boundaries that only the loss reads are left out.
        groups = given_groups(config)
        tokenizers = {
            name: tokenizer.with_boundaries(
                tokenizer.requested_boundaries - (frozenset(tokenizer.carried) - frozenset(groups[name]))
            )
            for name, tokenizer in tokenizers.items()
        }
    return TrainedRun(run_dir, config, task.eval(), tokenizers, names, checkpoint)


def load_run(run_dir: str | Path, which: str | int = "best", *, overrides: Sequence[str] = ()) -> TrainedRun:
    """A trained run, to be applied to files and raw samples: ``load_run("runs/digits").predict([Path("3.png")])``.

    It is on the CPU; ``run.task.to("cuda")`` moves it. Inputs of sizes or rates that training never saw are brought to
    the nearest ones.

    Args:
        run_dir: the run folder.
        which: ``best``, ``latest`` or a step.
        overrides: laid over the run's configuration, each ``a.b.c=value``.

    Raises:
        ConfigError: the folder is not that of a run.
        CheckpointError: it has no such checkpoint that is whole.
    """
    return load_task(Path(run_dir), which, overrides=overrides, inputs="files")


def read_config(run_dir: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The configuration of a run.

    Raises:
        CheckpointError: the folder is not a run folder.
    """
    path = Path(run_dir) / "config.yaml"
    if not path.is_file():
        raise CheckpointError(f"{run_dir} is not a run folder: it has no config.yaml")
    return load_config(path, overrides, of_run=True)


def evaluate_run(
    run_dir: Path,
    split: str = "test",
    overrides: Sequence[str] = (),
    *,
    which: str | int = "best",
    config: RunConfig | None = None,
) -> dict[str, float]:
    """Metrics of a trained run on a split, by names like ``test/accuracy``. Under torchrun, ranks share the work.

    Args:
        run_dir: the run folder.
        split: ``train``, ``val`` or ``test``.
        overrides: changes to the run's configuration, each ``a.b.c=value``: another data root, a batch size. Samples
            of other data are resized or resampled to the nearest size or rate seen in training.
        which: ``best``, ``latest`` or a step.
        config: replaces the folder's ``config.yaml``.
    """
    # Only other data may have sizes or rates that training never saw.
    other_data = any(override.startswith("data.") for override in overrides)
    run = load_task(Path(run_dir), which, overrides=overrides, config=config, inputs="other" if other_data else "own")
    options = run.config.train
    with ProcessGroup.from_env(options.device) as ranks, numerics(ranks.device, options.num_threads):
        task = run.task.to(ranks.device)
        metrics = evaluate(task, run.loader(split, ranks), autocast(options.precision, ranks.device))
    assert metrics is not None
    return metrics
