"""Evaluation: exact over batches and ranks, from the sums that tasks report."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..component import Component
from ..config import RunConfig, load_config
from ..errors import ConfigError
from ..extents import Extents
from ..modality import Tokenizer
from ..splits import some
from ..tasks.base import Batch, Task
from ..tasks.joint import JointTokenizer
from .build import Data, build_dataset, build_task, build_tokenizer, check_classes, given_groups
from .checkpoint import Checkpoint, CheckpointError
from .config import TrainConfig
from .data import checked, load, worker_deaths_named
from .distributed import Ranks
from .identity import MOVED, check_same_vocabularies
from .meters import Meters, added, classes_without_samples, macro_f1s, means
from .precision import Autocast, autocast, numerics
from .sampler import Plan, evaluation_plans, sample_sizes
from .samples import BadSamples, BatchMaker
from .seeding import forked, mix, seed_all
from .shuffle import Shuffle
from .store import CheckpointStore
from .weights import load_weights

log = logging.getLogger(__name__)


class EvaluationLoader:
    """A split's samples, each once, in the same batches every time it is gone through.

    Args:
        split: its name.
        maker: makes its batches.
        options: batch size, workers and the share of bad samples that is allowed.
        ranks: each reads its part.
        limit: batches, drawn once at random; all when absent.
    """

    def __init__(
        self, split: str, maker: BatchMaker, options: TrainConfig, ranks: Ranks, limit: int | None = None
    ) -> None:
        self.split = split
        self.maker = maker
        self.options = options
        self.ranks = ranks
        self.limit = limit
        self.bad = BadSamples(split, len(maker.dataset), options.max_bad_share)
        self._absent: Mapping[str, Sequence[int]] = {}
        self._plans = self._plan()

    def _plan(self) -> list[Plan]:
        options, world_size, length = self.options, self.ranks.world_size, len(self.maker.dataset)
        tokens = options.batch_tokens
        order = Shuffle(length, mix(options.seed, "evaluation", self.split)) if self.limit is not None else None
        return evaluation_plans(
            length,
            batch_size=options.batch_size,
            budget=tokens // world_size if tokens is not None else None,
            sizes=sample_sizes(self.maker.dataset, self.maker.tokenizer) if tokens is not None else None,
            rank=self.ranks.rank,
            world_size=world_size,
            order=order,
            limit=self.limit,
        )

    def __iter__(self) -> Iterator[Batch]:
        """The batches that are not empty. Counts bad samples anew."""
        return (batch for _, batch in self.numbered())

    def numbered(self) -> Iterator[tuple[int, Batch]]:
        """The same, each with its number among those of all ranks."""
        self.bad = BadSamples(self.split, len(self.maker.dataset), self.options.max_bad_share)
        pinned = self.ranks.device.type == "cuda"
        # Starting workers takes longer than reading a few batches.
        workers = self.options.workers if len(self._plans) > 2 * self.options.workers else 0
        with worker_deaths_named():
            for loaded in load(self.maker, self._plans, workers=workers, pin_memory=pinned):
                if (batch := checked(loaded, self.bad).batch) is not None:
                    yield loaded.plan.at.batch, batch

    def name_absent(self, absent: Mapping[str, Sequence[int]]) -> None:
        """Warns of metrics that are means over classes and lack some, unless they lacked the same before.

        Args:
            absent: by metric, the classes that no sample is of, as :func:`classes_without_samples` gives them.
        """
        classes = self.maker.classes or ()
        for metric, missing in absent.items():
            if missing and self.ranks.main and self._absent.get(metric) != missing and max(missing) < len(classes):
                log.warning(
                    "%s/%s is the mean over %d of %d classes: the split has no sample of %s%s",
                    self.split, metric, len(classes) - len(missing), len(classes),
                    some([classes[place] for place in missing]),
                    " among those evaluated" if self.limit is not None else "",
                )  # fmt: skip
        self._absent = absent


@torch.no_grad()
def evaluate(
    task: Task,
    loader: EvaluationLoader,
    cast: Autocast,
    *,
    stopped: Callable[[], bool] = lambda: False,
    partial: bool = False,
) -> dict[str, float] | None:
    """A split's metrics, by names like ``val/accuracy``. Leaves the global generators as they were.

    Args:
        task: on the device of the loader's rank.
        loader: the split.
        cast: the precision's context.
        stopped: asked between batches.
        partial: the metrics are not those of the split, so that nothing is said of what they lack.

    Returns:
        The metrics over all ranks, or ``None`` where a rank was stopped before its end.
    """
    meters, halted, training = Meters(), False, task.training
    task.eval()
    try:
        with forked():
            for number, batch in loader.numbered():
                if halted := stopped():
                    break
                seed_all(mix(loader.options.seed, "evaluation", number))
                batch = batch.to(loader.ranks.device)
                with cast():
                    output = task(batch)
                meters.add(output, batch)
    finally:
        task.train(training)
    if not loader.ranks.all(not halted):
        return None
    metrics = means(added(loader.ranks.gather(meters.sums())), loader.split)
    counts = loader.ranks.gather(meters.class_counts())
    metrics |= macro_f1s(counts, loader.split)
    if not partial:
        loader.name_absent(classes_without_samples(counts))
    rows = _together(loader.ranks.gather(meters.rows()))
    return metrics | {f"{loader.split}/{name}": value for name, value in task.summarize(rows).items()}


def _together(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Rows of all ranks, one after another; a rank without a batch has none."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: torch.cat([part[name] for part in parts if name in part]) for name in names}


@dataclass(frozen=True)
class TrainedRun:
    """A task with the weights of a run.

    Args:
        folder: the run folder.
        config: of the run.
        task: in evaluation mode.
        tokenizer: packs its samples.
        classes: names of the training set's labels, where they are classes.
        checkpoint: where the weights came from.
    """

    folder: Path
    config: RunConfig
    task: Task
    tokenizer: Tokenizer
    classes: tuple[str, ...] | None
    checkpoint: Checkpoint

    def loader(self, split: str, ranks: Ranks) -> EvaluationLoader:
        """The samples of a split.

        Raises:
            ConfigError: there is no such split, or it has classes that the task does not know.
        """
        other = "test" if split == "val" else "val"
        try:
            dataset = build_dataset(self.config, split, self.tokenizer, f"--split {other} evaluates another one")
        except ConfigError as error:
            raise ConfigError(f"{error}{self._elsewhere()}") from error
        check_classes(dataset, split, self.classes)
        before = self.checkpoint.state.get("counts", {}).get(split, len(dataset))
        saved = self.checkpoint.state.get("config", {}).get("data")
        if ranks.main and before != len(dataset) and saved == self.config.data.model_dump(mode="json"):
            log.warning(
                "the data changed since the run was trained: %s had %d samples, now %d; %s",
                split, before, len(dataset), MOVED,
            )  # fmt: skip
        maker = Data(self.tokenizer, {split: dataset}, self.classes).maker(self.config, split)
        return EvaluationLoader(split, maker, self.config.train, ranks)

    def _elsewhere(self) -> str:
        """Where relative paths of the data were found when the run was trained, if they are not here."""
        before = self.checkpoint.state.get("started_in")
        if not isinstance(before, str):
            return ""
        paths = [path for path in _paths(self.config.data) if not path.is_absolute() and not path.exists()]
        found = [str(path) for path in paths if (Path(before) / path).exists()]
        if not found:
            return ""
        return (
            f"; the run was started in {before}, where {found[0]} is: evaluate it from there, or give an absolute path"
        )


def _paths(value: object) -> Iterator[Path]:
    """All paths of a configuration."""
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
    """The task of a run with its trained weights, on the CPU; the moving average where the run kept one.

    Args:
        run_dir: the run folder.
        which: ``best``, ``latest`` or a step.
        overrides: laid over the run's configuration, each ``a.b.c=value``.
        config: used in place of the folder's ``config.yaml``.
        inputs: what is to be read: the run's own data, other data, or bare files. Inputs of other origin whose size or
            rate training never saw are brought to what is nearest, and of bare files no boundaries are expected but
            those that the model groups by.

    Raises:
        ConfigError: the folder is not that of a run.
        CheckpointError: it has no such checkpoint that is whole.
    """
    if config is None:
        config = read_config(run_dir, overrides)
    checkpoint = open_store(run_dir).read(which)
    classes = checkpoint.state["classes"]
    names = tuple(classes) if classes is not None else None
    tokenizer = build_tokenizer(config)
    check_same_vocabularies(checkpoint, tokenizer, "evaluate with the file that it was trained with")
    with forked():
        task = build_task(config, tokenizer, names)
    load_trained(task, checkpoint)
    if inputs != "own":
        _expect(tokenizer, extents_of(checkpoint.state))
    if inputs == "files":
        _without_labels(config, tokenizer)
    return TrainedRun(run_dir, config, task.eval(), tokenizer, names, checkpoint)


def extents_of(state: Mapping[str, Any]) -> dict[str, Extents]:
    """By tower, the sizes of inputs that training saw; nothing where a checkpoint of an older version has none."""
    return {name: Extents.of_plain(value) for name, value in state.get("extents", {}).items()}


def _expect(tokenizer: Tokenizer, extents: Mapping[str, Extents]) -> None:
    towers = tokenizer.towers if isinstance(tokenizer, JointTokenizer) else {"": tokenizer}
    for name, reader in towers.items():
        reader.expected = extents.get(name)


def _without_labels(config: RunConfig, tokenizer: Tokenizer) -> None:
    """Leaves out boundaries that only the loss compares with."""
    towers = tokenizer.towers if isinstance(tokenizer, JointTokenizer) else {"": tokenizer}
    grouped = given_groups(config)
    for name, reader in towers.items():
        labels = frozenset(reader.carried) - frozenset(grouped[name])
        reader.wanted = reader.wanted - labels


def read_config(run_dir: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The configuration of a run.

    Raises:
        CheckpointError: the folder is not that of a run.
    """
    path = Path(run_dir) / "config.yaml"
    if not path.is_file():
        raise CheckpointError(f"{run_dir} is not a run folder: it has no config.yaml")
    return load_config(path, overrides, of_run=True)


