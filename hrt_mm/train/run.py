"""A run: the components of a training run, and what happens to them between two training steps."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch

from ..core.errors import ConfigError, Stopped, UserError
from ..data.stream import StreamedDataset
from ..tasks.base import Task
from ..tasks.batch import Batch
from .build import build_data, build_task, splits_of
from .checkpoint import Checkpoint
from .clock import Clock
from .data import TrainStream
from .distributed import ProcessGroup
from .evaluate import EvaluationLoader, evaluate, extents_of, load_trained
from .folder import open_folder, run_dir, write_config
from .identity import check_same_data, check_same_samples, config_digest, vocabularies
from .meters import Meters, Sums, added, means
from .monitor import monitor_of
from .optim import build_optimizer
from .precision import autocast, choose_dtype
from .pretrain import InitFrom, initialize
from .regions import compile_regions
from .reporting import Reporter, metrics_line
from .sampler import Position
from .samples import BadCounts, BadSamples, together
from .saving import Saver
from .seeding import forked, mix, seed_all
from .sharding import choose_sharding, scatter
from .signals import StopSignals
from .state import TrainState, pack, unpack
from .store import CheckpointStore
from .streamed import joined, train_sampler
from .summary import machine, parameter_count, peak_memory_bytes, write_summary
from .weights import EMA, named_weights

if TYPE_CHECKING:
    from .run_config import RunConfig

log = logging.getLogger(__name__)


@contextmanager
def open_run(
    config: RunConfig, ranks: ProcessGroup, stop: StopSignals, *, init_from: InitFrom, resume: bool
) -> Iterator[Run]:
    """Builds a run and locks its folder until the block ends.

    Args:
        config: of the run.
        ranks: the process group.
        stop: receives SIGTERM and SIGINT.
        init_from: run folder whose encoder weights initialize this run.
        resume: continue from the newest checkpoint in the run folder, if any.
    """
    with ExitStack() as resources:
        yield Run(config, ranks, stop, resources, init_from=init_from, resume=resume)


class Run:
    """The components of a run on this rank. See :func:`open_run`."""

    def __init__(
        self,
        config: RunConfig,
        ranks: ProcessGroup,
        stop: StopSignals,
        resources: ExitStack,
        *,
        init_from: InitFrom,
        resume: bool,
    ) -> None:
        self.config, self.options, self.ranks, self.stop = config, config.train, ranks, stop
        options = config.train

        # The model and its optimizer.
        self.data = build_data(config, splits_of(options))
        check_same_samples(self.data, ranks)
        self.cast = autocast(options.precision, ranks.device)
        dtype = choose_dtype(options.precision, ranks.device)
        self.precision = "bf16" if dtype == torch.bfloat16 else "fp32"
        sharding = choose_sharding(
            options, config.optim.type, dtype, ranks.device, ranks.world_size, ranks.ranks_per_machine
        )
        self.parallel = "single" if ranks.world_size == 1 else "ddp" if sharding is None else options.parallel
        seed_all(mix(options.seed, "weights"))
        # Of a sharded task, the first rank has the initial weights in host memory, in a task of its own.
        initial = self._build_task() if sharding is None or ranks.is_main else None
        if sharding is not None:
            self.task = sharding.build(self._build_task, ranks.device)
        elif initial is not None:
            self.task = initial.to(ranks.device)
        if self.task.calibrated and not options.eval_every:
            raise ConfigError(
                f"task {config.task.type} chooses its thresholds on val, and train.eval_every is null; set it"
            )
        self.optimizer = build_optimizer(self.task, config.optim)
        self.parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        sampler = train_sampler(
            self.data.splits["train"], self.data.tokenizers, options, rank=ranks.rank, world_size=ranks.world_size
        )

        # The run folder, and what is continued from it.
        self.folder = run_dir(config)
        self.monitor = monitor_of(options, self.task)
        self.store = CheckpointStore(
            self.folder, keep_last=options.keep_last, monitor=self.monitor.metric, mode=self.monitor.mode
        )
        self.saver = Saver(self.store, ranks, sharding, background=options.save_async)
        self.state, self.meters = TrainState(), Meters()
        length = self.data.counts.get("train", sys.maxsize)
        dataset = self.data.splits["train"]
        shards = len(dataset.shards) if isinstance(dataset, StreamedDataset) else 0
        self.bad = BadSamples("train", length, options.max_bad_share, shards)
        self.evaluated_bad: dict[str, BadCounts] = {}
        self.unsaved = False
        checkpoint = open_folder(config, self.store, ranks, resources, resume=resume)
        self.initialized_from: list[str] = []
        if checkpoint is None and initial is not None:
            # Reading labels may augment samples, which draws random numbers.
            with forked():
                initial.fit_labels(self.data.splits["train"])
            if init_from is not None:
                self.initialized_from = initialize(initial, init_from, self.data)
        if sharding is not None:
            scatter(initial, self.task, ranks.device)
        del initial
        self.ema = EMA(self.task, options.ema) if options.ema is not None else None
        if checkpoint is not None:
            self._restore(checkpoint)
        if options.compile:
            compile_regions(self.task)
        self.model = ranks.wrap(self.task)

        # From here on a signal stops the run after the step at hand, with a checkpoint.
        stop.at_once = False
        if ranks.is_main:
            write_config(config)
        self.reporter = resources.enter_context(
            Reporter(
                self.folder,
                options,
                self.monitor.name,
                self.state,
                config=config.model_dump(mode="json"),
                log_lines=int(checkpoint.state["log_lines"]) if checkpoint is not None else 0,
                is_main=ranks.is_main,
            )
        )
        self.stream = TrainStream(
            self.data.training_maker(config),
            sampler,
            self.state.position,
            self.bad,
            extents=extents_of(checkpoint.state) if checkpoint is not None else {},
            workers=options.workers,
            pin_memory=ranks.device.type == "cuda",
            ranks=ranks,
        )
        resources.callback(self.stream.close)
        self.val = self._loader("val", options.eval_batches) if options.eval_every else None
        self.step_metrics: dict[str, float] = {}
        self.clock = Clock(options.clock, options.time_limit, self.state.seconds)

    def _build_task(self) -> Task:
        return build_task(self.config, self.data.tokenizers, self.data.classes)

    def _loader(self, split: str, limit: int | None = None) -> EvaluationLoader:
        return EvaluationLoader(split, self.data.maker(self.config, split), self.options, self.ranks, limit)

    def _restore(self, checkpoint: Checkpoint) -> None:
        check_same_data(checkpoint, self.config, self.data, self.ranks)
        unpack(checkpoint, self.task, self.optimizer, self.ema)
        self.state = TrainState.of(checkpoint.state)
        if self.ranks.is_main:
            # They are sums over all ranks, which the first rank holds.
            self.meters.restore(checkpoint.state["meters"])
            self.bad.restore(checkpoint.state["bad"])
        else:
            # All ranks count the same broken shards.
            self.bad.shards = dict(checkpoint.state["bad"].get("shards", {}))

    def synchronize(self) -> tuple[bool, float]:
        """Lets all ranks agree, at the start of each iteration, on when to stop.

        Returns:
            Whether any rank received a signal, and the fraction of the time limit that is spent.
        """
        self.state.seconds = self.clock.seconds()
        self.ranks.at_step(self.state.step + 1)
        signal, spent, writing = self.ranks.max(
            self.stop.number, self.clock.fraction_spent(self.state.seconds), float(self.saver.writing)
        )
        if not writing:
            self.finish_save()
        return signal > 0, spent

    def evaluation_due(self, *, finished: bool) -> bool:
        """Whether to evaluate now: every ``train.eval_every`` steps and after the last, once for each step."""
        every, step = self.options.eval_every, self.state.step
        return every is not None and self.state.evaluated < step and (finished or step % every == 0)

    def early_stopping_due(self) -> bool:
        """Whether the metric has not improved for ``train.early_stopping.patience`` evaluations."""
        return self.state.patience.exhausted(self.options.early_stopping)

    def save_due(self, *, ending: bool) -> bool:
        """Whether to save now: every ``train.save_every`` steps and at the end, if anything changed."""
        every = self.options.save_every
        return self.unsaved and (ending or (every is not None and self.state.step % every == 0))

    def log_due(self) -> bool:
        """Whether to log now: every ``train.log_every`` steps and after the last."""
        return self.state.step % self.options.log_every == 0 or self.state.step == self.options.steps

    def count_step(self, batches: Sequence[Batch], metrics: dict[str, float]) -> None:
        """Counts a training step.

        Args:
            batches: of this rank.
            metrics: values of this step to log as they are, such as the learning rate.
        """
        by_rank = [0] * self.ranks.world_size
        by_rank[self.ranks.rank] = sum(batch.num_tokens for batch in batches)
        samples, *by_rank = self.ranks.sum_counts(sum(len(batch) for batch in batches), *by_rank)
        tokens = sum(by_rank)
        if self.ranks.is_main and self.ranks.world_size > 1:
            # All ranks wait for the one with most tokens: 1 is a step of equal shares.
            self.meters.add_value("token_spread", max(by_rank) * self.ranks.world_size / tokens)
        self.state.step += 1
        self.state.samples += samples
        self.state.tokens += tokens
        self.state.position = self.stream.position
        self.state.seconds = self.clock.seconds()
        self.step_metrics = metrics
        self.unsaved = True
        self.reporter.count_step(tokens, self.stream.waited())

    def log_metrics(self) -> None:
        """Logs the mean of each metric since the last call, over all ranks."""
        sums, self.meters = added(self.ranks.gather(self.meters.sums())), Meters()
        self.reporter.training(means(sums, "train") | self.step_metrics, self.clock)

    def check_monitor(self) -> None:
        """Checks ``train.monitor`` by a batch of ``val``, before any training.

        Raises:
            ConfigError: there is no such metric; lists those that there are.
        """
        if self.options.monitor is None or self.state.step:
            return
        metrics = evaluate(self.task, self._loader("val", 1), self.cast, partial=True)
        # A batch of unusable samples has none.
        if metrics:
            self.monitor.check(metrics)

    def evaluate(self) -> tuple[bool, bool]:
        """Evaluates on ``val``, with the moving average of the weights where there is one.

        Returns:
            Whether a signal interrupted it, and whether the metric is the best so far.

        Raises:
            ConfigError: the monitored metric is not among those of the split.
        """
        assert self.val is not None
        averaged = self.ema.swapped_into(self.task) if self.ema is not None else nullcontext()
        with self.clock.paused(), averaged:
            metrics = evaluate(self.task, self.val, self.cast, stopped=lambda: bool(self.stop), calibrate=True)
            calibrated = {name: self.task.get_buffer(name).clone() for name in self.task.calibrated}
        # The average and the weights alike: either may be evaluated later.
        for weights in (named_weights(self.task), *([self.ema.weights] if self.ema is not None else [])):
            for name, chosen in calibrated.items():
                weights[name].copy_(chosen)
        self.reporter.throughput.pause()
        if metrics is None:
            return True, False
        self.monitor.check(metrics)
        value = metrics[self.monitor.metric]
        self.state.evaluated, self.state.metrics, self.unsaved = self.state.step, metrics, True
        if (early_stopping := self.options.early_stopping) is not None:
            self.state.patience.update(value, self.monitor.mode, early_stopping.min_delta)
        self.evaluated_bad["val"] = together(self.ranks.gather(self.val.bad.counts()))
        self.finish_save()
        # Only the first rank reads the checkpoints that the metric is compared with.
        best = self.ranks.is_main and self.store.improves(value)
        self.reporter.evaluation(metrics, best=best)
        return False, self.ranks.max(float(best))[0] > 0

    def save(self, *, ending: bool) -> None:
        """Writes a checkpoint. If that fails, training goes on from the last one, unless the run is ending.

        Raises:
            UserError: the checkpoint cannot be written and the run is ending.
        """
        self.finish_save()
        sums = added(self.ranks.gather(self.meters.sums()))
        if self.ranks.world_size > 1:
            # The first rank goes on with the sums of all, as a resumed run does, so that both log the same.
            self.meters.restore(sums if self.ranks.is_main else {})
        bad = together(self.ranks.gather(self.bad.counts()))
        position = joined(self.ranks.gather(self.state.position))
        metrics_log = self.reporter.metrics_log
        with self.clock.paused():
            lines, failed = 0, None
            if metrics_log is not None:
                try:
                    metrics_log.sync()
                except OSError as error:
                    failed = error
                lines = metrics_log.lines
            state = self._checkpoint_state(sums, bad, position, lines)
            self.saver.start(state, pack(self.task, self.optimizer, self.ema), failed)
            self.unsaved = False
            if ending or not self.options.save_async:
                self.finish_save(ending=ending)
        self.reporter.throughput.pause()

    def finish_save(self, *, ending: bool = False) -> None:
        """Completes a checkpoint that is being written, if any. If that failed, training goes on from the last one.

        Raises:
            UserError: it failed, and the run is ending.
        """
        if self.saver.pending:
            step = self.saver.step
            if (error := self.saver.finish()) is not None:
                self._handle_failed_save(error, step, ending=ending)

    def _checkpoint_state(self, sums: Sums, bad: BadCounts, position: Position, log_lines: int) -> dict[str, Any]:
        return self.state.plain() | {
            "position": asdict(position),
            "meters": sums,
            "bad": bad,
            "log_lines": log_lines,
            "counts": self.data.counts,
            "world_size": self.ranks.world_size,
            "token_batches": "any world size",
            "classes": self.data.classes,
            "started_in": os.getcwd(),
            "vocabularies": vocabularies(self.data.tokenizers),
            "extents": {name: extents.plain() for name, extents in self.stream.extents.items()},
            "monitor": asdict(self.monitor),
            "config": self.config.model_dump(mode="json"),
            "config_digest": config_digest(self.config),
        }

    def _handle_failed_save(self, error: Exception, step: int, *, ending: bool) -> None:
        self.state.failed_saves += 1
        latest = self.store.latest_path()
        remaining = f"the last good checkpoint is {latest}" if latest else "there is no checkpoint yet"
        if ending:
            raise UserError(
                f"the last checkpoint, of step {step}, could not be written ({error}); {remaining}; "
                "make room and resume"
            ) from error
        self.reporter.warn(
            "the checkpoint of step %d could not be written (%s), failure %d of this run; %s, and the run goes on",
            step, error, self.state.failed_saves, remaining,
        )  # fmt: skip

    def stopped(self) -> Stopped:
        """The exception that ends the run on all ranks after a signal to one of them."""
        (number,) = self.ranks.max(self.stop.number)
        exception = Stopped(int(number))
        self.reporter.say(f"{exception} at step {self.state.step}; resume (--resume) to continue from there")
        return exception

    def finish(self) -> dict[str, float]:
        """Evaluates the best weights on ``test`` and writes ``summary.json``.

        Returns:
            The metrics of the best weights.

        Raises:
            Stopped: a signal interrupted the evaluation.
        """
        self.stream.close()
        # The first rank may still be writing the last checkpoint.
        self.ranks.barrier()
        checkpoint = self.store.read("best")
        load_trained(self.task, checkpoint)
        metrics = dict(checkpoint.state["metrics"])
        if self.options.test:
            loader = self._loader("test")
            test_metrics = evaluate(self.task, loader, self.cast, stopped=lambda: bool(self.stop))
            if test_metrics is None:
                raise self.stopped()
            metrics |= test_metrics
            self.evaluated_bad["test"] = together(self.ranks.gather(loader.bad.counts()))
        bad = {"train": together(self.ranks.gather(self.bad.counts())), **self.evaluated_bad}
        memory = max(self.ranks.gather(peak_memory_bytes(self.ranks.device)))
        if not self.ranks.is_main:
            return metrics
        summary = {
            "metrics": metrics,
            "counts": self.data.counts,
            "bad_samples": bad,
            "steps": self.state.step,
            "best_step": checkpoint.step,
            "samples": self.state.samples,
            "tokens": self.state.tokens,
            "failed_saves": self.state.failed_saves,
            "seconds": self.state.seconds,
            "precision": self.precision,
            "parameters": parameter_count(self.task),
            "peak_memory_bytes": memory,
            **machine(self.ranks.device),
            "ranks": self.ranks.world_size,
            "parallel": self.parallel,
            "seed": self.options.seed,
        }
        path = self.folder / "summary.json"
        write_summary(path, summary)
        line = metrics_line(metrics, self.monitor.name)
        self.reporter.end(metrics)
        self.reporter.say(f"done: {line}  (step {checkpoint.step} of {self.state.step}, {path})")
        return metrics
