"""Default models inside and outside of what they were trained on: their own test part beside other data.

Models of packaged configurations that need no data are trained by ``hrt-mm train``, as a user would, on one thread, and
never on what they are tested on outside. ``HRT_MM_DATA`` names the folder that holds ``films/``, ``grid_s1/``,
``fsdd/``, ``MNIST/`` and ``text_small/``.

* ``video/quickstart``: shot borders in rendered video; outside, in real films, and in faces of GRID that are cut anew
  among rendered shots.
* ``audio/synthetic``: digits spoken by eSpeak NG; outside, the 300 test recordings of FSDD.
* ``audio/synthetic_stream``: strings of digits likewise; outside, the same recordings, each transcribed.
* ``vision/digits``: scikit-learn's digits of 8x8 pixels; outside, MNIST's test set, whose inner 20x20 pixels are
  averaged to 8x8.
* ``text/quickstart``: bits per byte of Python's standard library; outside, of English text.

With ``--runs DIR`` run folders are kept there, and those that are finished are not trained again.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from torch.nn import functional

from hrt_mm.core.errors import UserError
from hrt_mm.inference.predictions import Predicted, Prediction
from hrt_mm.inference.trained import TrainedRun, evaluate_run, load_run
from hrt_mm.metrics.boundaries import BoundaryScores, boundary_scores
from hrt_modalities.audio import Audio
from hrt_modalities.audio.files import read_audio
from hrt_modalities.common.tables import read_rows
from hrt_modalities.outline.outline import FileOutline
from hrt_modalities.speech.recognizer import Recognizer
from hrt_modalities.video.readers import VideoFile
from hrt_modalities.vision.memory import MnistConfig

from .command import main, parser
from .markdown import markdown
from .results import Bar, Measured, Result, Row, environment
from .runs import kept, trained
from .shots import TOLERANCES, videos

NAME = "outside"
OVERRIDES = ("train.device=cpu", "train.num_threads=1", "train.clock=cpu", "train.workers=0", "train.tensorboard=false")
CUTS = "F1 of cuts"
FALSE_BORDERS = "false borders in films without any"
EXACT, AMONG = "digits alone and right", "the right digit among those given"
BITS = "bits per byte"
GOALS: Mapping[tuple[str, str], tuple[str, Callable[[float], bool]]] = {
    ("video/quickstart", f"films, {CUTS}"): ("1.0", lambda value: value == 1),
    ("video/quickstart", f"films, {FALSE_BORDERS}"): ("0", lambda value: value == 0),
    ("audio/synthetic", "FSDD, accuracy"): ("60% or more", lambda value: value >= 0.6),
}


@dataclass(frozen=True)
class Figure:
    """A figure of a model.

    Args:
        data: what it was measured on.
        measure: what is measured.
        value: the figure; ``None`` where the model cannot be applied.
        note: why not.
    """

    data: str
    measure: str
    value: float | None
    note: str = ""


def films(root: Path) -> Iterator[tuple[Path, list[dict[str, str]]]]:
    """Films with their borders.

    Args:
        root: folder of videos with ``borders.tsv``: file, kind, start and end in seconds.
    """
    table = root / "borders.tsv"
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    for path in sorted(root.iterdir()):
        if path.suffix in (".mp4", ".webm"):
            yield path, [row for row in rows if row["file"] == path.name]


def film_scores(
    found: Sequence[float], borders: Sequence[Mapping[str, str]], tolerance: float
) -> tuple[BoundaryScores, int]:
    """Scores of the borders of a film against its cuts, and the number of borders in a film without any.

    All borders count, whatever kind the model takes them for. Those within a fade are neither right nor wrong.

    Args:
        found: times of borders in seconds.
        borders: of the film, with ``kind``, ``start`` and ``end``.
        tolerance: in seconds.
    """
    slow = [(float(row["start"]), float(row["end"])) for row in borders if row["kind"] != "cut"]
    judged = [time for time in found if not any(start <= time <= end for start, end in slow)]
    cuts = [float(row["start"]) for row in borders if row["kind"] == "cut"]
    return boundary_scores(judged, cuts, tolerance), 0 if borders else len(judged)


def shots(run: TrainedRun, data: Path, quick: bool) -> list[Figure]:
    """Borders in films, and in faces of GRID among rendered shots."""
    outline = FileOutline(run.task, run.tokenizer)

    def found(path: Path) -> list[float]:
        with VideoFile(path) as file:
            return [scene.start for scene in outline.scenes(file)][1:]

    scores, wrong = BoundaryScores(), 0
    for path, borders in films(data / "films"):
        of_film, false_borders = film_scores(found(path), borders, TOLERANCES["cuts"])
        scores, wrong = scores + of_film, wrong + false_borders
    figures = [Figure("films", CUTS, scores.f1), Figure("films", FALSE_BORDERS, wrong)]
    with tempfile.TemporaryDirectory() as folder:
        for kind in TOLERANCES:
            clips = videos(kind, Path(folder), 1 if quick else 8, quick=quick)
            cut = BoundaryScores()
            for item in clips.items:
                cut += boundary_scores(found(clips.root / item.name), item.boundaries[kind], TOLERANCES[kind])
            figures.append(Figure("GRID faces, cut anew", f"F1 of {kind}", cut.f1))
    return figures


def recordings(root: Path, quick: bool) -> list[tuple[Audio, str]]:
    """The test recordings of FSDD with their digits."""
    rows = [row for _, row in read_rows(root / "index.tsv", ("path", "word", "split"), "FSDD's columns")]
    chosen = [row for row in rows if row["split"] == "test"][: 8 if quick else None]
    sounds = [(read_audio(root / row["path"], row["path"]), row["word"]) for row in chosen]
    # The whole recording is the word, as in FSDD's own index.
    return [(Audio(sound.waveform_S, sound.rate, {"words": (0.0,)}), word) for sound, word in sounds]


def digits(run: TrainedRun, data: Path, quick: bool) -> list[Figure]:
    """The class of each recording of FSDD."""
    sounds = recordings(data / "fsdd", quick)
    try:
        predictions = run.predict([sound for sound, _ in sounds])
    except UserError as error:
        return [Figure("FSDD", "accuracy", None, f"cannot be applied: {str(error).partition(': ')[2] or error}")]
    return [Figure("FSDD", "accuracy", _accuracy(predictions, [word for _, word in sounds]))]


def _accuracy(predictions: Sequence[Predicted], labels: Sequence[str]) -> float:
    pairs = zip(predictions, labels, strict=True)
    return fmean(isinstance(one, Prediction) and one.label == label for one, label in pairs)


def strings(run: TrainedRun, data: Path, quick: bool) -> list[Figure]:
    """The transcript of each recording of FSDD, as ``hrt-mm transcribe`` gives it."""
    pairs = []
    for sound, word in recordings(data / "fsdd", quick):
        recognizer = Recognizer(run.task, run.tokenizer, rate=sound.rate)
        pairs.append(([span.label for span in (*recognizer.feed(sound.waveform_S), *recognizer.flush())], word))
    return [
        Figure("FSDD", EXACT, fmean(labels == [word] for labels, word in pairs)),
        Figure("FSDD", AMONG, fmean(word in labels for labels, word in pairs)),
    ]


def pictures(run: TrainedRun, data: Path, quick: bool) -> list[Figure]:
    """The class of each picture of MNIST's test set, at scikit-learn's size and without MNIST's margin."""
    images, labels, classes = MnistConfig(type="mnist", root=data).load(False)
    count = 16 if quick else len(labels)
    inner = functional.adaptive_avg_pool2d(images[:count, :, 4:24, 4:24].float(), 8).round().to(torch.uint8)
    predictions = run.predict(list(inner), batch_size=256)
    accuracy = _accuracy(predictions, [classes[label] for label in labels[:count]])
    return [Figure("MNIST at 8x8", "accuracy", accuracy)]


