"""One sample of a dataset, as datasets return it and tokenizers and tasks take it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..core.errors import printable


@dataclass(frozen=True)
class Piece:
    """A piece of a sample that is known in one modality or several: a word, a phrase.

    Args:
        label: what it is; pieces of one label are positives of each other. Empty for one that is like no other.
        where: by tower, where it starts and ends, in the modality's units: seconds of sound and video, bytes of text.
    """

    label: str
    where: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Sample:
    """One sample of a dataset, before it becomes tokens.

    Args:
        value: what the modality's tokenizer takes: an image tensor, a waveform, a string.
        label: what the task's target is made from; ``None`` where there is none.
        name: the file or row that it came from, for messages and reports.
        pieces: of a sample of several modalities, what is known to belong together within it: by tier, such as
            ``words``, in order.
    """

    value: Any
    label: Any = None
    name: str = ""
    pieces: Mapping[str, tuple[Piece, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Names of files may not be UTF-8, and are printed and written as JSON.
        object.__setattr__(self, "name", printable(self.name))
