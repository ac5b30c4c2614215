"""Stratified splits and folds: given shares of every class, chosen by a seed, without separating related samples.

The result depends only on names, labels and the seed, not on the order of the samples or the machine. A unit is what
stays together: a sample, the parts of a file, a group. Units of one sample are distributed exactly. Larger ones are
placed greedily, the largest first, on the side that brings the classes closest to their shares.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from heapq import nsmallest
from itertools import islice

Counts = list[float]
"""A number for each side."""
_CANDIDATES = 8
"""Units that are compared to cover a class."""


def position(key: str, seed: int = 0) -> float:
    """A hash of a key and a seed, as a number from 0 to 1 (exclusive)."""
    return int.from_bytes(_hasher(seed)(key)) / 2**64


def assign_splits(units: Sequence[str], labels: Sequence[str | None], val: float, test: float, seed: int) -> list[str]:
    """The split of each sample.

    Every class is in train. It is also in test and val if its share there is half a sample or more and it has enough
    units; test comes first. Single samples match the shares of their class to less than one sample, and their rounding
    is balanced so that the shares over all classes hold too. Small classes may therefore be missing from a split, and a
    class of one unit always is.

    Args:
        units: what stays together, a key for each sample.
        labels: class of each sample; samples without a label count as a class of their own.
        val: share of ``val``; 0 for none.
        test: share of ``test``; 0 for none.
        seed: of the choice.
    """
    shares = {"train": 1 - val - test, "test": test, "val": val}
    names = [name for name, share in shares.items() if share > 0]
    sides = _assign(units, labels, [shares[name] for name in names], seed, priority=True)
    return [names[side] for side in sides]


def assign_folds(units: Sequence[str], labels: Sequence[str | None], folds: int, seed: int) -> list[int]:
    """The fold of each sample, from 0. Each class is spread over the folds as evenly as its units allow.

    Args:
        units: what stays together, a key for each sample.
        labels: class of each sample.
        folds: their number.
        seed: of the choice.
    """
    return _assign(units, labels, [1 / folds] * folds, seed, priority=False)


def joined_units(keys: Iterable[Sequence[str]]) -> list[str]:
    """Units: samples that share a key, directly or through others (union-find).

    Args:
        keys: of each sample, one or more.

    Returns:
        A key for each sample: the least of its unit, whatever the order of the samples.
    """
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        # Path halving: each key on the way is linked to its grandparent.
        while (above := parent.setdefault(key, key)) != key:
            parent[key] = key = parent[above]
        return key

    first: list[str] = []
    for item_keys in keys:
        first.append(item_keys[0])
        for key in item_keys[1:]:
            if (left := root(item_keys[0])) != (right := root(key)):
                parent[max(left, right)] = min(left, right)
    return [root(key) if key in parent else key for key in first]


@dataclass
class _Class:
    """The state of a class while its samples are assigned.

    Args:
        quota: target number of samples on each side.
        placed: samples assigned to each side so far.
        singles: units of one sample, in the order of the seed.
        larger: units of several samples, in the order of the seed.
    """

    quota: Counts
    placed: Counts
    singles: list[str] = field(default_factory=list)
    larger: list[str] = field(default_factory=list)

    def required_sides(self, priority: bool) -> list[int]:
        """The sides that must have a sample of the class, as far as it has enough units.

        Without priority these are all sides if there are enough units, and otherwise none.
        """
        units, sides = len(self.singles) + len(self.larger), range(len(self.quota))
        if not priority:
            return list(sides) if units >= len(sides) else []
        return [side for side in sides if side == 0 or self.quota[side] >= 0.5 - 1e-9][:units]


def _assign(
    units: Sequence[str], labels: Sequence[str | None], shares: Sequence[float], seed: int, *, priority: bool
) -> list[int]:
    """The side of each sample.

    Args:
        units: what stays together, a key for each sample.
        labels: class of each sample.
        shares: of the sides; they sum to 1.
        seed: of the order of units.
        priority: serve the first sides first if a class has fewer units than there are sides.
    """
    # A prefix distinguishes the class with an empty name from no class.
    names = ["" if label is None else f"={label}" for label in labels]
    sizes, totals = Counter(units), Counter(names)
    none = [0.0] * len(shares)
    classes = {name: _Class([totals[name] * share for share in shares], none.copy()) for name in sorted(totals)}
    rows: dict[str, Counter[str]] = {}
    single: dict[str, str] = {}
    for unit, name in zip(units, names, strict=True):
        if sizes[unit] == 1:
            single[unit] = name
        else:
            rows.setdefault(unit, Counter())[name] += 1
    digest = _hasher(seed)
    for _, unit in sorted((digest(unit), unit) for unit in sizes):
        if unit in single:
            classes[single[unit]].singles.append(unit)
        else:
            for name in rows[unit]:
                classes[name].larger.append(unit)
            # Reinserts the unit, so that the units of rows end up in the order of the seed.
            rows[unit] = rows.pop(unit)
    placement = _Placement(rows, classes, _Class([len(units) * share for share in shares], none.copy()))
    placement.cover(priority)
    placement.fill()
    if priority:
        placement.keep_trainable()
    placement.deal(priority)
    return [placement.side[unit] for unit in units]


class _Placement:
    """Assigns units to sides.

    Args:
        rows: for each unit of several samples, in the order of the seed, its number of samples by class.
        classes: by name.
        total: over all classes.
    """

    def __init__(self, rows: dict[str, Counter[str]], classes: dict[str, _Class], total: _Class) -> None:
        self.rows, self.classes, self.total = rows, classes, total
        self.sizes = {unit: counts.total() for unit, counts in rows.items()}
        self.side: dict[str, int] = {}

    def cover(self, priority: bool) -> None:
        """Gives each side a unit of each class, as far as there are enough, rare classes first."""
        for name, class_ in sorted(self.classes.items(), key=lambda item: (len(item[1].larger), item[0])):
            lacking = [side for side in class_.required_sides(priority) if not class_.placed[side]]
            # The last of these sides get their single samples in deal().
            for side in lacking[: max(0, len(lacking) - len(class_.singles))]:
                free = [unit for unit in class_.larger if unit not in self.side]
                if free:
                    self._put(self._covering(free, name, side), side)

    def _covering(self, free: Sequence[str], name: str, side: int) -> str:
        """The unit that gives a side its first samples of a class: for the largest side the largest."""
        sizes, quota = self.sizes, self.classes[name].quota
        if quota[side] > max((other for index, other in enumerate(quota) if index != side), default=0.0):
            return max(free, key=sizes.__getitem__)
        room = self.total.quota[side] - self.total.placed[side]
        fitting = (unit for unit in free if sizes[unit] <= room and self.rows[unit][name] <= quota[side])
        few = list(islice(fitting, _CANDIDATES)) or nsmallest(_CANDIDATES, free, key=sizes.__getitem__)
        return min(few, key=lambda unit: self._cost(unit, side))

    def fill(self) -> None:
        """Assigns the other units of several samples, the largest first."""
        rest = [unit for unit in self.rows if unit not in self.side]
        for unit in sorted(rest, key=lambda unit: -self.sizes[unit]):
            costs = [self._cost(unit, side) for side in range(len(self.total.quota))]
            self._put(unit, costs.index(min(costs)))

    def keep_trainable(self) -> None:
        """Moves a unit to the first side (train) for each class that would be missing there."""
        for class_ in self.classes.values():
            if class_.larger and not class_.placed[0] and not class_.singles:
                unit = min(class_.larger, key=self.sizes.__getitem__)
                self._put(unit, self.side[unit], -1)
                self._put(unit, 0)

    def deal(self, priority: bool) -> None:
        """Distributes units of one sample, so that each class comes as close to its shares as possible."""
        carry = [0.0] * len(self.total.quota)
        for class_ in self.classes.values():
            counts = _apportioned(len(class_.singles), class_, carry)
            _give_each_side_one(counts, class_, priority, carry)
            units = iter(class_.singles)
            # The first side (train) gets the rest.
            for side in [*range(1, len(counts)), 0]:
                for _ in range(counts[side]):
                    self.side[next(units)] = side

    def _cost(self, unit: str, side: int) -> float:
        """The increase of the distance from all quotas if a unit is put on a side."""
        classes = (_growth(self.classes[name], side, count) for name, count in sorted(self.rows[unit].items()))
        return _growth(self.total, side, self.sizes[unit]) + sum(classes)

    def _put(self, unit: str, side: int, sign: int = 1) -> None:
        self.side[unit] = side
        for name, count in self.rows[unit].items():
            self.classes[name].placed[side] += sign * count
            self.total.placed[side] += sign * count


def _growth(class_: _Class, side: int, count: int) -> float:
    """The increase of (placed - quota)² / quota of a side with ``count`` more samples."""
    return count * (2 * (class_.placed[side] - class_.quota[side]) + count) / class_.quota[side]


def _apportioned(count: int, class_: _Class, carry: Counts) -> list[int]:
    """The number of a class's single samples for each side, by the largest remainder method.

    Args:
        count: of single samples.
        class_: the class.
        carry: accumulated rounding of each side over the classes before; decides between equal remainders. Updated.
    """
    shares = _water_fill(count, [quota - placed for quota, placed in zip(class_.quota, class_.placed, strict=True)])
    # 0.1 * 30 is slightly below 3 in floating point.
    floors = [int(value + 1e-9) for value in shares]
    remainders = [value - floor for value, floor in zip(shares, floors, strict=True)]
    open_sides = [side for side, part in enumerate(remainders) if part > 1e-9]
    open_sides.sort(key=lambda side: (-round(remainders[side] + carry[side], 6), -side))
    for side in open_sides[: count - sum(floors)]:
        floors[side] += 1
    for side, value in enumerate(shares):
        carry[side] = max(-1.0, min(1.0, carry[side] + value - floors[side]))
    return floors


def _water_fill(count: int, lacking: Counts) -> Counts:
    """Divides a count so that all sides end up equally far from what they lack; none gets a negative part."""
    active = set(range(len(lacking)))
    # Without a tolerance, rounding could exclude the last sides if all lack the same.
    tolerance = 1e-9 * max(1.0, *map(abs, lacking))
    while True:
        excess = (sum(lacking[side] for side in active) - count) / len(active)
        negative = {side for side in active if lacking[side] - excess < -tolerance}
        if not negative or len(active) == 1:
            return [max(0.0, lacking[side] - excess) if side in active else 0.0 for side in range(len(lacking))]
        active -= negative


def _give_each_side_one(counts: list[int], class_: _Class, priority: bool, carry: Counts) -> None:
    """Moves single samples to required sides that have none of the class, and updates the carry."""
    required = class_.required_sides(priority)
    for side in required:
        if counts[side] or class_.placed[side]:
            continue
        donors = [other for other in range(len(counts)) if counts[other] and counts[other] + class_.placed[other] > 1]
        donors += [
            other for other in range(len(counts)) if counts[other] and other not in class_.required_sides(priority)
        ]
        if donors:
            donor = max(donors, key=lambda other: (counts[other] + class_.placed[other], -other))
            counts[donor] -= 1
            counts[side] += 1
            carry[donor] = min(1.0, carry[donor] + 1)
            carry[side] = max(-1.0, carry[side] - 1)


def _hasher(seed: int) -> Callable[[str], bytes]:
    # Seed 0 stands for a hash without a key.
    secret = b"" if seed == 0 else seed.to_bytes(8, "little", signed=True)
    return lambda key: blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8, key=secret).digest()
