"""Decoding: frames a second of each reader of video files, and how long training waits for its data.

Readers take turns on the same files, which are opened anew in each round: from beginning to end, 32 frames at a time,
and single frames at places that are drawn at random. Before anything is timed, their frames must be the same. Files are
a video that the project renders and, where ``HRT_MM_DATA`` names the folder that holds ``grid_s1/``, mouths and faces
of GRID's test split.

Then a configuration is trained for some steps by the project's own command, without loader processes and with as many
as it asks for. The log of a run says which share of the time went by waiting for the next batch.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hrt_mm.config import load_config
from hrt_modalities.corpora.grid.video import GridVideoConfig
from hrt_modalities.video.readers import READERS, VideoFile
from hrt_modalities.video.readers.base import ReaderError
from hrt_modalities.video.rendering import ACTIONS, Edit, Shot, render, write

from .checks import must_equal
from .command import main, parser, positive
from .markdown import markdown, times
from .results import Bar, Measured, Result, Row, environment
from .runs import trained
from .timing import race

NAME = "video_decode"
ACCESS = ("sequential", "random")
SIZE, RATE = (240, 320), 25.0
"""Of the rendered video: rows and columns, and frames a second."""
FILES, DRAWN = 20, 60
"""Files of GRID, and frames that are drawn at random from all files of a source together."""
BOUND = 0.02
"""How far the pixels of readers may be apart: they turn YUV into RGB by other roundings."""
WAITING = 0.05
"""Share of a training step that may go by waiting for data."""
LOGGED = 10
"""Steps from one line of a run's log to the next. The first line is left out: its steps wait for the loader's start."""


@dataclass(frozen=True)
class Source:
    """Files that are read together.

    Args:
        name: what tables call them.
        paths: the files.
        size: rows and columns of their frames.
        frames: how many each has.
        drawn: of each file, the numbers of frames for random access.
    """

    name: str
    paths: tuple[Path, ...]
    size: tuple[int, int]
    frames: tuple[int, ...]
    drawn: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, name: str, paths: Sequence[Path]) -> Source:
        """Files, with frames drawn from each."""
        generator, frames, drawn = np.random.default_rng(0), [], []
        for path in paths:
            with VideoFile(path) as file:
                frames.append(len(file.index))
                size = file.size
            drawn.append(tuple(generator.integers(frames[-1], size=max(1, DRAWN // len(paths))).tolist()))
        return cls(name, tuple(paths), size, tuple(frames), tuple(drawn))

    def count(self, access: str) -> int:
        """Frames that a round gives."""
        return sum(self.frames) if access == "sequential" else sum(map(len, self.drawn))

    def read(self, reader: str, access: str) -> None:
        """A round of a reader."""
        for path, numbers in zip(self.paths, self.drawn, strict=True):
            with VideoFile(path, readers=[reader]) as file:
                if access == "sequential":
                    for _ in file.stream():
                        pass
                else:
                    for number in numbers:
                        file.frames([number])


def rendered(folder: Path, seconds: float) -> Path:
    """Writes the video that needs no data: a shot every two seconds."""
    shots = tuple(Shot(ACTIONS[number % len(ACTIONS)], 2.0) for number in range(max(1, round(seconds / 2))))
    cuts = len(shots) - 1
    path = folder / "rendered.mp4"
    edit = Edit(shots, ("cuts",) * cuts, (0.0,) * cuts, 0)
    write(path, render(edit, RATE, SIZE), RATE, SIZE, {"preset": "veryfast"})
    return path


def grid(view: str, most: int) -> list[Path]:
    """Files of GRID's test split."""
    config = {"type": "grid_video", "root": Path(os.environ["HRT_MM_DATA"]) / "grid_s1", "view": view}
    dataset = GridVideoConfig.model_validate(config).build("test")
    return [dataset.root / item.name for item in dataset.items[:most]]


