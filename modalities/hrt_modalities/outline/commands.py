"""``hrt-mm outline``: the scenes of a video with their times, and with labels if the run has classes."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

from hrt_mm.core.errors import ConfigError
from hrt_mm.data.registry import Command

from ..video.readers import VideoFile
from .outline import FileOutline, Scene

DETECTORS = ("adaptive", "content", "histogram", "threshold")


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", type=Path, help="a video of any length")
    parser.add_argument(
        "--run", dest="trained", type=Path, metavar="RUN", help="a run of modality video with task segmentation"
    )
    text = "detect shot changes with PySceneDetect instead of a run; scenes have no labels then"
    parser.add_argument("--detector", choices=DETECTORS, help=text)
    parser.add_argument("--window", type=float, default=8.0, metavar="SECONDS", help="encoded at once (8)")
    parser.add_argument("--clip", type=float, default=0.8, metavar="SECONDS", help="the shortest clip (0.8)")
    text = "least distance of two borders; of two that are closer, the first counts (0.5)"
    parser.add_argument("--shortest", type=float, default=0.5, metavar="SECONDS", help=text)
    parser.add_argument("--side", type=int, metavar="PIXELS", help="scale frames down to it as they are decoded")
    parser.add_argument("--json", action="store_true", help="print one line of JSON per scene")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="also draw the outline")


def _run(args: Namespace) -> int:
    """Prints each scene as soon as it ends."""
    if (args.trained is None) == (args.detector is None):
        raise ConfigError("give one of --run RUN and --detector NAME")
    for option in ("window", "clip", "shortest"):
        if not getattr(args, option) > 0:
            raise ConfigError(f"--{option} must be more than 0 seconds, got {getattr(args, option):g}")
    with VideoFile(args.file, side=args.side) as file:
        scenes: list[Scene] = []
        # The reader of a pipe may close it, as head does.
        with suppress(BrokenPipeError):
            for scene in _scenes(args, file):
                print(json.dumps(asdict(scene)) if args.json else line(scene, len(scenes) + 1), flush=True)
                scenes.append(scene)
        if args.picture is not None:
            from .timeline import draw_outline

            draw_outline(file, scenes, args.picture)
    return 0


def _scenes(args: Namespace, file: VideoFile) -> Iterator[Scene]:
    if args.detector is not None:
        from ..video.shots import shots_of

        starts = (*shots_of(file, args.detector), file.index.seconds)
        for number, (start, end) in enumerate(pairwise(starts)):
            yield Scene(start, end, "", border="shots" if number else None)
        return
    from hrt_mm.inference.trained import load_task

    run = load_task(args.trained, inputs="files")
    options = {"window": args.window, "clip": args.clip, "shortest": args.shortest}
    yield from FileOutline(run.task, run.tokenizer, **options).scenes(file)


def line(scene: Scene, number: int) -> str:
    """A scene as text, with its clips if they have several labels."""
    border = "" if scene.border is None else f"  {scene.border.removesuffix('s')} {scene.border_prob:.0%}"
    label = "" if scene.score is None else f"  {scene.label} {scene.score:.0%}"
    lines = [f"{number:4}  {clock(scene.start)} - {clock(scene.end)}{label}{border}"]
    if len({clip.label for clip in scene.clips}) > 1:
        lines += [f"        {clock(clip.start)} - {clock(clip.end)}  {clip.label}" for clip in scene.clips]
    return "\n".join(lines)


def clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    hundredths = round(seconds * 100)
    minutes = hundredths // 6000
    return f"{minutes // 60}:{minutes % 60:02}:{hundredths % 6000 / 100:05.2f}"


OUTLINE = Command("outline", "print the scenes of a video with their times and labels", _arguments, _run)
