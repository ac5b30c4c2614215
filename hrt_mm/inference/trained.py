"""Trained runs: loading their weights, and evaluating them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor

from ..config import RunConfig, load_config
from ..core.component import Component, with_current_keys
from ..core.errors import BadSample, ConfigError
from ..core.initial_weights import weights_replaced
from ..data.capabilities import SizeAdapting
from ..data.hub import CONFIG, resolve, saved_overrides
from ..data.registry import modalities
from ..data.sample import Sample
from ..data.tokenizer import SINGLE, Tokenizer, only_tokenizer
from ..tasks.base import Collator, Task
from ..tasks.batch import Batch
from ..tasks.encoding import EncoderTask, TowerTask
from ..tasks.fused import Fused
from ..tasks.generation import Generation
from ..train.build import (
    Data,
    build_dataset,
    build_task,
    build_tokenizers,
    carried_groups,
    check_classes,
    given_groups,
)
from ..train.checkpoint import Checkpoint, CheckpointError
from ..train.distributed import ProcessGroup
from ..train.evaluate import EvaluationLoader, evaluate, extents_of, load_trained
from ..train.identity import SPLITS_MAY_DIFFER, check_same_vocabularies
from ..train.precision import autocast, numerics
from ..train.sampler import Plan, evaluation_plans
from ..train.seeding import forked
from ..train.store import open_store
from .inputs import Input, Inputs, SampleBatches, inputs_of
from .interpreting import NOT_FINITE, Interpreter
from .locating import LevelVectors, located, locations_of, unit_of
from .predictions import Predicted
from .reading import TowerReader

log = logging.getLogger(__name__)

BATCH_SIZE = 32
"""Samples a batch to predict, of runs whose batches are made by tokens."""


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
        try:
            dataset = build_dataset(self.config, split, self.tokenizers)
        except ConfigError as error:
            raise ConfigError(f"{error}{self._other_split(split)}{self.path_hint()}") from error
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

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.task.parameters()).device

    def to(self, device: str | torch.device) -> Self:
        """Moves the weights to a device, and returns the run."""
        self.task.to(device)
        return self

    def predict(self, inputs: Sequence[Any], *, batch_size: int | None = None) -> list[Predicted]:
        """Predicts samples.

        Predictions are classes (:class:`Prediction`), tags, segments or transcripts (:class:`SpanPrediction`), or
        written texts (:class:`TextPrediction`).

        The precision is that of the run. With the batch size of the run, predictions of the files of a split are those
        of its evaluation.

        Args:
            inputs: files, texts or values in memory. A ``str`` is a text for towers of text, and the path of a file for
                others. With several towers each is a mapping by tower, in which modalities may be missing. Of task
                ``matching`` each is a pair.
            batch_size: samples a batch; ``train.batch_size`` of the run if absent.

        Raises:
            ConfigError: the run's task makes no predictions.
            BadSample: an input cannot be read or tokenized; says which and why.
        """
        interpret = self.interpreter()
        predictions: list[Predicted] = []
        with self.computing():
            for batch, samples in self.read(inputs, batch_size):
                for sample, prediction in zip(samples, interpret(batch, samples), strict=True):
                    if prediction is None:
                        raise BadSample(sample.name, NOT_FINITE)
                    predictions.append(prediction)
        return predictions

    @torch.inference_mode()
    def embed(self, inputs: Sequence[Any], level: str | None = None, *, batch_size: int | None = None) -> Tensor:
        """(B, D) vectors of samples: the mean of the tokens of a level; of task ``fused_classification`` what is fused.

        Args:
            inputs: as :meth:`predict` takes them.
            level: name of the level; the coarsest when absent.
            batch_size: samples a batch; ``train.batch_size`` of the run if absent.

        Raises:
            ConfigError: the run has several towers that are not fused into a vector
                (:class:`hrt_mm.retrieval.Embedder` embeds those of task ``contrastive``), or no such level.
            BadSample: an input cannot be read or tokenized; says which and why.
        """
        if isinstance(self.task, Fused) and self.task.head is not None:
            if level is not None:
                raise ConfigError(f"{self.folder} fuses its towers into one vector; drop level {level!r}")
            with self.computing():
                fused = [self.task.fused(batch).float().cpu() for batch, _ in self.read(inputs, batch_size)]
            return torch.cat(fused) if fused else torch.zeros(0, self.task.dim)
        if not isinstance(self.task, EncoderTask):
            raise ConfigError(f"{self.folder} has several towers; use hrt_mm.retrieval.Embedder")
        encoder = self.task.encoder
        index = encoder.hierarchy.config.index(level)
        with self.computing():
            vectors = [encoder(batch.tokens).pooled(index).float().cpu() for batch, _ in self.read(inputs, batch_size)]
        return torch.cat(vectors) if vectors else torch.zeros(0, encoder.hierarchy.config.levels[index].dim)

    @torch.inference_mode()
    def levels(
        self, inputs: Sequence[Any], tower: str | None = None, *, batch_size: int | None = None
    ) -> list[dict[str, LevelVectors]]:
        """The tokens of all levels with their locations, fine to coarse, for each sample.

        Args:
            inputs: as :meth:`predict` takes them. Of a sample of several values, such as a pair, the first is encoded.
            tower: of several; samples that lack it have no levels.
            batch_size: samples a batch; ``train.batch_size`` of the run if absent.

        Raises:
            ConfigError: the run has several towers, and none is named; or it has no such tower.
            BadSample: an input cannot be read or tokenized; says which and why.
        """
        if tower is None and len(self.tokenizers) == 1:
            (tower,) = self.tokenizers
        if not isinstance(self.task, TowerTask) or tower is None or tower not in self.tokenizers:
            raise ConfigError(f"{self.folder} has the towers {', '.join(self.tokenizers)}; name one with tower=")
        encoder, reader = self.task.encoder_of(tower), self.reader(tower)
        config = encoder.hierarchy.config
        results: list[dict[str, LevelVectors]] = []
        with self.computing():
            for batch, samples in self.read(inputs, batch_size):
                first = len(results)
                results += [{} for _ in samples]
                part = batch.towers.get(tower)
                if part is None:
                    continue
                pyramid = encoder(part.tokens)
                for index, level in enumerate(pyramid.names):
                    for owner, (x_ND, edges_N2A) in zip(
                        part.samples.tolist(), located(pyramid, config, index), strict=True
                    ):
                        if level in results[first + owner]:
                            continue
                        value = samples[owner].value
                        value = value[0] if isinstance(value, tuple) else value if tower == SINGLE else value[tower]
                        locations = tuple(locations_of(reader, value, edges_N2A))
                        results[first + owner][level] = LevelVectors(
                            level, x_ND.float().cpu(), locations, unit_of(reader)
                        )
        return results

    @contextmanager
    def computing(self, precision: str | None = None) -> Iterator[None]:
        """Sets the threads and the precision of the run for the block.

        Args:
            precision: ``fp32``, ``bf16`` or ``auto``; that of the run if absent.
        """
        options, device = self.config.train, self.device
        with numerics(device, options.num_threads), autocast(precision or options.precision, device)():
            yield

    def reader(self, tower: str) -> TowerReader:
        """Reads what a tower takes."""
        modality = modalities()[self.config.towers[tower].modality.type]
        annotations = carried_groups(self.config, self.tokenizers).get(tower, ())
        return TowerReader(tower, modality, self.tokenizers[tower], self.config.data, tuple(annotations))

    def interpreter(self) -> Interpreter:
        """Makes predictions of batches.

        Raises:
            ConfigError: the run's task makes no predictions.
        """
        return Interpreter(self.task, self.readers, self.config.task.type, self.folder)

    @property
    def readers(self) -> dict[str, TowerReader]:
        """Readers of all towers that inputs have; the text of task ``generation`` is written, and not read."""
        written = self.task.target if isinstance(self.task, Generation) else None
        return {tower: self.reader(tower) for tower in self.config.towers if tower != written}

    def batches(self, inputs: Sequence[Input], *, values: bool = True) -> SampleBatches:
        """Makes batches of inputs.

        Args:
            inputs: what to read.
            values: return raw values beside the batches.
        """
        dataset = Inputs(self.readers, inputs)
        return SampleBatches(dataset, self.collator, self.config.train.seed, values=values)

    def plans(self, count: int, batch_size: int | None = None) -> list[Plan]:
        """The batches of some inputs, in their order.

        Args:
            count: number of inputs.
            batch_size: samples a batch; ``train.batch_size`` of the run, or 32, if absent.
        """
        size = batch_size or self.config.train.batch_size or BATCH_SIZE
        return evaluation_plans(count, batch_size=size, budget=None, sizes=None)

    def read(self, inputs: Sequence[Any], batch_size: int | None = None) -> Iterator[tuple[Batch, list[Sample]]]:
        """Batches on the task's device, as the run's data prepares them, with their samples.

        Args:
            inputs: as :meth:`predict` takes them.
            batch_size: samples a batch; ``train.batch_size`` of the run if absent.

        Raises:
            BadSample: an input cannot be read or tokenized; says which and why.
        """
        maker = self.batches(inputs_of(inputs, self.readers))
        for plan in self.plans(len(inputs), batch_size):
            loaded = maker[plan]
            if loaded.error is not None:
                raise loaded.error
            if loaded.bad:
                raise loaded.bad[0]
            assert loaded.batch is not None
            yield loaded.batch.to(self.device), [sample for _, sample in loaded.samples]

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

    def _other_split(self, split: str) -> str:
        """Names another split, if the data has one."""
        other = "test" if split == "val" else "val"
        try:
            build_dataset(self.config, other)
        except ConfigError:
            return ""
        return f" (--split {other} evaluates another one)"

    def path_hint(self) -> str:
        """Says why paths of the data do not exist here, as far as that is known.

        A saved model comes without its data. Otherwise relative paths may exist in the folder that the run was started
        in.
        """
        missing = [path for path in _paths(self.config.data) if not path.exists()]
        if missing and (self.folder / CONFIG).is_file():
            return "; a saved model comes without its data: name yours, as in data.root=photos"
        started_in = self.checkpoint.state.get("started_in")
        if not isinstance(started_in, str):
            return ""
        # Only a path that is missing here and exists there explains the error.
        for path in missing:
            if not path.is_absolute() and (Path(started_in) / path).exists():
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
    run_dir: str | Path,
    which: str | int = "best",
    *,
    overrides: Sequence[str] = (),
    config: RunConfig | None = None,
    inputs: Literal["own", "other", "files"] = "own",
) -> TrainedRun:
    """Loads a trained run on the CPU, with the moving average of its weights if it was kept.

    Args:
        run_dir: the run folder, or a repository of the Hugging Face Hub, ``hub:owner/name``.
        which: ``best``, ``latest`` or a step.
        overrides: changes to the run's configuration, each ``a.b.c=value``.
        config: replaces the folder's ``config.yaml``.
        inputs: what will be read: the run's own data, other data, or files without annotations. Inputs from elsewhere
            are resized or resampled to the nearest size or rate seen in training. Files need only the boundaries that
            the model groups by.

    Raises:
        ConfigError: the folder is not a run folder.
        CheckpointError: the checkpoint is missing or damaged.
        UserError: the repository cannot be read, or is not one of this library.
    """
    run_dir = resolve(run_dir)
    if config is None:
        config = read_config(run_dir, [*saved_overrides(run_dir), *overrides])
    checkpoint = open_store(run_dir).read(which)
    classes = checkpoint.state["classes"]
    names = tuple(classes) if classes is not None else None
    tokenizers = build_tokenizers(config)
    check_same_vocabularies(checkpoint, tokenizers, "evaluate with the file that it was trained with")
    # Random initial weights are replaced, so drawing them must not advance the caller's generators.
    with forked(), weights_replaced():
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
    """A trained run, to be applied to files and raw samples: ``load_run("runs/digits").predict(["3.png"])``.

    It is on the CPU; ``run.to("cuda")`` moves it. Inputs of sizes or rates that training never saw are brought to
    the nearest ones.

    Args:
        run_dir: the run folder, or a repository of the Hugging Face Hub, ``hub:owner/name``.
        which: ``best``, ``latest`` or a step.
        overrides: laid over the run's configuration, each ``a.b.c=value``.

    Raises:
        ConfigError: the folder is not that of a run.
        CheckpointError: it has no such checkpoint that is whole.
        UserError: the repository cannot be read, or is not one of this library.
    """
    return load_task(run_dir, which, overrides=overrides, inputs="files")


def read_config(run_dir: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The configuration of a run.

    Raises:
        CheckpointError: the folder is not a run folder.
    """
    path = Path(run_dir) / "config.yaml"
    if not path.is_file():
        raise CheckpointError(f"{run_dir} is not a run folder: it has no config.yaml")
    return load_config(path, overrides, of_run=True)


