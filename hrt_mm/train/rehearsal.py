"""A rehearsal of a run: what it does at its start, with a batch of each split, but no step and no files."""

from __future__ import annotations

import math
import multiprocessing
import os
import pickle
from pathlib import Path

import torch

from ..core.errors import ConfigError, UserError
from ..data.atomic_files import LOCK, RUN_FILES, check_replaceable, exclusive_lock
from ..tasks.base import Task
from .build import Data, build_data, build_task, splits_of
from .checkpoint import CheckpointError
from .data import checked, worker_deaths_named
from .distributed import ProcessGroup
from .evaluate import EvaluationLoader, evaluate
from .folder import run_dir
from .optim import build_optimizer
from .precision import Autocast, autocast, numerics
from .pretraining import pretraining
from .run_config import RunConfig
from .sampler import Position, Sampler, sample_sizes
from .samples import BadSamples
from .schedule import schedule_warnings
from .seeding import forked, mix, seed_all
from .start import check_same_run, check_unused, load_encoder
from .store import CheckpointStore

TRIED = 3
"""Training batches that are read, at most, until one has a usable sample."""


def rehearse(config: RunConfig) -> str:
    """Opens the data of a run, builds its model, and takes a batch of each split through it.

    Returns:
        The samples of each split, in words.

    Raises:
        UserError: what a run would refuse at its start.
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
        ProcessGroup.from_env(options.device) as ranks,
        numerics(ranks.device, options.num_threads),
        worker_deaths_named(),
    ):
        seed_all(mix(options.seed, "weights"))
        task = build_task(config, data.tokenizer, data.classes).to(ranks.device)
        build_optimizer(task, config.optim)
        if options.init_from is not None and options.pretrain is None:
            load_encoder(task, options.init_from, data.tokenizer)
        _check_workers(config, data)
        cast = autocast(options.precision, ranks.device)
        _train_batch(config, data, task, ranks, cast)
        for split in [name for name in data.splits if name != "train"]:
            loader = EvaluationLoader(split, data.maker(config, split), options, ranks, 1)
            metrics = evaluate(task, loader, cast, partial=True)
            if not metrics:
                _refuse_unusable(f"a batch of {split} has", loader.bad)
            if split == "val" and f"val/{task.monitor}" not in (metrics or {}):
                listed = ", ".join(metrics or {}) or "no metric"
                raise ConfigError(f"val/{task.monitor} is to choose the best, but a batch of val gave {listed}")
    return ", ".join(f"{len(dataset):,} {split}" for split, dataset in data.splits.items())


def warnings_of(config: RunConfig) -> list[str]:
    """What is odd about a run, and does not stop it."""
    found = schedule_warnings(config.optim, config.train.steps)
    if (first := config.train.pretrain) is not None:
        found += [f"train.pretrain: {line}" for line in schedule_warnings(first.optim or config.optim, first.steps)]
    return found


def _check_workers(config: RunConfig, data: Data) -> None:
    method = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_start_method()
    if config.train.workers and method != "fork":
        try:
            pickle.dumps(data.maker(config, "train"))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ConfigError(
                f"train.workers {config.train.workers}: {method} workers cannot get the data ({error}); "
                "set train.workers=0"
            ) from error


@torch.no_grad()
def _train_batch(config: RunConfig, data: Data, task: Task, ranks: ProcessGroup, cast: Autocast) -> None:
    dataset, options = data.splits["train"], config.train
    sampler = Sampler(
        len(dataset),
        seed=options.seed,
        batch_size=options.batch_size,
        batch_tokens=options.batch_tokens,
        sizes=sample_sizes(dataset, data.tokenizer) if options.batch_tokens is not None else None,
    )
    bad = BadSamples("train", len(dataset), options.max_bad_share)
    maker, plans = data.maker(config, "train"), sampler.plans(Position())
    for _ in range(TRIED):
        if (batch := checked(maker[next(plans)], bad).batch) is not None:
            with cast():
                loss = float(task(batch.to(ranks.device)).loss)
            if not math.isfinite(loss):
                raise UserError(f"the loss of the first training batch is {loss}; training would stop there")
            return
    _refuse_unusable(f"the first {TRIED} batches of train have", bad)


def _refuse_unusable(what: str, bad: BadSamples) -> None:
    for name, reason in bad.names.items():
        raise UserError(f"{what} no usable sample; {name}: {reason}")


def check_folder(config: RunConfig, *, resume: bool) -> None:
    """Looks whether a run could write into its folder, and leaves nothing there.

    Args:
        config: of the run.
        resume: whether it is to go on with what is there.

    Raises:
        UserError: another process writes there, it holds another run or other things, or it cannot be written.
    """
    folder = run_dir(config)
    if not folder.exists():
        _check_writable(next(parent for parent in folder.absolute().parents if parent.exists()), folder)
        return
    _check_writable(folder, folder)
    check_replaceable(folder, RUN_FILES)
    locked_before = (folder / LOCK).exists()
    with exclusive_lock(folder):
        try:
            if not resume:
                check_unused(folder)
            else:
                _check_resumable(config, folder)
        finally:
            if not locked_before:
                (folder / LOCK).unlink(missing_ok=True)


def _check_resumable(config: RunConfig, folder: Path) -> None:
    store = CheckpointStore(folder)
    for step in reversed(store.steps()):
        try:
            checkpoint = store.read(step)
        except CheckpointError:
            continue
        check_same_run(config, checkpoint)
        return


def _check_writable(place: Path, folder: Path) -> None:
    if not place.is_dir():
        raise ConfigError(f"run.dir {folder}: {place} is a file; choose another folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise ConfigError(
            f"run.dir {folder}: {place} cannot be written; choose another folder, or change its permissions"
        )