def texts(run: TrainedRun, data: Path, quick: bool) -> list[Figure]:
    """Bits per byte of English."""
    figures = []
    for name in ("tinyshakespeare_val", "wikitext2_valid"):
        file = data / "text_small" / f"{name}.txt"
        options = [f"data.files=[{file}]", f"data.test_files=[{file}]", "data.val=null", "data.test=null"]
        metrics = evaluate_run(run.folder, "test", options)
        figures.append(Figure(name.partition("_")[0], BITS, metrics["test/bits_per_byte"]))
    return figures


@dataclass(frozen=True)
class Model:
    """A default model.

    Args:
        inside: what its own test part is.
        metrics: the figures of the run's summary that are comparable with those outside, by measure.
        outside: measures it on other data.
    """

    inside: str
    metrics: Mapping[str, str]
    outside: Callable[[TrainedRun, Path, bool], list[Figure]]


MODELS: Mapping[str, Model] = {
    "video/quickstart": Model("rendered video", {f"F1 of {kind}": f"test/f1/{kind}" for kind in TOLERANCES}, shots),
    "audio/synthetic": Model("synthetic voices", {"accuracy": "test/accuracy"}, digits),
    "audio/synthetic_stream": Model("synthetic voices", {"strings right": "test/sentence_accuracy"}, strings),
    "vision/digits": Model("scikit-learn's digits", {"accuracy": "test/accuracy"}, pictures),
    "text/quickstart": Model("Python's standard library", {BITS: "test/bits_per_byte"}, texts),
}


