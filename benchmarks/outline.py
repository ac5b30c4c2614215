"""Outlines of long videos: peak memory and seconds a minute of ``hrt-mm outline`` in processes of its own.

A minute of edited video is rendered with a cut every two seconds, and its packets are written again and again into real
mp4 files of growing length. Each is outlined by a trained run of task segmentation, such as ``video/quickstart``. All
borders are known, so it is told as well how many were found.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hrt_mm.config import load_config
from hrt_mm.metrics.boundaries import boundary_scores
from hrt_modalities.video.rendering import ACTIONS, Edit, Shot, render, write

from .command import main, parser, positive
from .markdown import markdown
from .results import Bar, Measured, Result, Row, environment
from .shots import side_of
from .watched import watched

NAME = "outline"
MINUTES = (2.0, 20.0, 120.0)
SIZE, RATE = (48, 64), 12.5
"""Of the frames: rows and columns, and how many a second."""
SHOT = 2.0
"""Seconds of a shot."""
TOLERANCE = 0.16
"""Seconds that a found border may lie from a true one: two frames."""
GROWTH = 1.1
"""How much more memory the longest video may take than the shortest."""


def piece(path: Path, seconds: float) -> int:
    """Writes the video that is repeated; gives the number of its shots."""
    shots = tuple(Shot(ACTIONS[number % len(ACTIONS)], SHOT) for number in range(max(1, round(seconds / SHOT))))
    cuts = len(shots) - 1
    edit = Edit(shots, ("cuts",) * cuts, (0.0,) * cuts, 5, held_out=True)
    write(path, render(edit, RATE, SIZE), RATE, SIZE, {"preset": "veryfast"})
    return len(shots)


def repeated(source: Path, path: Path, times: int) -> None:
    """Writes the packets of a video so many times in a row, as they are."""
    import av

    with av.open(str(path), "w") as target:
        stream: Any = None
        offset = 0
        for _ in range(times):
            with av.open(str(source)) as container:
                source_stream = container.streams.video[0]
                stream = stream or target.add_stream_from_template(source_stream)
                # The last one is empty: it marks the end.
                packets: list[Any] = [packet for packet in container.demux(source_stream) if packet.dts is not None]
                for packet in packets:
                    packet.pts, packet.dts = packet.pts + offset, packet.dts + offset
                    packet.stream = stream
                    target.mux(packet)
                offset = max(packet.pts + packet.duration for packet in packets)


def run(options: argparse.Namespace) -> Result:
    """Makes the files, and outlines them.

    Raises:
        UserError: the run is none that outlines; gives what was said.
    """
    quick = options.quick
    threads = torch.get_num_threads()
    side = options.side or side_of(load_config(options.run / "config.yaml").data)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = 6.0 if quick else 60.0
        shots = piece(folder / "piece.mp4", base)
        for minutes in (0.1, 0.2) if quick else options.minutes:
            times = max(1, round(60 * minutes / base))
            path = folder / f"{minutes:g}.mp4"
            repeated(folder / "piece.mp4", path, times)
            rows.append(_row(options.run, path, times * shots, side, threads))
    return Result(
        name=NAME,
        command=options.command,
        quick=quick,
        settings={"size": SIZE, "rate": RATE, "shot_s": SHOT, "tolerance_s": TOLERANCE, "side": side},
        checks={},
        rows=rows,
        bars=[] if quick else _bars(rows),
        **environment(torch.device("cpu")),
    )


def _row(run: Path, path: Path, shots: int, side: int | None, threads: int) -> Row:
    out = path.with_suffix(".jsonl")
    words = ["outline", str(path), "--run", str(run), "--json"]
    words += [] if side is None else ["--side", str(side)]
    seconds, processor, peak = watched(words, path.with_suffix(".log"), threads, out)
    scenes = [json.loads(line) for line in out.read_text().splitlines()]
    borders = boundary_scores(
        [scene["start"] for scene in scenes[1:]], [SHOT * number for number in range(1, shots)], TOLERANCE
    )
    minutes = shots * SHOT / 60
    scores: dict[str, float | None] = {"scenes": len(scenes), "f1": borders.f1, "processor_seconds": processor}
    print(f"{minutes:g} min: {seconds:.1f} s, {peak / 2**20:.0f} MiB, {scores}", file=sys.stderr, flush=True)
    return Row(
        sizes={"minutes": minutes, "bytes_of_the_file": path.stat().st_size, "borders": shots - 1},
        contenders={"outline": Measured(seconds=seconds, bytes=peak, scores=scores)},
        ratios={"seconds a minute": seconds / minutes, "processor seconds a minute": processor / minutes},
    )


def _bars(rows: Sequence[Row]) -> list[Bar]:
    peaks = [row.contenders["outline"].bytes or 0 for row in rows]
    growth = peaks[-1] / peaks[0]
    return [
        Bar(
            claim=f"peak memory of the process, from {rows[0].sizes['minutes']:g} to {rows[-1].sizes['minutes']:g} "
            "minutes of video",
            goal=f"at most {GROWTH:g}x",
            measured=f"{growth:.2f}x",
            met=growth <= GROWTH,
        )
    ]


def tables(result: Result) -> str:
    """The result as Markdown."""
    head = ["minutes of video", "MiB of the file", "peak MiB of the process", "seconds", "seconds a minute"]
    head += ["processor seconds a minute", "scenes", "true scenes", "F1 of borders"]
    body = []
    for row in result.rows:
        outline = row.contenders["outline"]
        body.append(
            [
                f"{row.sizes['minutes']:g}",
                f"{float(row.sizes['bytes_of_the_file']) / 2**20:.1f}",
                f"{(outline.bytes or 0) / 2**20:,.0f}",
                f"{outline.seconds:,.1f}",
                f"{row.ratios['seconds a minute']:.2f}",
                f"{row.ratios['processor seconds a minute']:.2f}",
                f"{outline.scores['scenes']:,.0f}",
                f"{int(row.sizes['borders']) + 1:,}",
                f"{outline.scores['f1']:.3f}",
            ]
        )
    return markdown(head, body)


def _minutes(text: str) -> tuple[float, ...]:
    durations = tuple(float(part) for part in text.split(","))
    if not all(0 < minutes < float("inf") for minutes in durations):
        raise argparse.ArgumentTypeError(f"must be more than 0 minutes, got {text}")
    return durations


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    options = parser(NAME, __doc__ or "")
    options.add_argument("run", type=Path, metavar="RUN", help="run folder of video/quickstart, or another of its task")
    options.add_argument("--minutes", type=_minutes, default=MINUTES, help="lengths of the files; 2,20,120 when absent")
    options.add_argument("--side", type=positive, help="pixels of the frames' shorter side that the run sees")
    return options


if __name__ == "__main__":
    raise SystemExit(main(arguments(), run, tables))
