"""The checkpoints of a run: finding the newest and the best, and removing old ones."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from .checkpoint import REMEDY, Checkpoint, CheckpointError, read_checkpoint, read_state, tidy, write_checkpoint
from .meters import is_better

log = logging.getLogger(__name__)

NAME = re.compile(r"step-(\d{8,})")


class CheckpointStore:
    """The folder ``checkpoints`` of a run.

    Args:
        run_dir: the run folder.
        keep_last: number of newest checkpoints to keep, beside the best.
        monitor: the metric that decides which is best, as ``state.json`` names it.
        mode: ``min`` or ``max``.
    """

    def __init__(self, run_dir: Path, *, keep_last: int = 1, monitor: str = "", mode: str = "min") -> None:
        self.folder = run_dir / "checkpoints"
        self.keep_last = keep_last
        self.monitor = monitor
        self.mode = mode

    def path(self, step: int) -> Path:
        """The folder of a step's checkpoint."""
        return self.folder / f"step-{step:08d}"

    def latest_path(self) -> Path | None:
        """The folder of the newest checkpoint, if any."""
        steps = self.steps()
        return self.path(steps[-1]) if steps else None

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, oldest first."""
        names = (entry.name for entry in self.folder.iterdir()) if self.folder.is_dir() else ()
        return sorted(int(match[1]) for name in names if (match := NAME.fullmatch(name)))

    def save(self, state: Mapping[str, Any], parts: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Writes a checkpoint, then removes old ones.

        Raises:
            OSError: it could not be written; the others are kept.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        write_checkpoint(self.path(state["step"]), state, parts)
        self.prune()

    def prune(self) -> None:
        """Removes all checkpoints but the newest and the best."""
        steps = self.steps()
        best = self.best()
        # After the new one is written: at every moment there is a checkpoint to resume from.
        for step in set(steps) - {*steps[-self.keep_last :], *(best[:1] if best else ())}:
            shutil.rmtree(self.path(step))

    def state(self, step: int) -> dict[str, Any]:
        """The content of a step's ``state.json``.

        Raises:
            CheckpointError: it is missing, damaged, or of another step.
        """
        state = read_state(self.path(step))
        if state["step"] != step:
            raise CheckpointError(
                f"{self.path(step) / 'state.json'} is of step {state['step']}: another checkpoint was copied there; "
                f"{REMEDY}"
            )
        return state

    def _verified(self, step: int) -> Checkpoint:
        """A checkpoint whose files are all complete.

        Raises:
            CheckpointError: one is missing or damaged, or it is of another step.
        """
        self.state(step)
        return read_checkpoint(self.path(step))

    def best(self) -> tuple[int, float] | None:
        """The step with the best metric, the latest among equals, and the metric; ``None`` if none has one."""
        best: tuple[int, float] | None = None
        for step in self.steps():
            try:
                value = self.state(step).get("metrics", {}).get(self.monitor)
            # A damaged checkpoint is reported when it is read.
            except CheckpointError:
                continue
            if value is not None and is_better(value, best[1] if best else None, self.mode):
                best = (step, value)
        return best

    def improves(self, value: float) -> bool:
        """Whether a metric is at least as good as that of every checkpoint."""
        best = self.best()
        return is_better(value, best[1] if best else None, self.mode)

    def newest(self) -> Checkpoint | None:
        """The newest intact checkpoint, to resume from; ``None`` if there are no checkpoints.

        Newer damaged ones are renamed to ``step-….broken``, with a warning.

        Raises:
            CheckpointError: there are checkpoints, and all are damaged.
        """
        if self.folder.is_dir():
            tidy(self.folder)
        damaged: list[tuple[int, CheckpointError]] = []
        for step in reversed(self.steps()):
            try:
                checkpoint = self._verified(step)
            except CheckpointError as error:
                damaged.append((step, error))
                continue
            for bad_step, reason in damaged:
                log.warning("%s; the run goes on from the good checkpoint %s", reason, checkpoint.folder)
                aside = self.path(bad_step).with_name(f"{self.path(bad_step).name}.broken")
                shutil.rmtree(aside, ignore_errors=True)
                self.path(bad_step).rename(aside)
            return checkpoint
        if damaged:
            reasons = "\n".join(f"  {reason}" for _, reason in damaged)
            raise CheckpointError(f"no good checkpoint is left in {self.folder}:\n{reasons}\nstart again elsewhere")
        return None

    def read(self, which: str | int = "best") -> Checkpoint:
        """Reads a checkpoint: ``best`` (the newest if none has a metric), ``latest``, or that of a step.

        Raises:
            CheckpointError: there is none, or it is damaged; names one that is good.
        """
        steps = self.steps()
        if not steps:
            raise CheckpointError(f"{self.folder} holds no checkpoint; the run was stopped before its first")
        if which == "best":
            self._check_metrics_readable(steps)
        best = self.best() if which == "best" else None
        step = which if isinstance(which, int) else best[0] if best else steps[-1]
        if step not in steps:
            raise CheckpointError(f"{self.folder} holds no checkpoint of step {step}; there are {steps}")
        try:
            return self._verified(step)
        except CheckpointError as error:
            raise CheckpointError(f"{error}; {self._good_one(step)}") from error

    def _check_metrics_readable(self, steps: Sequence[int]) -> None:
        """Refuses to choose the best if a metric cannot be read: that checkpoint may be the best one."""
        for step in steps:
            try:
                self.state(step)
            except CheckpointError as error:
                raise CheckpointError(
                    f"{error}; {self._good_one(step)}. It may be the best one: to choose "
                    f"among the others, move {self.path(step)} away"
                ) from error

    def _good_one(self, damaged: int) -> str:
        for step in reversed(self.steps()):
            if step == damaged:
                continue
            try:
                return f"{self._verified(step).folder} is good"
            except CheckpointError:
                continue
        return "no other checkpoint is good"


def open_store(run_dir: Path) -> CheckpointStore:
    """The checkpoints of a run, with the monitored metric that they were saved with."""
    store = CheckpointStore(Path(run_dir))
    for step in reversed(store.steps()):
        try:
            monitor = store.state(step)["monitor"]
        except CheckpointError:
            continue
        return CheckpointStore(Path(run_dir), monitor=monitor["metric"], mode=monitor["mode"])
    return store
