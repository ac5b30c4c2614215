"""Evaluation: exact over batches and ranks, from the sums that tasks report."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..data.extents import Extents
from ..data.splits import some
from ..tasks.base import Batch, Task
from .checkpoint import Checkpoint
from .config import TrainConfig
from .data import checked, load, worker_deaths_named
from .distributed import ProcessGroup
from .meters import Meters, added, classes_without_samples, macro_f1s, means
from .precision import Autocast
from .sampler import Plan, evaluation_plans, sample_sizes
from .samples import BadSamples, BatchMaker
from .seeding import forked, mix, seed_all
from .shuffle import Shuffle
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
        self, split: str, maker: BatchMaker, options: TrainConfig, ranks: ProcessGroup, limit: int | None = None
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
            if missing and self.ranks.is_main and self._absent.get(metric) != missing and max(missing) < len(classes):
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


def extents_of(state: Mapping[str, Any]) -> dict[str, Extents]:
    """By tower, the sizes of inputs that training saw; nothing where a checkpoint of an older version has none."""
    return {name: Extents.of_plain(value) for name, value in state.get("extents", {}).items()}


def load_trained(task: Task, checkpoint: Checkpoint) -> None:
    """Puts a checkpoint's weights into a task: the moving average where there is one."""
    part = "ema" if "ema" in checkpoint else "model"
    load_weights(task, checkpoint.tensors(part), f"{part}.safetensors of {checkpoint.folder}")
