"""``hrt-mm index``: builds and modifies search indexes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import Commands, command

if TYPE_CHECKING:
    from ..retrieval.index import Index
    from ..retrieval.qdrant import QdrantIndex

STORE = "folder of the index; or http://HOST:PORT/NAME, an index on a Qdrant server; or qdrant:FOLDER/NAME"


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
        _add_store(parser)
        parser.add_argument("collections", metavar="COLLECTION", nargs="*", help="folders that embed wrote")
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
        else:
            parser.add_argument(
                "--replace",
                action="store_true",
                help="replace samples of the same tower and id that have changed, and leave the others as they are",
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
    _add_store(removing)
    removing.add_argument("ids", metavar="ID", nargs="*", help="ids of samples")
    removing.add_argument("--tower", "--part", dest="tower", help="tower of the samples; by default, all")
    for name, help, act in (
        ("show", "print the content of an index, and the recall of searches", show),
        ("compact", "merge the segments of an index, and reclaim the space of removed rows", compact),
        ("verify", "verify the checksums of all files of an index", verify),
    ):
        _add_store(command(actions, name, help, act))


def _add_store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("index", metavar="INDEX", nargs="?", help=STORE)
    parser.add_argument("--store", metavar="INDEX", help="the index, in place of the first argument")


def target(args: argparse.Namespace, others: Sequence[str] = (), what: str = "") -> tuple[str | Path, list[str]]:
    """The index that a command is for, and the arguments after it.

    Args:
        args: with ``index`` and ``store``.
        others: the arguments after the first one.
        what: they are, if at least one is required.

    Raises:
        UserError: there is no index, or nothing after it.
    """
    from ..core.errors import UserError
    from ..retrieval.stores import store

    given = [*([] if args.index is None else [args.index]), *others]
    if args.store is None and not given:
        raise UserError("name the index: its folder, or an address")
    where = store(given.pop(0) if args.store is None else args.store)
    if what and not given:
        raise UserError(f"name at least one {what} after the index {where}")
    if given and not what:
        raise UserError(f"the index is given twice: {given[0]} and --store {args.store}; drop one")
    return where.expanduser() if isinstance(where, Path) else where, given


def build(args: argparse.Namespace) -> int:
    """Builds the index."""
    from ..retrieval.collection import Collection
    from ..retrieval.stores import built_index

    where, folders = target(args, args.collections, "collection")
    collections = [Collection(Path(folder).expanduser()) for folder in folders]
    queries = Collection(args.queries) if args.queries else None
    with built_index(where, collections, args.recall, skip_duplicates=args.skip_duplicates, queries=queries) as index:
        _print(where, index)
    return 0


def extend(args: argparse.Namespace) -> int:
    """Adds collections, either all or none."""
    from ..retrieval.collection import Collection
    from ..retrieval.index import Index
    from ..retrieval.stores import check_options, open_index

    where, folders = target(args, args.collections, "collection")
    with open_index(where) as index:
        # All are opened before anything is added.
        collections = [Collection(Path(folder).expanduser()) for folder in folders]
        queries = Collection(args.queries) if args.queries else None
        options: dict[str, Any] = {"skip_duplicates": args.skip_duplicates, "queries": queries}
        if not isinstance(index, Index):
            check_options(**options)
            options = {}
        if args.replace:
            outcome = index.replace(collections, **options)
            print(f"{outcome.added:,} added, {outcome.replaced:,} replaced, {outcome.unchanged:,} unchanged")
        else:
            index.extend(collections, **options)
        _print(where, index)
    return 0


def remove(args: argparse.Namespace) -> int:
    """Removes the rows."""
    from ..retrieval.stores import open_index

    where, ids = target(args, args.ids, "id")
    with open_index(where) as index:
        print(f"removed {index.remove(ids, args.tower):,} vectors")
        _print(where, index)
    return 0


def compact(args: argparse.Namespace) -> int:
    """Merges the segments."""
    from ..core.errors import UserError
    from ..retrieval.index import Index
    from ..retrieval.stores import open_index

    where, _ = target(args)
    with open_index(where) as index:
        if not isinstance(index, Index):
            raise UserError(f"{where} is in a database, which merges its segments itself")
        before, after = index.compact()
        print(f"{before} segments became {after}")
        _print(where, index)
    return 0


def show(args: argparse.Namespace) -> int:
    """Prints the content of the index."""
    from ..retrieval.stores import open_index

    where, _ = target(args)
    with open_index(where) as index:
        _print(where, index)
    return 0


def _print(where: str | Path, index: Index | QdrantIndex) -> None:
    from ..retrieval.index import Index

    towers = ", ".join(f"{count:,} of {tower}" for tower, count in index.towers.items()) or "nothing"
    print(f"{where}: {towers}; vectors of {index.model.dim} numbers, of {index.model.run}")
    for group in index.groups() if isinstance(index, Index) else ():
        name = f"{group.tower}, {group.level}" if group.level else group.tower
        segments = "1 segment" if group.segments == 1 else f"{group.segments} segments"
        removed = f", {group.removed:,} removed" if group.removed else ""
        print(f"  {name}: {group.rows:,} rows in {segments}{removed}; {group.search}")


def verify(args: argparse.Namespace) -> int:
    """Verifies the index."""
    from ..core.errors import UserError
    from ..retrieval.index import Index
    from ..retrieval.stores import open_index

    where, _ = target(args)
    with open_index(where) as index:
        if not isinstance(index, Index):
            raise UserError(f"{where} is in a database, which checks its own files")
        index.verify()
        print(f"{where}: all {len(index.segments)} segments are whole")
    return 0
