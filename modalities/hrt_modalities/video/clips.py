"""What all datasets of video files share: items, reading by parts, labels and splits.

No name in a table or folder leads out of the dataset's folder.

Shapes: N frames, H rows, W columns.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from pydantic import PositiveInt, model_validator

from hrt_mm.core.errors import BadSample, ConfigError
from hrt_mm.data.dataset import Dataset, DatasetConfig
from hrt_mm.data.files import Home
from hrt_mm.data.sample import Sample
from hrt_mm.data.tokenizer import TokenizerConfig

from ..audio.alignments import read_alignment
from ..common.division import Division
from ..common.media import FileDataset, MediaConfig, Target
from ..vision.augment import Augmentation, Transform, chain, sized
from .cache import CacheConfig, DecodedCache
from .readers import MAX_PIXELS, ORDER, FrameIndex, ReaderName, VideoFile, read_index
from .sampling import AllFrames, Chosen, DenseSampling, Sampling
from .shots import Detector, detect_shots
from .tokenizer import VideoConfig
from .video import Video, check_video_starts

log = logging.getLogger(__name__)

_ALL = AllFrames()


@dataclass(frozen=True)
class Clip:
    """A file, or a part of one.

    Args:
        name: its path from the dataset's folder, with ``/``.
        target: its label.
        begin: start of the part in seconds.
        end: end of the part in seconds; the end of the file when ``None``.
        boundaries: by name, start times of groups in seconds from the beginning of the part.
        alignment: path of a file whose tiers are more boundaries; its times count from the beginning of the file.
        group: items of a group stay in one split.
    """

    name: str
    target: Target = None
    begin: float = 0.0
    end: float | None = None
    boundaries: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    alignment: str | None = None
    group: str | None = None

    @property
    def title(self) -> str:
        """The file, and where the part begins if it is one."""
        return f"{self.name}@{self.begin:g}s" if self.begin or self.end is not None else self.name

    def part(self, index: FrameIndex) -> tuple[float, float]:
        """Start and end within a file.

        Raises:
            BadSample: the part is empty, or exceeds the file.
        """
        end = index.seconds if self.end is None else self.end
        if not 0 <= self.begin < end < float("inf"):
            raise BadSample(self.title, f"a part from {self.begin:g} s to {end:g} s has no length; mend its times")
        # Times in tables are rounded, so a quarter of a second past the end is tolerated.
        if self.begin >= index.seconds or end > index.seconds + 0.25:
            raise BadSample(
                self.title,
                f"a part from {self.begin:g} s to {end:g} s leads past the end of the file at {index.seconds:.2f} s",
            )
        return self.begin, min(end, index.seconds)


@dataclass(frozen=True)
class Reading:
    """Options of reading files.

    Args:
        readers: in the order in which they are tried.
        sampling: selects frames.
        side: pixels of the shorter side to which larger frames are scaled down.
        max_pixels: of a frame; larger ones are refused.
        square_pixels: resample frames whose pixels are not square.
        cache: of decoded frames.
        find_shots: detector of shot changes in the frames that are read.
    """

    readers: tuple[str, ...] = ORDER
    sampling: Sampling = _ALL
    side: int | None = None
    max_pixels: int = MAX_PIXELS
    square_pixels: bool = True
    cache: DecodedCache | None = None
    find_shots: Detector | None = None


class Clips(FileDataset[Clip]):
    """Videos that are read on demand.

    Args:
        home: the folder that names start at.
        items: the videos.
        classes: names of the classes, or ``None`` where labels are texts or absent.
        reading: options of reading files.
        random: whether to sample frames at random positions, for training.
        transform: augmentation, the same for all frames of a video.
    """

    def __init__(
        self,
        home: Home,
        items: Sequence[Clip],
        classes: tuple[str, ...] | None,
        reading: Reading,
        *,
        random: bool = False,
        transform: Transform | None = None,
    ) -> None:
        super().__init__(home, items, classes)
        self.reading, self.random, self.transform = reading, random, transform

    def __getitem__(self, index: int) -> Sample:
        """A video with its label.

        Raises:
            BadSample: the file is missing, no video, broken, too short for the part, or outside the folder; or the
                item's boundaries do not fit it.
        """
        item = self.items[index]
        value: Video | tuple[Video, ...]
        if self.windows > 1:
            value = self.read_windows(item)
        else:
            value = self.read(item)
            if self.transform is not None:
                value = replace(value, pixels_NCHW=self.transform(value.pixels_NCHW))
        return self.sample(index, value)

    @property
    def windows(self) -> int:
        """Number of windows of a sample; with several, its value is a tuple of them."""
        sampling = self.reading.sampling
        return sampling.windows if isinstance(sampling, DenseSampling) and not self.random else 1

    def read(self, item: Clip) -> Video:
        """The video of an item before augmentation, or its middle window."""
        with self._opened(item) as file:
            chosen = self.reading.sampling.choose(file.index, *item.part(file.index), random=self.random)
            return self._video(item, file, chosen)

    def read_windows(self, item: Clip) -> tuple[Video, ...]:
        """All windows of an item."""
        assert isinstance(self.reading.sampling, DenseSampling)
        with self._opened(item) as file:
            windows = self.reading.sampling.spread(file.index, *item.part(file.index))
            return tuple(self._video(item, file, chosen) for chosen in windows)

    def _opened(self, item: Clip) -> VideoFile:
        reading = self.reading
        return VideoFile(
            self.home.path(item.name),
            item.title,
            readers=reading.readers,
            side=reading.side,
            max_pixels=reading.max_pixels,
            square_pixels=reading.square_pixels,
        )

    def _video(self, item: Clip, file: VideoFile, chosen: Chosen) -> Video:
        """The selected frames, with the boundaries within their time."""
        begin, end = item.part(file.index)
        pixels_N3HW, decoded = self._pixels(file, chosen)
        lost = len(chosen.numbers) - len(decoded)
        if lost or file.index.missing:
            log.warning(
                "%s: %d frames are broken or refer to broken ones, and %d that its header speaks of are missing; "
                "the rest is used",
                item.title,
                lost,
                file.index.missing,
            )
        times_N = torch.tensor(chosen.times, dtype=torch.float64)[decoded]
        boundaries = {}
        for boundary, starts in self._boundaries_of(item, file.index, begin, end).items():
            check_video_starts(starts, end - begin, boundary, item.title)
            boundaries[boundary] = _inside(starts, chosen.begin - begin, chosen.seconds)
        video = Video(pixels_N3HW, times_N, chosen.seconds, boundaries, lost)
        if self.reading.find_shots is None:
            return video
        return replace(video, boundaries={**boundaries, "shots": detect_shots(video, self.reading.find_shots)})

    def _boundaries_of(self, item: Clip, index: FrameIndex, begin: float, end: float) -> dict[str, tuple[float, ...]]:
        """Start times by boundary from the beginning of the part: of the item, its alignment, and chapters."""
        tiers: dict[str, tuple[float, ...]] = {"chapters": index.chapters} if index.chapters else {}
        if item.alignment is not None:
            alignment = read_alignment(self.home.path(item.alignment), item.alignment)
            tiers |= {tier: tuple(interval.start for interval in intervals) for tier, intervals in alignment.items()}
        return {**{tier: _inside(starts, begin, end - begin) for tier, starts in tiers.items()}, **item.boundaries}

    def shape(self, index: int) -> Sequence[int]:
        """(N, 3, H, W) from the packets, before augmentation; the frames of all windows together.

        Raises:
            BadSample: the file is missing, no video, too short for the part, or outside the folder.
        """
        item = self.items[index]
        file_index = read_index(self.home.path(item.name), item.title, self.reading.max_pixels)
        begin, end = item.part(file_index)
        frames = len(self.reading.sampling.choose(file_index, begin, end, random=False).numbers)
        rows, columns = file_index.upright(self.reading.side, square_pixels=self.reading.square_pixels)
        return frames * self.windows, 3, rows, columns

    def _pixels(self, file: VideoFile, chosen: Chosen) -> tuple[torch.Tensor, list[int]]:
        """The frames that can be decoded, and their indices among the chosen ones."""
        cache = self.reading.cache
        if cache is not None and (cached := cache.get(file, chosen.numbers)) is not None:
            return cached, list(range(len(cached)))
        frames = file.frames(chosen.numbers)
        if not frames.lost:
            if cache is not None:
                cache.put(file, chosen.numbers, frames.pixels_N3HW)
            return frames.pixels_N3HW, list(range(len(chosen.numbers)))
        decoded_times = set(frames.times_N.tolist())
        times = file.index.times_N[list(chosen.numbers)].tolist()
        return frames.pixels_N3HW, [position for position, time in enumerate(times) if time in decoded_times]


class ClipsConfig(MediaConfig):
    """Settings of all datasets of video files."""

    what = "videos"

    sampling: Sampling = AllFrames()
    """Frames that are read: all at a rate, uniform, dense or keyframes."""
    readers: tuple[ReaderName, ...] = ORDER
    """Decoders, in the order in which they are tried on each file. decord and torchcodec refuse files on which they are
    not exact; name pyav after them, which reads all."""
    side: PositiveInt | None = None
    """Frames whose shorter side has more pixels are scaled down to it as they are decoded."""
    max_pixels: PositiveInt = MAX_PIXELS
    """Files of larger frames are bad samples."""
    square_pixels: bool = True
    """Resample the columns of frames whose pixels are not square (anamorphic video, as on DVDs), as players do; when
    false, frames stay as they are stored."""
    cache: CacheConfig | None = None
    """Cache decoded frames; useful if the same frames are read in every epoch and decoding is the bottleneck."""
    find_shots: Detector | None = None
    """Detect shot changes in the frames that are read, by this detector of PySceneDetect (the extra ``shots``). They
    become the boundary ``shots``."""
    augment: tuple[Augmentation, ...] = ()
    """Transforms of training videos, in order; those of images, the same for all frames of a video."""

    def suited(self, modality: TokenizerConfig) -> DatasetConfig:
        """The configuration, with the modality's size for crops without one."""
        size = modality.size if isinstance(modality, VideoConfig) else None
        return self.model_copy(update={"augment": sized(self.augment, size)})

    @model_validator(mode="after")
    def _readable(self) -> ClipsConfig:
        if not self.readers or len(set(self.readers)) < len(self.readers):
            raise ValueError(f"readers must be one or more different ones, got {list(self.readers)}")
        return self

    def dataset(
        self, split: str, root: Path, items: Mapping[str, Sequence[Clip]] | Division[Clip], *, texts: bool = False
    ) -> Clips:
        """The videos of a split."""
        chosen, classes = self.items(split, root, items, texts=texts)
        if self.sampling.type == "dense" and any(isinstance(item.target, tuple) for item in chosen):
            raise ConfigError(
                "data.sampling dense takes a window, but labels are sequences over the whole video; take all or uniform"
            )
        train = split == "train"
        transform = chain(self.augment) if train else None
        return Clips(Home(root, self.follow_links), chosen, classes, self.reading(), random=train, transform=transform)

    def plain(self, split: str) -> Dataset:
        """The videos of a split, one window of each."""
        if not isinstance(self.sampling, DenseSampling):
            return self.build(split)
        return self.model_copy(update={"sampling": self.sampling.model_copy(update={"windows": 1})}).build(split)

    def reading(self) -> Reading:
        """How files are read."""
        cache = DecodedCache(self.cache) if self.cache is not None else None
        return Reading(
            readers=self.readers,
            sampling=self.sampling,
            side=self.side,
            max_pixels=self.max_pixels,
            square_pixels=self.square_pixels,
            cache=cache,
            find_shots=self.find_shots,
        )


def _inside(starts: Sequence[float], begin: float, seconds: float) -> tuple[float, ...]:
    return tuple(start - begin for start in starts if 0 <= start - begin < seconds)
