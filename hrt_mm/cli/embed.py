"""``hrt-mm embed``: embeds a run's data, or files."""

from __future__ import annotations

import argparse
from pathlib import Path

from .arguments import Commands, command


def add(commands: Commands) -> None:
    """Adds the command."""
    parser = command(commands, "embed", "embed a run's data, or files, to build an index from", run)
    parser.add_argument("folder", metavar="RUN", type=Path, help="run folder of a contrastive task")
    parser.add_argument(
        "files",
        metavar="FILE",
        type=Path,
        nargs="*",
        help="files, folders, or patterns in quotes such as 'films/**/*.mp4'; by default, the run's data",
    )
    parser.add_argument(
        "--manifest",
        action="append",
        default=[],
        metavar="FILE",
        type=Path,
        help="table (CSV, TSV or JSONL) with one file per row; its other columns are shown in search results",
    )
    parser.add_argument(
        "--root",
        metavar="FOLDER",
        type=Path,
        help="folder that contains the files of tables; paths are relative to it, or absolute (the table's folder)",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the collection; must not exist")
    parser.add_argument(
        "--tower",
        "--part",
        dest="tower",
        action="append",
        help="tower that reads the files; by default, all of the data's",
    )
    parser.add_argument("--split", default="test", help="split of the run's data: train, val or test (test)")
    parser.add_argument(
        "--level", action="append", default=[], help="embed pieces of this level too: clips, sentences, words"
    )
    parser.add_argument(
        "--window",
        type=float,
        metavar="SECONDS",
        help="encode longer videos in windows of this length, in constant memory (8)",
    )
    parser.add_argument("--dim", type=int, help="cut vectors to this width, one of the run's task.matryoshka")
    parser.add_argument("--media", action="store_true", help="save images, sounds and videos to show in search results")


def run(args: argparse.Namespace) -> int:
    """Writes the collection, and prints its size."""
    from ..core.errors import UserError
    from ..retrieval.collecting import WINDOW, embed_files, embed_split
    from ..retrieval.embed import Embedder
    from ..retrieval.listing import listed

    embedder = Embedder.of(args.folder, dim=args.dim)
    if args.files or args.manifest:
        if not args.tower or len(args.tower) != 1:
            raise UserError(f"name the tower that reads the files: --tower {' or --tower '.join(embedder.towers)}")
        if args.root is not None and not args.manifest:
            raise UserError("--root has no effect without --manifest; drop it")
        (tower,) = args.tower
        suffixes, others = embedder.suffixes(tower)
        files = listed(args.files, args.manifest, suffixes, args.root, others)
        options = {"media": args.media, "levels": args.level, "window": WINDOW if args.window is None else args.window}
        counts = {tower: embed_files(embedder, tower, files, args.out, **options)}
    else:
        towers = list(dict.fromkeys(args.tower or embedder.towers))
        counts = embed_split(embedder, args.split, towers, args.out, media=args.media, levels=args.level)
    print(f"{args.out}: {', '.join(f'{count:,} of {tower}' for tower, count in counts.items())}")
    return 0
