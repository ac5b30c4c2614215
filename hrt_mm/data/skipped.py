"""Samples that were left out, counted by reason."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from .files import shown

MAX_REASONS = 20
"""Maximum number of reasons to list for samples that were left out."""
MAX_NAMED = 3
"""Maximum number of samples to name for each reason."""


def warn_of_skipped(log: logging.Logger, skipped: Mapping[str, Sequence[str]], total: int) -> None:
    """Logs the samples that were left out, once for each reason.

    Args:
        log: of the module that left them out.
        skipped: names by reason.
        total: number of all samples.
    """
    count = sum(map(len, skipped.values()))
    reasons = sorted(skipped.items(), key=lambda item: -len(item[1]))
    for reason, names in reasons[:MAX_REASONS]:
        more = f" and {len(names) - MAX_NAMED:,} more" if len(names) > MAX_NAMED else ""
        log.warning("left out: %s%s: %s", ", ".join(map(shown, names[:MAX_NAMED])), more, reason)
    if len(reasons) > 1 or count > MAX_NAMED:
        others = f", for {len(reasons):,} reasons" if len(reasons) > MAX_REASONS else ""
        log.warning("left out %s of %s samples%s", f"{count:,}", f"{total:,}", others)
