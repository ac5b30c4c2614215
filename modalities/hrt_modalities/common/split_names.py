"""What splits are called in folders and tables: in any case, and in the forms that are in common use."""

from __future__ import annotations

import logging
import re

log = logging.getLogger(__name__)

FORMS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "validate", "dev", "devel", "development", "eval", "evaluation"),
    "test": ("test", "testing"),
}
"""By split, the names that stand for it."""
_SPLIT_OF = {form: split for split, forms in FORMS.items() for form in forms}
_WORDS = re.compile(r"[a-z]+")
_ENDINGS = ("set", "sets", "data", "split")


def split_name(name: str) -> str | None:
    """The split that a name stands for: ``train``, ``val``, ``test``, or ``None`` for another name."""
    return _SPLIT_OF.get(name.strip().lower())


def resembles_split(name: str) -> str | None:
    """The split that part of a name stands for, as in ``train2017``, ``test_set``, ``01-val``; ``None`` without one."""
    splits = {_SPLIT_OF[word] for word in _words(name) if word in _SPLIT_OF}
    return splits.pop() if len(splits) == 1 else None


def split_name_forms() -> str:
    """The names that splits may have, for messages."""
    return "; ".join(f"{split} (or {', '.join(forms[1:])})" for split, forms in FORMS.items())


class SplitNames:
    """Takes the split names of a table in, and warns where two different ones stand for one split.

    Kaldi's ``dev`` and ``eval`` show why: each may stand for ``val``, but where both are there one is a test set.

    Args:
        where: the table, for messages.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self._seen: dict[str, tuple[str, str]] = {}
        self._warned: set[str] = set()

    def split(self, name: str, location: str) -> str | None:
        """The split of a name; ``None`` where it stands for none.

        Args:
            name: as it is written.
            location: where it is written, for messages.
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


def _words(name: str) -> list[str]:
    """The words of a name; ``trainset`` and ``TestData`` have two."""
    words = _WORDS.findall(name.lower())
    for ending in _ENDINGS:
        words += [word.removesuffix(ending) for word in words if word.endswith(ending)]
    return words
