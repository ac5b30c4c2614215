"""``hrt-mm index``: builds and modifies search indexes."""

from __future__ import annotations

import argparse
from pathlib import Path

from .arguments import Commands, command


def add(commands: Commands) -> None:
    """Adds the command and its own subcommands."""
    text = "build an index of embedded collections, add to it, or remove from it"
    index_parser = commands.add_parser("index", help=text, description=text)
    actions = index_parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    for name, help, act in (
        ("build", "build an index of collections", build),
        ("add", "add collections to an index", extend),
    ):
        parser = command(actions, name, help, act)
        parser.add_argument("index", metavar="INDEX", type=Path, help="folder of the index")
        parser.add_argument("collections", metavar="COLLECTION", type=Path, nargs="+", help="folders that embed wrote")
        if act is build:
            accuracy = parser.add_mutually_exclusive_group()
            accuracy.add_argument(
                "--recall",
                type=float,
                metavar="SHARE",
                default=0.99,
                help="share of the true 10 nearest neighbours that searches find; measured (0.99)",
            )
            accuracy.add_argument(
                "--exact", dest="recall", action="store_const", const=1.0, help="exact search at any size"
            )
        parser.add_argument(
            "--queries",
            metavar="COLLECTION",
            type=Path,
            help="vectors like those of searches, to measure recall with; by default, samples of other towers, and the "
            "rows themselves",
        )
        parser.add_argument(
            "--skip-duplicates",
            action="store_true",
            help="leave out samples with the same vector or media file as another",
        )
    removing = command(actions, "remove", "remove samples with all of their pieces from an index", remove)
    removing.add_argument("index", metavar="INDEX", type=Path, help="folder of the index")
    removing.add_argument("ids", metavar="ID", nargs="+", help="ids of samples")
    removing.add_argument("--tower", "--part", dest="tower", help="tower of the samples; by default, all")
    for name, help, act in (
        ("show", "print the content of an index, and the recall of searches", show),
        ("compact", "merge the segments of an index, and reclaim the space of removed rows", compact),
        ("verify", "verify the checksums of all files of an index", verify),
    ):
        command(actions, name, help, act).add_argument("index", metavar="INDEX", type=Path, help="folder of the index")


def build(args: argparse.Namespace) -> int:
    """Builds the index."""
    from ..retrieval.collection import Collection
    from ..retrieval.index import Index

    Index.build(
        args.index,
        [Collection(folder) for folder in args.collections],
        args.recall,
        skip_duplicates=args.skip_duplicates,
        queries=Collection(args.queries) if args.queries else None,
    )
    return show(args)


def extend(args: argparse.Namespace) -> int:
    """Adds collections."""
    from ..retrieval.collection import Collection
    from ..retrieval.index import Index

    Index(args.index).extend(
        [Collection(folder) for folder in args.collections],
        skip_duplicates=args.skip_duplicates,
        queries=Collection(args.queries) if args.queries else None,
    )
    return show(args)


def remove(args: argparse.Namespace) -> int:
    """Removes the rows."""
    from ..retrieval.index import Index

    count = Index(args.index).remove(args.ids, args.tower)
    print(f"removed {count:,} vectors")
    return show(args)


def compact(args: argparse.Namespace) -> int:
    """Merges the segments."""
    from ..retrieval.index import Index

    before, after = Index(args.index).compact()
    print(f"{before} segments became {after}")
    return show(args)


def show(args: argparse.Namespace) -> int:
    """Prints the content of the index."""
    from ..retrieval.index import Index

    index = Index(args.index)
    towers = ", ".join(f"{count:,} of {tower}" for tower, count in index.towers.items()) or "nothing"
    print(f"{args.index}: {towers}; vectors of {index.model.dim} numbers, of {index.model.run}")
    for group in index.groups():
        name = f"{group.tower}, {group.level}" if group.level else group.tower
        segments = "1 segment" if group.segments == 1 else f"{group.segments} segments"
        removed = f", {group.removed:,} removed" if group.removed else ""
        print(f"  {name}: {group.rows:,} rows in {segments}{removed}; {group.search}")
    return 0


def verify(args: argparse.Namespace) -> int:
    """Verifies the index."""
    from ..retrieval.index import Index

    index = Index(args.index)
    index.verify()
    print(f"{args.index}: all {len(index.segments)} segments are whole")
    return 0
