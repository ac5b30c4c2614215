"""A dry run: builds the model and evaluates a batch of each split, without training steps or files."""

from __future__ import annotations

import math
import multiprocessing
import pickle
import sys

import torch

from ..core.errors import ConfigError, UserError
from ..data.stream import StreamedDataset
from ..tasks.base import Task
from .build import Data, build_data, build_task, splits_of
from .data import checked, worker_deaths_named
from .distributed import ProcessGroup
from .evaluate import EvaluationLoader, evaluate
from .monitor import monitor_of
from .optim import build_optimizer
from .precision import Autocast, autocast, numerics
from .pretrain import initialize, pretraining
from .run_config import RunConfig
from .sampler import Position
from .samples import BadSamples
from .schedule import schedule_warnings
from .seeding import forked, mix, seed_all
from .streamed import train_sampler

MAX_BATCHES = 3
"""Training batches to read until one has a usable sample."""


def rehearse(config: RunConfig) -> str:
    """Loads the data of a run, builds its model, and runs a batch of each split through it.

    Returns:
        The number of samples in each split, as text.

    Raises:
        UserError: training would fail at the start; the same error.
    """
    options = config.train
    if options.pretrain is not None:
        try:
            rehearse(pretraining(config, options.pretrain))
        except UserError as error:
            raise ConfigError(f"train.pretrain: {error}") from error
    data = build_data(config, splits_of(options))
    with (
        forked(),
        ProcessGroup.from_env(options.device, options.collective_timeout) as ranks,
        numerics(ranks.device, options.num_threads),
        worker_deaths_named(),
    ):
        seed_all(mix(options.seed, "weights"))
        task = build_task(config, data.tokenizers, data.classes).to(ranks.device)
        task.fit_labels(data.splits["train"])
        build_optimizer(task, config.optim)
        if options.init_from is not None and options.pretrain is None:
            initialize(task, options.init_from, data)
        _check_workers(config, data)
        cast = autocast(options.precision, ranks.device)
        _train_batch(config, data, task, ranks, cast)
        for split in [name for name in data.splits if name != "train"]:
            # One batch is enough to meet what would fail, short of a bad sample.
            loader = EvaluationLoader(split, data.maker(config, split), options, ranks, 1)
            metrics = evaluate(task, loader, cast, partial=True)
            if not metrics:
                _refuse_unusable(f"a batch of {split} has", loader.bad)
            if split == "val":
                monitor_of(options, task).check(metrics or {})
    return data.sizes


def warnings_of(config: RunConfig) -> list[str]:
    """Warnings about settings that are allowed and probably mistakes."""
    warnings = schedule_warnings(config.optim, config.train.steps)
    if (pretrain := config.train.pretrain) is not None:
        pretrain_warnings = schedule_warnings(pretrain.optim or config.optim, pretrain.steps)
        warnings += [f"train.pretrain: {warning}" for warning in pretrain_warnings]
    return warnings


def _check_workers(config: RunConfig, data: Data) -> None:
    method = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_start_method()
    if config.train.workers and method != "fork":
        try:
            pickle.dumps(data.training_maker(config))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ConfigError(
                f"train.workers {config.train.workers}: the data cannot be sent to {method} workers ({error}); "
                "set train.workers=0"
            ) from error


@torch.no_grad()
def _train_batch(config: RunConfig, data: Data, task: Task, ranks: ProcessGroup, cast: Autocast) -> None:
    dataset, options = data.splits["train"], config.train
    shards = len(dataset.shards) if isinstance(dataset, StreamedDataset) else 0
    bad = BadSamples("train", data.counts.get("train", sys.maxsize), options.max_bad_share, shards)
    maker = data.training_maker(config)
    plans = train_sampler(dataset, data.tokenizers, options).plans(Position())
    for _ in range(MAX_BATCHES):
        if (batch := checked(maker[next(plans)], bad).batch) is not None:
            with cast():
                loss = float(task(batch.to(ranks.device)).loss)
            if not math.isfinite(loss):
                raise UserError(f"the loss of the first training batch is {loss}; training would stop there")
            return
    _refuse_unusable(f"the first {MAX_BATCHES} batches of train have", bad)


def _refuse_unusable(what: str, bad: BadSamples) -> None:
    for name, reason in bad.names.items():
        raise UserError(f"{what} no usable sample; {name}: {reason}")
