"""Predicting as a job: the samples of files, tables or a split, in batches, to a file or a stream."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from ..core.errors import UserError
from ..data.contained import ContainedFile
from ..data.progress import counted
from ..data.sample import Sample
from ..data.skipped import warn_of_skipped
from ..tasks.batch import Batch
from ..tasks.classification import Classification
from ..tasks.fused import Fused
from ..tasks.generation import Generation
from ..tasks.matching import Matching
from ..tasks.multilabel import Multilabel
from ..tasks.regression import Regression
from ..tasks.semantic import SemanticSegmentation
from ..train.data import load, worker_deaths_named
from ..train.distributed import ProcessGroup
from ..train.sampler import Plan
from ..train.samples import Loaded
from .inputs import Input, SampleBatches
from .interpreting import NOT_FINITE, Interpreter
from .prediction_rows import format_of, journaled, write_output, writer_to
from .predictions import Attribution, PredictionRow
from .trained import TrainedRun, load_for_evaluation

log = logging.getLogger(__name__)

TOP = 5
"""Classes whose scores are written."""

Explain = Callable[[Batch, Sequence[Sample]], list[list[Attribution]]]
"""Attributes the predictions of a batch, for each sample."""


@dataclass(frozen=True)
class PredictionJob:
    """Predicts some samples, and writes a row for each in their order.

    Args:
        run: on the device that computes.
        maker: of the batches.
        plans: the batches.
        info: by index of the sample, columns to write beside its prediction.
        top: number of classes to score; all if ``None``.
        workers: processes that read files; 0 for none.
        precision: of the model; that of the run if ``None``.
        explain: attributes predictions to parts of the samples, if that is written.
        identity: of inputs and options; a job is continued where they are equal.
        labelled: whether the samples have labels, which are written too.
    """

    run: TrainedRun
    maker: SampleBatches
    plans: Sequence[Plan]
    info: Sequence[Mapping[str, str]] = ()
    top: int | None = TOP
    workers: int = 0
    precision: str | None = None
    explain: Explain | None = None
    identity: Mapping[str, Any] = field(default_factory=dict)
    labelled: bool = False

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise UserError(f"{self.workers} workers are not possible; give 0 or more")
        if self.top is not None and self.top < 1:
            raise UserError(f"--top {self.top} is not possible; give 1 or more")

    @property
    def columns(self) -> list[str]:
        """The columns that are written, in their order."""
        task = self.run.task
        names = ["sample", *(["true"] if self.labelled else []), "predicted"]
        if isinstance(task, Classification | Fused | Matching):
            names += ["score", "scores"]
        elif isinstance(task, Multilabel):
            names += ["scores"]
        elif isinstance(task, Generation):
            names += ["score"]
        elif not isinstance(task, Regression | SemanticSegmentation):
            names += ["unit", "spans"]
        names += ["attributions"] if self.explain is not None else []
        others = dict.fromkeys(_column(name, names) for row in self.info for name in row)
        return names + list(others)

    def batches(self, done: int = 0) -> Iterator[tuple[list[PredictionRow], list[tuple[str, str]], int]]:
        """Rows, skipped samples with the reasons, and the number of samples of each batch.

        Args:
            done: number of batches to leave out.
        """
        run, interpret = self.run, self.run.interpreter()
        plans = self.plans[done:]
        # Starting workers takes longer than loading a few batches.
        workers = self.workers if len(plans) > 1 else 0
        with run.computing(self.precision), worker_deaths_named():
            for loaded in load(self.maker, plans, workers=workers, pin_memory=run.device.type == "cuda"):
                if loaded.error is not None:
                    raise loaded.error
                skipped = [(error.name, error.reason) for error in loaded.bad]
                rows: list[PredictionRow] = []
                if loaded.batch is not None:
                    rows, broken = self._rows(loaded, interpret)
                    skipped += broken
                yield rows, skipped, len(loaded.plan.indices)

    def _rows(self, loaded: Loaded, interpret: Interpreter) -> tuple[list[PredictionRow], list[tuple[str, str]]]:
        assert loaded.batch is not None
        batch = loaded.batch.to(self.run.device)
        samples = [sample for _, sample in loaded.samples]
        predictions = interpret(batch, samples)
        attributions = self.explain(batch, samples) if self.explain is not None else [[]] * len(samples)
        rows: list[PredictionRow] = []
        broken: list[tuple[str, str]] = []
        for (index, sample), prediction, parts in zip(loaded.samples, predictions, attributions, strict=True):
            if prediction is None:
                broken.append((sample.name, NOT_FINITE))
                continue
            row: PredictionRow = {"sample": sample.name}
            if self.labelled:
                row["true"] = interpret.truth(sample)
            row |= prediction.row(self.top)
            if self.explain is not None:
                row["attributions"] = [part.plain() for part in parts]
            info = self.info[index] if self.info else {}
            rows.append(row | {_column(name, row): value for name, value in info.items()})
        return rows, broken

    def write(self, out: Path | None, kind: str | None = None, *, restart: bool = False) -> int:
        """Writes the predictions, and logs the samples that were left out.

        Args:
            out: the file, which must not exist; standard output if ``None``. A job that was interrupted continues.
            kind: ``text``, ``csv``, ``jsonl`` or ``parquet``; by the suffix of the file if absent.
            restart: discard what an interrupted job has left.

        Returns:
            The number of predictions.

        Raises:
            UserError: no sample can be predicted, the file exists, or the interrupted job had other inputs or options.
        """
        kind = format_of(out, kind)
        skipped: dict[str, list[str]] = {}
        total = sum(len(plan.indices) for plan in self.plans)
        count = 0
        with counted(total, "predicting") as advance:
            if out is None:
                writer = writer_to(sys.stdout, kind, self.columns)
                for rows, bad, size in self.batches():
                    writer.write(rows)
                    sys.stdout.flush()
                    count += len(rows)
                    _add(skipped, bad)
                    advance(size)
            else:
                count = self._write_file(out, kind, restart, skipped, advance)
        warn_of_skipped(log, skipped, total)
        if not count:
            raise UserError(f"none of {total:,} samples can be predicted")
        return count

    def _write_file(
        self, out: Path, kind: str, restart: bool, skipped: dict[str, list[str]], advance: Callable[[int], None]
    ) -> int:
        with journaled(out, self._identity(), restart=restart) as journal:
            done = journal.batches
            if done:
                log.info("%s batches were predicted before", done)
            advance(sum(len(plan.indices) for plan in self.plans[:done]))
            for rows, bad, size in self.batches(done):
                journal.add(rows, bad)
                advance(size)
            count = 0
            for rows, bad in journal.entries():
                count += len(rows)
                _add(skipped, bad)
            if count:
                write_output(journal, out, kind, self.columns)
        return count

    def _identity(self) -> dict[str, Any]:
        checkpoint = self.run.checkpoint
        size = len(self.plans[0].indices) if self.plans else 0
        return {
            "weights": checkpoint.digest("ema" if "ema" in checkpoint else "model"),
            "batch size": size,
            "top": self.top,
            "precision": self.precision,
            **self.identity,
        }


def prediction_job(
    run: TrainedRun, inputs: Sequence[Input], *, batch_size: int | None = None, **options: Any
) -> PredictionJob:
    """A job over inputs.

    Args:
        run: on the device that computes.
        inputs: what to predict.
        batch_size: samples a batch; ``train.batch_size`` of the run if absent.
        options: ``top``, ``workers``, ``precision``, ``explain`` and ``identity`` of :class:`PredictionJob`.

    Raises:
        ConfigError: the run's task makes no predictions.
        UserError: an option is out of range.
    """
    if batch_size is not None and batch_size < 1:
        raise UserError(f"a batch of {batch_size} samples is not possible; give 1 or more")
    values = run.interpreter().needs_values or options.get("explain") is not None
    identity = {"inputs": _digest(inputs), **options.pop("identity", {})}
    return PredictionJob(
        run,
        run.batches(inputs, values=values),
        run.plans(len(inputs), batch_size),
        [entry.info for entry in inputs],
        identity=identity,
        **options,
    )


def split_job(run: TrainedRun, split: str, ranks: ProcessGroup, **options: Any) -> PredictionJob:
    """A job over a split of the run's data, in the batches of its evaluation, with the true labels.

    Args:
        run: on the device of ``ranks``.
        split: ``train``, ``val`` or ``test``.
        ranks: a single process.
        options: ``top`` and ``precision`` of :class:`PredictionJob`.

    Raises:
        ConfigError: the split is missing, or the run's task makes no predictions.
        UserError: there are several processes.
    """
    if ranks.world_size > 1:
        raise UserError("predictions are written by one process; run it without torchrun")
    values = run.interpreter().needs_values
    loader = run.loader(split, ranks)
    maker = SampleBatches(loader.maker.dataset, run.collator, run.config.train.seed, values=values)
    identity = {
        "inputs": f"the {split} split, {len(maker.dataset):,} samples",
        "data": run.config.data.model_dump(mode="json"),
    }
    return PredictionJob(
        run, maker, loader.plans, workers=run.config.train.workers, identity=identity, labelled=True, **options
    )


def write_split(
    run_dir: str | Path, split: str, out: Path, overrides: Sequence[str] = (), *, which: str | int = "best"
) -> int:
    """Writes a row for each sample of a split: its name, true label, prediction and the scores of all classes.

    Args:
        run_dir: the run folder.
        split: ``train``, ``val`` or ``test``.
        out: the file, whose suffix gives the format: ``.csv``, ``.jsonl``, ``.parquet`` or ``.txt``.
        overrides: changes to the run's configuration, each ``a.b.c=value``.
        which: ``best``, ``latest`` or a step.

    Returns:
        The number of predictions.

    Raises:
        ConfigError: the split is missing, or the run's task makes no predictions.
        UserError: the file exists already.
    """
    run = load_for_evaluation(run_dir, overrides, which=which)
    options = run.config.train
    with ProcessGroup.from_env(options.device, options.collective_timeout) as ranks:
        return split_job(run.to(ranks.device), split, ranks, top=None).write(out)


def _column(name: str, columns: Sequence[str] | Mapping[str, Any]) -> str:
    """The name of an input's own column, which may not hide one of the prediction."""
    return f"input.{name}" if name in columns else name


def _add(skipped: dict[str, list[str]], bad: Sequence[tuple[str, str]]) -> None:
    for name, reason in bad:
        skipped.setdefault(reason, []).append(name)


def _digest(inputs: Sequence[Input]) -> str:
    """Changes with the names, the columns and the content of inputs; that of a file by its size and time."""
    digest = blake2b(digest_size=16)
    for entry in inputs:
        described = [entry.name, dict(entry.info), {name: _stamp(source) for name, source in entry.sources.items()}]
        digest.update(repr(described).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _stamp(source: Any) -> Any:
    if isinstance(source, tuple):
        return [_stamp(item) for item in source]
    if isinstance(source, ContainedFile):
        return source.identity
    if not isinstance(source, Path):
        return source
    try:
        status = source.stat()
    except (OSError, ValueError):
        return str(source)
    return [str(source), status.st_size, status.st_mtime_ns]
