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
        parser.add_argument(
            "--kind",
            choices=("flat", "hnsw", "ivf"),
            help="exact search, HNSW graph or inverted lists; by default, chosen by the number of vectors",
        )
    removing = command(actions, "remove", "remove samples with all of their pieces from an index", remove)
    removing.add_argument("index", metavar="INDEX", type=Path, help="folder of the index")
    removing.add_argument("ids", metavar="ID", nargs="+", help="ids of samples")
    removing.add_argument("--tower", "--part", dest="tower", help="tower of the samples; by default, all")
    for name, help, act in (
        ("show", "print the content of an index", show),
        ("verify", "verify the checksums of all files of an index", verify),
    ):
        command(actions, name, help, act).add_argument("index", metavar="INDEX", type=Path, help="folder of the index")


def build(args: argparse.Namespace) -> int:
    """Builds the index."""
    from ..retrieval.collection import Collection
    from ..retrieval.index import Index

    Index.build(args.index, [Collection(folder) for folder in args.collections], args.kind)
    return show(args)


def extend(args: argparse.Namespace) -> int:
    """Adds collections."""
    from ..retrieval.collection import Collection
    from ..retrieval.index import Index

    Index(args.index).extend([Collection(folder) for folder in args.collections], args.kind)
    return show(args)


def remove(args: argparse.Namespace) -> int:
    """Removes the rows."""
    from ..retrieval.index import Index

    count = Index(args.index).remove(args.ids, args.tower)
    print(f"removed {count:,} vectors")
    return show(args)


def show(args: argparse.Namespace) -> int:
    """Prints the content of the index."""
    from ..retrieval.index import Index

    index = Index(args.index)
    towers = ", ".join(f"{count:,} of {tower}" for tower, count in index.towers.items()) or "nothing"
    print(f"{args.index}: {towers}; vectors of {index.model.dim} numbers, of {index.model.run}")
    return 0


def verify(args: argparse.Namespace) -> int:
    """Verifies the index."""
    from ..retrieval.index import Index

    index = Index(args.index)
    index.verify()
    print(f"{args.index}: all {len(index.segments)} segments are whole")
    return 0