def open_store(run_dir: Path) -> CheckpointStore:
    """The checkpoints of a run, judged as the run judged them."""
    store = CheckpointStore(Path(run_dir))
    for step in reversed(store.steps()):
        try:
            monitor = store.state(step)["monitor"]
        except CheckpointError:
            continue
        return CheckpointStore(Path(run_dir), monitor=monitor["metric"], mode=monitor["mode"])
    return store


def load_trained(task: Task, checkpoint: Checkpoint) -> None:
    """Puts a checkpoint's weights into a task: the moving average where there is one."""
    part = "ema" if "ema" in checkpoint else "model"
    load_weights(task, checkpoint.tensors(part), f"{part}.safetensors of {checkpoint.folder}")


def evaluate_run(
    run_dir: Path,
    split: str = "test",
    overrides: Sequence[str] = (),
    *,
    which: str | int = "best",
    config: RunConfig | None = None,
) -> dict[str, float]:
    """Metrics of a trained run on a split, by names like ``test/accuracy``. Under torchrun each rank reads its part.

    Args:
        run_dir: the run folder.
        split: ``train``, ``val`` or ``test``.
        overrides: laid over the run's configuration, each ``a.b.c=value``: another data root, a batch size. Samples of
            other data whose size or rate training never saw are brought to what is nearest.
        which: ``best``, ``latest`` or a step.
        config: used in place of the folder's ``config.yaml``.
    """
    other = any(override.startswith("data.") for override in overrides)
    run = load_task(Path(run_dir), which, overrides=overrides, config=config, inputs="other" if other else "own")
    options = run.config.train
    with Ranks.joined(options.device) as ranks, numerics(ranks.device, options.num_threads):
        task = run.task.to(ranks.device)
        metrics = evaluate(task, run.loader(split, ranks), autocast(options.precision, ranks.device))
    assert metrics is not None
    return metrics
