"""The parts of a run, and what is done with them between two steps."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ..core.errors import ConfigError, Stopped, UserError
from ..data.atomic_files import RUN_FILES, check_replaceable, exclusive_lock
from ..data.extents import Extents
from ..data.progress import Interval, ProgressBar, span
from ..tasks.base import Batch
from .build import build_data, build_task, carried_groups, splits_of
from .checkpoint import Checkpoint
from .data import TrainStream
from .distributed import ProcessGroup
from .evaluate import EvaluationLoader, evaluate, extents_of, load_trained
from .folder import run_dir
from .identity import MOVED, check_same_classes, check_same_vocabularies, vocabularies
from .meters import Meters, Sums, added, means
from .metrics_log import MetricsLog, TensorBoard
from .optim import build_optimizer
from .precision import autocast, choose_dtype, emulates_bf16
from .regions import compile_regions
from .sampler import Sampler, sample_sizes
from .samples import BadCounts, BadSamples, together
from .schedule import schedule_warnings
from .seeding import mix, seed_all
from .signals import StopSignals
from .splits import start_warnings
from .start import config_digest, load_encoder, open_folder, write_config
from .state import TrainState, pack, unpack
from .store import CheckpointStore
from .summary import machine, parameter_count, peak_memory_bytes, write_summary
from .weights import EMA

if TYPE_CHECKING:
    from ..config import RunConfig

log = logging.getLogger(__name__)


class Run:
    """A run on this rank. From its making to the end of the ``with`` no other process can write into its folder.

    Args:
        config: of the run.
        ranks: this process among those of the run.
        stop: true once a signal asked the run to end.
        init_from: the run folder whose encoder starts this one.
        resume: go on with what the run folder holds.
    """

    def __init__(
        self, config: RunConfig, ranks: ProcessGroup, stop: StopSignals, *, init_from: Path | None, resume: bool
    ) -> None:
        self.config, self.options, self.ranks, self.stop = config, config.train, ranks, stop
        self.data = build_data(config, splits_of(self.options))
        seed_all(mix(self.options.seed, "weights"))
        self.task = build_task(config, self.data.tokenizer, self.data.classes).to(ranks.device)
        self.cast = autocast(self.options.precision, ranks.device)
        self.optimizer = build_optimizer(self.task, config.optim)
        self.parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        self.monitor = f"val/{self.task.monitor}"
        self.folder = run_dir(config)
        self._held = ExitStack()
        self.store = CheckpointStore(
            self.folder, keep_last=self.options.keep_last, monitor=self.monitor, mode=self.task.monitor_mode
        )
        self._clock = time.process_time if self.options.clock == "cpu" else time.perf_counter
        self.state, self.meters, self.interval = TrainState(), Meters(), Interval()
        self.bad = BadSamples("train", len(self.data.splits["train"]), self.options.max_bad_share)
        self.evaluated_bad: dict[str, BadCounts] = {}
        self.extents: dict[str, Extents] = {}
        self.unsaved = False
        self._announced: list[str] = []
        self._sampler = self._build_sampler()
        checkpoint = self._open_folder(resume=resume)
        if checkpoint is None and init_from is not None:
            loaded = load_encoder(self.task, init_from, self.data.tokenizer)
            self._announced = [f"train.init_from: {loaded}"]
        self.ema = EMA(self.task, self.options.ema) if self.options.ema is not None else None
        if checkpoint is not None:
            self._go_on_from(checkpoint)
        if self.options.compile:
            compile_regions(self.task)
        self.model = ranks.wrap(self.task)
        self._kept_lines = int(checkpoint.state["log_lines"]) if checkpoint is not None else 0

    def __enter__(self) -> Self:
        self.stop.at_once = False
        step, options = self.state.step, self.options
        if self.ranks.is_main:
            write_config(self.config)
        shown = f"train/{self.task.monitor}"
        self.progress = ProgressBar(options.steps, shown, silent=not self.ranks.is_main, cpu=options.clock == "cpu")
        self.log = MetricsLog(self.folder / "metrics.jsonl", self._kept_lines) if self.ranks.is_main else None
        self.board = TensorBoard(self.folder / "tensorboard", step) if self.log and options.tensorboard else None
        self.stream = TrainStream(
            self.data.maker(self.config, "train"),
            self._sampler,
            self.state.position,
            self.bad,
            extents=self.extents,
            workers=options.workers,
            pin_memory=self.ranks.device.type == "cuda",
            all_ranks=self.ranks.all,
        )
        self.val = self._evaluation("val", options.eval_batches) if options.eval_every else None
        self.progress.__enter__()
        self._started = self._clock() - self.state.seconds
        self._line = (self.state.tokens, self.state.seconds)
        return self

    def __exit__(self, *details: object) -> None:
        self.stream.close()
        self.progress.__exit__(*details)
        self._held.close()
        if self.log is not None:
            self.log.close()
        if self.board is not None:
            self.board.close()

    # What is due.

    def agree(self) -> tuple[int, float]:
        """Over all ranks: the signal that came, or 0, and the fraction of the time limit that is gone."""
        self.state.seconds = self._clock() - self._started
        limit = self.options.time_limit
        spent = self.state.seconds / (60 * limit) if limit is not None else 0.0
        signal, spent = self.ranks.max(self.stop.number, spent)
        return int(signal), spent

    def evaluation_due(self, *, over: bool) -> bool:
        """Whether this step is to be evaluated and was not yet."""
        every, step = self.options.eval_every, self.state.step
        return every is not None and self.state.evaluated < step and (over or step % every == 0)

    def save_due(self, *, ending: bool) -> bool:
        """Whether there is something to save, and it is time."""
        every = self.options.save_every
        return self.unsaved and (ending or (every is not None and self.state.step % every == 0))

    def log_due(self) -> bool:
        """Whether a line is to be logged."""
        return self.state.step % self.options.log_every == 0 or self.state.step == self.options.steps

    # What is done.

    def stepped(self, batches: Sequence[Batch], values: dict[str, float]) -> None:
        """Counts a step.

        Args:
            batches: those of this rank.
            values: to be logged with it.
        """
        mine = [sum(len(batch) for batch in batches), sum(batch.num_tokens for batch in batches)]
        samples, tokens = self.ranks.sum_counts(*mine)
        self.state.step += 1
        self.state.samples += samples
        self.state.tokens += tokens
        self.state.position = self.stream.position
        self.state.seconds = self._clock() - self._started
        self.unsaved = True
        self.interval.add(tokens, self.stream.waited())
        self.values = values
        self.progress.moved(self.state.step)

    def evaluate(self) -> tuple[bool, bool]:
        """Evaluates on ``val``, with the moving average where there is one.

        Returns:
            Whether a signal cut it short, and whether the metric is the best yet.

        Raises:
            ConfigError: the task's metric is not among those of the split.
        """
        assert self.val is not None
        with self._aside(), self.ema.swapped_into(self.task) if self.ema is not None else nullcontext():
            metrics = evaluate(self.task, self.val, self.cast, stopped=lambda: bool(self.stop))
        self.interval.pause()
        if metrics is None:
            return True, False
        if self.monitor not in metrics:
            raise ConfigError(f"{self.monitor} is to choose the best, but val gave {', '.join(metrics) or 'no metric'}")
        self.state.evaluated, self.state.metrics, self.unsaved = self.state.step, metrics, True
        self.evaluated_bad["val"] = together(self.ranks.gather(self.val.bad.counts()))
        best = self.ranks.is_main and self.store.improves(metrics[self.monitor])
        if self.ranks.is_main:
            self._write({"step": self.state.step, "epoch": self.state.position.epoch, **metrics})
            shown = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
            self.progress.say(f"step {self.state.step}/{self.options.steps}  {shown}{'  (best)' if best else ''}")
        return False, self.ranks.max(float(best))[0] > 0

    def save(self, *, ending: bool) -> None:
        """Writes a checkpoint. Where the disk refuses, the run goes on with the one before, unless it ends here.

        Raises:
            UserError: the run ends here.
        """
        sums, bad = self._collected()
        if self.log is not None:
            try:
                with self._aside():
                    self.log.sync()
                    self.store.save(self._plain_state(sums, bad), pack(self.task, self.optimizer, self.ema))
            except OSError as error:
                self._save_failed(error, ending=ending)
        self.unsaved = False
        self.interval.pause()

    def write_log(self) -> None:
        """Writes a line of the means since the line before."""
        sums, self.meters = added(self.ranks.gather(self.meters.sums())), Meters()
        rates = self.interval.rates()
        if self.ranks.is_main:
            state = self.state
            values = {"step": state.step, "epoch": state.position.epoch, **means(sums, "train"), **self.values}
            values |= {"samples": state.samples, "tokens": state.tokens}
            values |= {"seconds": state.seconds, **rates}
            self._write(values)
            shown = values | {"tokens_per_second": self._rate(rates["tokens_per_second"])}
            self.progress.show(state.step, shown, self._seconds_left())

    def finish(self) -> None:
        """Evaluates the best weights on ``test``, and writes ``summary.json``.

        Raises:
            Stopped: a signal came before the end.
        """
        self.stream.close()
        self.ranks.barrier()
        checkpoint = self.store.read("best")
        load_trained(self.task, checkpoint)
        metrics = dict(checkpoint.state["metrics"])
        if self.options.test:
            loader = self._evaluation("test")
            tested = evaluate(self.task, loader, self.cast, stopped=lambda: bool(self.stop))
            if tested is None:
                raise self.stopped()
            metrics |= tested
            self.evaluated_bad["test"] = together(self.ranks.gather(loader.bad.counts()))
        self._summarize(checkpoint, metrics)

    # What is said.

    def announce(self) -> None:
        """Says what is about to be trained, and where."""
        device = self.ranks.device
        samples = ", ".join(f"{len(dataset):,} {split}" for split, dataset in self.data.splits.items())
        ranks = f", {self.ranks.world_size} ranks" if self.ranks.world_size > 1 else ""
        size = f"{parameter_count(self.task):,} parameters"
        self.progress.say(f"{self.folder}: {size}, {device.type} in {self._precision()}{ranks}, {samples} samples")
        for line in self._announced:
            self.progress.say(line)
        if self.state.step:
            self.progress.say(f"goes on from step {self.state.step}")
        if self.ranks.is_main:
            for warning in start_warnings(self.config.data):
                log.warning("%s", warning)
        if self.options.time_limit is not None:
            clock = "processor time of this process" if self.options.clock == "cpu" else "wall clock"
            self.progress.say(
                f"train.time_limit {span(self.options.time_limit)} ({clock}), or {self.options.steps:,} steps"
            )
        for warning in schedule_warnings(self.config.optim, self.options.steps) if self.ranks.is_main else ():
            log.warning("%s", warning)
        for tower, carried in carried_groups(self.config, self.data.tokenizer).items():
            of_tower = f" of {tower}" if tower else ""
            self.progress.say(
                f"groups{of_tower} by {', '.join(carried)} come with the data: the model reads samples that have them, "
                "and no bare files"
            )
        if self._precision() == "bf16" and emulates_bf16(device) and self.ranks.is_main:
            log.warning(
                "train.precision bf16: this processor has no AVX512-BF16 and computes it slowly; use auto or fp32"
            )

    def say_over(self) -> None:
        """Says that the time limit ended the run, where it did, and whether that was too early for its schedule."""
        steps, warmup = self.options.steps, self.config.optim.warmup_steps
        if self.state.step >= steps:
            return
        self.progress.say(f"train.time_limit is over at step {self.state.step} of {steps}")
        if self.state.step < warmup and self.ranks.is_main:
            log.warning(
                "the time limit ended the run at step %d, within the %d steps of optim.warmup_steps: lr was never "
                "reached; set fewer, or a longer train.time_limit",
                self.state.step, warmup,
            )  # fmt: skip

    def stopped(self) -> Stopped:
        """What ends the run on all ranks after a signal to one of them; says how it goes on."""
        (number,) = self.ranks.max(self.stop.number)
        stop = Stopped(int(number))
        self.progress.say(f"{stop} at step {self.state.step}; resume (--resume) goes on from there")
        return stop

    def last_good(self) -> Path | None:
        """The newest checkpoint, if any."""
        steps = self.store.steps()
        return self.store.path(steps[-1]) if steps else None

    # How it is done.

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """What is done in between, which the processor's clock of training leaves out."""
        before = self._clock()
        yield
        if self.options.clock == "cpu":
            self._started += self._clock() - before

    def _build_sampler(self) -> Sampler:
        dataset, options = self.data.splits["train"], self.options
        return Sampler(
            len(dataset),
            seed=options.seed,
            batch_size=options.batch_size,
            batch_tokens=options.batch_tokens,
            sizes=sample_sizes(dataset, self.data.tokenizer) if options.batch_tokens is not None else None,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
        )

    def _evaluation(self, split: str, limit: int | None = None) -> EvaluationLoader:
        return EvaluationLoader(split, self.data.maker(self.config, split), self.options, self.ranks, limit)

    def _open_folder(self, *, resume: bool) -> Checkpoint | None:
        """The first rank makes or mends the folder; the others then find what it found."""
        checkpoint = None
        if self.ranks.is_main:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                check_replaceable(self.folder, RUN_FILES)
                self._held.enter_context(exclusive_lock(self.folder))
            except OSError as error:
                raise ConfigError(
                    f"run.dir {self.folder} cannot be written: {error.strerror}; choose another folder, or change its "
                    "permissions"
                ) from error
            checkpoint = open_folder(self.config, self.store, resume=resume)
        self.ranks.barrier()
        return checkpoint if self.ranks.is_main or not resume else self.store.newest()

    def _go_on_from(self, checkpoint: Checkpoint) -> None:
        state = checkpoint.state
        if self.config.task.labelled:
            check_same_classes(checkpoint, self.data.classes)
        check_same_vocabularies(checkpoint, self.data.tokenizer)
        unpack(checkpoint, self.task, self.optimizer, self.ema)
        self.state = TrainState.of(state)
        self.extents |= extents_of(state)
        if self.ranks.is_main:
            self.meters.restore(state["meters"])
            self.bad.restore(state["bad"])
        if state["world_size"] != self.ranks.world_size and self.options.batch_tokens is not None:
            raise ConfigError(
                f"{checkpoint.folder} was saved by {state['world_size']} ranks, and there are {self.ranks.world_size}: "
                "with train.batch_tokens their number makes the batches; start as many"
            )
        if state["counts"] != self._counts() and self.ranks.is_main:
            before, now = (
                ", ".join(f"{n:,} {name}" for name, n in own.items()) for own in (state["counts"], self._counts())
            )
            log.warning("the data changed since %s: %s samples, now %s; %s", checkpoint.folder, before, now, MOVED)

    def _collected(self) -> tuple[Sums, BadCounts]:
        """Sums and counts of all ranks; the first rank holds the sums from here on."""
        sums = added(self.ranks.gather(self.meters.sums()))
        if self.ranks.world_size > 1:
            self.meters.restore(sums if self.ranks.is_main else {})
        return sums, together(self.ranks.gather(self.bad.counts()))

    def _plain_state(self, sums: Sums, bad: BadCounts) -> dict[str, Any]:
        assert self.log is not None
        return self.state.plain() | {
            "meters": sums,
            "bad": bad,
            "log_lines": self.log.lines,
            "counts": self._counts(),
            "world_size": self.ranks.world_size,
            "classes": self.data.classes,
            "started_in": os.getcwd(),
            "vocabularies": vocabularies(self.data.tokenizer),
            "extents": {name: extents.plain() for name, extents in self.extents.items()},
            "monitor": {"metric": self.monitor, "mode": self.task.monitor_mode},
            "config": self.config.model_dump(mode="json"),
            "config_digest": config_digest(self.config),
        }

    def _save_failed(self, error: OSError, *, ending: bool) -> None:
        self.state.failed_saves += 1
        good = self.last_good()
        kept = f"the last good checkpoint is {good}" if good else "there is no checkpoint yet"
        if ending:
            raise UserError(
                f"the last checkpoint, of step {self.state.step}, could not be written ({error}); {kept}; "
                "make room and resume"
            ) from error
        log.warning(
            "the checkpoint of step %d could not be written (%s), failure %d of this run; %s, and the run goes on",
            self.state.step, error, self.state.failed_saves, kept,
        )  # fmt: skip

    def _summarize(self, checkpoint: Checkpoint, metrics: dict[str, float]) -> None:
        bad = {"train": together(self.ranks.gather(self.bad.counts())), **self.evaluated_bad}
        memory = max(self.ranks.gather(peak_memory_bytes(self.ranks.device)))
        if not self.ranks.is_main:
            return
        values = {
            "metrics": metrics,
            "counts": self._counts(),
            "bad_samples": bad,
            "steps": self.state.step,
            "best_step": checkpoint.step,
            "samples": self.state.samples,
            "tokens": self.state.tokens,
            "failed_saves": self.state.failed_saves,
            "seconds": self.state.seconds,
            "precision": self._precision(),
            "parameters": parameter_count(self.task),
            "peak_memory_bytes": memory,
            **machine(self.ranks.device),
            "ranks": self.ranks.world_size,
            "seed": self.options.seed,
        }
        write_summary(self.folder / "summary.json", values)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        self.progress.say(
            f"done: {shown}  (step {checkpoint.step} of {self.state.step}, {self.folder / 'summary.json'})"
        )

    def _precision(self) -> str:
        return "bf16" if choose_dtype(self.options.precision, self.ranks.device).itemsize == 2 else "fp32"

    def _counts(self) -> dict[str, int]:
        return {split: len(dataset) for split, dataset in self.data.splits.items()}

    def _write(self, values: dict[str, Any]) -> None:
        assert self.log is not None
        self.log.write(values)
        if self.board is not None:
            numbers = {name: value for name, value in values.items() if name not in ("step", "epoch")}
            self.board.write(self.state.step, numbers)

    def _rate(self, by_wall_clock: float) -> float:
        """Tokens a second since the line before, by the run's clock, as what is left is told."""
        before, self._line = self._line, (self.state.tokens, self.state.seconds)
        seconds = self._line[1] - before[1]
        return (
            by_wall_clock if self.options.clock == "wall" else (self._line[0] - before[0]) / seconds if seconds else 0.0
        )

    def _seconds_left(self) -> float:
        done, seconds = self.state.step, self.state.seconds
        by_steps = seconds / max(1, done) * max(0, self.options.steps - done)
        limit = self.options.time_limit
        return by_steps if limit is None else min(by_steps, max(0.0, 60 * limit - seconds))
