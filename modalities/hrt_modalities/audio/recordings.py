"""Datasets of sound files: items, and reading them or parts of them.

No name in a table or folder leads out of the dataset's folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import PositiveFloat

from hrt_mm.core.errors import BadSample
from hrt_mm.data.files import Home
from hrt_mm.data.sample import Sample
from hrt_mm.data.tokenizer import Tokenizer

from ..common.division import Division
from ..common.media import FileDataset, MediaConfig
from .alignments import read_alignment
from .audio import SLACK, Audio, check_starts
from .augment import Augmentation, Transform, chain, trimmed
from .files import check_part, part_of, read_audio, read_header

Target = str | tuple[str | None, ...] | tuple[float, ...] | None
"""A class or a text, or a sequence of words, phonemes or characters."""


@dataclass(frozen=True)
class Recording:
    """A file, or a part of one.

    Args:
        name: its path from the dataset's folder, with ``/``.
        target: its label.
        offset: start of the part in seconds.
        duration: of the part in seconds; to the end when ``None``.
        boundaries: by name, start times of groups in seconds from the beginning of the part.
        alignment: path of a file whose tiers are more boundaries; its times count from the beginning of the file.
        labels: by boundary, the labels of its groups.
        group: items of a group stay in one split.
    """

    name: str
    target: Target = None
    offset: float = 0.0
    duration: float | None = None
    boundaries: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    alignment: str | None = None
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    group: str | None = None

    @property
    def title(self) -> str:
        """The file, and where the part begins if it is one."""
        return f"{self.name}@{self.offset:g}s" if self.offset or self.duration is not None else self.name


class Recordings(FileDataset[Recording]):
    """Sounds that are read on demand, each no further than its part.

    Args:
        home: the folder that names start at.
        items: the sounds.
        classes: names of the classes, or ``None`` where labels are texts or absent.
        transform: augmentation.
        trim_db: threshold of trimming in decibels below the loudest part.
    """

    def __init__(
        self,
        home: Home,
        items: Sequence[Recording],
        classes: tuple[str, ...] | None,
        transform: Transform | None = None,
        trim_db: float | None = None,
    ) -> None:
        super().__init__(home, items, classes)
        self.transform, self.trim_db = transform, trim_db
        self.longest_s: float | None = None
        """Limit of the duration in seconds; see :meth:`limit`."""

    def __getitem__(self, index: int) -> Sample:
        """A sound with its label.

        Raises:
            BadSample: the file is missing, broken, truncated, too short for the part, or outside the folder; or the
                item's boundaries do not fit it.
        """
        item = self.items[index]
        audio = read_audio(self.home.path(item.name), item.title, item.offset, item.duration, self.longest_s)
        aligned = self._aligned(item, audio.seconds)
        boundaries = {
            **item.boundaries,
            **{tier: tuple(start for start, _ in intervals) for tier, intervals in aligned.items()},
        }
        labels = {
            **item.labels,
            **{tier: tuple(label for _, label in intervals) for tier, intervals in aligned.items()},
        }
        for boundary, starts in boundaries.items():
            check_starts(starts, audio.seconds, boundary, item.title)
        audio = replace(audio, boundaries=boundaries, labels=labels)
        if self.trim_db is not None:
            audio = trimmed(audio, self.trim_db)
        if self.transform is not None:
            audio = self.transform(audio)
        return self.sample(index, audio)

    def limit(self, tokenizer: Tokenizer) -> None:
        """Stops reading at ``modality.max_seconds``."""
        from .tokenizer import AudioTokenizer

        if isinstance(tokenizer, AudioTokenizer):
            self.longest_s = tokenizer.config.max_seconds

    def shape(self, index: int) -> Sequence[int]:
        """(samples, rate) before trimming and augmentation, without decoding: see :func:`.files.read_header`.

        Raises:
            BadSample: the file is missing, no sound, too short for the part, or outside the folder.
        """
        item = self.items[index]
        header = read_header(self.home.path(item.name), item.title)
        check_part(item.offset, item.duration, item.title)
        return part_of(header, item.offset, item.duration, item.title)[1], header.rate

    def _aligned(self, item: Recording, seconds: float) -> dict[str, list[tuple[float, str]]]:
        """Starts, relative to the part, and labels of the intervals within the part, for each tier of its alignment."""
        if item.alignment is None:
            return {}
        tiers = read_alignment(self.home.path(item.alignment), item.alignment)
        if item.duration is None:
            # check_starts decides about intervals that start at the very end.
            length, last = item.offset + seconds, float("inf")
        else:
            header = read_header(self.home.path(item.name), item.title)
            length, last = header.samples / header.rate, item.offset + seconds
        for tier, intervals in tiers.items():
            end = max((interval.end for interval in intervals), default=0.0)
            if end > length + SLACK:
                raise BadSample(
                    item.alignment,
                    f"{tier!r} ends at {end:.4f} s, but the sound at {length:.4f} s; is it the alignment of another "
                    "file?",
                )
        return {
            tier: [
                (interval.start - item.offset, interval.label)
                for interval in intervals
                if item.offset <= interval.start < last
            ]
            for tier, intervals in tiers.items()
        }


class RecordingsConfig(MediaConfig):
    """Settings of all datasets of sound files."""

    what = "sounds"

    trim_db: PositiveFloat | None = None
    """Trim both ends of a sound that are so many decibels quieter than its loudest 10 ms, in all splits: speakers and
    microphones differ in the silence around a word. Times count from the trimmed sound."""
    augment: tuple[Augmentation, ...] = ()
    """Transforms of training sounds, in order: speed, pad, gain, equalize, reverb, noise, spec_augment."""

    def prepare(self, part: str, value: Any) -> Any:
        """A sound from elsewhere, trimmed as the dataset's own are."""
        return trimmed(value, self.trim_db) if self.trim_db is not None and isinstance(value, Audio) else value

    def dataset(
        self,
        split: str,
        root: Path,
        items: Mapping[str, Sequence[Recording]] | Division[Recording],
        *,
        texts: bool = False,
    ) -> Recordings:
        """The sounds of a split."""
        chosen, classes = self.items(split, root, items, texts=texts)
        transform = chain(self.augment) if split == "train" else None
        return Recordings(Home(root, self.follow_links), chosen, classes, transform, self.trim_db)
