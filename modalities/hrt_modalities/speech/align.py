"""``hrt-mm speech align``: forced alignment of transcripts with a trained CTC task."""

from __future__ import annotations

import logging
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from hrt_mm.core.errors import BadSample, UserError
from hrt_mm.data.registry import Command
from hrt_mm.data.time_span import TimeSpan

from ..audio.alignments import WRITERS, format_alignment
from ..audio.files import SUFFIXES

if TYPE_CHECKING:
    from hrt_mm.data.sample import Sample
    from hrt_mm.inference.trained import TrainedRun
    from hrt_mm.tasks.ctc import Lexicon
    from hrt_modalities.speech.aligning import Tiers

log = logging.getLogger(__name__)

ENDINGS = {"textgrid": "TextGrid"}
"""Suffixes that differ from the name of the format."""
_BATCH = 16
"""Sounds per batch."""


def aligned(run: TrainedRun, split: str, lexicon: Lexicon | None = None) -> Iterator[tuple[Sample, Tiers]]:
    """The sounds of a split with the times of their labels. Those that cannot be aligned are logged and left out.

    Args:
        run: with a CTC task.
        split: of the run's data.
        lexicon: spellings of words, where the task recognizes phonemes or characters and the labels are words.

    Raises:
        UserError: the run has another task.
    """
    from hrt_mm.tasks import CTC
    from hrt_mm.train.build import build_dataset

    if not isinstance(run.task, CTC):
        raise UserError(f"{run.folder} is a run of task {run.config.task.type}; only task ctc aligns")
    dataset = build_dataset(run.config, split, run.tokenizers)
    for first in range(0, len(dataset), _BATCH):
        samples = []
        for index in range(first, min(first + _BATCH, len(dataset))):
            try:
                samples.append(dataset[index])
            except BadSample as error:
                log.warning("not aligned: %s", error)
        try:
            yield from zip(samples, _together(run, samples, lexicon), strict=True)
        except BadSample:
            for sample in samples:
                try:
                    yield sample, _together(run, [sample], lexicon)[0]
                except BadSample as error:
                    log.warning("not aligned: %s", BadSample(sample.name, error.reason))


def _together(run: TrainedRun, samples: list[Sample], lexicon: Lexicon | None) -> list[Tiers]:
    import torch

    from hrt_mm.tasks import CTC
    from hrt_modalities.speech.aligning import align

    assert isinstance(run.task, CTC)
    if not samples:
        return []
    for sample in samples:
        if not isinstance(sample.label, list):
            raise BadSample(sample.name, f"has no list of labels but {sample.label!r:.40}; set data.label=words")
    with torch.no_grad():
        pyramid = run.task.encoder(run.tokenizer([sample.value for sample in samples]))
    names = [sample.name for sample in samples]
    return align(run.task, pyramid, [sample.label for sample in samples], lexicon=lexicon, names=names)


def intervals(tiers: Tiers, seconds: float) -> dict[str, list[TimeSpan]]:
    """The times as an alignment, cut at the end of the sound: the last token may reach beyond it."""
    return {
        tier: [replace(span, start=min(span.start, seconds), end=min(span.end, seconds)) for span in spans]
        for tier, spans in tiers.items()
    }


def path_of(folder: Path, name: str, kind: str) -> Path:
    """Where the alignment of a sound lies: named as the sound is, under a folder.

    Raises:
        UserError: the name leads out of the folder.
    """
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts:
        raise UserError(f"{name} leads out of {folder}")
    stem = str(pure.with_suffix("")) if pure.suffix.lower() in SUFFIXES else name
    return folder / f"{stem}.{ENDINGS.get(kind, kind)}"


def write_alignments(
    run: TrainedRun,
    split: str,
    folder: Path,
    *,
    kind: str = "textgrid",
    tier: str | None = None,
    lexicon: Lexicon | None = None,
) -> int:
    """Writes a file for each sound of a split that can be aligned, and counts them.

    Args:
        run: with a CTC task.
        split: of the run's data.
        folder: where the files go.
        kind: one of :data:`~hrt_modalities.audio.alignments.WRITERS`.
        tier: the tier to write; all when ``None``.
        lexicon: spellings of words, where the task recognizes phonemes or characters and the labels are words.

    Raises:
        UserError: the run has another task, or there is no such tier.
    """
    count = 0
    for sample, tiers in aligned(run, split, lexicon):
        alignment = intervals(tiers, sample.value.seconds)
        if tier is not None:
            if tier not in alignment:
                raise UserError(f"--tier {tier}: there is none; one of {', '.join(alignment)}")
            alignment = {tier: alignment[tier]}
        path = path_of(folder, sample.name, kind)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(format_alignment(kind, alignment, name=sample.name, end=sample.value.seconds), "utf-8")
        count += 1
    return count


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("folder", metavar="RUN", type=Path, help="a run folder of task ctc")
    parser.add_argument("overrides", metavar="a.b=c", nargs="*", help="override a key: data.label=words")
    parser.add_argument("--split", default="train", help="train, val or test (train)")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where a file a sound goes")
    parser.add_argument("--format", choices=list(WRITERS), default="textgrid", help="kind of the files (textgrid)")
    parser.add_argument("--tier", help="write this one alone, such as words; CTM and SRT hold one")
    parser.add_argument("--lexicon", type=Path, metavar="FILE", help="words and how they are spelled, as in CMUdict")
    parser.add_argument("--step", type=int, help="a checkpoint by its step; the best when absent")


def _run(args: Namespace) -> int:
    """Writes a file for each sound, and prints how many there are."""
    from hrt_mm.inference.trained import load_task
    from hrt_mm.tasks import CTC
    from hrt_mm.tasks.ctc import Lexicon

    run = load_task(args.folder, "best" if args.step is None else args.step, overrides=args.overrides)
    lexicon = None
    if args.lexicon is not None and isinstance(run.task, CTC):
        lexicon = Lexicon.read(args.lexicon, run.task.symbols, run.task.unit)
    count = write_alignments(run, args.split, args.out, kind=args.format, tier=args.tier, lexicon=lexicon)
    print(f"{args.out}: alignments of {count} sounds")
    return 0


ALIGN = Command("speech align", "align the labels of a run's data with the sounds", _arguments, _run)