def refusal(reader: str, path: Path) -> str:
    """Why a reader cannot serve a file; nothing where it can."""
    with VideoFile(path) as file:
        try:
            READERS[reader](path, file.index, file.size).close()
        except ReaderError as error:
            return str(error)
    return ""


def check_equal(source: Source, readers: Sequence[str]) -> dict[str, float]:
    """By reader, how far its frames are from those of the first one.

    Raises:
        CheckFailed: too far.
    """
    indices = sorted({0, source.frames[0] // 2, source.frames[0] - 1})
    frames = {}
    for reader in readers:
        with VideoFile(source.paths[0], readers=[reader]) as file:
            frames[reader] = file.frames(indices).pixels_N3HW.float()
    first = readers[0]
    return {
        f"{source.name}, {reader} against {first}": must_equal(
            f"frames of {reader} and {first}", [frames[reader]], [frames[first]], BOUND
        )
        for reader in readers[1:]
    }


def decoded(source: Source, access: str, budget: float) -> Row:
    """Readers in turns."""
    notes = {reader: refusal(reader, source.paths[0]) for reader in READERS}
    able = [reader for reader in READERS if not notes[reader]]
    calls: dict[str, Callable[[], None]] = {reader: _round(source, reader, access) for reader in able}
    raced = race(calls, torch.device("cpu"), budget=budget)
    count = source.count(access)
    contenders = {reader: Measured(seconds=None, note=notes[reader]) for reader in READERS}
    for reader in able:
        seconds = raced.median(reader)
        assert seconds is not None
        scores: dict[str, float | None] = {"frames_per_second": count / seconds}
        contenders[reader] = Measured(seconds=seconds, quartiles=raced.quartiles(reader), scores=scores)
    sizes: dict[str, int | float | str] = {"what": "decoding", "source": source.name, "access": access}
    sizes |= {"files": len(source.paths), "frames": count, "rows": source.size[0], "columns": source.size[1]}
    ratios = {
        f"{reader}/{able[0]} seconds": ratio
        for reader in able[1:]
        if (ratio := raced.ratio(reader, able[0])) is not None
    }
    return Row(sizes=sizes, contenders=contenders, ratios=ratios)


def _round(source: Source, reader: str, access: str) -> Callable[[], None]:
    return lambda: source.read(reader, access)


def waiting(config: str, workers: int, options: argparse.Namespace, steps: int) -> Row:
    """Trains for some steps, and what their log says of the waiting."""
    words = [f"train.workers={workers}", f"train.steps={steps}", f"train.log_every={min(LOGGED, steps // 2)}"]
    words += ["train.eval_every=null", "train.test=false", "train.save_every=null", "train.tensorboard=false"]
    words += [f"train.device={options.device.type}", f"train.num_threads={torch.get_num_threads()}"]
    with tempfile.TemporaryDirectory() as folder:
        run = trained(config, Path(folder) / f"workers-{workers}", [*words, *options.overrides])
    first, *rest = [line for line in run.lines if "data_wait" in line]
    share = statistics.fmean(line["data_wait"] for line in rest)
    seconds = (rest[-1]["seconds"] - first["seconds"]) / (rest[-1]["step"] - first["step"])
    print(f"{config}, {workers} workers: {share:.1%} of a step of {seconds:.3f} s is waiting", file=sys.stderr)
    sizes: dict[str, int | float | str] = {"what": "training", "config": config, "workers": workers}
    measured = Measured(seconds=seconds, scores={"data_wait": share})
    return Row(sizes=sizes | {"steps": rest[-1]["step"] - first["step"]}, contenders={"step": measured}, ratios={})


def run(options: argparse.Namespace) -> Result:
    """Measures readers, then training.

    Raises:
        UserError: the configuration that is to be trained needs data that is not there.
        CheckFailed: readers give different frames.
    """
    quick = options.quick
    with tempfile.TemporaryDirectory() as folder:
        sources = [Source.of("rendered", [rendered(Path(folder), 2 if quick else 20)])]
        if os.environ.get("HRT_MM_DATA"):
            sources += [Source.of(f"GRID, {view}", grid(view, 2 if quick else FILES)) for view in ("mouth", "face")]
        else:
            print("HRT_MM_DATA is not set, so no files of GRID are read", file=sys.stderr)
        checks: dict[str, float] = {}
        for source in sources:
            checks |= check_equal(source, [reader for reader in READERS if not refusal(reader, source.paths[0])])
        budget = 0.1 if quick else options.budget
        rows = [decoded(source, access, budget) for source in sources for access in ACCESS]
    bars: list[Bar] = []
    if options.steps:
        # Errors name what is missing before minutes are spent.
        num_workers = load_config(options.config, options.overrides).train.workers
        steps = 4 if quick else options.steps + LOGGED
        counts = sorted({0, num_workers})
        rows += [waiting(options.config, workers, options, steps) for workers in counts]
        bars = [_bar(rows[-1])]
    return Result(
        name=NAME,
        command=options.command,
        quick=quick,
        settings={"budget_seconds": budget, "drawn": DRAWN, "rate": RATE},
        checks=checks,
        rows=rows,
        bars=[] if quick else bars,
        **environment(options.device),
    )


def _bar(row: Row) -> Bar:
    share = row.contenders["step"].scores["data_wait"]
    assert share is not None
    return Bar(
        claim=f"`{row.sizes['config']}`, {row.sizes['workers']} loader process(es): share of the time spent waiting",
        goal=f"{WAITING:.0%} or less",
        measured=f"{share:.1%}",
        met=share <= WAITING,
    )


def tables(result: Result) -> str:
    """The result as Markdown."""
    decoding = [row for row in result.rows if row.sizes["what"] == "decoding"]
    able = [name for name in READERS if any(row.contenders[name].seconds for row in decoding)]
    head = ["files", "pixels", "access", "frames a round", *(f"{name}, frames a second" for name in able)]
    head += [f"{name} / {able[0]}, time" for name in able[1:]]
    lines = [markdown(head, [_cells(row, able) for row in decoding])]
    notes = {name: decoding[0].contenders[name].note for name in READERS if name not in able}
    lines += [f"{name}: {note}" for name, note in notes.items()]
    training = [row for row in result.rows if row.sizes["what"] == "training"]
    if training:
        head = ["training", "loader processes", "steps", "seconds a step", "waiting for data"]
        lines.append(markdown(head, [_waited(row) for row in training]))
    return "\n\n".join(lines)


def _cells(row: Row, able: Sequence[str]) -> list[str]:
    sizes = row.sizes
    files = f"{sizes['source']}, {sizes['files']} file{'s' if sizes['files'] != 1 else ''}"
    cells = [files, f"{sizes['columns']} x {sizes['rows']}", str(sizes["access"]), f"{sizes['frames']:,}"]
    for name in able:
        rate = row.contenders[name].scores.get("frames_per_second")
        cells.append(row.contenders[name].note if rate is None else f"{rate:,.0f}")
    return cells + [times(row.ratios.get(f"{name}/{able[0]} seconds")) or "-" for name in able[1:]]


def _waited(row: Row) -> list[str]:
    step_row: Any = row.contenders["step"]
    sizes = row.sizes
    share = step_row.scores["data_wait"]
    return [
        f"`{sizes['config']}`",
        str(sizes["workers"]),
        str(sizes["steps"]),
        f"{step_row.seconds:.3f}",
        f"{share:.1%}",
    ]


def steps(text: str) -> int:
    """0, or a whole number of steps."""
    return 0 if text == "0" else positive(text)


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    options = parser(NAME, __doc__ or "")
    options.add_argument(
        "--budget", type=float, default=10.0, help="seconds of timing a row; three rounds at the least"
    )
    options.add_argument("--config", default="video/grid_lips", help="what is trained; video/grid_lips when absent")
    options.add_argument("--steps", type=steps, default=40, help="training steps that count; 0 trains nothing")
    options.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="changes of that configuration")
    return options


if __name__ == "__main__":
    raise SystemExit(main(arguments(), run, tables))
