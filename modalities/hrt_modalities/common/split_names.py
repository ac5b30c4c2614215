"""Recognizing splits by the names of folders and in the columns of tables."""

from __future__ import annotations

import logging
import re

from hrt_mm.data.splits import split_name

log = logging.getLogger(__name__)

_WORDS = re.compile(r"[a-z]+")
_ENDINGS = ("set", "sets", "data", "split")


def resembles_split(name: str) -> str | None:
    """The split that part of a name denotes, as in ``train2017``, ``test_set``, ``01-val``; ``None`` without one."""
    words = _WORDS.findall(name.lower())
    for ending in _ENDINGS:
        words += [word.removesuffix(ending) for word in words if word.endswith(ending)]
    splits = {split for word in words if (split := split_name(word)) is not None}
    return splits.pop() if len(splits) == 1 else None


class SplitNames:
    """Maps the names of splits in a table, and warns if two different names denote the same split.

    Kaldi's ``dev`` and ``eval`` are an example: each may denote ``val``, but if both occur, one is a test set.

    Args:
        where: the table, for messages.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self._seen: dict[str, tuple[str, str]] = {}
        self._warned: set[str] = set()

    def split(self, name: str, location: str) -> str | None:
        """The split of a name; ``None`` if it denotes none.

        Args:
            name: in the table.
            location: the table and the line, for messages.
        """
        split = split_name(name)
        if split is None:
            return None
        form = name.strip().lower()
        first, before = self._seen.setdefault(split, (form, location))
        if first != form and form not in self._warned:
            self._warned.add(form)
            log.warning(
                "%s: %r (%s) and %r (%s) are both read as the split %s; rename one of them if it is another split",
                self.where, first, before, form, location, split,
            )  # fmt: skip
        return split
