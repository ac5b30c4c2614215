"""``hrt-mm search``: searches an index by text, image, sound or video."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add as plus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import Commands, command
from .index import STORE, target
from .process import is_unicode

if TYPE_CHECKING:
    from ..retrieval.query import Query

KINDS = ("text", "image", "audio", "video")
OPTIONS = ("find", "level", "inside", "min_score", "offset", "rerank", "candidates", "by_pieces", "where", "exact")
"""Arguments that :meth:`hrt_mm.retrieval.search.Searcher.search` has too, beside ``k``."""


def add(commands: Commands) -> None:
    """Adds the command."""
    parser = command(commands, "search", "search an index by text, image, sound or video", run)
    parser.add_argument("index", metavar="INDEX", nargs="?", help=STORE)
    parser.add_argument("--store", metavar="INDEX", help="the index, in place of the first argument")
    parser.add_argument("--server", metavar="URL", help="ask a running `hrt-mm serve` instead of loading the model")
    query = parser.add_argument_group("query", "one or more, which are combined; all may be repeated")
    query.add_argument("--text", metavar="WORDS", action="append", default=[], help="query text")
    for kind in KINDS[1:]:
        query.add_argument(f"--{kind}", metavar="FILE", action="append", default=[], help=f"{kind} file as the query")
    query.add_argument(
        "--query", metavar="TOWER=VALUE", action="append", default=[], help="text or file for the tower of that name"
    )
    query.add_argument("--minus", metavar="WORDS", action="append", default=[], help="text to move away from")
    query.add_argument(
        "--queries", metavar="FILE", help="file with a query a line, a text or TOWER=VALUE; - for standard input"
    )
    parser.add_argument("--find", metavar="TOWER", help="tower to search; by default, another than the query's")
    parser.add_argument("-k", type=int, default=10, help="maximum number of results (10)")
    parser.add_argument("--offset", type=int, default=0, metavar="N", help="skip the N best results (0)")
    parser.add_argument("--min-score", type=float, metavar="S", help="leave out results with a lower score")
    parser.add_argument(
        "--where", metavar="FILTER", help="search rows whose columns match, such as 'year>=2010 and colour=red'"
    )
    parser.add_argument("--exact", action="store_true", help="compare all vectors, also in an approximate index")
    parser.add_argument("--no-hybrid", action="store_true", help="rank by vectors alone, without the words of texts")
    parser.add_argument("--level", default="", help="search pieces of this level instead of samples")
    parser.add_argument(
        "--inside", type=int, default=0, metavar="N", help="also print the best N pieces within each result"
    )
    parser.add_argument(
        "--rerank", default="", metavar="LEVEL", help="order the best samples by MaxSim with their pieces of this level"
    )
    parser.add_argument("--candidates", type=int, default=100, metavar="N", help="samples to rerank (100)")
    parser.add_argument(
        "--by-pieces",
        action="store_true",
        help="rerank the samples of the N nearest pieces of each token, instead of the N nearest samples",
    )
    parser.add_argument(
        "--run", dest="folder", type=Path, help="run folder of the model, or hub:owner/name (that of the index)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON; with --queries, an object a line")


def run(args: argparse.Namespace) -> int:
    """Prints the results."""
    lines = None if args.queries is None else _lines(args)
    queries = [_combined(args)] if lines is None else []
    if args.server is not None:
        for query in queries or [_query(line, ()) for line in lines or ()]:
            _ask(args, query)
        return 0

    from ..retrieval.search import Searcher
    from ..retrieval.stores import open_index

    where, _ = target(args)
    with open_index(where) as index:
        searcher = Searcher.of(index, args.folder)
        if lines is not None:
            queries = [_query(line, searcher.embedder.towers) for line in lines]
        for results in searcher.search([*queries], args.k, **_options(args)):
            _print(args, results.query, results.plain(), str(results))
    return 0


def _options(args: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(args, name) for name in OPTIONS} | {"hybrid": not args.no_hybrid}


def _print(args: argparse.Namespace, query: Query, plain: Mapping[str, Any], text: str) -> None:
    """Prints results; those of one of several queries as a line of JSON, or below the query."""
    from ..retrieval.results import printable_line

    if args.json:
        indent = 2 if args.queries is None else None
        print(json.dumps(plain, indent=indent, ensure_ascii=not is_unicode(sys.stdout)))
    else:
        print(text if args.queries is None else f"{printable_line(str(query))}\n{text}\n")


def _ask(args: argparse.Namespace, query: Query) -> None:
    """Asks a running server, and prints its results."""
    from ..core.errors import UserError
    from ..retrieval.client import search
    from ..retrieval.results import text_of

    if args.index is not None or args.store is not None or args.folder is not None:
        raise UserError("a server has its index and its model; drop INDEX, --store and --run, or --server")
    texts, files = [], []
    for term in query.terms:
        path = Path(str(term.source)).expanduser()
        if term.kind in KINDS[1:] or (term.kind not in KINDS and path.is_file()):
            files.append((term.kind, path))
        else:
            texts.append({"text": str(term.source), "tower": term.kind or "text", "weight": term.weight})
    answer = search(args.server, texts, files, {"k": args.k, **_options(args)})
    _print(args, query, answer.plain, text_of(answer.hits, args.offset) or f"no results for {query}")


def _combined(args: argparse.Namespace) -> Query:
    """The query that the options give."""
    from ..core.errors import UserError
    from ..retrieval.query import Query

    terms = [Query.of(kind, source) for kind in KINDS for source in getattr(args, kind)]
    for text in args.query:
        tower, equals, source = text.partition("=")
        if not (tower and equals):
            raise UserError(f"--query {text}: write a tower, an equals sign, and a text or a file: image=a.png")
        path = Path(source).expanduser()
        terms.append(Query.of(tower, path if path.is_file() else source))
    terms += [-Query.text(words) for words in args.minus]
    if not terms:
        options = ", ".join(f"--{name}" for name in (*KINDS, "query", "queries"))
        raise UserError(f"there is nothing to search for; give a query by {options}")
    return reduce(plus, terms)


def _lines(args: argparse.Namespace) -> list[str]:
    """The lines of ``--queries`` that are not empty."""
    from ..core.errors import UserError

    if any(getattr(args, name) for name in (*KINDS, "query", "minus")):
        raise UserError("--queries has all queries; drop --text and the like, or write them as lines")
    try:
        text = sys.stdin.read() if args.queries == "-" else Path(args.queries).read_text("utf-8")
    except OSError as error:
        raise UserError(f"{args.queries} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{args.queries} is no text in UTF-8: {error.reason} at byte {error.start}") from error
    if not (lines := [line.strip() for line in text.splitlines() if line.strip()]):
        raise UserError(f"{args.queries} has no queries; write one a line")
    return lines


def _query(line: str, towers: Sequence[str]) -> Query:
    """A line of ``--queries``: a text, or ``TOWER=VALUE``."""
    from ..retrieval.query import Query

    tower, equals, source = line.partition("=")
    return Query.of(tower, source) if equals and tower in {*towers, *KINDS} else Query.text(line)
