"""What is said, and when: GRID's sentences, the times of their words, and digits spotted in strings.

Each configuration is trained by ``hrt-mm train`` for a time of its own (the processor's, on one thread; wall-clock time
on a GPU), or its run folder is taken from ``--runs``. ``ctc`` learns from transcripts alone; forced alignment with it
then says where the words of the test split lie. ``groups`` and
``digits`` start from what ``ctc`` learned of phonemes. Times are compared with those of the data, which only
``boundaries`` was trained with. Found and true boundaries are paired one to one within a tolerance; beside them stand
as many cuts as there are true boundaries, evenly spaced and at random. A digit is spotted where the middle of what was
found lies in a true one of that name, each once. ``HRT_MM_DATA`` names the folder that holds ``grid_s1/`` and
``fsdd/``.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hrt_mm.core.errors import UserError
from hrt_mm.data.capabilities import seconds_per_token
from hrt_mm.data.sample import Sample
from hrt_mm.inference.trained import TrainedRun, evaluate_run, load_task
from hrt_mm.metrics.boundaries import BoundaryScores, boundary_scores, random_boundaries, uniform_boundaries
from hrt_mm.tasks import CTC, Boundary
from hrt_mm.train.build import build_dataset
from hrt_modalities.audio.intervals import SILENCE, segments_of
from hrt_modalities.speech.align import aligned, intervals
from hrt_modalities.speech.aligning import Tiers, spot_keyword

from .command import main, parser
from .markdown import markdown
from .results import Bar, Measured, Result, Row, environment
from .runs import for_minutes, kept, precisions, trained

NAME = "recognition"
CONFIGS = {
    "ctc": "audio/grid_ctc",
    "boundaries": "audio/grid_boundaries",
    "groups": "audio/grid_groups",
    "digits": "audio/digit_strings",
}
MINUTES = {"ctc": 30.0, "boundaries": 10.0, "groups": 10.0, "digits": 8.0}
"""Of each run, when ``--minutes`` is absent."""
FROM_CTC = ("groups", "digits")
"""Those that start from its weights."""
RATES = ("word_error_rate", "phoneme_error_rate", "sentence_accuracy")
TOLERANCES = (0.02, 0.04)
"""Seconds."""
DRAWS = 20
"""Times that cuts are drawn at random."""


@dataclass
class Cuts:
    """Boundaries beside true ones, and cuts that know nothing.

    Args:
        scores: by contender and tolerance.
    """

    scores: dict[tuple[str, float], BoundaryScores] = field(default_factory=dict)

    def add(
        self, found: Sequence[float], true: Sequence[float], seconds: float, generator: np.random.Generator
    ) -> None:
        """Counts a sound. Where it starts is no boundary."""
        true = [time for time in true if 0 < time < seconds]
        length = max(len(true) + 1, round(1000 * seconds))
        contenders = [("found", [time for time in found if 0 < time < seconds])]
        contenders += [("even", list(uniform_boundaries(len(true), length) / 1000))]
        contenders += [("random", list(random_boundaries(len(true), length, generator) / 1000)) for _ in range(DRAWS)]
        for who, times in contenders:
            for tolerance in TOLERANCES:
                scores = boundary_scores(np.unique(times), np.unique(true), tolerance)
                self.scores[who, tolerance] = self.scores.get((who, tolerance), BoundaryScores()) + scores

    def figures(self) -> dict[str, float | None]:
        """F1 of each, and of what was found precision, recall and the mean distance of its hits."""
        figures: dict[str, float | None] = {}
        for (who, tolerance), scores in self.scores.items():
            figures[f"{who} f1 {1000 * tolerance:g} ms"] = scores.f1
            if who == "found":
                figures[f"precision {1000 * tolerance:g} ms"] = scores.precision
                figures[f"recall {1000 * tolerance:g} ms"] = scores.recall
                figures[f"error {1000 * tolerance:g} ms"] = 1000 * scores.error
        return figures


@dataclass
class Errors:
    """How far the edges of words are from where they should be, where each word is known.

    Args:
        starts: seconds, signed.
        ends: the same of their ends.
    """

    starts: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)

    def figures(self) -> dict[str, float | None]:
        """Mean distances in milliseconds, and the mean of the signed ones, which tells a bias."""
        return {
            f"{name} {what}": 1000 * float(np.mean(convert(values)))
            for name, values in (("start", self.starts), ("end", self.ends))
            for what, convert in (("error ms", np.abs), ("bias ms", np.asarray))
        }


def train(name: str, folder: Path, options: argparse.Namespace) -> Path:
    """The run folder of a configuration, which is trained where there is none.

    Raises:
        UserError: the run failed; gives its last words.
    """
    run, quick = folder / name, ["train.steps=2", "train.eval_every=2", "train.batch_size=2", "train.test=false"]
    quick += ["train.eval_batches=1"]
    minutes = options.minutes or MINUTES[name]
    words = [*(quick if options.quick else for_minutes(minutes, options.device)), f"train.device={options.device.type}"]
    words += [f"train.precision={precisions({name: 'bf16'}, options.device)[name]}", "train.tensorboard=false"]
    if name in FROM_CTC:
        words += [f"train.init_from={train('ctc', folder, options)}"]
    if kept(CONFIGS[name], run, words) is None:
        trained(CONFIGS[name], run, words)
    return run


def measured(run: Path, scores: dict[str, float | None]) -> Measured:
    """A run's figures, with its training time and size."""
    summary: dict[str, Any] = json.loads((run / "summary.json").read_text())
    common: dict[str, float | None] = {key: summary[key] for key in ("parameters", "steps")}
    return Measured(seconds=summary["seconds"], bytes=summary["peak_memory_bytes"], scores=common | scores)


