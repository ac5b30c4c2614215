"""What demos share: they train, or go on with what was trained, embed, index, tell figures, and open a search page."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hrt_mm.cli.process import as_process
from hrt_mm.config import RunConfig, load_config
from hrt_mm.core.errors import UserError
from hrt_mm.data.atomic_files import exclusive_lock
from hrt_mm.retrieval.collecting import embed_split
from hrt_mm.retrieval.collection import Collection
from hrt_mm.retrieval.embed import Embedder
from hrt_mm.retrieval.index import Hit, Index
from hrt_mm.retrieval.query import Query as SearchQuery
from hrt_mm.retrieval.search import Searcher
from hrt_mm.train.loop import train
from hrt_mm.train.summary import read_summary
from hrt_modalities.common.splits import SPLITS

SHOWN = 3
"""Answers to each query that are told."""


@dataclass(frozen=True)
class Query:
    """A query that a demo answers once it is ready.

    Args:
        kind: what it is: ``text``, ``image``.
        source: a text, or a file.
        find: the tower to search.
    """

    kind: str
    source: str | Path
    find: str


@dataclass(frozen=True)
class Demo:
    """One demo.

    Args:
        name: of its folder under ``runs``.
        title: of the page.
        config: a configuration with towers.
        splits: whose samples can be found.
        queries: that are answered.
    """

    name: str
    title: str
    config: str
    splits: tuple[str, ...] = SPLITS
    queries: tuple[Query, ...] = ()


def trained(folder: Path, config: RunConfig) -> Path:
    """The run folder, with a run that is over: trains it, or goes on with it, where it is not."""
    if not (folder / "summary.json").is_file():
        train(config, resume=True)
    return folder


def prepare(
    folder: Path,
    overrides: Sequence[str] = (),
    config: str = "retrieval/glyphs",
    splits: Sequence[str] = SPLITS,
) -> Searcher:
    """Trains, or goes on with what was trained, and builds the index.

    Args:
        folder: takes the run and the index.
        overrides: laid over the configuration.
        config: a configuration with towers.
        splits: whose samples can be found.

    Raises:
        UserError: another process prepares the same folder, or what ``train`` raises.
        Stopped: a signal ended the training.
    """
    loaded = load_config(config, [f"run.dir={folder / 'run'}", *overrides])
    with exclusive_lock(folder, create=True):
        return _prepared(folder, loaded, splits)


def _prepared(folder: Path, config: RunConfig, splits: Sequence[str]) -> Searcher:
    run, index = folder / "run", folder / "index"
    embedder = Embedder.of(trained(run, config))
    if (searcher := opened(index, run)) is not None:
        return searcher
    made = Index.create(index, embedder.model)
    for split in splits:
        collection = folder / f"vectors-{split}"
        shutil.rmtree(collection, ignore_errors=True)
        embed_split(embedder, split, embedder.towers, collection, media=True)
        made.add(Collection(collection))
        shutil.rmtree(collection)
    return Searcher(made, embedder)


def opened(index: Path, run: Path) -> Searcher | None:
    """The index that is there, if it is of the run; removes it where it is not, for it is built anew."""
    if (index / "manifest.json").is_file():
        try:
            return Searcher.of(Index(index), run)
        except UserError as error:
            print(f"{error}; it is built anew", file=sys.stderr)
    shutil.rmtree(index, ignore_errors=True)
    return None


def figures(run: Path, *, pieces: bool = True) -> str:
    """What the run's summary says of retrieval on the test split, a line for each way.

    Args:
        run: a run that is over.
        pieces: tell of pieces as well, such as words.
    """
    metrics = read_summary(run / "summary.json")["metrics"]
    ways = [name.removeprefix("test/").removesuffix("/R@1") for name in metrics if name.endswith("/R@1")]
    lines = []
    for way in ways:
        if f"test/{way}/answers" not in metrics or ("/" in way and not pieces):
            continue
        values = {name: metrics[f"test/{way}/{name}"] for name in ("R@1", "R@5", "R@10", "chance_R@1", "answers")}
        view, _, names = way.rpartition("/")
        of = f" ({view.replace('_', ' ')})" if view else ""
        lines.append(
            f"{names.replace('_', ' ')}{of}, held out: R@1 {values['R@1']:.1%}, R@5 {values['R@5']:.1%}, "
            f"R@10 {values['R@10']:.1%} of {values['answers']:,.0f} (chance R@1 {values['chance_R@1']:.2%})"
        )
    return "\n".join(lines)


def told(query: Query, hits: Sequence[Hit]) -> str:
    """A query with its best answers, as a line."""
    source = f"'{query.source}'" if isinstance(query.source, str) else query.source.name
    answers = "; ".join(f"{_words(hit)} ({hit.score:.2f})" for hit in hits) or "nothing"
    return f"{query.kind} {source} finds {query.find}: {answers}"


def _words(hit: Hit) -> str:
    return next(iter(hit.row.info.values()), hit.row.id)


def options(demo: Demo, about: str | None) -> argparse.ArgumentParser:
    """The command line of a demo."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs") / demo.name, help="of the run and the index")
    parser.add_argument("--port", type=int)
    parser.add_argument("--no-page", action="store_true", help="prepare, tell figures and answers, and end")
    parser.add_argument("overrides", metavar="a.b=c", nargs="*", help="override a key of the configuration")
    return parser


def page(searcher: Searcher, title: str, args: argparse.Namespace) -> None:
    """Opens the search page, unless it is not wanted."""
    if not args.no_page:
        from .search_page import stay

        stay(searcher, title, port=args.port)


def main(demo: Demo, about: str | None) -> int:
    """Prepares, tells figures and some answers, and opens the page; gives the exit code."""
    args = options(demo, about).parse_args()

    def run() -> int:
        searcher = prepare(args.folder, args.overrides, demo.config, demo.splits)
        print(figures(args.folder / "run"))
        for query in demo.queries:
            print(told(query, searcher.search(SearchQuery.of(query.kind, query.source), SHOWN, find=query.find)))
        page(searcher, demo.title, args)
        return 0

    return as_process(run)
