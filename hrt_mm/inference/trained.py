"""Trained runs: loading their weights, and evaluating them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..config import RunConfig, load_config
from ..core.component import Component, with_current_keys
from ..core.errors import ConfigError
from ..data.capabilities import SizeAdapting
from ..data.extents import Extents
from ..data.tokenizer import Tokenizer
from ..tasks.base import Task
from ..tasks.joint import JointTokenizer
from ..train.build import Data, build_dataset, build_task, build_tokenizer, check_classes, given_groups
from ..train.checkpoint import Checkpoint, CheckpointError
from ..train.distributed import ProcessGroup
from ..train.evaluate import EvaluationLoader, evaluate, extents_of, load_trained
from ..train.identity import SPLITS_MAY_DIFFER, check_same_vocabularies
from ..train.precision import autocast, numerics
from ..train.seeding import forked
from ..train.store import open_store

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainedRun:
    """A trained model with its configuration.

    Args:
        folder: the run folder.
        config: of the run.
        task: with the trained weights, in evaluation mode.
        tokenizer: packs its samples.
        classes: names of the training set's labels, where they are classes.
        checkpoint: that the weights were read from.
    """

    folder: Path
    config: RunConfig
    task: Task
    tokenizer: Tokenizer
    classes: tuple[str, ...] | None
    checkpoint: Checkpoint

    def loader(self, split: str, ranks: ProcessGroup) -> EvaluationLoader:
        """The batches of a split.

        Raises:
            ConfigError: the split is missing, or has classes that the model was not trained on.
        """
        other = "test" if split == "val" else "val"
        try:
            dataset = build_dataset(self.config, split, self.tokenizer, f"--split {other} evaluates another one")
        except ConfigError as error:
            raise ConfigError(f"{error}{self._relative_path_hint()}") from error
        check_classes(dataset, split, self.classes)
        trained_count = self.checkpoint.state.get("counts", {}).get(split, len(dataset))
        trained_data = with_current_keys(self.checkpoint.state.get("config", {}).get("data"), self.config.data)
        if ranks.is_main and trained_count != len(dataset) and trained_data == self.config.data.model_dump(mode="json"):
            log.warning(
                "the data changed since the run was trained: %s had %d samples, now %d; %s",
                split, trained_count, len(dataset), SPLITS_MAY_DIFFER,
            )  # fmt: skip
        maker = Data(self.tokenizer, {split: dataset}, self.classes).maker(self.config, split)
        return EvaluationLoader(split, maker, self.config.train, ranks)

    def _relative_path_hint(self) -> str:
        """Names the folder that the run was started in, if relative paths of the data exist there and not here."""
        started_in = self.checkpoint.state.get("started_in")
        if not isinstance(started_in, str):
            return ""
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
    tokenizer = build_tokenizer(config)
    check_same_vocabularies(checkpoint, tokenizer, "evaluate with the file that it was trained with")
    with forked():
        task = build_task(config, tokenizer, names)
    load_trained(task, checkpoint)
    if inputs != "own":
        tokenizer = _resizing(tokenizer, extents_of(checkpoint.state))
    if inputs == "files":
        tokenizer = _without_labels(config, tokenizer)
    return TrainedRun(run_dir, config, task.eval(), tokenizer, names, checkpoint)


def _each(tokenizer: Tokenizer, change: Callable[[str, Tokenizer], Tokenizer]) -> Tokenizer:
    """The tokenizer, or those of all towers, after a change that gets the tower's name."""
    if not isinstance(tokenizer, JointTokenizer):
        return change("", tokenizer)
    return JointTokenizer({name: change(name, tower) for name, tower in tokenizer.towers.items()})


def _resizing(tokenizer: Tokenizer, extents: Mapping[str, Extents]) -> Tokenizer:
    """Brings inputs to sizes that training saw."""
    return _each(
        tokenizer,
        lambda name, tower: tower.with_extents(extents.get(name)) if isinstance(tower, SizeAdapting) else tower,
    )


def _without_labels(config: RunConfig, tokenizer: Tokenizer) -> Tokenizer:
    """Leaves out boundaries that only the loss reads."""
    groups = given_groups(config)

    def change(name: str, tower: Tokenizer) -> Tokenizer:
        labels = frozenset(tower.carried) - frozenset(groups[name])
        return tower.with_boundaries(tower.requested_boundaries - labels)

    return _each(tokenizer, change)


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
    other_data = any(override.startswith("data.") for override in overrides)
    run = load_task(Path(run_dir), which, overrides=overrides, config=config, inputs="other" if other_data else "own")
    options = run.config.train
    with ProcessGroup.from_env(options.device) as ranks, numerics(ranks.device, options.num_threads):
        task = run.task.to(ranks.device)
        metrics = evaluate(task, run.loader(split, ranks), autocast(options.precision, ranks.device))
    assert metrics is not None
    return metrics