def error_rates(run: Path, overrides: Sequence[str] = ()) -> dict[str, float | None]:
    """What evaluation says of the test split."""
    metrics = evaluate_run(run, "test", overrides)
    kinds = ("error_rate", "accuracy", "unknown", "skipped")
    keys = [key for key in metrics if key.endswith(kinds)]
    return {key.removeprefix("test/"): metrics[key] for key in keys}


def word_times(run: TrainedRun, most: int | None) -> tuple[Cuts, Errors]:
    """The times of known words by forced alignment, beside the true ones."""
    truth = true_words(run, most)
    cuts, errors, generator = Cuts(), Errors(), np.random.default_rng(0)
    for sample, tiers in _limited(aligned(run, "test"), most):
        seconds, words = sample.value.seconds, truth[sample.name]
        tier = intervals(tiers, seconds)["words"]
        starts = [part.start for part in segments_of(tier, seconds)]
        cuts.add(starts, [start for start, _, _ in words], seconds, generator)
        spoken = [(start, end) for start, end, label in words if label != SILENCE]
        for interval, (start, end) in zip(tier, spoken, strict=True):
            errors.starts.append(interval.start - start)
            errors.ends.append(interval.end - end)
    return cuts, errors


def group_cuts(run: TrainedRun, most: int | None) -> Cuts:
    """Where learned groups start, beside the true words and silences."""
    cuts, generator = Cuts(), np.random.default_rng(0)
    truth = true_words(run, most)
    dataset = build_dataset(run.config, "test")
    assert isinstance(run.task, CTC)
    for index in range(min(most or len(dataset), len(dataset))):
        sample = dataset[index]
        with torch.no_grad():
            pyramid = run.task.encoder(run.tokenizer([sample.value]))
        starts = pyramid.groups[pyramid.names[0]].host[:-1].double() * (seconds_per_token(run.tokenizer) or 1.0)
        true = [start for start, _, _ in truth[sample.name]]
        cuts.add(starts.tolist(), true, sample.value.seconds, generator)
    return cuts


