"""``hrt-mm search``: searches an index by text, image, sound or video."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from .arguments import Commands, command
from .process import is_unicode

KINDS = ("text", "image", "audio", "video")


def add(commands: Commands) -> None:
    """Adds the command."""
    parser = command(commands, "search", "search an index by text, image, sound or video", run)
    parser.add_argument("index", metavar="INDEX", type=Path, help="folder of the index")
    query = parser.add_mutually_exclusive_group(required=True)
    query.add_argument("--text", metavar="WORDS", help="query text")
    for kind in KINDS[1:]:
        query.add_argument(f"--{kind}", metavar="FILE", type=Path, help=f"{kind} file as the query")
    parser.add_argument("--find", metavar="TOWER", help="tower to search; by default, another than the query's")
    parser.add_argument("-k", type=int, default=10, help="maximum number of results (10)")
    parser.add_argument("--level", default="", help="search pieces of this level instead of samples")
    parser.add_argument(
        "--inside", type=int, default=0, metavar="N", help="also print the best N pieces within each result"
    )
    parser.add_argument(
        "--run", dest="folder", type=Path, help="run folder of the model; by default, the one that the index names"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Prints the results."""
    from ..retrieval.index import Index
    from ..retrieval.search import Searcher

    kind = next(kind for kind in KINDS if getattr(args, kind) is not None)
    searcher = Searcher.of(Index(args.index), args.folder)
    hits = searcher.search(kind, getattr(args, kind), args.k, find=args.find, level=args.level, inside=args.inside)
    if args.json:
        print(json.dumps([_plain(hit) for hit in hits], indent=2, ensure_ascii=not is_unicode(sys.stdout)))
    else:
        print("\n".join(line for hit in hits for line in _lines(hit)) or "nothing was found: the index holds none")
    return 0


def _plain(hit: Any) -> dict[str, Any]:
    result = {"score": round(hit.score, 6), "id": hit.row.id, "tower": hit.row.tower, "info": dict(hit.row.info)}
    if hit.row.level:
        result |= {"level": hit.row.level, "span": hit.row.span, "box": hit.row.box}
    if hit.media is not None:
        result["media"] = str(hit.media)
    return result | ({"inside": [_plain(inner) for inner in hit.inside]} if hit.inside else {})


def _lines(hit: Any, depth: int = 0) -> list[str]:
    edges = hit.row.span or hit.row.box
    position = f"[{hit.row.level} {'-'.join(f'{edge:g}' for edge in edges)}]" if edges else ""
    words = " · ".join(dict.fromkeys(hit.row.info.values())) or ("" if position and depth else hit.row.id)
    line = f"{'  ' * depth}{hit.score:.3f}  {_printable(' '.join(filter(None, (words, position))))}"
    return [line, *(line for inner in hit.inside for line in _lines(inner, depth + 1))]


def _printable(text: str) -> str:
    """Replaces unprintable characters, which could affect a terminal."""
    return "".join(character if character.isprintable() else " " for character in text)
