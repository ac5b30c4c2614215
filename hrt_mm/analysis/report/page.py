"""The report: a page of Markdown with figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


REPORT = "report.md"


class Page:
    """Collects the report.

    Args:
        folder: of the page and its figures.
        title: of the page.
    """

    def __init__(self, folder: Path, title: str) -> None:
        self.folder = folder
        self.title = title
        self.summary: list[str] = []
        self._parts: list[str] = []
        self._tower = ""

    def set_tower(self, tower: str) -> None:
        """Sets the tower that what follows is about; ``""`` for the only one."""
        self._tower = tower

    def say(self, line: str) -> None:
        """Adds a line to the summary, which is printed and comes first on the page."""
        self.summary.append(line if not self._tower else f"{self._tower}: {line}")

    def heading(self, text: str) -> None:
        """Starts a section."""
        self._parts.append(f"## {text}" if not self._tower else f"## {text} of {self._tower}")

    def text(self, text: str) -> None:
        """Adds a paragraph."""
        self._parts.append(text)

    def table(self, names: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Adds a table; all columns but the first are numbers or short words."""
        lines = [_row(names), _row(["---", *["---:"] * (len(names) - 1)])]
        self._parts.append("\n".join([*lines, *(_row(row) for row in rows)]))

    def picture(self, name: str, figure: Figure, caption: str) -> None:
        """Saves a figure and shows it with its caption."""
        file = f"{name}.png" if not self._tower else f"{self._tower}-{name}.png"
        figure.savefig(self.folder / file)
        self._parts.append(f"![{caption}]({file})\n\n*{caption}*")

    def write(self) -> None:
        """Writes ``report.md``."""
        summary = "\n".join(f"- {line}" for line in self.summary)
        parts = [f"# {self.title}", *([summary] if summary else []), *self._parts]
        (self.folder / REPORT).write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _row(cells: Iterable[str]) -> str:
    # A | or a line break would end the cell.
    return f"| {' | '.join(cell.replace('|', '&#124;').replace(chr(10), ' ') for cell in cells)} |"
