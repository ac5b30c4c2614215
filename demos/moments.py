"""Moment search: words, said or written, find a scene of a film, the clip in it, and the frame.

``python -m demos.moments`` trains on short films that the project renders, makes long ones of scenes that were not
trained on, embeds these piece by piece at three levels, and tells how often a caption finds the moment that it is of. A
picture shows some answers; then the search page opens. Nothing is downloaded. Speech is there where eSpeak NG is
installed (``pip install 'hrt-mm[speech]'``).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import soundfile

from hrt_mm.cli.process import as_process
from hrt_mm.config import RunConfig, load_config
from hrt_mm.data.atomic_files import exclusive_lock
from hrt_mm.data.listing import Listed
from hrt_mm.retrieval.collecting import embed_files
from hrt_mm.retrieval.collection import Collection
from hrt_mm.retrieval.embed import Embedder
from hrt_mm.retrieval.index import Hit
from hrt_mm.retrieval.query import Query
from hrt_mm.retrieval.search import Searcher
from hrt_modalities.audio.synthesis import Line, speak
from hrt_modalities.joint.films import FilmsConfig, FootageConfig, scenes_of
from hrt_modalities.video.readers import VideoFile

from .command import Demo, figures, indexed, options, page, trained

DEMO = Demo(name="moments", title="Moment search", config="retrieval/moments")
LEVELS = ("scenes", "clips", "frames")
FILMS = 4
SCENES = 12
"""Of a long film."""
SPOKEN = 60
"""Captions that are said as well."""
SHOWN = 6
"""Captions whose answers are drawn."""
EXAMPLES = 6
"""Captions that the page offers to click."""


@dataclass(frozen=True)
class Moment:
    """Something that happens in a film.

    Args:
        film: its id in the index.
        caption: what is said of it.
        level: at which it is looked for.
        start: seconds.
        end: seconds.
    """

    film: str
    caption: str
    level: str
    start: float
    end: float

    def holds(self, hit: Hit) -> bool:
        """Whether the middle of an answer lies in it."""
        first, last = hit.row.span or (0.0, 0.0)
        return hit.row.id.split("/")[0] == self.film and self.start <= (first + last) / 2 < self.end


def footage(config: RunConfig, films: int = FILMS, scenes: int = SCENES) -> FootageConfig:
    """Long films of what the run's test shows, made as its own films are."""
    data = config.data
    assert isinstance(data, FilmsConfig)
    # Of the splits that nothing is read of there is one film.
    long = {"train": 1, "valid": 1, "test": films, "scenes": (scenes, scenes), "cache": None}
    return data.film.model_copy(update=long)


def moments(film: FootageConfig) -> list[Moment]:
    """Scenes and shots of long films. Captions that are true of several moments are left out: none is the right one."""
    result = []
    for number, edit in enumerate(film.edits("test")):
        name = f"film {number + 1}"
        for scene in scenes_of(edit):
            ends = scene.starts[1:]
            caption = ", ".join(" ".join(event.words) for event in scene.events)
            result.append(Moment(name, f"{scene.setting}: {caption}", "scenes", scene.start, ends[-1]))
            for event, start, end in zip(scene.events, scene.starts, ends, strict=False):
                result.append(Moment(name, " ".join(event.words), "clips", start, end))
    captions = [moment.caption for moment in result]
    return [moment for moment in result if captions.count(moment.caption) == 1]


def prepare(folder: Path, config: RunConfig, film: FootageConfig) -> tuple[Searcher, dict[str, Path]]:
    """Trains, or goes on with what was trained, and builds the index of long films.

    Args:
        folder: takes the run and the index.
        config: of the run.
        film: the long films.

    Returns:
        The search, and the films' files by their ids.
    """
    embedder = Embedder.of(trained(folder / "run", config))
    clips = film.build("test")
    files = {f"film {number + 1}": clips.root / item.name for number, item in enumerate(clips.items)}

    def collections(scratch: Path) -> Iterator[Collection]:
        listed = [Listed(file, name, {"film": name}) for name, file in files.items()]
        embed_files(embedder, "video", listed, scratch / "vectors", media=True, levels=LEVELS)
        yield Collection(scratch / "vectors")

    return indexed(folder, embedder, collections), files


def recall(searcher: Searcher, asked: Sequence[tuple[Moment, str | Path]], kind: str) -> dict[str, float]:
    """By level, how often the first answer lies in the moment that a query is of.

    Args:
        searcher: the search.
        asked: moments with their queries.
        kind: of the queries.
    """
    hits_at: dict[str, list[bool]] = {}
    for moment, query in asked:
        (best,) = searcher.search(Query.of(kind, query), 1, find="video", level=moment.level)
        hits_at.setdefault(moment.level, []).append(moment.holds(best))
    return {level: sum(hits) / len(hits) for level, hits in hits_at.items()}


def chance(known: Sequence[Moment], seconds: float, level: str) -> float:
    """How often a place at random would lie in the moment.

    Args:
        known: all moments.
        seconds: of all films.
        level: of the moments.
    """
    durations = [moment.end - moment.start for moment in known if moment.level == level]
    return sum(durations) / len(durations) / seconds


