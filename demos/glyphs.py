"""Glyph search: train, embed, index, search page, with one command: ``python -m demos.glyphs``, or ``make demo``.

Find a symbol by words ("black chess knight"), by a picture or a drawing, or the words for a picture. Nothing is
downloaded. What was done already is not done again.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from hrt_mm.config import load_config
from hrt_mm.errors import UserError
from hrt_mm.retrieval.collection import Collection
from hrt_mm.retrieval.embed import Embedder, embed_split
from hrt_mm.retrieval.index import Index
from hrt_mm.retrieval.search import Searcher
from hrt_mm.train.loop import train

SPLITS = ("train", "val", "test")


def prepare(folder: Path, overrides: Sequence[str] = (), config: str = "retrieval/glyphs") -> Searcher:
    """Trains, or goes on with what was trained, and builds the index of all characters.

    Args:
        folder: takes the run and the index.
        overrides: laid over the configuration.
        config: a configuration of two towers.
    """
    run, index = folder / "run", folder / "index"
    if not (run / "summary.json").is_file():
        train(load_config(config, [f"run.dir={run}", *overrides]), resume=True)
    embedder = Embedder.of(run)
    if (index / "manifest.json").is_file():
        try:
            return Searcher.of(Index(index), run)
        except UserError as error:
            print(f"{error}; it is built anew")
    shutil.rmtree(index, ignore_errors=True)
    made = Index.create(index, embedder.model)
    for split in SPLITS:
        collection = folder / f"vectors-{split}"
        shutil.rmtree(collection, ignore_errors=True)
        embed_split(embedder, split, embedder.towers, collection, media=True)
        made.add(Collection(collection))
        shutil.rmtree(collection)
    return Searcher(made, embedder)


def figures(run: Path) -> str:
    """What the run's summary says of retrieval on characters that it never saw."""
    metrics = json.loads((run / "summary.json").read_text(encoding="utf-8"))["metrics"]
    lines = []
    for way in ("text_to_image", "image_to_text"):
        found = {name: metrics[f"test/{way}/{name}"] for name in ("R@1", "R@5", "R@10", "chance_R@1", "answers")}
        lines.append(
            f"{way.replace('_', ' ')}, held-out characters: R@1 {found['R@1']:.1%}, R@5 {found['R@5']:.1%}, "
            f"R@10 {found['R@10']:.1%} of {found['answers']:.0f} (chance R@1 {found['chance_R@1']:.2%})"
        )
    return "\n".join(lines)


def main() -> int:
    """Prepares, tells the figures, and opens the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/glyphs"), help="of the run and the index")
    parser.add_argument("--port", type=int)
    parser.add_argument("--no-page", action="store_true", help="prepare and tell the figures alone")
    parser.add_argument("overrides", metavar="a.b=c", nargs="*", help="override a key of the configuration")
    args = parser.parse_args()
    searcher = prepare(args.folder, args.overrides)
    print(figures(args.folder / "run"))
    if not args.no_page:
        from .search_page import stay

        stay(searcher, "Glyph search", port=args.port)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
