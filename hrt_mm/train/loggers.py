"""Where else the metrics of a run go: CSV, Weights & Biases, MLflow, or what installed packages register.

``train.loggers`` names them; entry points of the group ``hrt_mm.loggers`` add to the names. A logger that fails while
the run trains is left out with a warning: no run is lost for a server that went away.
"""

from __future__ import annotations

import csv
import io
import logging
import math
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Protocol

from ..core.errors import ConfigError
from ..core.extras import is_installed
from ..data.atomic_files import replace_file

log = logging.getLogger(__name__)

GROUP = "hrt_mm.loggers"


@dataclass(frozen=True)
class LoggedRun:
    """The run whose metrics are logged.

    Args:
        folder: of the run.
        config: as nested dictionaries of plain values.
        step: that it resumes from; 0 for a new run. What was logged for later steps is to be replaced.
    """

    folder: Path
    config: Mapping[str, Any]
    step: int


class Logger(Protocol):
    """Receives the metrics of a run. It is made from a :class:`LoggedRun`, on the first rank alone."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Logs metrics by name, such as ``train/loss``."""

    def close(self) -> None:
        """Ends the log; called also when the run fails."""


class Loggers:
    """The loggers of a run.

    Args:
        names: of registered loggers.
        run: that is logged.

    Raises:
        ConfigError: a name is not registered, or its library is not installed.
    """

    def __init__(self, names: Sequence[str], run: LoggedRun) -> None:
        self._loggers: dict[str, Logger] = {}
        check_loggers(names)
        try:
            for name in names:
                self._loggers[name] = _factories()[name](run)
        except BaseException:
            self.close()
            raise

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes the metrics of a step to all loggers."""
        for name, logger in list(self._loggers.items()):
            try:
                logger.write(step, values)
            except Exception as error:  # libraries of others: a run goes on whatever they raise
                log.warning("train.loggers: %s failed and is left out from step %d on: %s", name, step, error)
                del self._loggers[name]

    def close(self) -> None:
        """Closes all loggers."""
        for name, logger in self._loggers.items():
            try:
                logger.close()
            except Exception as error:  # as above
                log.warning("train.loggers: %s could not be closed: %s", name, error)
        self._loggers.clear()


def check_loggers(names: Sequence[str]) -> None:
    """Checks that loggers are registered and their libraries are installed.

    Raises:
        ConfigError: one is not.
    """
    known = sorted({*_LIBRARIES, *(entry.name for entry in entry_points(group=GROUP))})
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"train.loggers: there is no logger {name!r}; one of {', '.join(known)}{hint}")
        library, install = _LIBRARIES.get(name, ("", ""))
        if library and not is_installed(library):
            raise ConfigError(f"train.loggers: {name} needs {library}, which is not installed: {install}")


def _factories() -> dict[str, Callable[[LoggedRun], Logger]]:
    factories: dict[str, Callable[[LoggedRun], Logger]] = {"csv": Csv, "wandb": WandB, "mlflow": MLflow}
    for entry in entry_points(group=GROUP):
        factories[entry.name] = partial(_load, entry)
    return factories


def _load(entry: EntryPoint, run: LoggedRun) -> Logger:
    """Imports a registered logger when it is used, so that others may be broken."""
    logger: Logger = entry.load()(run)
    return logger


_LIBRARIES = {
    "csv": ("", ""),
    "wandb": ("wandb", "pip install wandb"),
    "mlflow": ("mlflow", "pip install mlflow"),
}
"""By name, what built-in loggers import and how to install it."""


class Csv:
    """``metrics.csv`` in the run folder: step, name and value, a row for each, as metrics differ between steps."""

    HEADER = ("step", "name", "value")

    def __init__(self, run: LoggedRun) -> None:
        path = run.folder / "metrics.csv"
        rows: list[Sequence[str]] = [self.HEADER]
        if run.step and path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                # A row that a kill cut short is dropped with those of later steps.
                rows += [
                    row for row in csv.reader(file) if len(row) == 3 and row[0].isdigit() and int(row[0]) <= run.step
                ]
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        replace_file(path, text.getvalue().encode())
        self._file = path.open("a", newline="", encoding="utf-8")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Appends a row for each value."""
        csv.writer(self._file, lineterminator="\n").writerows(
            (step, name, repr(value)) for name, value in values.items()
        )
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class WandB:
    """A run of Weights & Biases, which a resumed run continues.

    The library's own environment variables choose the project (``WANDB_PROJECT``), the account and whether anything is
    sent (``WANDB_MODE=offline``).
    """

    def __init__(self, run: LoggedRun) -> None:
        import wandb

        path = run.folder / "wandb-id.txt"
        identity = path.read_text(encoding="utf-8").strip() if run.step and path.is_file() else secrets.token_hex(4)
        replace_file(path, identity.encode())
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "hrt-mm"),
            id=identity,
            name=run.folder.name,
            dir=str(run.folder),
            config=dict(run.config),
            resume="allow",
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Logs the values."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Ends the run there."""
        self._run.finish()


class MLflow:
    """A run of MLflow, which a resumed run continues.

    The library's own environment variables choose where to (``MLFLOW_TRACKING_URI``) and the experiment
    (``MLFLOW_EXPERIMENT_NAME``).
    """

    def __init__(self, run: LoggedRun) -> None:
        from mlflow import MlflowClient

        self._client = MlflowClient()
        path = run.folder / "mlflow-id.txt"
        if run.step and path.is_file():
            self._id = path.read_text(encoding="utf-8").strip()
            self._client.update_run(self._id, status="RUNNING")
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "hrt-mm")
        experiment = self._client.get_experiment_by_name(name)
        experiment_id = experiment.experiment_id if experiment else self._client.create_experiment(name)
        self._id = self._client.create_run(experiment_id, run_name=run.folder.name).info.run_id
        replace_file(path, self._id.encode())
        for key, value in _flat(run.config).items():
            # Longer values are refused by the server.
            self._client.log_param(self._id, key, str(value)[:500])

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Logs the finite values: MLflow refuses others."""
        from mlflow.entities import Metric

        finite = {name: float(value) for name, value in values.items() if math.isfinite(value)}
        metrics = [Metric(name, value, 0, step) for name, value in finite.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def close(self) -> None:
        """Ends the run there."""
        self._client.set_terminated(self._id)


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
