"""``hrt-mm embed``: embeds a run's data, files, or texts in tables, by a run or a pretrained model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import Commands, command

if TYPE_CHECKING:
    from ..retrieval.collecting import Outcome
    from ..retrieval.embed import Embedding


def add(commands: Commands) -> None:
    """Adds the command."""
    parser = command(commands, "embed", "embed a run's data, files or texts, to build an index from", run)
    parser.add_argument(
        "folder",
        metavar="RUN",
        type=Path,
        nargs="?",
        help="run folder (of tasks other than contrastive, vectors are means of tokens), or hub:owner/name, a "
        "repository of the Hugging Face Hub; not with --model",
    )
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
        help="table (CSV, TSV or JSONL, also compressed; Parquet) with a file or text per row; other columns are kept",
    )
    parser.add_argument(
        "--column",
        metavar="NAME",
        help="column of the tables with texts, with the bytes of files, or with paths (path)",
    )
    parser.add_argument("--id-column", metavar="NAME", help="column of the tables with unique ids (id)")
    parser.add_argument(
        "--root",
        metavar="FOLDER",
        type=Path,
        help="folder that contains the files of tables; paths are relative to it, or absolute (the table's folder)",
    )
    parser.add_argument(
        "--model",
        metavar="LIBRARY:NAME",
        help="pretrained model in place of a run: open_clip:MODEL/TAG, transformers:owner/name, or a folder as NAME",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the collection; must not exist")
    parser.add_argument(
        "--tower",
        "--part",
        dest="tower",
        action="append",
        help="tower that reads the files; by default, all of the data's",
    )
    parser.add_argument("--split", help="split of the run's data: train, val or test (test)")
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
    parser.add_argument(
        "--skip-known",
        action="append",
        default=[],
        metavar="INDEX",
        help="index, also in Qdrant, or collection; samples in it that have not changed are not embedded again",
    )
    parser.add_argument(
        "--restart", action="store_true", help="discard what an interrupted run wrote, instead of continuing it"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (auto)")
    parser.add_argument(
        "--precision", choices=("fp32", "bf16", "auto"), default="fp32", help="of the model's computations (fp32)"
    )
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes that read and decode files (0)")


def run(args: argparse.Namespace) -> int:
    """Writes the collection, and prints its size."""
    from ..core.errors import UserError
    from ..retrieval.collecting import WINDOW, embed_split
    from ..retrieval.embed import Embedder, PretrainedEmbedder
    from ..retrieval.known import KnownRows

    if args.model is not None:
        # The first of the files was taken for the run.
        args.files = [path for path in (args.folder, *args.files) if path is not None]
    elif args.folder is None:
        raise UserError("give a run folder, or a pretrained model by --model")
    for option in ("column", "id_column", "root"):
        if getattr(args, option) is not None and not args.manifest:
            raise UserError(f"--{option.replace('_', '-')} has no effect without --manifest; drop it")
    if args.split is not None and (args.files or args.manifest):
        raise UserError("--split is of the run's data, and files are given; drop one of them")
    with KnownRows.opened(args.skip_known) as known:
        load = Embedder.of if args.model is None else PretrainedEmbedder.of
        model = str(args.folder) if args.model is None else args.model
        embedder = load(model, dim=args.dim, device=args.device, precision=args.precision)
        options = {
            "known": known,
            "media": args.media,
            "levels": args.level,
            "window": WINDOW if args.window is None else args.window,
            "workers": args.workers,
            "restart": args.restart,
        }
        if args.files or args.manifest:
            outcome = _embed_files(args, embedder, options)
        else:
            towers = list(dict.fromkeys(args.tower or embedder.towers))
            outcome = embed_split(embedder, args.split or "test", towers, args.out, **options)
    counts = ", ".join(f"{count:,} of {tower}" for tower, count in outcome.counts.items()) or "nothing new"
    resumed = f"; {outcome.resumed:,} were embedded before it was interrupted" if outcome.resumed else ""
    skipped = f"; {outcome.known:,} known and unchanged" if args.skip_known else ""
    print(f"{args.out}: {counts}{resumed}{skipped}")
    if outcome.changed:
        print(f"{len(outcome.changed):,} changed and were embedded again; add them with `hrt-mm index add --replace`:")
        print("\n".join(f"  {name}" for name in outcome.changed))
    return 0


def _embed_files(args: argparse.Namespace, embedder: Embedding, options: dict[str, Any]) -> Outcome:
    from ..core.errors import UserError
    from ..data.capabilities import Textual
    from ..data.listing import listed
    from ..retrieval.collecting import embed_files

    towers = args.tower or embedder.towers
    if args.model is not None and args.tower is None and not args.manifest:
        towers = [name for name in towers if embedder.modality(name).suffixes is not None]
    if len(towers) != 1:
        raise UserError(f"name the tower that reads the files: --tower {' or --tower '.join(embedder.towers)}")
    (tower,) = towers
    suffixes, others = embedder.suffixes(tower)
    files = listed(
        args.files,
        args.manifest,
        suffixes,
        args.root,
        others,
        texts=issubclass(embedder.modality(tower), Textual),
        column=args.column,
        id_column=args.id_column,
    )
    return embed_files(embedder, tower, files, args.out, **options)
