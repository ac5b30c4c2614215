"""``hrt-mm data``: prints the splits of a configuration's data, and packs its files into shards."""

from __future__ import annotations

import csv
import json
import logging
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from unicodedata import category

from ..core.errors import BadSample, ConfigError
from ..data.registry import Command
from .arguments import add_overrides

if TYPE_CHECKING:
    from ..config import RunConfig
    from ..data.splits import Member, Splits

log = logging.getLogger(__name__)


def _arguments(parser: ArgumentParser) -> None:
    text = "a YAML file, a packaged name such as vision/digits, or a run folder"
    parser.add_argument("config", metavar="CONFIG", help=text)
    add_overrides(parser)
    parser.add_argument("--split", help="only one split: train, val or test")
    parser.add_argument("--list", action="store_true", help="list all samples with split, class and group, as TSV")
    parser.add_argument("--json", action="store_true", help="print JSON; with --list, one object per line")


def _run(args: Namespace) -> int:
    """Prints counts, the origin of the splits and warnings; or the samples."""
    from ..data.splits import split_warnings
    from ..train.splits import listed_splits

    config = _config(args)
    splits = listed_splits(config.data)
    if args.split is not None and args.split not in splits.members:
        raise ConfigError(f"--split {args.split}: the data has {', '.join(splits.members)}")
    names = list(splits.members) if args.split is None else [args.split]
    if args.list:
        # Before the warnings, which may have to read files.
        _print_samples(splits, names, as_json=args.json)
        sys.stdout.flush()
    warnings = split_warnings(splits)
    if args.list:
        for warning in warnings:
            log.warning("%s", warning)
    elif args.json:
        print(json.dumps(_plain(config, splits, names, warnings), indent=2))
    else:
        print(_text(config, splits, names, warnings))
    return 0


def _config(args: Namespace) -> RunConfig:
    from ..config import load_config
    from ..inference.trained import read_config

    folder = Path(args.config).expanduser()
    return read_config(folder, args.overrides) if folder.is_dir() else load_config(args.config, args.overrides)


def _rows(splits: Splits, names: Sequence[str]) -> Iterator[tuple[str, Member]]:
    return ((split, member) for split in names for member in splits.members[split])


def _print_samples(splits: Splits, names: Sequence[str], *, as_json: bool) -> None:
    if as_json:
        for split, member in _rows(splits, names):
            row = {"split": split, "label": member.label, "group": member.group, "name": member.name}
            print(json.dumps(row))
        return
    table = csv.writer(sys.stdout, "excel-tab", lineterminator="\n")
    table.writerow(("split", "label", "group", "name"))
    for split, member in _rows(splits, names):
        table.writerow((split, *(_in_cell(text or "") for text in (member.label, member.group, member.name))))


def _printable(text: str) -> str:
    """Escapes the bytes of names that are not valid UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def _in_cell(text: str) -> str:
    """Escapes control characters, which could affect a terminal."""
    return _printable("".join(f"\\x{ord(char):02x}" if category(char) == "Cc" else char for char in text))


def _plain(config: RunConfig, splits: Splits, names: Sequence[str], warnings: Sequence[str]) -> dict[str, object]:
    counts = splits.counts()
    by_split = {}
    for split in names:
        labelled = {label: number for label, number in counts[split].items() if label is not None}
        groups = {member.group for member in splits.members[split]} - {None}
        by_split[split] = {
            "samples": counts[split].total(),
            "classes": dict(sorted(labelled.items())),
            **({"groups": len(groups)} if groups else {}),
        }
    return {"type": config.data.type, "made_by": splits.made_by, "splits": by_split, "warnings": list(warnings)}


def _text(config: RunConfig, splits: Splits, names: Sequence[str], warnings: Sequence[str]) -> str:
    counts = splits.counts()
    rows = [("class", *names)]
    rows += [(label, *(f"{counts[split][label]:,}" for split in names)) for label in splits.classes()]
    if any(counts[split][None] for split in names):
        rows.append(("without a class", *(f"{counts[split][None]:,}" for split in names)))
    totals = ("all", *(f"{counts[split].total():,}" for split in names))
    groups = {split: {member.group for member in splits.members[split]} - {None} for split in names}
    footers = [totals]
    if any(groups.values()):
        footers.append(("groups", *(f"{len(groups[split]):,}" for split in names)))
    lines = [f"data: {config.data.type}", f"splits: {splits.made_by}", ""]
    lines += _aligned(rows, footers)
    return "\n".join([*lines, *([""] if warnings else []), *(f"warning: {_printable(text)}" for text in warnings)])


def _aligned(rows: Sequence[Sequence[str]], footers: Sequence[Sequence[str]]) -> list[str]:
    cells = [[_printable(cell) for cell in row] for row in (*rows, *footers)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = [
        "  ".join(cell.ljust(width) if column == 0 else cell.rjust(width) for column, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(row, widths, strict=True)) for row in cells)
    ]
    rule = "-" * len(lines[0])
    return [lines[0], rule, *lines[1 : len(rows)], rule, *lines[len(rows) :]]


SHOW = Command("data show", "print the splits of the data, their origin, and warnings", _arguments, _run)


def _pack_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG", help="a YAML file, a packaged name, or a run folder")
    add_overrides(parser)
    parser.add_argument("--out", required=True, help="the folder of the shards, which must not exist")
    parser.add_argument("--shard-mb", type=float, default=256.0, help="size of a shard in MB (default 256)")


def _pack(args: Namespace) -> int:
    """Writes the files of each split into shards."""
    from ..data.atomic_files import drafting, explained
    from ..data.shards import ShardWriter

    config, out = _config(args), Path(args.out).expanduser()
    if not args.shard_mb > 0:
        raise ConfigError(f"--shard-mb {args.shard_mb:g} must be more than 0")
    splits = config.data.splits()
    if splits is None:
        raise ConfigError(f"data.type {config.data.type} has no files to pack")
    skipped = 0
    with explained(out), drafting(out) as folder:
        for split in splits.members:
            dataset, writer = config.data.plain(split), ShardWriter(folder, split, int(args.shard_mb * 1e6))
            try:
                for index in range(len(dataset)):
                    try:
                        contents = {
                            extension: content.encode() if isinstance(content, str) else content.read_bytes()
                            for extension, content in dataset.contents(index).items()
                        }
                    except (BadSample, OSError) as error:
                        log.warning("left out: %s", error)
                        skipped += 1
                        continue
                    writer.add(contents)
            finally:
                writer.close()
            print(f"{split}: {writer.samples:,} samples in {writer.shards} shards")
    if skipped:
        print(f"{skipped:,} samples cannot be read and are left out")
    return 0


PACK = Command("data pack", "write the files of a dataset into tar shards", _pack_arguments, _pack)
