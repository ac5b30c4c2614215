"""Evaluation of a split. Metrics do not depend on the batch size or the number of ranks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from ..data.extents import Extents
from ..data.splits import some
from ..tasks.base import Task
from ..tasks.batch import Batch
from .checkpoint import Checkpoint
from .config import TrainConfig
from .data import checked, load, worker_deaths_named
from .distributed import ProcessGroup
from .meters import Meters, added, classes_without_samples, macro_f1s, means
from .precision import Autocast
from .sampler import Plan, evaluation_plans, sample_sizes
from .samples import BadSamples, BatchMaker, Loaded
from .seeding import forked, mix, seed_all
from .sharding import unsharded
from .shuffle import Shuffle
from .weights import load_weights

log = logging.getLogger(__name__)


class EvaluationLoader:
    """The batches of a split, the same ones in every iteration.

    Args:
        split: its name.
        maker: loads its batches.
        options: batch size, workers, and the fraction of unusable samples that is allowed.
        ranks: the process group, which the batches are distributed over.
        limit: number of batches, a fixed random selection; all if absent.

    Attributes:
        plans: the samples of each batch of this rank.
    """

    def __init__(
        self, split: str, maker: BatchMaker, options: TrainConfig, ranks: ProcessGroup, limit: int | None = None
    ) -> None:
        self.split = split
        self.maker = maker
        self.options = options
        self.ranks = ranks
        self.limit = limit
        self.bad = BadSamples(split, len(maker.dataset), options.max_bad_share)
        self._absent: Mapping[str, Sequence[int]] = {}
        self.plans = self._plan()

    def _plan(self) -> list[Plan]:
        options, world_size, length = self.options, self.ranks.world_size, len(self.maker.dataset)
        tokens = options.batch_tokens
        order = Shuffle(length, mix(options.seed, "evaluation", self.split)) if self.limit is not None else None
        return evaluation_plans(
            length,
            batch_size=options.batch_size,
            # train.batch_tokens is that of all ranks together, and a batch of evaluation is one rank's.
            budget=tokens // world_size if tokens is not None else None,
            sizes=sample_sizes(self.maker.dataset, self.maker.collator.tokenizers) if tokens is not None else None,
            rank=self.ranks.rank,
            world_size=world_size,
            order=order,
            limit=self.limit,
        )

    def __iter__(self) -> Iterator[Batch]:
        """The batches that are not empty. Resets the count of unusable samples."""
        return (batch for _, batch in self.numbered())

    def numbered(self) -> Iterator[tuple[int, Batch]]:
        """The batches that are not empty, each with its index over all ranks."""
        for loaded in self.loaded():
            if loaded.batch is not None:
                yield loaded.plan.at.batch, loaded.batch

    def loaded(self) -> Iterator[Loaded]:
        """What becomes of each batch, with its unusable samples, which are counted."""
        self.bad = BadSamples(self.split, len(self.maker.dataset), self.options.max_bad_share)
        # Starting workers takes longer than loading a few batches.
        workers = self.options.workers if len(self.plans) > 2 * self.options.workers else 0
        with worker_deaths_named():
            for loaded in load(self.maker, self.plans, workers=workers, pin_memory=self.ranks.device.type == "cuda"):
                yield checked(loaded, self.bad)

    def warn_of_missing_classes(self, absent: Mapping[str, Sequence[int]]) -> None:
        """Warns of metrics that are means over classes and leave some out, once for the same classes.

        Args:
            absent: classes without samples by metric, as :func:`classes_without_samples` gives them.
        """
        classes = self.maker.collator.classes or ()
        for metric, missing in absent.items():
            if missing and self.ranks.is_main and self._absent.get(metric) != missing and max(missing) < len(classes):
                log.warning(
                    "%s/%s is the mean over %d of %d classes: the split has no sample of %s%s",
                    self.split, metric, len(classes) - len(missing), len(classes),
                    some([classes[index] for index in missing]),
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
    calibrate: bool = False,
) -> dict[str, float] | None:
    """The metrics of a split, by names like ``val/accuracy``. Leaves the global random generators untouched.

    Ranks take different numbers of batches, so each holds all weights of a sharded task while it is evaluated.

    Args:
        task: on the device of the loader's rank.
        loader: the split.
        cast: autocast context.
        stopped: whether to stop; called before each batch.
        calibrate: let the task set what it chooses by this split, such as thresholds.
        partial: skip the warning about classes without samples, as only a part of the split is evaluated.

    Returns:
        The metrics over all ranks, or ``None`` if a rank was stopped.
    """
    meters, interrupted, training = Meters(), False, task.training
    task.eval()
    try:
        # Training draws the same random numbers whether it is evaluated in between or not.
        with unsharded(task), forked():
            for number, batch in loader.numbered():
                if interrupted := stopped():
                    break
                # Masks and the like are the same in every evaluation, so that metrics of two steps can be compared.
                seed_all(mix(loader.options.seed, "evaluation", number))
                batch = batch.to(loader.ranks.device)
                with cast():
                    output = task(batch)
                meters.add(output, batch)
    finally:
        task.train(training)
    if not loader.ranks.all(not interrupted):
        return None
    metrics = means(added(loader.ranks.gather(meters.sums())), loader.split)
    counts = loader.ranks.gather(meters.class_counts())
    metrics |= macro_f1s(counts, loader.split)
    if not partial:
        loader.warn_of_missing_classes(classes_without_samples(counts))
    by_rank = loader.ranks.gather(meters.rows())
    # A rank without batches has no rows.
    names = dict.fromkeys(name for rows in by_rank for name in rows)
    rows = {name: torch.cat([rows[name] for rows in by_rank if name in rows]) for name in names}
    if calibrate:
        task.calibrate(rows)
    return metrics | {f"{loader.split}/{name}": value for name, value in task.summarize(rows).items()}


def extents_of(state: Mapping[str, Any]) -> dict[str, Extents]:
    """The range of input sizes seen in training, by tower. Empty for checkpoints of older versions."""
    return {name: Extents.of_plain(value) for name, value in state.get("extents", {}).items()}


def load_trained(task: Task, checkpoint: Checkpoint) -> None:
    """Loads a checkpoint's weights into a task: their moving average if it has one."""
    part = "ema" if "ema" in checkpoint else "model"
    load_weights(task, checkpoint.saved(part), f"the {part} weights of {checkpoint.folder}")
