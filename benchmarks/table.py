"""Writes the tables of ``docs/benchmarks/*.md`` from the result files: ``python -m benchmarks.table [--check]``."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from hrt_mm.core.errors import UserError

from . import (
    audio,
    boundaries,
    decode,
    embedding,
    encoder_scaling,
    equal_time,
    export,
    fsdd,
    fusion,
    generation,
    glyph_questions,
    hybrid,
    image_text,
    index,
    labels,
    late_interaction,
    learning_rate,
    lips,
    listops,
    lm,
    lra,
    mfu,
    outline,
    outside,
    overhead,
    peps,
    prediction,
    pretrained,
    rate_range,
    recall,
    recognition,
    retrieval,
    scaling_ranks,
    semantic,
    sentences,
    shakespeare,
    sharded_data,
    shipped_weights,
    shots,
    step_parts,
    streaming,
    video,
    video_decode,
    words,
)
from .markdown import bars_table
from .results import FOLDER, Result, read

PAGES = Path(__file__).parents[1] / "docs" / "benchmarks"
LINK = "../../benchmarks/results"
"""The folder of the result files, relative to a page."""
TABLES = {
    encoder_scaling.NAME: encoder_scaling.tables,
    overhead.NAME: overhead.tables,
    step_parts.NAME: step_parts.tables,
    mfu.NAME: mfu.tables,
    prediction.NAME: prediction.tables,
    pretrained.NAME: pretrained.tables,
    learning_rate.NAME: learning_rate.tables,
    rate_range.NAME: rate_range.tables,
    equal_time.NAME: equal_time.tables,
    semantic.NAME: semantic.tables,
    labels.NAME: labels.tables,
    export.NAME: export.tables,
    scaling_ranks.NAME: scaling_ranks.tables,
    lm.NAME: lm.tables,
    lra.NAME: lra.tables,
    decode.NAME: decode.tables,
    boundaries.NAME: boundaries.tables,
    fsdd.NAME: fsdd.tables,
    audio.NAME: audio.tables,
    video_decode.NAME: video_decode.tables,
    video.NAME: video.tables,
    lips.NAME: lips.tables,
    shots.NAME: shots.tables,
    outline.NAME: outline.tables,
    outside.NAME: outside.tables,
    shakespeare.NAME: shakespeare.tables,
    sharded_data.NAME: sharded_data.tables,
    listops.NAME: listops.tables,
    peps.NAME: peps.tables,
    recall.NAME: recall.tables,
    shipped_weights.NAME: shipped_weights.tables,
    sentences.NAME: sentences.tables,
    streaming.NAME: streaming.tables,
    recognition.NAME: recognition.tables,
    index.NAME: index.tables,
    fusion.NAME: fusion.tables,
    generation.NAME: generation.tables,
    image_text.NAME: image_text.tables,
    retrieval.NAME: retrieval.tables,
    late_interaction.NAME: late_interaction.tables,
    words.NAME: words.tables,
    glyph_questions.NAME: glyph_questions.tables,
    hybrid.NAME: hybrid.tables,
    embedding.NAME: embedding.tables,
}
"""Benchmarks that have tables, each between ``<!-- NAME -->`` and ``<!-- end NAME -->``."""


def results(folder: Path, name: str) -> list[tuple[Path, Result]]:
    """The result files of a benchmark, the CPU's first.

    Raises:
        UserError: one is broken, is of another benchmark, or was a quick try.
    """
    loaded = []
    for path in sorted(folder.glob(f"{name}-*.json"), key=lambda path: (path.stem != f"{name}-cpu", path.stem)):
        result = read(path)
        if result.name != name:
            raise UserError(f"{path} is a result of {result.name}, not of {name}; rename it")
        if result.quick:
            raise UserError(f"{path} comes from --quick, and its figures say nothing; run the benchmark without it")
        loaded.append((path, result))
    return loaded


def section(folder: Path, name: str) -> str:
    """All tables of a benchmark, and which device was not measured."""
    loaded = results(folder, name)
    parts = []
    for path, result in loaded:
        versions = ", ".join(
            f"{key} {result.versions[key]}" for key in ("torch", "python", "cuda") if key in result.versions
        )
        parts.append(f"### {result.device}")
        parts.append(f"{versions}. `{result.command}`; figures in [{path.name}]({LINK}/{path.name}).")
        parts.append(TABLES[name](result))
        if result.bars:
            parts.append(bars_table(result.bars))
        if path.with_suffix(".png").exists():
            parts.append(f"![{name}]({LINK}/{path.with_suffix('.png').name})")
    measured = {"cpu" if path.stem.startswith(f"{name}-cpu") else "cuda" for path, _ in loaded}
    for device, title in (("cpu", "CPU"), ("cuda", "CUDA")):
        if device not in measured:
            parts.append(f"**{title}: not measured yet.**")
    return "\n\n".join(parts)


def rendered(pages: Mapping[Path, str], folder: Path) -> dict[Path, str]:
    """The pages with their tables made from the result files.

    Raises:
        UserError: a benchmark's markers are missing, or a result file cannot be used.
    """
    texts = dict(pages)
    for name in TABLES:
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
        matches = [(path, match) for path, text in texts.items() if (match := pattern.search(text))]
        if len(matches) != 1:
            raise UserError(
                f"{len(matches)} pages in {PAGES} have '<!-- {name} -->' and '<!-- end {name} -->', one must; "
                "add the two lines to the page where its tables belong"
            )
        [(path, match)] = matches
        head, after = texts[path][: match.end(1)], texts[path][match.start(2) :]
        texts[path] = f"{head}\n{section(folder, name)}\n\n{after}"
    return texts


def read_pages() -> dict[Path, str]:
    """The benchmark pages of the documentation by path."""
    return {path: path.read_text(encoding="utf-8") for path in sorted(PAGES.glob("*.md"))}


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the tables, or with ``--check`` checks that they are up to date.

    Returns:
        0; 1 if they are out of date or a result file cannot be used.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.table", description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit with 1 if the tables are out of date"
    )
    options = parser.parse_args(argv)
    previous = read_pages()
    try:
        after = rendered(previous, FOLDER)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.check and after != previous:
        print("the tables in docs/benchmarks are out of date; run: python -m benchmarks.table", file=sys.stderr)
        return 1
    if not options.check:
        for path, text in after.items():
            path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