def said(known: Sequence[Moment], folder: Path, voice: str) -> Iterator[tuple[Moment, Path]]:
    """Moments with their captions as sounds.

    Args:
        known: the moments.
        folder: takes the sounds.
        voice: of eSpeak.
    """
    words = [moment.caption.replace(":", "").replace(",", "") for moment in known]
    speak({"captions": [Line(text, voice, 165, 50) for text in words]}, 16_000, folder)
    rows = (folder / "captions.jsonl").read_text(encoding="utf-8").splitlines()
    for number, (moment, row) in enumerate(zip(known, rows, strict=True)):
        yield moment, _cut(folder, number, row)


def _cut(folder: Path, number: int, row: str) -> Path:
    """Writes one of the captions to a file of its own."""
    entry = json.loads(row)
    samples, rate = soundfile.read(folder / "captions.wav", dtype="float32")
    first = round(entry["offset"] * rate)
    file = folder / f"{number}.wav"
    soundfile.write(file, samples[first : first + round(entry["duration"] * rate)], rate)
    return file


def draw(searcher: Searcher, known: Sequence[Moment], files: dict[str, Path], path: Path) -> None:
    """Draws the best clips to some captions: the middle frame of each, with its film and its seconds."""
    from matplotlib.figure import Figure

    shots = [moment for moment in known if moment.level == "clips"]
    chosen = [shots[index * len(shots) // SHOWN] for index in range(min(SHOWN, len(shots)))]
    figure = Figure(figsize=(9, 1.7 * len(chosen)), layout="constrained")
    grid = figure.subplots(len(chosen), 4, squeeze=False)
    for line, moment in zip(grid, chosen, strict=True):
        hits = searcher.search(moment.caption, len(line), find="video", level="clips")
        for axes, hit in zip(line, hits, strict=False):
            first, last = hit.row.span or (0.0, 0.0)
            with VideoFile(files[hit.row.id.split("/")[0]], hit.row.id) as file:
                pixels = file.steady([file.index.at((first + last) / 2)])[0]
            axes.imshow(pixels.permute(1, 2, 0).numpy())
            right = "#2b8a3e" if moment.holds(hit) else "#666666"
            axes.set_title(
                f"{hit.row.id.split('/')[0]}, {first:.1f}-{last:.1f} s ({hit.score:.2f})", fontsize=7, color=right
            )
        for axes in line:
            axes.set_axis_off()
        line[0].text(0, -0.06, moment.caption, transform=line[0].transAxes, fontsize=9, va="top")
    figure.savefig(path, dpi=130)


def main() -> int:
    """Prepares, tells how often moments are found, draws some, and opens the page; gives the exit code."""
    parser = options(DEMO, __doc__)
    parser.add_argument(
        "--no-speech", action="store_true", help="search by text alone, with twice as many steps in the same time"
    )
    args = parser.parse_args()
    return as_process(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    speech = not args.no_speech and find_spec("espeakng_loader") is not None
    name = f"{DEMO.config}_spoken" if speech else DEMO.config
    if not speech and not args.no_speech:
        print("eSpeak NG is not installed (pip install 'hrt-mm[speech]'): moments are found by text alone")
    kept = [f"run.dir={args.folder / 'run'}", f"data.film.cache.dir={args.folder / 'frames'}"]
    config = load_config(name, [*kept, *args.overrides])
    film = footage(config)
    with exclusive_lock(args.folder, create=True):
        searcher, files = prepare(args.folder, config, film)
    print(figures(args.folder / "run", pieces=False))
    known = moments(film)
    seconds = sum(edit.seconds for edit in film.edits("test"))
    tell(searcher, known, seconds, args.folder, speech)
    draw(searcher, known, files, args.folder / "moments.png")
    print(f"{args.folder / 'moments.png'} shows the best clips to some captions")
    page(searcher, DEMO.title, args, [moment.caption for moment in known if moment.level == "clips"][:EXAMPLES])
    return 0


def tell(searcher: Searcher, known: Sequence[Moment], seconds: float, folder: Path, speech: bool) -> None:
    """Prints how often moments are found, by text and by speech."""
    asked, found = {"text": known}, {"text": recall(searcher, [(own, own.caption) for own in known], "text")}
    if speech:
        some = [moment for level in LEVELS for moment in [own for own in known if own.level == level][:SPOKEN]]
        asked["audio"] = some
        with TemporaryDirectory(dir=folder) as scratch:
            found["audio"] = recall(searcher, list(said(some, Path(scratch), "en-us+m2")), "audio")
    for kind, levels in found.items():
        for level, part in levels.items():
            count = sum(moment.level == level for moment in asked[kind])
            print(
                f"{kind} finds one of {count} {level if level == 'scenes' else 'shots'} in {seconds / 60:.1f} minutes: "
                f"R@1 {part:.1%} (chance {chance(asked[kind], seconds, level):.1%})"
            )


if __name__ == "__main__":
    raise SystemExit(main())
