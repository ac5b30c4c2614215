"""``hrt-mm index``: builds an index, adds to it, and removes from it."""

from __future__ import annotations

import argparse
from pathlib import Path

from .arguments import Commands, command


def add(commands: Commands) -> None:
    """Adds the command and its own subcommands."""
    text = "build an index from what embed wrote, add to it, remove from it"
    parser = commands.add_parser("index", help=text, description=text)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    for name, help, act in (
        ("build", "make an index of collections", build),
        ("add", "add collections to an index; what is there is not built anew", extend),
    ):
        own = command(actions, name, help, act)
        own.add_argument("index", metavar="INDEX", type=Path, help="folder of the index")
        own.add_argument("collections", metavar="COLLECTION", type=Path, nargs="+", help="folders that embed wrote")
        own.add_argument(
            "--kind",
            choices=("flat", "hnsw", "ivf"),
            help="exact, a graph, or lists; what suits the number of vectors when absent",
        )
    removing = command(actions, "remove", "remove rows from an index, with all that lies within them", remove)
    removing.add_argument("index", metavar="INDEX", type=Path, help="folder of the index")
    removing.add_argument("ids", metavar="ID", nargs="+", help="ids of rows")
    removing.add_argument("--part", help="of the rows; every part when absent")
    for name, help, act in (
        ("show", "say what is in an index", show),
        ("verify", "compare every file of an index with its checksum", verify),
    ):
        command(actions, name, help, act).add_argument("index", metavar="INDEX", type=Path, help="folder of the index")


def build(args: argparse.Namespace) -> int:
    """Makes the index, of the first collection's model."""
    from ..retrieval.collection import Collection
    from ..retrieval.index import Index

    Index.build(args.index, [Collection(folder) for folder in args.collections], args.kind)
    return show(args)


def extend(args: argparse.Namespace) -> int:
    """Adds the collections, all or none."""
    from ..retrieval.collection import Collection
    from ..retrieval.index import Index

    Index(args.index).extend([Collection(folder) for folder in args.collections], args.kind)
    return show(args)


def remove(args: argparse.Namespace) -> int:
    """Removes the rows."""
    from ..retrieval.index import Index

    count = Index(args.index).remove(args.ids, args.part)
    print(f"removed {count:,} vectors")
    return show(args)


def show(args: argparse.Namespace) -> int:
    """Prints what is in the index."""
    from ..retrieval.index import Index

    index = Index(args.index)
    parts = ", ".join(f"{count:,} of {part}" for part, count in index.parts.items()) or "nothing"
    print(f"{args.index}: {parts}; vectors of {index.model.dim} numbers, of {index.model.run}")
    return 0


def verify(args: argparse.Namespace) -> int:
    """Says that an index is whole, or which file is damaged."""
    from ..retrieval.index import Index

    index = Index(args.index)
    index.verify()
    print(f"{args.index}: all {len(index.segments)} segments are whole")
    return 0
