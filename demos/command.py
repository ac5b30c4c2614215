"""What demos share: they train, or go on with what was trained, embed, index, tell figures, and open a search page."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from hrt_mm.cli.process import as_process
from hrt_mm.config import RunConfig, load_config
from hrt_mm.core.errors import Stopped, UserError
from hrt_mm.data.atomic_files import exclusive_lock
from hrt_mm.retrieval.collecting import embed_split
from hrt_mm.retrieval.collection import Collection
from hrt_mm.retrieval.embed import Embedder, Embedding
from hrt_mm.retrieval.index import Hit, Index
from hrt_mm.retrieval.query import Query as SearchQuery
from hrt_mm.retrieval.rows import Row
from hrt_mm.retrieval.search import Searcher
from hrt_mm.train.identity import config_digest
from hrt_mm.train.loop import train
from hrt_mm.train.summary import read_summary
from hrt_modalities.common.splits import SPLITS

from .examples import Sampled, is_text

CONTROLS = 200
"""Texts that are searched for by words alone."""
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
        tell: prints what else there is to say of the search.
    """

    name: str
    title: str
    config: str
    splits: tuple[str, ...] = SPLITS
    queries: tuple[Query, ...] = ()
    tell: Callable[[Searcher], None] = lambda searcher: None


def trained(folder: Path, config: RunConfig) -> Path:
    """Trains a run, or goes on where it was stopped; a finished one is left as it is.

    Args:
        folder: of the run.
        config: of the run.

    Returns:
        The folder.

    Raises:
        UserError: the folder has a finished run of another configuration, or what ``train`` raises.
        Stopped: a signal ended the training. It goes on when the demo is started again.
    """
    if (folder / "summary.json").is_file():
        if config_digest(load_config(folder / "config.yaml")) != config_digest(config):
            raise UserError(
                f"{folder} is of another configuration; remove {folder.parent} to train anew, or choose another folder "
                "with --folder"
            )
        print(f"{folder}: trained, step {read_summary(folder / 'summary.json')['steps']:,}; remove it to train anew")
        return folder
    try:
        return train(config, resume=True)
    except Stopped:
        print("start the demo again to go on from there", file=sys.stderr)
        raise


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
        embedder = Embedder.of(trained(folder / "run", loaded))

        def collections(scratch: Path) -> Iterator[Collection]:
            for split in splits:
                embed_split(embedder, split, embedder.towers, scratch / split, media=True)
                yield Collection(scratch / split)
                shutil.rmtree(scratch / split)

        return indexed(folder, embedder, collections)


def indexed(folder: Path, embedder: Embedding, collections: Callable[[Path], Iterator[Collection]]) -> Searcher:
    """Opens the index of a demo, or builds it. One that was not finished, or is of other weights, is built anew.

    Args:
        folder: of the demo.
        embedder: of the run.
        collections: writes what is indexed into a folder, one after another.
    """
    index, unfinished = folder / "index", folder / "index-unfinished"
    if (index / "manifest.json").is_file():
        try:
            opened = Index(index)
            opened.model.check(embedder.model, f"the run {folder / 'run'}")
            return Searcher(opened, embedder)
        except UserError as error:
            print(f"{error}; it is built anew", file=sys.stderr)
    for old in (index, unfinished):
        shutil.rmtree(old, ignore_errors=True)
    made = Index.create(unfinished, embedder.model)
    with TemporaryDirectory(dir=folder, prefix="vectors-") as scratch:
        for collection in collections(Path(scratch)):
            made.add(collection)
    # Only an index with all of its samples gets this name.
    unfinished.rename(index)
    return Searcher(Index(index), embedder)


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


def control(searcher: Searcher) -> str:
    """How often the words of rows' texts alone, without any training, find the row of a text; a line for each tower.

    The index holds these texts, so this is the most that words can do.
    """
    index, embedder = searcher.index, searcher.embedder
    texts = [hit.row for hit in Sampled.of(searcher).hits if is_text(searcher, hit.row.tower)][:CONTROLS]
    if not isinstance(index, Index) or not texts:
        return ""
    zero_D = np.zeros(embedder.model.dim, np.float32)
    lines = []
    for tower in index.towers:
        if not is_text(searcher, tower):
            results = [index.search_words(_text_of(row), zero_D, 1, tower=tower) for row in texts]
            right = sum(bool(hits) and hits[0][0].row.id == row.id for hits, row in zip(results, texts, strict=True))
            share = right / len(texts)
            lines.append(f"text to {tower} by words alone, untrained: R@1 {share:.1%} of {len(texts)} indexed texts")
    return "\n".join(lines)


def _text_of(row: Row) -> str:
    """The text that a row is of: a column of its own where none of the data's columns has it."""
    return next((row.info[column] for column in ("text", "caption", "name") if column in row.info), "")


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


def page(searcher: Searcher, title: str, args: argparse.Namespace, examples: Sequence[str] = ()) -> None:
    """Opens the search page, unless ``--no-page`` is given.

    Args:
        searcher: index and model.
        title: of the page.
        args: of the command line.
        examples: questions to click; chosen from the index if there are none.
    """
    if not args.no_page:
        from .search_page import stay

        stay(searcher, title, port=args.port, examples=examples)


def main(demo: Demo, about: str | None) -> int:
    """Prepares, tells figures and some answers, and opens the page; gives the exit code."""
    args = options(demo, about).parse_args()

    def run() -> int:
        searcher = prepare(args.folder, args.overrides, demo.config, demo.splits)
        print(figures(args.folder / "run"))
        if line := control(searcher):
            print(line)
        demo.tell(searcher)
        for query in demo.queries:
            print(told(query, searcher.search(SearchQuery.of(query.kind, query.source), SHOWN, find=query.find)))
        page(searcher, demo.title, args)
        return 0

    return as_process(run)
