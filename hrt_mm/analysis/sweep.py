"""Sweeps: runs of one configuration over a grid of settings, or over settings that Optuna draws, with seeds repeated.

A sweep is a YAML file::

    config: vision/digits
    overrides: [train.steps=200]
    grid:
      optim.lr: [1.0e-3, 3.0e-3]
      model.levels.strokes.depth: [1, 2]
    seeds: [0, 1, 2]

Every combination is trained once for each seed, in a run folder of its own, so that a sweep that was stopped goes on
where it was.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, PositiveInt, ValidationError, model_validator

from ..config import RunConfig, load_config
from ..core.component import Component
from ..core.errors import ConfigError, UserError
from ..core.extras import needs_extra
from ..data.atomic_files import replace_file
from ..train.build import build_task, build_tokenizers
from ..train.check import check
from ..train.loop import train
from ..train.monitor import monitor_of

Scalar = bool | int | float | str | None
Key = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*$")]


class Range(Component):
    """An interval of numbers to draw from."""

    low: float
    """Smallest value."""
    high: float
    """Largest value."""
    log: bool = False
    """Draw the logarithm uniformly."""
    integer: bool = False
    """Draw whole numbers."""

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} is not less than high {self.high:g}; swap them")
        if self.log and self.low <= 0:
            raise ValueError(f"low {self.low:g} has no logarithm; give a positive one, or drop log")
        return self


class SweepConfig(Component):
    """A sweep."""

    config: str
    """A YAML file, relative to the sweep's own, or a packaged name."""
    overrides: tuple[str, ...] = ()
    """Settings of all runs, each ``a.b.c=value``."""
    grid: dict[Key, Annotated[tuple[Scalar, ...], Field(min_length=1)]] = {}
    """Values by key; all combinations are trained."""
    space: dict[Key, Range | Annotated[tuple[Scalar, ...], Field(min_length=1)]] = {}
    """Intervals or choices by key, from which Optuna draws ``trials`` combinations, in place of ``grid``."""
    trials: PositiveInt | None = None
    """Number of combinations that Optuna draws."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    """Seeds that each combination is trained with."""
    metric: str | None = None
    """The metric that combinations are compared by, such as ``val/accuracy``; the task's on ``val`` when absent."""
    mode: Literal["max", "min"] | None = None
    """Whether the largest or the smallest is best; that of the task when absent."""

    @model_validator(mode="after")
    def _one_kind(self) -> SweepConfig:
        if bool(self.grid) == bool(self.space):
            raise ValueError(f"give one of grid and space; {'both are' if self.grid else 'neither is'} given")
        if bool(self.space) != (self.trials is not None):
            raise ValueError("space and trials belong together; give both, or grid")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {list(self.seeds)} repeat; give each once")
        if self.metric is not None and self.mode is None:
            raise ValueError(f"metric {self.metric} needs a mode: max or min")
        return self


@dataclass
class Combination:
    """The runs of one combination of settings.

    Args:
        settings: value by key.
        values: of the metric by seed, of finished runs.
        failures: by seed, why a run has no value.
        seconds: of training, of all runs together.
    """

    settings: dict[str, Scalar]
    values: dict[int, float] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def mean(self) -> float:
        """Mean of the metric over seeds; NaN if no run has one."""
        return statistics.fmean(self.values.values()) if self.values else math.nan

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds; ``None`` for fewer than two."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else None


