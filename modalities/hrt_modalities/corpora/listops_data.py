"""ListOps as a dataset, and ``hrt-mm data listops``, which writes its tables as the original has them."""

from __future__ import annotations

import os
import shutil
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import NonNegativeInt, PositiveInt, model_validator

from hrt_mm.core.errors import ConfigError
from hrt_mm.data.dataset import Dataset, DatasetConfig
from hrt_mm.data.progress import tracked
from hrt_mm.data.registry import Command
from hrt_mm.data.sample import Sample

from ..common.generated import cache_home
from ..common.splits import SPLITS, check_split
from ..text.text import Text
from .listops import CLASSES, FULL, SHORT, Rules, expressions, read, starts, written

TRAIN, HELD_OUT, SHORT_TRAIN = 96_000, 2_000, 20_000
_VERSION = 1
"""Must be raised when the same seed gives other expressions, so that no stale cache is read."""


class ListOps(Dataset):
    """Expressions with their values as classes. Texts have the boundary ``operators``.

    Args:
        rows: expressions and values.
        split: its name, for messages.
    """

    classes = CLASSES

    def __init__(self, rows: Iterator[tuple[str, int]], split: str) -> None:
        content, ends, values = bytearray(), [0], bytearray()
        for expression, value in rows:
            content += expression.encode()
            ends.append(len(content))
            values.append(value)
        self.content, self.values, self.split = bytes(content), bytes(values), split
        self.ends = np.array(ends)

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> Sample:
        expression = self.content[self.ends[index] : self.ends[index + 1]].decode()
        text = Text(expression, boundaries={"operators": starts(expression)})
        return Sample(text, CLASSES[self.values[index]], f"{self.split} {index}")

    def name(self, index: int) -> str:
        """The split and the number."""
        return f"{self.split} {index}"

    def class_of(self, index: int) -> str:
        """The value."""
        return CLASSES[self.values[index]]

    def shape(self, index: int) -> Sequence[int]:
        """(symbols, 0)."""
        return int(self.ends[index + 1] - self.ends[index]), 0


class ListOpsConfig(DatasetConfig):
    """ListOps of Long Range Arena: the value of nested operations on digits. Generated, and reproducible by seed.

    A symbol is one byte. Groups by ``operators`` need ``modality.carried: [operators]``.
    """

    type: Literal["listops"]
    root: Path | None = None
    """Folder with ``basic_train.tsv``, ``basic_val.tsv`` and ``basic_test.tsv``; generated in ``cache`` when absent."""
    short: bool = False
    """The short variant: 31 to 149 symbols and 5 levels instead of 501 to 1999 symbols and 10 levels."""
    seed: NonNegativeInt = 0
    """Seed of the expressions."""
    train: PositiveInt | None = None
    """Training expressions; 96,000, of the short variant 20,000, when absent."""
    val: PositiveInt = HELD_OUT
    """Expressions for validation."""
    test: PositiveInt = HELD_OUT
    """Expressions for testing."""
    cache: Path | None = None
    """Cache folder; ``$XDG_CACHE_HOME/hrt_mm`` or ``~/.cache/hrt_mm`` when absent."""

    @model_validator(mode="after")
    def _one_source(self) -> ListOpsConfig:
        default = ListOpsConfig.model_fields
        for key in ("short", "seed", "train", "val", "test", "cache"):
            if self.root is not None and getattr(self, key) != default[key].default:
                raise ValueError(f"{key} has no effect beside root, whose tables are read as they are; drop one")
        return self

    def build(self, split: str) -> ListOps:
        """The expressions of a split. The first call generates all splits.

        Raises:
            ConfigError: a table is missing or broken, or the cache cannot be written.
        """
        check_split(split)
        return ListOps(read((self.root or self._made()) / f"basic_{split}.tsv"), split)

    def _made(self) -> Path:
        counts = (self.train or (SHORT_TRAIN if self.short else TRAIN), self.val, self.test)
        home = self.cache or cache_home()
        kind = "short" if self.short else "full"
        folder = home / "-".join(["listops", f"v{_VERSION}", kind, f"seed{self.seed}", *map(str, counts)])
        if not folder.is_dir():
            try:
                write(folder, SHORT if self.short else FULL, self.seed, counts, compact=True)
            except OSError as error:
                raise ConfigError(
                    f"{folder} cannot be written: {error.strerror}; set data.cache or data.root"
                ) from error
        return folder


def write(folder: Path, rules: Rules, seed: int, counts: Sequence[int], *, compact: bool = False) -> None:
    """Writes the tables of all splits atomically.

    Args:
        folder: is new or empty.
        rules: the distribution of expressions.
        seed: of the expressions.
        counts: of train, val and test.
        compact: write one character per symbol instead of the original format.

    Raises:
        OSError: it cannot be written.
    """
    rows = tracked(expressions(sum(counts), seed, rules), sum(counts), "making expressions")
    with _replacing(folder) as aside:
        for split, count in zip(SPLITS, counts, strict=True):
            with (aside / f"basic_{split}.tsv").open("w", newline="") as file:
                file.write("Source\tTarget\r\n")
                for expression, value in islice(rows, count):
                    file.write(f"{expression if compact else written(expression)}\t{value}\r\n")


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """A temporary folder that replaces ``folder`` at the end, unless another process did so first."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    with ExitStack() as after:
        after.callback(shutil.rmtree, aside, ignore_errors=True)
        aside.mkdir()
        yield aside
        try:
            aside.rename(folder)
        except OSError:
            if not all((folder / file.name).is_file() for file in aside.iterdir()):
                raise


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the tables; new or empty")
    parser.add_argument("--short", action="store_true", help="31 to 149 symbols instead of 501 to 1999")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the expressions (0)")
    text = f"training expressions ({TRAIN}, short {SHORT_TRAIN})"
    parser.add_argument("--train", type=int, metavar="N", help=text)
    parser.add_argument("--val", type=int, default=HELD_OUT, metavar="N", help=f"for validation ({HELD_OUT})")
    parser.add_argument("--test", type=int, default=HELD_OUT, metavar="N", help=f"for testing ({HELD_OUT})")


def _run(args: Namespace) -> int:
    """Writes the tables, and prints their folder."""
    train = args.train if args.train is not None else SHORT_TRAIN if args.short else TRAIN
    counts = (train, args.val, args.test)
    if min(*counts, args.seed + 1) < 1:
        raise ConfigError("--train, --val and --test must be 1 or more, and --seed 0 or more")
    if args.out.exists() and not (args.out.is_dir() and not any(args.out.iterdir())):
        raise ConfigError(f"{args.out} is there already and not an empty folder; choose another --out")
    write(args.out, SHORT if args.short else FULL, args.seed, counts)
    print(f"{args.out}: " + ", ".join(f"{count} {split}" for split, count in zip(SPLITS, counts, strict=True)))
    return 0


LISTOPS = Command("data listops", "write generated tables of ListOps", _arguments, _run)