def run(options: argparse.Namespace) -> Result:
    """Trains the models, and measures them outside.

    Raises:
        UserError: the data is not there, or a run failed.
    """
    if not (home := os.environ.get("HRT_MM_DATA")):
        raise UserError("HRT_MM_DATA is not set; name the folder that holds films/, fsdd/, grid_s1/ and so on")
    if options.device.type != "cpu":
        raise UserError("this benchmark trains on one CPU thread; add --device cpu")
    overrides = [*OVERRIDES, *(["train.steps=2", "train.time_limit=null"] if options.quick else [])]
    rows = []
    with ExitStack() as stack:
        runs = options.runs or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name in options.models:
            model, folder = MODELS[name], runs / name.replace("/", "-")
            finished = kept(name, folder, overrides) or trained(name, folder, overrides)
            inside = {measure: finished.metric(metric) for measure, metric in model.metrics.items()}
            figures = model.outside(load_run(folder), Path(home), options.quick)
            rows.append(_row(name, model, inside, figures, float(finished.summary["seconds"])))
    return Result(
        name=NAME,
        command=options.command,
        quick=options.quick,
        settings={"tolerance_s": TOLERANCES},
        checks={},
        rows=rows,
        bars=list(_bars(rows)),
        **environment(options.device),
    )


def _row(name: str, model: Model, inside: Mapping[str, float], figures: Sequence[Figure], seconds: float) -> Row:
    contenders = {model.inside: Measured(seconds=seconds, scores=dict(inside))}
    for data in dict.fromkeys(figure.data for figure in figures):
        of_data = [figure for figure in figures if figure.data == data]
        contenders[data] = Measured(
            seconds=None,
            scores={figure.measure: figure.value for figure in of_data},
            note=" ".join(figure.note for figure in of_data if figure.note),
        )
        print(f"{name}, {data}: {contenders[data].scores} {contenders[data].note}", file=sys.stderr, flush=True)
    return Row(sizes={"model": name, "inside": model.inside}, contenders=contenders, ratios={})


def _bars(rows: Sequence[Row]) -> Iterator[Bar]:
    for row in rows:
        for data, measured in row.contenders.items():
            for measure, value in measured.scores.items():
                claim = f"{data}, {measure}"
                if (row.sizes["model"], claim) in GOALS:
                    goal, met = GOALS[str(row.sizes["model"]), claim]
                    shown = "not applicable" if value is None else _shown(measure, value)
                    claim = f"`{row.sizes['model']}`, {claim}"
                    yield Bar(claim=claim, goal=goal, measured=shown, met=value is not None and met(value))


def tables(result: Result) -> str:
    """The result as Markdown."""
    body = []
    for row in result.rows:
        inside, *outside = row.contenders.items()
        cells = [f"`{row.sizes['model']}`", _cell(*inside), "; ".join(_cell(*one) for one in outside)]
        body.append(cells)
    return markdown(["model", "inside: its own test part", "outside"], body)


def _cell(data: str, measured: Measured) -> str:
    shown = [f"{measure} {_shown(measure, value)}" for measure, value in measured.scores.items() if value is not None]
    return f"{data}: {', '.join(shown) or measured.note}"


def _shown(measure: str, value: float) -> str:
    if measure == FALSE_BORDERS:
        return f"{value:.0f}"
    return f"{value:.2f}" if measure == BITS or measure.startswith("F1") else f"{value:.1%}"


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    options = parser(NAME, __doc__ or "")
    options.add_argument("--models", nargs="+", choices=tuple(MODELS), default=tuple(MODELS), help="all when absent")
    options.add_argument("--runs", type=Path, metavar="DIR", help="keep runs here, and take those that are there")
    return options


if __name__ == "__main__":
    raise SystemExit(main(arguments(), run, tables))