def boundary_cuts(run: TrainedRun, most: int | None) -> Cuts:
    """What a task of boundaries finds, beside the true times, which are no multiples of a token's."""
    cuts, generator = Cuts(), np.random.default_rng(0)
    truth = true_words(run, most)
    dataset = build_dataset(run.config, "test")
    assert isinstance(run.task, Boundary)
    for index in range(min(most or len(dataset), len(dataset))):
        sample = dataset[index]
        tokens = run.tokenizer([sample.value])
        with torch.no_grad():
            logits_T = run.task.logits(run.task.encoder(tokens)[0].x)
        (positions,) = run.task.positions(logits_T, tokens.spans)
        times = positions * (seconds_per_token(run.tokenizer) or 1.0)
        true = [start for start, _, _ in truth[sample.name]]
        cuts.add(times.tolist(), true, sample.value.seconds, generator)
    return cuts


def spotting(run: TrainedRun, most: int | None, threshold: float) -> dict[str, float | None]:
    """Each word of the vocabulary looked for in every string, and how many were found where they are."""
    truth = true_words(run, most)
    dataset = build_dataset(run.config, "test")
    assert isinstance(run.task, CTC)
    hits = result = true = 0
    errors = Errors()
    for index in range(min(most or len(dataset), len(dataset))):
        sample = dataset[index]
        with torch.no_grad():
            pyramid = run.task.encoder(run.tokenizer([sample.value]))
        left = [word for word in truth[sample.name] if word[2] != SILENCE]
        true += len(left)
        for keyword in run.task.symbols:
            for one in sorted(
                spot_keyword(run.task, pyramid, keyword, threshold, finer=run.task.finer is not None)[0],
                key=lambda one: -(one.score or 0.0),
            ):
                result += 1
                middle = (one.start + one.end) / 2
                inside = [word for word in left if word[0] <= middle < word[1] and word[2] == keyword]
                if inside:
                    hits += 1
                    left.remove(inside[0])
                    errors.starts.append(one.start - inside[0][0])
                    errors.ends.append(one.end - inside[0][1])
    shares: dict[str, float | None] = {
        "spotted f1": 2 * hits / max(1, result + true),
        "spotted precision": hits / max(1, result),
        "spotted recall": hits / max(1, true),
        "true words": true,
    }
    return shares | (errors.figures() if hits else {})


def true_words(run: TrainedRun, most: int | None) -> dict[str, list[tuple[float, float, str]]]:
    """By sound, start, end and label of each word and silence of the test split."""
    data = run.config.data.model_copy(update={"label": "segments", "augment": ()})
    dataset = data.build("test")
    words_by_name = {}
    for index in range(min(most or len(dataset), len(dataset))):
        sample = dataset[index]
        starts = sample.value.boundaries["words"]
        ends = [*starts[1:], sample.value.seconds]
        words_by_name[sample.name] = list(zip(starts, ends, sample.label, strict=True))
    return words_by_name


def _limited(pairs: Iterator[tuple[Sample, Tiers]], most: int | None) -> Iterator[tuple[Sample, Tiers]]:
    for count, pair in enumerate(pairs):
        if most is not None and count >= most:
            return
        yield pair


def run(options: argparse.Namespace) -> Result:
    """Trains what is not there, and measures all.

    Raises:
        UserError: the data is not there, or a run failed; gives its last words.
    """
    if not os.environ.get("HRT_MM_DATA"):
        raise UserError("HRT_MM_DATA is not set; name the folder that holds grid_s1/ and fsdd/")
    names = options.only or list(CONFIGS)
    most = 4 if options.quick else None
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(options.runs or folder)
        runs.mkdir(parents=True, exist_ok=True)
        rows = [
            Row(sizes={"run": name}, contenders=_contenders(name, runs, most, options), ratios={}) for name in names
        ]
    scores = {name: contender.scores for row in rows for name, contender in row.contenders.items()}
    return Result(
        name=NAME,
        command=options.command,
        quick=options.quick,
        settings={
            "configs": {name: CONFIGS[name] for name in names},
            "minutes": {name: options.minutes or MINUTES[name] for name in names},
            "threshold": options.threshold,
        },
        checks={},
        rows=rows,
        bars=[] if options.quick else bars(scores),
        **environment(options.device),
    )


