"""``hrt-mm embed``: vectors of a run's data, or of files."""

from __future__ import annotations

import argparse
from pathlib import Path

from .arguments import Commands, command


def add(commands: Commands) -> None:
    """Adds the command."""
    parser = command(commands, "embed", "make vectors of a run's data, or of files, to build an index from", run)
    parser.add_argument("folder", metavar="RUN", type=Path, help="a run folder, of task contrastive")
    parser.add_argument(
        "files",
        metavar="FILE",
        type=Path,
        nargs="*",
        help="files, folders, or patterns in quotes such as 'films/**/*.mp4'; the run's data when absent",
    )
    parser.add_argument(
        "--manifest",
        action="append",
        default=[],
        metavar="FILE",
        type=Path,
        help="a table (CSV, TSV or JSONL) with the path of a file a row; its other columns are kept and shown",
    )
    parser.add_argument(
        "--root",
        metavar="FOLDER",
        type=Path,
        help="where the paths of tables start and must lie inside (the table's folder); they may be absolute then",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the collection, which must not be there")
    parser.add_argument("--part", action="append", help="which modality, by its tower; all of the data when absent")
    parser.add_argument("--split", default="test", help="of the run's data: train, val or test (test)")
    parser.add_argument(
        "--level", action="append", default=[], help="pieces of this level get vectors too: clips, sentences, words"
    )
    parser.add_argument(
        "--window",
        type=float,
        metavar="SECONDS",
        help="of a file of video that is longer, how much is encoded at once (8); what memory it takes does not grow",
    )
    parser.add_argument("--media", action="store_true", help="keep pictures, sounds and videos to be shown")


def run(args: argparse.Namespace) -> int:
    """Writes the collection, and says what is in it."""
    from ..core.errors import UserError
    from ..retrieval.collecting import WINDOW, embed_files, embed_split
    from ..retrieval.embed import Embedder
    from ..retrieval.listing import listed

    embedder = Embedder.of(args.folder)
    if args.files or args.manifest:
        if not args.part or len(args.part) != 1:
            raise UserError(f"say which part the files are of: --part {' or --part '.join(embedder.towers)}")
        if args.root is not None and not args.manifest:
            raise UserError("--root has no effect without --manifest; drop it")
        (part,) = args.part
        suffixes, others = embedder.suffixes(part)
        files = listed(args.files, args.manifest, suffixes, args.root, others)
        options = {"media": args.media, "levels": args.level, "window": WINDOW if args.window is None else args.window}
        counts = {part: embed_files(embedder, part, files, args.out, **options)}
    else:
        parts = list(dict.fromkeys(args.part or embedder.towers))
        counts = embed_split(embedder, args.split, parts, args.out, media=args.media, levels=args.level)
    print(f"{args.out}: {', '.join(f'{count:,} of {part}' for part, count in counts.items())}")
    return 0