def load_for_evaluation(
    run_dir: str | Path, overrides: Sequence[str] = (), *, which: str | int = "best", config: RunConfig | None = None
) -> TrainedRun:
    """Loads a run to evaluate it on its own data, or on other data if an override is of the data.

    Args:
        run_dir: the run folder, or a repository, ``hub:owner/name``.
        overrides: changes to the run's configuration, each ``a.b.c=value``.
        which: ``best``, ``latest`` or a step.
        config: replaces the folder's ``config.yaml``.
    """
    # Only other data may have sizes or rates that training never saw.
    other_data = any(override.startswith("data.") for override in overrides)
    return load_task(run_dir, which, overrides=overrides, config=config, inputs="other" if other_data else "own")


def evaluate_run(
    run_dir: str | Path,
    split: str = "test",
    overrides: Sequence[str] = (),
    *,
    which: str | int = "best",
    config: RunConfig | None = None,
) -> dict[str, float]:
    """Metrics of a trained run on a split, by names like ``test/accuracy``. Under torchrun, ranks share the work.

    Args:
        run_dir: the run folder, or a repository, ``hub:owner/name``.
        split: ``train``, ``val`` or ``test``.
        overrides: changes to the run's configuration, each ``a.b.c=value``: another data root, a batch size. Samples
            of other data are resized or resampled to the nearest size or rate seen in training.
        which: ``best``, ``latest`` or a step.
        config: replaces the folder's ``config.yaml``.
    """
    run = load_for_evaluation(run_dir, overrides, which=which, config=config)
    options = run.config.train
    with (
        ProcessGroup.from_env(options.device, options.collective_timeout) as ranks,
        numerics(ranks.device, options.num_threads),
    ):
        task = run.task.to(ranks.device)
        metrics = evaluate(task, run.loader(split, ranks), autocast(options.precision, ranks.device))
    assert metrics is not None
    return metrics
