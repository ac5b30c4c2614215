"""The training loop."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..core.devices import wide
from ..core.errors import Stopped
from ..core.per_step import training_step
from ..data.progress import span
from ..data.stream import StreamError
from ..tasks.batch import Batch
from .build import carried_groups
from .callbacks import Callback, registered
from .cluster import started_again
from .data import worker_deaths_named
from .distributed import ProcessGroup
from .folder import run_dir
from .identity import check_same_config
from .meters import weight_of
from .nonfinite import NonFiniteError, nonfinite_error
from .optim import clip_gradients, scale_gradients, set_learning_rate
from .precision import emulates_bf16, numerics
from .pretrain import stages
from .requeue import requeue, requeue_wanted
from .run import Run, open_run
from .schedule import learning_rate, schedule_warnings
from .seeding import mix, seed_all
from .sharding import unsharded
from .signals import StopSignals
from .splits import start_warnings
from .summary import parameter_count

if TYPE_CHECKING:
    from .run_config import RunConfig


def train(config: RunConfig, *, resume: bool = False, callbacks: Sequence[Callback] = ()) -> Path:
    """Trains and evaluates a model.

    The random numbers of each batch depend on the seed and the step alone, so a resumed run is bit-identical to an
    uninterrupted one on the CPU. SIGTERM, SIGINT and SIGUSR1 stop the run after the current step, with a checkpoint
    and without ``summary.json``; in a SLURM job, SIGUSR1 also queues the job again. With ``train.pretrain``, the
    encoder is first trained without labels in a run of its own.

    Args:
        config: of the run.
        resume: continue from the newest checkpoint in the run folder, or start if there is none. Processes that
            torchrun or SLURM starts again do so anyway.
        callbacks: called at set points of training, after those of ``train.callbacks``; also in a run of pre-training.

    Returns:
        The run folder, with the configuration, checkpoints, metrics and ``summary.json``.

    Raises:
        UserError: the configuration, the data or a checkpoint cannot be used, too many samples are unusable, the loss
            is not finite, or the last checkpoint cannot be written.
        Stopped: SIGTERM, SIGINT or SIGUSR1. If uncaught, the process exits with 143, 130 or 138.
    """
    options = config.train
    resume = resume or started_again(os.environ)
    with (
        ProcessGroup.from_env(options.device, options.collective_timeout) as ranks,
        numerics(ranks.device, options.num_threads),
        StopSignals(launched="TORCHELASTIC_RUN_ID" in os.environ) as stop,
        worker_deaths_named(),
        _requeuing(ranks),
    ):
        check_same_config(config, ranks)
        everyone = [*registered(options.callbacks), *callbacks]
        remaining = stages(config, resume=resume)
        # All ranks must have looked at the folder before the first one writes to it.
        ranks.barrier()
        for stage in remaining:
            # Preparing data may take minutes, in which a single process can be stopped at once. With several, the
            # others would wait for it forever, so they stop together in fit().
            stop.at_once = ranks.world_size == 1
            with open_run(stage.config, ranks, stop, init_from=stage.init_from, resume=resume) as run:
                fit(run, everyone)
                metrics = run.finish()
                for callback in everyone:
                    callback.on_end(run, metrics)
    return run_dir(config)


@contextmanager
def _requeuing(ranks: ProcessGroup) -> Iterator[None]:
    """Queues a SLURM job again if SIGUSR1 ends it."""
    try:
        yield
    except Stopped as stop:
        if ranks.is_main and requeue_wanted(stop, os.environ):
            requeue(os.environ)
        raise


def fit(run: Run, callbacks: Sequence[Callback] = ()) -> None:
    """Trains to the last step or the time limit.

    Args:
        run: to train.
        callbacks: called at set points of training.

    Raises:
        ConfigError: ``train.monitor`` names no metric of ``val``.
        Stopped: a signal arrived before the end. A checkpoint is saved first.
    """
    announce(run)
    run.check_monitor()
    for callback in callbacks:
        callback.on_start(run)
    while True:
        # A run is evaluated, saved and ended here alone, between two steps.
        stopping, spent = run.synchronize()
        finished = run.state.step >= run.options.steps or spent >= 1 or run.early_stopping_due()
        best = False
        if not stopping and run.evaluation_due(finished=finished):
            stopping, best = run.evaluate()
            for callback in callbacks if not stopping else ():
                callback.on_evaluation(run, run.state.metrics)
            finished = finished or run.early_stopping_due()
        ending = finished or stopping
        if best or run.save_due(ending=ending):
            run.save(ending=ending)
            for callback in callbacks:
                callback.on_save(run)
        if ending:
            run.finish_save(ending=True)
        if stopping:
            raise run.stopped()
        if finished:
            report_end(run, spent)
            return

        try:
            optimizer_step(run, spent)
        except StreamError:
            # What was trained until then is not lost. It stops all ranks, so that all take part.
            if run.save_due(ending=True):
                run.save(ending=True)
            raise
        if run.log_due():
            run.log_metrics()
        for callback in callbacks:
            callback.on_step(run)


def announce(run: Run) -> None:
    """Reports at the start of training what is trained, on what, and what looks wrong."""
    config, options, ranks, reporter = run.config, run.options, run.ranks, run.reporter
    rank_count = f", {ranks.world_size} ranks ({run.parallel})" if ranks.world_size > 1 else ""
    size = f"{parameter_count(run.task):,} parameters"
    reporter.say(f"{run.folder}: {size}, {ranks.device.type} in {run.precision}{rank_count}, {run.data.sizes} samples")
    for line in run.initialized_from:
        reporter.say(f"train.init_from: {line}")
    if run.state.step:
        reporter.say(f"resumes from step {run.state.step}")
    # A stream cannot be listed.
    for warning in start_warnings(config.data) if ranks.is_main and "train" in run.data.counts else ():
        reporter.warn("%s", warning)
    if options.time_limit is not None:
        clock = "processor time of this process" if options.clock == "cpu" else "wall clock"
        reporter.say(f"train.time_limit {span(options.time_limit)} ({clock}), or {options.steps:,} steps")
    for warning in schedule_warnings(config.optim, options.steps):
        reporter.warn("%s", warning)
    for tower, boundaries in carried_groups(config, run.data.tokenizers).items():
        of_tower = f" of {tower}" if tower else ""
        reporter.say(
            f"groups{of_tower} by {', '.join(boundaries)} come with the data: the model reads samples that have them, "
            "and no bare files"
        )
    if run.precision == "bf16" and emulates_bf16(ranks.device):
        reporter.warn(
            "train.precision bf16: this processor has no AVX512-BF16 and computes it slowly; use auto or fp32"
        )


def report_end(run: Run, spent: float) -> None:
    """Reports what ended the run before its last step, and warns where the time limit was within the warm-up.

    Args:
        run: that ended.
        spent: fraction of the time limit that is spent.
    """
    step, steps, warmup_steps = run.state.step, run.options.steps, run.config.optim.warmup_steps
    if step >= steps:
        return
    if run.early_stopping_due():
        patience = run.state.patience
        best = f"better than {patience.best:.4g}" if patience.best is not None else "finite"
        run.reporter.say(
            f"train.early_stopping at step {step} of {steps}: {run.monitor.metric} was not {best} in "
            f"{patience.stale} evaluations"
        )
    if spent < 1:
        return
    run.reporter.say(f"train.time_limit reached at step {step} of {steps}")
    if step < warmup_steps:
        run.reporter.warn(
            "the time limit ended the run at step %d, within the %d steps of optim.warmup_steps: lr was never "
            "reached; set fewer, or a longer train.time_limit",
            step, warmup_steps,
        )  # fmt: skip


def optimizer_step(run: Run, spent: float) -> None:
    """Takes one optimizer step, over the batches that accumulate on each rank.

    Args:
        run: to advance by a step.
        spent: fraction of the time limit that is spent, for the learning-rate schedule.

    Raises:
        NonFiniteError: the loss or the gradient is not finite. The weights are unchanged.
    """
    batches = _step_batches(run)
    lr = learning_rate(run.config.optim, run.state.step, run.options.steps, spent)
    set_learning_rate(run.optimizer, lr)
    run.optimizer.zero_grad()
    with training_step(run.task), run.task.sharing(_total_counts(run, batches)):
        losses = torch.stack(
            [backward(run, index, batch, last=index + 1 == len(batches)) for index, batch in enumerate(batches)]
        )

    # Each batch's loss is a mean, weighted in backward() by the count it is over. DDP averages gradients over ranks.
    # Dividing by the total weight therefore gives the gradient of the mean over the whole step, however its samples
    # are split into batches and ranks.
    total_loss, total_weight = run.ranks.sum(losses.sum(0))
    scale_gradients(run.parameters, run.ranks.world_size / total_weight.clamp(min=1e-12))
    grad_norm = clip_gradients(run.parameters, run.config.optim.clip_grad_norm)
    # One transfer to the host for both. All ranks see the same values here and stop together.
    loss_value, norm_value = torch.stack([total_loss, wide(grad_norm)]).tolist()
    if not (math.isfinite(loss_value) and math.isfinite(norm_value)):
        raise _nonfinite(run, batches, losses, loss_value)

    run.optimizer.step()
    if run.ema is not None:
        run.ema.update(run.task, run.state.step)
    run.count_step(batches, {"lr": lr, "grad_norm": norm_value})


def _step_batches(run: Run) -> list[Batch]:
    """The batches of a step on this rank: ``train.accumulate``, or as many as have ``train.accumulate_tokens``."""
    options, device = run.options, run.ranks.device
    if options.accumulate_tokens is None:
        return [next(run.stream).to(device) for _ in range(options.accumulate)]
    batches: list[Batch] = []
    tokens = 0
    while tokens < options.accumulate_tokens:
        batch = next(run.stream)
        # All ranks count together, and take as many batches.
        (count,) = run.ranks.sum_counts(batch.num_tokens)
        tokens += count
        batches.append(batch.to(device))
    return batches


def backward(run: Run, index: int, batch: Batch, *, last: bool) -> Tensor:
    """Accumulates the gradient of one batch of a step, multiplied by its weight.

    Args:
        run: being trained.
        index: of the batch within the step.
        batch: on the device.
        last: whether it is the last of the step.

    Returns:
        (2,) float64 where the device has it, on the device: the weighted loss, and the weight.
    """
    _seed(run, index)
    with run.ranks.no_sync(run.model, last=last):
        with run.cast():
            output = run.model(batch)
        weight = weight_of(output, batch)
        (output.loss * weight.to(output.loss.dtype)).backward()
    run.meters.add(output, batch)
    return torch.stack([wide(output.loss.detach()) * weight, weight])


def _total_counts(run: Run, batches: list[Batch]) -> dict[str, Tensor]:
    """The counts that the terms of the loss are normalized by, summed over the batches and ranks of a step.

    Empty where the step has a single batch, which needs no other's counts.
    """
    if len(batches) * run.ranks.world_size == 1:
        return {}
    counts = [run.task.counts(batch) for batch in batches]
    if not counts[0]:
        return {}
    stacked = torch.stack([wide(torch.stack([*batch_counts.values()])) for batch_counts in counts])
    totals = run.ranks.sum(stacked.sum(0))
    return dict(zip(counts[0], totals.unbind(), strict=True))


def _seed(run: Run, index: int) -> None:
    seed_all(mix(run.options.seed, "step", run.state.step, index, run.ranks.rank))


def _nonfinite(run: Run, batches: list[Batch], losses: Tensor, loss: float) -> NonFiniteError:
    """The error to raise, after repeating the forward passes to find the first module with non-finite outputs."""
    run.finish_save()
    sources = []
    with unsharded(run.task):
        for index, (batch, finite) in enumerate(zip(batches, losses.isfinite().all(1).tolist(), strict=True)):
            if not finite:
                _seed(run, index)
                with run.cast():
                    sources.append((run.task.nonfinite_source(batch), batch.names))
    return nonfinite_error(
        run.task,
        sources,
        run.config.level_names,
        step=run.state.step + 1,
        loss=loss,
        checkpoint=run.store.latest_path(),
    )
