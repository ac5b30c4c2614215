"""Splits of data that has none: the settings that datasets share, and the splits that follow from them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from hrt_mm.core.component import Component
from hrt_mm.core.errors import ConfigError
from hrt_mm.data.dataset import DatasetConfig

from .division import Division, Item, Traits, group_by_side, trainable, units_of, without
from .splits import SPLITS, Part, hash_split
from .stratification import assign_folds, assign_splits
from .tables import Paths, Row, SplitColumn, label_of, read_rows


class Folds(Component):
    """Cross-validation: one fold is ``test``, and the others are trained on."""

    of: Annotated[int, Field(ge=2)] | None = None
    """How many folds to make, stratified by class and with groups kept whole."""
    column: str | None = None
    """Column of a table with the fold of each row, instead of ``of``."""
    pattern: str | None = None
    """For files in folders, a regular expression whose only group is the fold in the path, instead of ``of``:
    ``/fold(\\d+)/``."""
    use: Annotated[int, Field(ge=0)] | str = 0
    """The fold that is ``test``: from 0 to ``of`` - 1, or as the column or path has it."""

    @model_validator(mode="after")
    def _one_way(self) -> Folds:
        if sum(value is not None for value in (self.of, self.column, self.pattern)) != 1:
            raise ValueError("give one of of, column and pattern: how many folds to make, or where they stand")
        if self.of is not None and (not isinstance(self.use, int) or self.use >= self.of):
            raise ValueError(f"use {self.use}: the folds of {self.of} are 0 to {self.of - 1}")
        if self.pattern is not None:
            compiled(self.pattern)
        return self


class ValSplitConfig(DatasetConfig):
    """Datasets whose ``val`` is split off ``train`` where the data has none."""

    before: ClassVar[Mapping[str, Any]] = {"split_by": "hash"}
    what: ClassVar[str] = "files"
    """The kind of items, for messages."""

    val: Part = 0.1
    """Share of the training samples that becomes ``val`` where the data has none."""
    split_by: Literal["stratified", "hash"] = "stratified"
    """How splits are made where the data has none. ``stratified``: the shares hold in each class. ``hash``: each sample
    goes by a hash of its name alone, whatever other samples there are, so that classes may be missing from a split."""
    split_seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Chooses which samples go into which split, where splits are made."""

    def with_val(self, division: Division[Item]) -> Division[Item]:
        """The division, with ``val`` split off ``train`` if there is none."""
        if division.splits.get("val") or not division.splits.get("train"):
            return division
        parts = self._assigned(division.splits["train"], division.traits, self.val, 0.0)
        how = self._described(division.splits["train"], division.traits, f"{self.val:.0%} val")
        made_by = f"{division.made_by}; val is split off train: {how}"
        splits = {"train": parts["train"], "val": parts["val"]}
        return replace(division, splits={**splits, **without(division.splits, splits)}, made_by=made_by)

    def _assigned(
        self, items: Sequence[Item], traits: Callable[[Item], Traits], val: float, test: float
    ) -> dict[str, list[Item]]:
        traits_of_items = [traits(item) for item in items]
        units = units_of(traits_of_items)
        if self.split_by == "hash":
            grouped = getattr(self, "group", None) is not None
            keys = (
                units
                if grouped
                else [
                    item_traits.file if item_traits.key is None else item_traits.key for item_traits in traits_of_items
                ]
            )
            sides = [hash_split(key, val, test, self.split_seed) for key in keys]
        else:
            sides = assign_splits(
                units, [item_traits.label for item_traits in traits_of_items], val, test, self.split_seed
            )
        return group_by_side(items, sides, [split for split in SPLITS if test or split != "test"])

    def _described(self, items: Sequence[Item], traits: Callable[[Item], Traits], shares: str) -> str:
        classes = any(traits(item).label is not None for item in items)
        how = "stratified by class" if classes else "drawn without classes"
        how = "by a hash of the names" if self.split_by == "hash" else how
        return f"{how}, data.split_seed {self.split_seed}, {shares}"

    def needless(self, key: str, reason: str) -> None:
        """Rejects a key without effect. Its default passes, because resolved configurations contain it.

        Raises:
            ConfigError: it has another value.
        """
        if getattr(self, key) != type(self).model_fields[key].default:
            raise ConfigError(f"data.{key} has no effect: {reason}; drop it")


