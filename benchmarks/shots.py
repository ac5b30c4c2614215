"""Shot changes in edited video: a trained boundary head beside PySceneDetect's detectors, on the same files.

Videos are cut anew from faces of GRID's test split and from what the project renders of the photographs' part for
tests (``HRT_MM_DATA`` names the folder that holds ``grid_s1/``; without it all shots are rendered). All borders of a
video are of one kind, cuts, fades or wipes, so that each kind has an F1 for those who do not tell kinds apart. A found
border is right where a true one, the middle of a transition, lies within a tolerance, each once.

The run is one of modality video with task segmentation, such as ``video/shots`` or ``video/quickstart``; it reads
files as ``hrt-mm outline`` does. Detectors of PySceneDetect (the extra ``shots``) have their own defaults, and at least
half a second between two changes.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import torch

from hrt_mm.core.errors import ConfigError
from hrt_mm.data.dataset import DatasetConfig
from hrt_mm.inference.trained import TrainedRun, load_task
from hrt_mm.metrics.boundaries import BoundaryScores, boundary_scores
from hrt_modalities.corpora.edited import EditedConfig
from hrt_modalities.outline.outline import FileOutline
from hrt_modalities.video.clips import Clips, ClipsConfig
from hrt_modalities.video.edits import EditsConfig, RenderedConfig
from hrt_modalities.video.readers import VideoFile
from hrt_modalities.video.shots import Detector, shots_of

from .command import main, parser, positive
from .markdown import markdown
from .results import Measured, Result, Row, environment

NAME = "shots"
OURS = "hierarchy"
DETECTORS: tuple[Detector, ...] = get_args(Detector)
TOLERANCES = {"cuts": 0.12, "fades": 0.5, "wipes": 0.5}
"""Seconds: three frames of a cut, and half of the longest transition."""
Find = Callable[[Path], Sequence[float]]
"""Seconds of the borders of a file, without its beginning."""


def videos(kind: str, folder: Path, count: int, *, quick: bool = False) -> Clips:
    """Edited videos all of whose borders are of one kind, rendered into a folder."""
    options: dict[str, Any] = {"folder": folder, "seed": 17, "train": 1, "valid": 1, "test": count, "rate": 25}
    options |= {"size": (48, 60) if quick else (96, 120), "shots": (3, 3) if quick else (6, 10)}
    options |= {"shot_s": (1.2, 2.0), "transition_s": (0.4, 1.0), "cut_share": float(kind == "cuts")}
    options |= {} if kind == "cuts" else {"slow": (kind,)}
    if data := os.environ.get("HRT_MM_DATA"):
        footage = {"type": "grid_video", "root": Path(data) / "grid_s1", "view": "face"}
        mixed = {"type": "edited_video", "footage": footage, "rendered_share": 0.5, "apart": True}
        return EditedConfig.model_validate(mixed | options).build("test")
    return RenderedConfig.model_validate({"type": "rendered_video", **options}).build("test")


def by_run(run: TrainedRun, side: int | None) -> Find:
    """What a run finds.

    Args:
        run: of task segmentation.
        side: frames are scaled to as they are decoded.
    """
    outline = FileOutline(run.task, run.tokenizer)

    def find(path: Path) -> Sequence[float]:
        with VideoFile(path, side=side) as file:
            return [scene.start for scene in outline.scenes(file)][1:]

    return find


def by_detector(detector: Detector) -> Find:
    """What a detector finds."""

    def find(path: Path) -> Sequence[float]:
        with VideoFile(path) as file:
            return shots_of(file, detector)[1:]

    return find


def side_of(data: DatasetConfig) -> int | None:
    """The shorter side of the frames that a run was trained on, where its data says so."""
    if isinstance(data, ClipsConfig) and data.side is not None:
        return data.side
    return min(data.size) if isinstance(data, EditsConfig) else None


def measured(clips: Clips, kind: str, find: Find) -> Measured:
    """A contender on videos of one kind of border; not measured where it cannot serve, and why."""
    scores, seconds, length = BoundaryScores(), 0.0, 0.0
    for item in clips.items:
        began = time.process_time()
        try:
            cuts = find(clips.root / item.name)
        except ConfigError as error:
            return Measured(seconds=None, note=str(error))
        seconds += time.process_time() - began
        scores += boundary_scores(sorted(set(cuts)), item.boundaries[kind], TOLERANCES[kind])
        length += _seconds(clips, item.name)
    return Measured(
        seconds=seconds,
        scores={
            "f1": scores.f1,
            "precision": scores.precision,
            "recall": scores.recall,
            "error_s": scores.error if scores.hits else None,
            "seconds_a_minute": 60 * seconds / length,
        },
    )


def _seconds(clips: Clips, name: str) -> float:
    with VideoFile(clips.root / name) as file:
        return file.index.seconds


def run(options: argparse.Namespace) -> Result:
    """Measures all on all kinds.

    Raises:
        ConfigError: the run is none of task segmentation over frames of video.
    """
    trained = load_task(options.run, overrides=["train.device=cpu"])
    side = options.side or side_of(trained.config.data)
    contenders: dict[str, Find] = {OURS: by_run(trained, side)}
    contenders |= {detector: by_detector(detector) for detector in DETECTORS}
    if not os.environ.get("HRT_MM_DATA"):
        print("HRT_MM_DATA is not set, so all shots are rendered", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        count = 2 if options.quick else options.videos
        rows = [_row(kind, videos(kind, Path(folder), count, quick=options.quick), contenders) for kind in TOLERANCES]
    return Result(
        name=NAME,
        command=options.command,
        quick=options.quick,
        settings={
            "tolerances_s": TOLERANCES,
            "side": side,
            "data": trained.config.data.type,
            "parameters": sum(parameter.numel() for parameter in trained.task.parameters()),
        },
        checks={},
        rows=rows,
        **environment(torch.device("cpu")),
    )


def _row(kind: str, clips: Clips, contenders: dict[str, Find]) -> Row:
    results = {name: measured(clips, kind, find) for name, find in contenders.items()}
    borders = sum(len(item.boundaries[kind]) for item in clips.items)
    f1s = {name: one.scores["f1"] for name, one in results.items() if one.scores}
    print(f"{kind}: {f1s}", file=sys.stderr, flush=True)
    rivals = [f1 for name, f1 in f1s.items() if name != OURS and f1 is not None]
    our_f1 = f1s[OURS]
    assert our_f1 is not None
    ratios = {"f1 beyond the best detector's": our_f1 - max(rivals)} if rivals else {}
    sizes: dict[str, int | float | str] = {"kind": kind, "videos": len(clips), "borders": borders}
    return Row(sizes=sizes | {"tolerance_s": TOLERANCES[kind]}, contenders=results, ratios=ratios)


def tables(result: Result) -> str:
    """The result as Markdown."""
    head = ["borders found", *(_title(row) for row in result.rows), "seconds of computing a minute of video"]
    body: list[list[str]] = []
    notes: list[str] = []
    for name in result.rows[0].contenders:
        measured = [row.contenders[name] for row in result.rows]
        if measured[0].note:
            notes += [measured[0].note] if measured[0].note not in notes else []
            continue
        pace = sum(one.scores["seconds_a_minute"] or 0 for one in measured) / len(measured)
        title = f"{name} (trained on {result.settings['data']})" if name == OURS else f"PySceneDetect, {name}"
        body.append([title, *(_scores(one) for one in measured), f"{pace:.2f}"])
    return "\n\n".join([markdown(head, body), *notes])


def _title(row: Row) -> str:
    sizes = row.sizes
    return f"{sizes['kind']}, ±{sizes['tolerance_s']} s: F1 (precision, recall) of {sizes['borders']}"


def _scores(one: Measured) -> str:
    f1, precision, recall = (one.scores[key] for key in ("f1", "precision", "recall"))
    return f"{f1:.3f} ({precision:.2f}, {recall:.2f})"


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    options = parser(NAME, __doc__ or "")
    options.add_argument("run", type=Path, metavar="RUN", help="run folder of video/shots, or another of its task")
    options.add_argument("--videos", type=positive, default=20, help="edited videos of each kind; 20 when absent")
    options.add_argument(
        "--side", type=positive, help="pixels of the frames' shorter side that the run sees; as in its data when absent"
    )
    return options


if __name__ == "__main__":
    raise SystemExit(main(arguments(), run, tables))
