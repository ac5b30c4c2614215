"""The checkpoints of a run: which is the newest, which the best, which may go."""

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
        keep_last: newest checkpoints that stay, beside the best.
        monitor: the metric that the best is judged by, as ``state.json`` names it.
        mode: ``min`` or ``max``, whichever is better.
    """

    def __init__(self, run_dir: Path, *, keep_last: int = 1, monitor: str = "", mode: str = "min") -> None:
        self.folder = run_dir / "checkpoints"
        self.keep_last = keep_last
        self.monitor = monitor
        self.mode = mode

    def path(self, step: int) -> Path:
        """The folder of a step's checkpoint."""
        return self.folder / f"step-{step:08d}"

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, oldest first."""
        names = (entry.name for entry in self.folder.iterdir()) if self.folder.is_dir() else ()
        return sorted(int(match[1]) for name in names if (match := NAME.fullmatch(name)))

    def save(self, state: Mapping[str, Any], parts: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Writes a checkpoint, then removes those that need not stay.

        Raises:
            OSError: it could not be written; all others stay.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        write_checkpoint(self.path(state["step"]), state, parts)
        self.prune()

    def prune(self) -> None:
        """Keeps the newest, and the best."""
        steps = self.steps()
        best = self.best()
        kept = {*steps[-self.keep_last :], *(best[:1] if best else ())}
        for step in steps:
            if step not in kept:
                shutil.rmtree(self.path(step))

    def state(self, step: int) -> dict[str, Any]:
        """What ``state.json`` of a step says.

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

    def _whole(self, step: int) -> Checkpoint:
        """A checkpoint whose files are all there.

        Raises:
            CheckpointError: one is missing or damaged, or it is of another step.
        """
        self.state(step)
        return read_checkpoint(self.path(step))

    def best(self) -> tuple[int, float] | None:
        """The step whose metric is best, the latest among equals, and its metric; ``None`` where none was judged."""
        best: tuple[int, float] | None = None
        for step in self.steps():
            try:
                value = self.state(step).get("metrics", {}).get(self.monitor)
            except CheckpointError:
                continue
            if value is not None and is_better(value, best[1] if best else None, self.mode):
                best = (step, value)
        return best

    def improves(self, value: float) -> bool:
        """Whether a metric is as good as that of every checkpoint here, or better."""
        best = self.best()
        return is_better(value, best[1] if best else None, self.mode)

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole, to go on from; ``None`` where there is none at all.

        Newer ones that are damaged are put aside as ``step-….broken``, with a warning.

        Raises:
            CheckpointError: there are checkpoints, and all are damaged.
        """
        if self.folder.is_dir():
            tidy(self.folder)
        damaged: list[tuple[int, CheckpointError]] = []
        for step in reversed(self.steps()):
            try:
                found = self._whole(step)
            except CheckpointError as error:
                damaged.append((step, error))
                continue
            for bad_step, reason in damaged:
                log.warning("%s; the run goes on from the good checkpoint %s", reason, found.folder)
                self._put_aside(bad_step)
            return found
        if damaged:
            reasons = "\n".join(f"  {reason}" for _, reason in damaged)
            raise CheckpointError(f"no good checkpoint is left in {self.folder}:\n{reasons}\nstart anew elsewhere")
        return None

    def _put_aside(self, step: int) -> None:
        aside = self.path(step).with_name(f"{self.path(step).name}.broken")
        shutil.rmtree(aside, ignore_errors=True)
        self.path(step).rename(aside)

    def read(self, which: str | int = "best") -> Checkpoint:
        """A checkpoint to use: ``best`` (the newest where none was judged), ``latest``, or a step.

        Raises:
            CheckpointError: there is none, or it is damaged; names one that is good.
        """
        steps = self.steps()
        if not steps:
            raise CheckpointError(f"{self.folder} holds no checkpoint; the run was stopped before its first")
        if which == "best":
            self._check_judged(steps)
        best = self.best() if which == "best" else None
        step = which if isinstance(which, int) else best[0] if best else steps[-1]
        if step not in steps:
            raise CheckpointError(f"{self.folder} holds no checkpoint of step {step}; there are {steps}")
        try:
            return self._whole(step)
        except CheckpointError as error:
            raise CheckpointError(f"{error}; {self._good_one(step)}") from error

    def _check_judged(self, steps: Sequence[int]) -> None:
        """Refuses to choose the best where the metric of a checkpoint cannot be read, which may be the best one."""
        for step in steps:
            try:
                self.state(step)
            except CheckpointError as error:
                raise CheckpointError(
                    f"{error}; {self._good_one(step)}. Which is the best is not known without it: where the others are "
                    f"to do, move {self.path(step)} away"
                ) from error

    def _good_one(self, damaged: int) -> str:
        for step in reversed(self.steps()):
            if step == damaged:
                continue
            try:
                return f"{self._whole(step).folder} is good"
            except CheckpointError:
                continue
        return "no other checkpoint is good"


def open_store(run_dir: Path) -> CheckpointStore:
    """The checkpoints of a run, judged as the run judged them."""
    store = CheckpointStore(Path(run_dir))
    for step in reversed(store.steps()):
        try:
            monitor = store.state(step)["monitor"]
        except CheckpointError:
            continue
        return CheckpointStore(Path(run_dir), monitor=monitor["metric"], mode=monitor["mode"])
    return store
