"""Writes the tables in ``benchmarks/README.md`` from the result files: ``python -m benchmarks.table [--check]``."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from hrt_mm.core.errors import UserError

from . import (
    audio,
    boundaries,
    decode,
    encoder_scaling,
    equal_time,
    fsdd,
    fusion,
    image_text,
    index,
    learning_rate,
    lips,
    listops,
    lm,
    outline,
    overhead,
    peps,
    recognition,
    retrieval,
    shakespeare,
    shots,
    streaming,
    video,
    video_decode,
)
from .markdown import bars_table
from .results import FOLDER, Result, read

README = Path(__file__).parent / "README.md"
TABLES = {
    encoder_scaling.NAME: encoder_scaling.tables,
    overhead.NAME: overhead.tables,
    learning_rate.NAME: learning_rate.tables,
    equal_time.NAME: equal_time.tables,
    lm.NAME: lm.tables,
    decode.NAME: decode.tables,
    boundaries.NAME: boundaries.tables,
    fsdd.NAME: fsdd.tables,
    audio.NAME: audio.tables,
    video_decode.NAME: video_decode.tables,
    video.NAME: video.tables,
    lips.NAME: lips.tables,
    shots.NAME: shots.tables,
    outline.NAME: outline.tables,
    shakespeare.NAME: shakespeare.tables,
    listops.NAME: listops.tables,
    peps.NAME: peps.tables,
    streaming.NAME: streaming.tables,
    recognition.NAME: recognition.tables,
    index.NAME: index.tables,
    fusion.NAME: fusion.tables,
    image_text.NAME: image_text.tables,
    retrieval.NAME: retrieval.tables,
}
"""Benchmarks that have tables, each between ``<!-- NAME -->`` and ``<!-- end NAME -->``."""


def results(folder: Path, name: str) -> list[tuple[Path, Result]]:
    """The result files of a benchmark, the CPU's first.

    Raises:
        UserError: one is broken, is of another benchmark, or was a quick try.
    """
    found = []
    for path in sorted(folder.glob(f"{name}-*.json"), key=lambda path: (path.stem != f"{name}-cpu", path.stem)):
        result = read(path)
        if result.name != name:
            raise UserError(f"{path} is a result of {result.name}, not of {name}; rename it")
        if result.quick:
            raise UserError(f"{path} comes from --quick, and its figures say nothing; run the benchmark without it")
        found.append((path, result))
    return found


def section(folder: Path, name: str) -> str:
    """All tables of a benchmark, and which device was not measured."""
    found = results(folder, name)
    parts = []
    for path, result in found:
        versions = ", ".join(
            f"{key} {result.versions[key]}" for key in ("torch", "python", "cuda") if key in result.versions
        )
        parts.append(f"### {result.device}")
        parts.append(f"{versions}. `{result.command}`; figures in [{path.name}](results/{path.name}).")
        parts.append(TABLES[name](result))
        if result.bars:
            parts.append(bars_table(result.bars))
        if path.with_suffix(".png").exists():
            parts.append(f"![{name}](results/{path.with_suffix('.png').name})")
    measured = {"cpu" if path.stem.startswith(f"{name}-cpu") else "cuda" for path, _ in found}
    for device, title in (("cpu", "CPU"), ("cuda", "CUDA")):
        if device not in measured:
            parts.append(f"**{title}: not measured yet.**")
    return "\n\n".join(parts)


def rendered(text: str, folder: Path) -> str:
    """The README with its tables made anew.

    Raises:
        UserError: a benchmark's markers are missing, or a result file cannot be used.
    """
    for name in TABLES:
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
        found = pattern.search(text)
        if found is None:
            raise UserError(
                f"{README} has no place between '<!-- {name} -->' and '<!-- end {name} -->'; add the two lines"
            )
        before, after = text[: found.end(1)], text[found.start(2) :]
        text = f"{before}\n{section(folder, name)}\n\n{after}"
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the tables, or with ``--check`` says whether they are current.

    Returns:
        0; 1 where they are not current or a result file cannot be used.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.table", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 where the tables are old")
    options = parser.parse_args(argv)
    before = README.read_text()
    try:
        after = rendered(before, FOLDER)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.check and after != before:
        print("the tables of benchmarks/README.md are old; run: python -m benchmarks.table", file=sys.stderr)
        return 1
    if not options.check:
        README.write_text(after)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
