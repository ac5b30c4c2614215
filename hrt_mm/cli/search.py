"""``hrt-mm search``: finds what is nearest to a text, a picture, a sound or a clip."""

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
    parser = command(commands, "search", "search an index by text, picture, sound or clip", run)
    parser.add_argument("index", metavar="INDEX", type=Path, help="folder of the index")
    query = parser.add_mutually_exclusive_group(required=True)
    query.add_argument("--text", metavar="WORDS", help="words to search by")
    for kind in KINDS[1:]:
        query.add_argument(f"--{kind}", metavar="FILE", type=Path, help=f"a file of {kind} to search by")
    parser.add_argument("--find", metavar="PART", help="what to find; what the query is not, when absent")
    parser.add_argument("-k", type=int, default=10, help="answers at most (10)")
    parser.add_argument("--level", default="", help="find pieces of this level in place of whole samples")
    parser.add_argument("--inside", type=int, default=0, metavar="N", help="give the best N pieces within each answer")
    parser.add_argument(
        "--run", dest="folder", type=Path, help="the run folder; the one that the index names when absent"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Prints the answers."""
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
    found = {"score": round(hit.score, 6), "id": hit.row.id, "part": hit.row.part, "info": dict(hit.row.info)}
    if hit.row.level:
        found |= {"level": hit.row.level, "span": hit.row.span, "box": hit.row.box}
    if hit.media is not None:
        found["media"] = str(hit.media)
    return found | ({"inside": [_plain(inner) for inner in hit.inside]} if hit.inside else {})


def _lines(hit: Any, depth: int = 0) -> list[str]:
    edges = hit.row.span or hit.row.box
    place = f"[{hit.row.level} {'-'.join(f'{edge:g}' for edge in edges)}]" if edges else ""
    words = " · ".join(dict.fromkeys(hit.row.info.values())) or ("" if place and depth else hit.row.id)
    line = f"{'  ' * depth}{hit.score:.3f}  {_printable(' '.join(filter(None, (words, place))))}"
    return [line, *(line for inner in hit.inside for line in _lines(inner, depth + 1))]


def _printable(text: str) -> str:
    """Text without what would steer a terminal."""
    return "".join(character if character.isprintable() else " " for character in text)