class SplitConfig(ValSplitConfig):
    """Datasets whose data may have no splits at all."""

    test: Part = 0.1
    """Share of the samples that becomes ``test`` where the data has no splits at all."""
    group: str | None = None
    """What keeps related samples in one split: of a table a column, such as that of the speaker; of files in folders a
    regular expression with one group that is searched for in the path from ``root``: ``/(\\w+)_\\d+\\.wav$``."""
    folds: Folds | None = None
    """Cross-validation in place of ``test``: ``{of: 5, use: 0}`` makes five folds, of which the first is ``test``;
    ``{column: fold, use: 0}`` reads them from a table. ``val`` is a share of the other folds."""

    @model_validator(mode="after")
    def _splits_are_possible(self) -> SplitConfig:
        if self.folds is None and self.val + self.test >= 1:
            raise ValueError(f"val {self.val:g} and test {self.test:g} leave nothing to train on")
        if self.folds is not None:
            self._check_folds(self.folds)
        if self.group is not None:
            if not self.group:
                raise ValueError("group is empty; give a column or a pattern, or null")
            if not self.of_table():
                compiled(self.group)
        return self

    def _check_folds(self, folds: Folds) -> None:
        if self.of_table() and folds.pattern is not None:
            raise ValueError("folds.pattern is for files in folders; of a table give folds.column, or folds.of")
        if not self.of_table() and folds.column is not None:
            raise ValueError("folds.column is for tables; of files in folders give folds.pattern, or folds.of")
        if self.test != SplitConfig.model_fields["test"].default:
            raise ValueError(f"test {self.test:g} has no effect with folds, of which one is the test; drop it")
        if self.split_by == "hash" and folds.of is not None:
            raise ValueError("folds.of makes folds that are stratified; drop split_by: hash")
        if self.of_table() and getattr(self, "split_column", None) is not None:
            raise ValueError(
                f"split_column {self.split_column} has no effect with folds, which make the splits; "  # type: ignore[attr-defined]
                "set it to null"
            )

    def of_table(self) -> bool:
        """Whether samples are rows of a table, and not files in folders."""
        return getattr(self, "file", None) is not None

    def label_columns(self) -> tuple[str, ...]:
        """Columns of a table that have labels."""
        return ()

    def split_columns(self) -> list[str]:
        """Columns of a table that the splits need, in addition to the one of splits."""
        fold = self.folds.column if self.folds is not None else None
        return [column for column in (self.group, fold) if column is not None]

    def side_of(self, row: Row, location: str, sides: SplitColumn) -> str:
        """The fold of a row if a column has folds, else its split; ``train`` without either.

        Raises:
            ConfigError: there is no such split, or the fold is no name.
        """
        fold = self.folds.column if self.folds is not None else None
        return sides.of(row, location) if fold is None else str(label_of(row, fold, location))

    def items_of_rows(
        self,
        file: Path,
        root: Path | None,
        columns: Sequence[str],
        keys: Sequence[str],
        item: Callable[[Row, str, Paths], Item],
    ) -> dict[str, list[Item]]:
        """The items of a table's rows by split.

        Args:
            file: the table.
            root: the folder that its paths start at; the folder of the table when ``None``.
            columns: what each row must have a value in, beside the columns of groups and folds.
            keys: the settings that name columns, for messages.
            item: makes an item of a row, of the table with the line for messages, and of the paths that may be named.

        Raises:
            ConfigError: the table is missing or broken, or a value is missing or is not what it should be.
        """
        split_column = getattr(self, "split_column", None)
        items: dict[str, list[Item]] = {}
        paths, sides = Paths(file, root), SplitColumn(split_column, str(file))
        named = ", ".join(f"data.{key}" for key in (*keys, "group", "folds"))
        rows = read_rows(
            file,
            [*columns, *self.split_columns()],
            named,
            split_column=split_column,
            label_columns=self.label_columns(),
        )
        for number, row in rows:
            location = f"{file}:{number}"
            made = item(row, location, paths)
            items.setdefault(self.side_of(row, location, sides), []).append(made)
        return items

    def by_column(self) -> str | None:
        """How the splits of a table are made, if it has a column of them."""
        column = getattr(self, "split_column", None)
        return None if column is None else f"by the column {column!r} of {getattr(self, 'file', None)}"

    def group_of(self, row: Row, location: str) -> str | None:
        """The group of a row.

        Raises:
            ConfigError: its value is missing, or is no name.
        """
        return label_of(row, self.group, location)

    def divide(
        self,
        items_by_split: Mapping[str, Sequence[Item]],
        traits: Callable[[Item], Traits],
        *,
        made_by: str | None,
        where: str,
    ) -> Division[Item]:
        """The splits of items.

        Args:
            items_by_split: the items by the splits of the data, or all as ``train``; by fold if a column has folds.
            traits: of an item.
            made_by: how the splits of the data are made, for reports; ``None`` if it has none.
            where: the data, for messages.

        Raises:
            ConfigError: a setting has no effect, or cannot be met.
        """
        items = [item for split_items in items_by_split.values() for item in split_items]
        traits, warnings = self._grouped(items, traits, where)
        # Traits are needed many times. Ids are unique, because the items stay alive.
        traits_by_id = {id(item): traits(item) for item in items}
        traits = lambda item: traits_by_id[id(item)]  # noqa: E731
        if made_by is not None:
            self.needless("test", f"{where} has its own splits")
            self.needless("folds", f"{where} has its own splits")
            if items_by_split.get("val"):
                self.needless("val", f"{where} has its own val")
                self.needless("split_seed", f"{where} has its own splits")
            splits = {name: list(split_items) for name, split_items in items_by_split.items()}
            given = Division(splits, where, made_by, traits, warnings=warnings)
            return self.with_val(given)
        if self.folds is not None and self.group is None and (of := self.folds.of) and 0 < len(items) < of:
            raise ConfigError(f"data.folds.of {of}: {where} has {len(items)} {self.what}; make fewer folds")
        if self.group is not None:
            needed = self.folds.of if self.folds is not None and self.folds.of else 2
            groups = len(set(units_of([traits(item) for item in items])))
            if groups < needed:
                raise ConfigError(
                    f"data.group '{self.group}' makes {groups} group{'s' if groups != 1 else ''} of {where}, and "
                    f"{needed} are needed; choose a finer one"
                )
        if self.folds is not None:
            return self._by_fold(items_by_split, traits, self.folds, where, warnings)
        splits = self._assigned(items, traits, self.val, self.test)
        shares = {"train": 1 - self.val - self.test, "val": self.val, "test": self.test}
        listed = ", ".join(f"{share:.0%} {split}" for split, share in shares.items())
        return Division(
            splits, where, self._described(items, traits, listed) + self._by_group(), traits, shares, warnings
        )

    def _grouped(
        self, items: Sequence[Item], traits: Callable[[Item], Traits], where: str
    ) -> tuple[Callable[[Item], Traits], tuple[str, ...]]:
        """Traits with the groups that the pattern finds in paths."""
        if self.group is None or self.of_table():
            return traits, ()
        pattern = compiled(self.group)
        names = [traits(item).file for item in items]
        unmatched = [name for name in names if _first_group(pattern, name) is None]
        if names and len(unmatched) == len(names):
            raise ConfigError(f"data.group '{self.group}' matches no path of {where}, such as {unmatched[0]!r}")
        warnings: tuple[str, ...] = ()
        if unmatched:
            count = f"{len(unmatched)} of {len(names)} paths"
            warnings = (
                f"data.group '{self.group}' does not match {count}, such as {unmatched[0]!r}; each is on its own",
            )

        def grouped(item: Item) -> Traits:
            item_traits = traits(item)
            return replace(item_traits, group=_first_group(pattern, item_traits.file))

        return grouped, warnings

    def _by_fold(
        self,
        items_by_split: Mapping[str, Sequence[Item]],
        traits: Callable[[Item], Traits],
        folds: Folds,
        where: str,
        warnings: tuple[str, ...],
    ) -> Division[Item]:
        items = [item for split_items in items_by_split.values() for item in split_items]
        all_traits = [traits(item) for item in items]
        shares: dict[str, float] = {}
        if folds.of is not None:
            units = units_of(all_traits)
            numbers = assign_folds(units, [item_traits.label for item_traits in all_traits], folds.of, self.split_seed)
            tested = trainable(
                [number == folds.use for number in numbers], units, [item_traits.label for item_traits in all_traits]
            )
            made_by = (
                f"test is fold {folds.use} of {folds.of}, stratified by class, data.split_seed {self.split_seed}"
                f"{self._by_group()}"
            )
            shares["test"] = 1 / folds.of
        else:
            names = list(self._read_folds(items_by_split, all_traits, folds))
            if str(folds.use) not in names or len(set(names)) < 2:
                kind = f"the column {folds.column!r}" if folds.column is not None else "data.folds.pattern"
                there = ", ".join(sorted(set(names)))
                raise ConfigError(
                    f"data.folds.use {folds.use}: {kind} of {where} gives the folds {there}; use one of two or more"
                )
            tested = [name == str(folds.use) for name in names]
            made_by = f"test is fold {folds.use} of " + (
                f"the column {folds.column!r}" if folds.column is not None else f"the pattern '{folds.pattern}'"
            )
        splits = group_by_side(items, ["test" if is_test else "train" for is_test in tested], ["train", "test"])
        return self.with_val(Division(splits, where, made_by, traits, shares, warnings))

    def _read_folds(
        self, items_by_split: Mapping[str, Sequence[Item]], all_traits: Sequence[Traits], folds: Folds
    ) -> Iterable[str]:
        """The fold of each item: the column's, or the one that the pattern finds in its path."""
        if folds.pattern is None:
            return [name for name, items in items_by_split.items() for _ in items]
        pattern = compiled(folds.pattern)
        names = []
        for item_traits in all_traits:
            name = _first_group(pattern, item_traits.file)
            if name is None:
                raise ConfigError(f"data.folds.pattern '{folds.pattern}' does not match the path {item_traits.file!r}")
            names.append(name)
        return names

    def _by_group(self) -> str:
        return f", groups by data.group '{self.group}'" if self.group is not None else ""


def compiled(pattern: str) -> re.Pattern[str]:
    """A compiled regular expression with one group.

    Raises:
        ValueError: it is invalid, or has no group or several.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"'{pattern}' is no regular expression: {error}") from error
    if expression.groups != 1:
        raise ValueError(
            f"'{pattern}' has {expression.groups} groups; put what names the group into the only pair "
            "of parentheses, and write (?:...) for others"
        )
    return expression


def _first_group(pattern: re.Pattern[str], name: str) -> str | None:
    match = pattern.search(name)
    return match[1] if match else None
