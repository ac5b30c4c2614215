"""Texts that a run of task ``generation`` writes, beside those of the data."""

from __future__ import annotations

from ...tasks.generation import Generation
from .page import Page
from .subject import Subject

SAMPLES = 16
_SHOWN = 300
"""Characters of a text that are shown."""


def texts_section(subject: Subject, page: Page) -> None:
    """Writes a table of some samples with their texts and what is written from them."""
    task = subject.run.task
    if not isinstance(task, Generation):
        return
    rows: list[tuple[str, str, str]] = []
    for batch in subject.batches(SAMPLES):
        for name, ids, written in zip(
            batch.names, batch.towers[task.target].tokens.split(), task.write(batch), strict=True
        ):
            reference, text = task.text(ids[1:-1].tolist()), task.text(written.ids, ended=written.ended)
            rows.append((name, reference, text if written.ended else f"{text} (cut at task.max_tokens)"))
    rows = rows[:SAMPLES]
    page.heading("Written texts")
    page.table(("sample", "text of the data", "written"), [tuple(map(_cell, row)) for row in rows])
    exact = sum(reference == text for _, reference, text in rows)
    page.say(f"written texts: {exact} of {len(rows)} samples of {subject.split} exactly as in the data")


def _cell(text: str) -> str:
    """A text in a table cell of Markdown."""
    short = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    return " ".join(short.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;") or "(empty)"