def _contenders(name: str, folder: Path, most: int | None, options: argparse.Namespace) -> dict[str, Measured]:
    path = train(name, folder, options)
    run = load_task(path, overrides=["train.device=cpu"])
    if name == "boundaries":
        return {name: measured(path, boundary_cuts(run, most).figures())}
    scores = {} if options.quick else error_rates(path, ["train.device=cpu"])
    if name == "groups":
        return {name: measured(path, scores | group_cuts(run, most).figures())}
    if name == "digits":
        return {name: measured(path, scores | spotting(run, most, options.threshold))}
    cuts, errors = word_times(run, most)
    return {name: measured(path, scores | cuts.figures() | errors.figures())}


def bars(scores: dict[str, dict[str, float | None]]) -> list[Bar]:
    """The goals of the project."""
    goals = []
    if (rate := scores.get("ctc", {}).get(RATES[0])) is not None:
        goals.append(
            Bar(
                claim="GRID s1, words of 100 test sentences",
                goal="1% wrong or fewer",
                measured=f"{rate:.2%}",
                met=rate <= 0.01,
            )
        )
    if "boundaries" in scores:
        f1 = scores["boundaries"]["found f1 40 ms"]
        assert f1 is not None
        goals.append(
            Bar(
                claim="GRID s1, supervised boundaries within 40 ms",
                goal="F1 of 0.90 or more",
                measured=f"{f1:.3f}",
                met=f1 >= 0.9,
            )
        )
    return goals


def tables(result: Result) -> str:
    """The result as Markdown."""
    results = {name: measured for row in result.rows for name, measured in row.contenders.items()}
    rates = markdown(
        ["run", "minutes", "parameters", "steps", "words wrong", "phonemes wrong", "sentences right"],
        [
            [
                f"{name} (`{result.settings['configs'][name]}`)",
                f"{result.settings['minutes'][name]:g}",
                *(f"{one.scores[key]:,.0f}" for key in ("parameters", "steps")),
                *(_percent(one.scores.get(key)) for key in RATES),
            ]
            for name, one in results.items()
        ],
    )
    timed = {name: one for name, one in results.items() if "found f1 20 ms" in one.scores}
    times = markdown(
        [
            "boundaries of words, F1",
            "±20 ms",
            "±40 ms",
            "even, ±20",
            "even, ±40",
            "random, ±20",
            "random, ±40",
            "start, mean error",
            "end, mean error",
        ],
        [
            [
                f"{name}: {HOW[name]}",
                *(
                    _share(one.scores.get(f"{who} f1 {ms} ms"))
                    for who in ("found", "even", "random")
                    for ms in (20, 40)
                ),
                *(_milliseconds(one.scores.get(f"{edge} error ms")) for edge in ("start", "end")),
            ]
            for name, one in timed.items()
        ],
    )
    parts = [rates, times] if timed else [rates]
    if "digits" in results:
        digits = results["digits"].scores
        parts.append(
            f"Digits spotted in strings, {digits['true words']:,.0f} of them: F1 {digits['spotted f1']:.3f}, precision "
            f"{digits['spotted precision']:.3f}, recall {digits['spotted recall']:.3f} at a threshold of "
            f"{result.settings['threshold']:g}."
        )
    return "\n\n".join(parts)


HOW = {
    "ctc": "forced alignment of its phonemes",
    "boundaries": "taught by known times",
    "groups": "its own groups, learned without times",
}


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value:.0f} ms"


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    options = parser(NAME, __doc__ or "")
    options.add_argument(
        "--runs", type=Path, metavar="FOLDER", help="run folders by name, trained where they are missing"
    )
    options.add_argument("--minutes", type=float, help="of each run; 30, 10, 10 and 8 by run when absent")
    options.add_argument("--only", nargs="+", choices=list(CONFIGS), help="some of the runs; all when absent")
    options.add_argument("--threshold", type=float, default=0.5, help="least score of a spotted digit; 0.5 when absent")
    return options


if __name__ == "__main__":
    raise SystemExit(main(arguments(), run, tables))
