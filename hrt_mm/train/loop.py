"""The training loop, from top to bottom."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..core.per_step import training_step
from ..tasks.base import Batch
from .data import worker_deaths_named
from .distributed import ProcessGroup
from .folder import run_dir
from .meters import weight_of
from .nonfinite import nonfinite_error
from .optim import clip_gradients, scale_gradients, set_learning_rate
from .precision import numerics
from .pretrain import stages
from .run import Run
from .schedule import learning_rate
from .seeding import mix, seed_all
from .signals import StopSignals

if TYPE_CHECKING:
    from ..config import RunConfig


def train(config: RunConfig, *, resume: bool = False) -> Path:
    """Trains a task, evaluates it, and leaves all that came of it in the run folder.

    Every batch draws from generators seeded by (seed, step), so that a resumed run goes on bit for bit on the CPU.
    SIGTERM and SIGINT end the run after the step at hand, with a checkpoint and without ``summary.json``. With
    ``train.pretrain`` a run without labels comes first, and the run starts from its encoder.

    Args:
        config: of the run.
        resume: go on from the newest checkpoint of the run folder, or from nothing where it has none.

    Returns:
        The run folder.

    Raises:
        UserError: the configuration, the data or a checkpoint cannot be used, too many samples are bad, the loss is
            not finite, or the last checkpoint cannot be written.
        Stopped: SIGTERM or SIGINT ended it; uncaught, it ends the process with 143 or 130.
    """
    options = config.train
    with (
        ProcessGroup.from_env(options.device) as ranks,
        numerics(ranks.device, options.num_threads),
        StopSignals() as stop,
        worker_deaths_named(),
    ):
        planned = stages(config, resume=resume)
        # No rank may write before the last one has looked.
        ranks.barrier()
        for stage in planned:
            # Data may take minutes to make. Ranks wait for each other, so that they stop together later.
            stop.at_once = ranks.world_size == 1
            with Run(stage.config, ranks, stop, init_from=stage.init_from, resume=resume) as run:
                fit(run)
                run.finish()
    return run_dir(config)


def fit(run: Run) -> None:
    """Trains to the last step or to the time limit.

    Raises:
        Stopped: a signal came before; what was learned is saved.
    """
    run.announce()
    while True:
        # Here, between two steps, a run is evaluated, saved and ended; nowhere else.
        signal, spent = run.agree()
        stopping = signal > 0
        over = run.state.step >= run.options.steps or spent >= 1
        best = False
        if not stopping and run.evaluation_due(over=over):
            stopping, best = run.evaluate()
        if best or run.save_due(ending=over or stopping):
            run.save(ending=over or stopping)
        if stopping:
            raise run.stopped()
        if over:
            run.say_over()
            return
        step(run, spent)
        if run.log_due():
            run.write_log()


def step(run: Run, spent: float) -> None:
    """One optimizer step.

    Args:
        run: moves on by a step.
        spent: fraction of the time limit that is gone.

    Raises:
        NonFiniteError: the loss or the gradient is not finite; the weights are as before.
    """
    batches = [next(run.stream).to(run.ranks.device) for _ in range(run.options.accumulate)]
    lr = learning_rate(run.config.optim, run.state.step, run.options.steps, spent)
    set_learning_rate(run.optimizer, lr)
    run.optimizer.zero_grad()
    with training_step(run.task), run.task.sharing(_totals(run, batches)):
        losses = [backward(run, number, batch) for number, batch in enumerate(batches)]

    # The gradients are sums of batch means times their weights, averaged over ranks. The weights of all make them a
    # mean over the whole step, however unevenly its samples fell to batches and ranks.
    total, weight = run.ranks.sum(torch.stack(losses).sum(0))
    scale_gradients(run.parameters, run.ranks.world_size / weight.clamp(min=1e-12))
    norm = clip_gradients(run.parameters, run.config.optim.clip_grad_norm)
    loss, norm_now = torch.stack([total, norm.double()]).tolist()
    if not (math.isfinite(loss) and math.isfinite(norm_now)):
        raise _nonfinite(run, batches, losses, loss)

    run.optimizer.step()
    if run.ema is not None:
        run.ema.update(run.task, run.state.step)
    run.stepped(batches, {"lr": lr, "grad_norm": norm_now})


def _totals(run: Run, batches: list[Batch]) -> dict[str, Tensor]:
    """What the terms of the loss are over in the whole step, where it has several batches or ranks."""
    if len(batches) * run.ranks.world_size == 1:
        return {}
    counts = [run.task.counts(batch) for batch in batches]
    if not counts[0]:
        return {}
    summed = run.ranks.sum(torch.stack([torch.stack([*own.values()]).double() for own in counts]).sum(0))
    return dict(zip(counts[0], summed.unbind(), strict=True))


def backward(run: Run, number: int, batch: Batch) -> Tensor:
    """Adds the gradient of one batch of a step, times its weight.

    Returns:
        (2,) float64, on the device: the weighted loss, and the weight.
    """
    _seed(run, number)
    with run.ranks.no_sync(run.model, last=number + 1 == run.options.accumulate):
        with run.cast():
            output = run.model(batch)
        weight = weight_of(output, batch)
        (output.loss * weight.to(output.loss.dtype)).backward()
    run.meters.add(output, batch)
    return torch.stack([output.loss.detach().double() * weight, weight])


def _seed(run: Run, number: int) -> None:
    seed_all(mix(run.options.seed, "step", run.state.step, number, run.ranks.rank))


def _nonfinite(run: Run, batches: list[Batch], losses: list[Tensor], loss: float) -> Exception:
    """The error, with the batches run once more as they were to find where it began."""
    sources = []
    for number, (batch, pair) in enumerate(zip(batches, losses, strict=True)):
        if not pair.isfinite().all():
            _seed(run, number)
            with run.cast():
                sources.append((run.task.nonfinite_source(batch), batch.names))
    names = run.config.level_names
    return nonfinite_error(run.task, sources, names, step=run.state.step + 1, loss=loss, checkpoint=run.last_good())