class Sweep:
    """A sweep and its results.

    Args:
        path: of the YAML file.
        folder: where its runs and tables go.
        overrides: settings of all runs, after those of the file.

    Raises:
        UserError: the file cannot be read, or a combination is no valid configuration.
    """

    def __init__(self, path: Path, folder: Path, overrides: Sequence[str] = ()) -> None:
        self.folder = folder
        self.config = _read(path)
        self.overrides = [*self.config.overrides, *overrides]
        beside = path.parent / self.config.config
        self.base = str(beside) if beside.is_file() else self.config.config
        if self.config.space:
            load_optuna()
        first = self.run_config(next(self._preview()), self.config.seeds[0])
        task = build_task(first, build_tokenizers(first), first.task.stand_ins)
        monitor = monitor_of(first.train, task)
        self.metric = self.config.metric or monitor.metric
        self.mode = self.config.mode or monitor.mode
        for settings in self._preview():
            # A mistake in the last combination must not cost the runs before it.
            check(self.run_config(settings, self.config.seeds[0]))
        self.combinations: list[Combination] = []

    def run_config(self, settings: Mapping[str, Scalar], seed: int) -> RunConfig:
        """The configuration of one run."""
        chosen = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
        directory = self.folder / "runs" / _name(settings, seed)
        return load_config(self.base, [*self.overrides, *chosen, f"train.seed={seed}", f"run.dir={directory}"])

    def run(self) -> list[Combination]:
        """Trains what is not trained yet, and writes ``results.csv`` and ``results.md`` after each run."""
        if self.config.grid:
            # Seed by seed, so that a sweep that is stopped has compared all combinations.
            self.combinations = [Combination(settings) for settings in self._preview()]
            for seed, combination in itertools.product(self.config.seeds, self.combinations):
                self._train(combination, seed)
        else:
            self._optimize()
        return self.combinations

    def table(self) -> str:
        """The results as Markdown, best first."""
        keys = list(self.config.grid or self.config.space)
        header = [*keys, self.metric, "runs", "minutes"]
        lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
        for index, combination in enumerate(self._ranked()):
            deviation = f" ± {combination.deviation:.2g}" if combination.deviation is not None else ""
            figure = "failed" if math.isnan(combination.mean) else f"{combination.mean:.4g}{deviation}"
            cells = [
                *(str(combination.settings[key]) for key in keys),
                f"**{figure}**" if index == 0 and combination.values else figure,
                f"{len(combination.values)}"
                + (f", {len(combination.failures)} failed" if combination.failures else ""),
                f"{combination.seconds / 60:.1f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines)

    def _preview(self) -> Iterator[dict[str, Scalar]]:
        """All combinations of the grid; of a space, two at its ends."""
        if self.config.grid:
            for values in itertools.product(*self.config.grid.values()):
                yield dict(zip(self.config.grid, values, strict=True))
            return
        for end in (0, -1):
            yield {
                key: (_number(each, (each.low, each.high)[end]) if isinstance(each, Range) else each[end])
                for key, each in self.config.space.items()
            }

    def _train(self, combination: Combination, seed: int) -> None:
        config = self.run_config(combination.settings, seed)
        assert config.run.dir is not None
        summary = config.run.dir / "summary.json"
        failure = config.run.dir / "failure.txt"
        if not summary.is_file() and not failure.is_file():
            print(f"sweep: {_name(combination.settings, seed)}", flush=True)
            try:
                train(config, resume=True)
            except UserError as error:
                # A learning rate that is too high ends one run, not the sweep.
                config.run.dir.mkdir(parents=True, exist_ok=True)
                replace_file(failure, f"{error}\n".encode())
        if failure.is_file():
            combination.failures[seed] = failure.read_text(encoding="utf-8").strip()
        else:
            metrics = json.loads(summary.read_text(encoding="utf-8"))
            if self.metric not in metrics["metrics"]:
                raise ConfigError(
                    f"metric {self.metric!r} is not one of the run's: {', '.join(metrics['metrics'])}; name one of them"
                )
            combination.values[seed] = metrics["metrics"][self.metric]
            combination.seconds += metrics["seconds"]
        self._write()

    def _optimize(self) -> None:
        optuna = load_optuna()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.folder.mkdir(parents=True, exist_ok=True)
        study = optuna.create_study(
            # Drawn by the number of the trial alone: the same sweep draws the same combinations again.
            sampler=optuna.samplers.TPESampler(seed=0),
            direction="maximize" if self.mode == "max" else "minimize",
        )
        assert self.config.trials is not None
        for _ in range(self.config.trials):
            trial = study.ask()
            combination = Combination({key: _draw(trial, key, each) for key, each in self.config.space.items()})
            self.combinations.append(combination)
            for seed in self.config.seeds:
                self._train(combination, seed)
            if combination.values:
                study.tell(trial, combination.mean)
            else:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)

    def _ranked(self) -> list[Combination]:
        sign = -1 if self.mode == "max" else 1
        return sorted(
            self.combinations, key=lambda one: (math.isnan(one.mean), 0 if math.isnan(one.mean) else sign * one.mean)
        )

    def _write(self) -> None:
        keys = list(self.config.grid or self.config.space)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*keys, "seed", self.metric, "failure"])
        for combination in self.combinations:
            settings = [combination.settings[key] for key in keys]
            writer.writerows([*settings, seed, value, ""] for seed, value in combination.values.items())
            writer.writerows([*settings, seed, "", why] for seed, why in combination.failures.items())
        replace_file(self.folder / "results.csv", text.getvalue().encode())
        replace_file(self.folder / "results.md", f"{self.table()}\n".encode())


def load_optuna() -> Any:
    """The library.

    Raises:
        MissingLibrary: it is not installed.
    """
    with needs_extra("sweep", "a sweep with a space"):
        import optuna

    return optuna


def _read(path: Path) -> SweepConfig:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: a sweep is a map with config and grid, got {type(content).__name__}")
    try:
        return SweepConfig.model_validate(content)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, one['loc'])) or 'the sweep'}: {one['msg']}" for one in error.errors()]
        raise ConfigError(f"{path}: {'; '.join(lines)}") from error


def _name(settings: Mapping[str, Scalar], seed: int) -> str:
    """The folder of a run: ``optim.lr=0.001,seed=0``, without characters that paths cannot have."""
    joined = ",".join([*(f"{key}={value}" for key, value in settings.items()), f"seed={seed}"])
    return "".join(letter if letter.isalnum() or letter in "=,.-+_" else "_" for letter in joined)


def _number(interval: Range, value: float) -> float | int:
    return round(value) if interval.integer else value


def _draw(trial: Any, key: str, each: Range | tuple[Scalar, ...]) -> Scalar:
    if not isinstance(each, Range):
        choice: Scalar = trial.suggest_categorical(key, list(each))
        return choice
    suggest = trial.suggest_int if each.integer else trial.suggest_float
    number: float = suggest(key, _number(each, each.low), _number(each, each.high), log=each.log)
    return number
