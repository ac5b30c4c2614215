"""One sample of a dataset: what datasets give, tokenizers take and tasks make targets from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Sample:
    """One sample of a dataset, before it becomes tokens.

    Args:
        value: what the modality's tokenizer takes: an image tensor, a waveform, a string.
        label: what the task's target is made from; ``None`` where there is none.
        name: the file or row that it came from, for messages and reports.
    """

    value: Any
    label: Any = None
    name: str = ""
