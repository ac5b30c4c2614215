"""The video tokenizer: videos of any and mixed lengths, rates and sizes to packed tubes in hierarchical order.

Shapes: T tokens, F = C * K * P * P raw features of a tube, N frames, C channels, K frames of a tube, P patch side,
B videos of a bucket, t x h x w cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
from einops import rearrange
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional

from hrt_mm.core.dense import dense_grids
from hrt_mm.core.errors import BadSample, ConfigError, UserError
from hrt_mm.core.grids import Sizes, nested_coords, nested_order
from hrt_mm.core.levels import HierarchyConfig, blocks
from hrt_mm.core.spans import Spans
from hrt_mm.core.tokens import Tokens
from hrt_mm.data.capabilities import Contextual, SizeAdapting
from hrt_mm.data.tokenizer import Tokenizer, TokenizerConfig

from ..vision.encoders import Colors, ImageEncoderStem, check_statistics, statistics
from ..vision.images import LUMA, Fit, Size, resized
from ..vision.patches import Blocks, GridMaps
from ..vision.stems import PatchEmbedding
from .stems import ConvTubeEmbedding, FrameEmbedding, Stem, VideoLinearStem
from .video import Video, check_video

Side = PositiveInt | tuple[PositiveInt, PositiveInt]
Number = float | Annotated[tuple[float, ...], Field(min_length=1)]


class VideoConfig(TokenizerConfig):
    """Videos as tubes: patches over a few frames."""

    type: Literal["video"]
    channels: Literal[1, 3] = 3
    """1 for grey, 3 for RGB; frames are converted."""
    size: Side | None = None
    """Rows and columns to resize frames to, or one number for both; every video keeps its own size when absent."""
    fit: Fit = "stretch"
    """How frames with another aspect ratio are resized to ``size``: stretched, or center-cropped."""
    patch: PositiveInt = 16
    """Side of a tube in pixels."""
    tube: PositiveInt = 2
    """Frames of a tube, which is one token."""
    rate: PositiveFloat = 25.0
    """Nominal frames per second: a step in time is ``tube / rate`` seconds. Videos at other rates keep their speed, so
    that the coordinates of their tokens are farther apart, or closer."""
    span: PositiveFloat | None = None
    """Length of the longer side of a frame in steps, so that coordinates are the same at every resolution; one step per
    patch when absent."""
    mean: Number | None = None
    """Mean of the pixels in 0..1, one number or one per channel; that of a pretrained encoder, or 0.5, when absent."""
    std: PositiveFloat | Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] | None = None
    """Standard deviation of the pixels, as ``mean``."""
    stem: Stem = VideoLinearStem()
    """How raw tubes become tokens."""
    carried: tuple[str, ...] = ("shots", "cuts", "fades", "wipes", "chapters", "subtitles", "words")
    """Boundaries that the data provides, as start times of groups. Only those that the model or the task requests are
    required."""
    max_frames: PositiveInt = 20_000
    """Limit of the frames of a video; longer ones are bad samples."""

    @model_validator(mode="after")
    def _agree(self) -> VideoConfig:
        check_statistics(self.channels, mean=self.mean, std=self.std)
        if self.size is None and self.fit != "stretch":
            raise ValueError(f"fit: {self.fit} has no effect without size; set size or drop fit")
        if "frames" in self.carried:
            raise ValueError("the boundary 'frames' comes from the video itself; drop it from carried")
        return self

    @property
    def statistics(self) -> Colors:
        """Mean and standard deviation of each channel."""
        return statistics(self.stem, self.channels, self.mean, self.std)

    def build(self, model: HierarchyConfig | None = None) -> VideoTokenizer:
        """The tokenizer."""
        return VideoTokenizer(self, blocks(model, 3) if model is not None else ())


class VideoTokenizer(Tokenizer, Contextual, SizeAdapting):
    """Cuts videos into tubes.

    Takes :class:`~hrt_modalities.video.video.Video`. Returns raw tubes (T, F), normalized, in hierarchical order over
    time, rows and columns. Sides that are not multiples of the patch are padded at the right and bottom, and the last
    frame is repeated up to a whole tube. The coordinate of a token in time is the mean time of its frames, in steps of
    ``tube / rate`` seconds.

    If ``extents`` is set, videos at frame rates that training did not have are sampled at the nearest one. Without
    ``modality.size``, frames of sizes that it did not have are resized to the nearest one, center-cropped to its aspect
    ratio.

    A group starts with the step whose start is nearest to its time, or with the nearest block if the order interleaves
    the steps of a block. The boundary ``frames`` starts at each step.
    """

    axes = 3
    levels = ("tubes", "frames", "clips", "scenes", "video")
    features: int

    def __init__(self, config: VideoConfig, blocks: Blocks) -> None:
        self.config, self.blocks = config, blocks
        self.boundaries, self.carried = ("frames", *config.carried), config.carried
        self.lookahead = 0 if isinstance(config.stem, ImageEncoderStem) else config.stem.reach
        mean, std = config.statistics
        self.mean, self.std = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))
        self.shift = torch.tensor([middle / spread for middle, spread in zip(mean, std, strict=True)]).view(-1, 1, 1)
        size = config.size
        self.frame_size = (size, size) if isinstance(size, int) else size
        self.features = config.channels * config.tube * config.patch**2

    @property
    def seconds_per_step(self) -> float:
        """Duration of a step in time at the nominal rate."""
        return self.config.tube / self.config.rate

    def __call__(self, values: Sequence[Any]) -> Tokens:
        """Packs videos, with the requested boundaries.

        Raises:
            BadSample: a value is no video, is too long, or lacks a requested boundary; names its index in the batch.
            ConfigError: groups by frames were requested, and the order interleaves frames.
        """
        names = [f"video {index} of the batch" for index in range(len(values))]
        videos = [self.sampled(check_video(value, name)) for value, name in zip(values, names, strict=True)]
        shapes = [self._grid(video, name) for video, name in zip(videos, names, strict=True)]
        spans = Spans.from_lengths([steps * rows * columns for steps, rows, columns in shapes])
        x_TF = torch.empty(spans.total, self.features)
        for index, video in enumerate(videos):
            x_TF[spans.host[index] : spans.host[index + 1]] = self._tubes(video)
        coords = [self._coords(video, shape) for video, shape in zip(videos, shapes, strict=True)]
        masks = {
            boundary: torch.cat([self._starts(boundary, *one) for one in zip(videos, shapes, names, strict=True)])
            for boundary in sorted(self.requested_boundaries)
        }
        return Tokens(x_TF, spans, torch.cat(coords), grids=tuple(shapes), boundaries=masks)

    def fitted(self, pixels_NCHW: Tensor) -> Tensor:
        """Frames resized and converted as the tokenizer does, floats in 0..1; unchanged if their size already fits.

        The tokens of the result are the same up to rounding. It saves memory to resize large frames early.
        """
        size, fit = self._resizing(pixels_NCHW.shape[2], pixels_NCHW.shape[3])
        if tuple(pixels_NCHW.shape[2:]) == size:
            return pixels_NCHW
        pixels = pixels_NCHW.float() / (255.0 if pixels_NCHW.dtype == torch.uint8 else 1.0)
        return resized(coloured(pixels, self.config.channels), size, fit)

    def _resizing(self, height: int, width: int) -> tuple[Size, Fit]:
        """The target size, which may be the current one, and the kind of resizing."""
        if self.frame_size is not None:
            return self.frame_size, self.config.fit
        nearest = self.extents.nearest_size((height, width), self.config.patch) if self.extents is not None else None
        return nearest or (height, width), "crop"

    def even_times(self, times_N: Tensor, seconds: float) -> Tensor | None:
        """Sampling times for a video at a frame rate that training did not have: those of the nearest rate that it had.

        Args:
            times_N: start times of its frames in seconds.
            seconds: its duration.

        Returns:
            (n,) float64, evenly spaced from the first frame on; ``None`` if training had the rate.
        """
        if self.extents is None or len(times_N) < 2:
            return None
        nominal = 1 / self.config.rate
        interval = float(times_N[-1] - times_N[0]) / (len(times_N) - 1)
        spacing = self.extents.nearest_spacing(interval / nominal)
        if spacing is None:
            return None
        count = max(1, round((seconds - float(times_N[0])) / (spacing * nominal)))
        return times_N[0] + torch.arange(count, dtype=torch.float64) * (spacing * nominal)

    def sampled(self, video: Video) -> Video:
        """The video at a frame rate that training had, if ``extents`` is set."""
        times_n = self.even_times(video.times_N, video.seconds)
        if times_n is None:
            return video
        seconds = max(video.seconds, float(times_n[-1]) + 0.5 / self.config.rate)
        frames = frames_at(video.times_N, times_n)
        return replace(video, pixels_NCHW=video.pixels_NCHW[frames], times_N=times_n, seconds=seconds)

    def steps_at(self, starts: Sequence[float], times_N: Tensor, unit: int = 1) -> Tensor:
        """Steps at which groups start: those whose starts are nearest to the given times, and the first one.

        Args:
            starts: in seconds; those nearer to the end than to any step are dropped.
            times_N: of the frames.
            unit: number of steps that may not be separated.

        Returns:
            (n,) int64, ascending and unique.
        """
        begin = times_N[:: self.config.tube * unit]
        # A time belongs to the step whose midpoints to its neighbours enclose it. The last one is as long.
        middles = (begin[1:] + begin[:-1]) / 2
        last = 1.5 * float(begin[-1]) - 0.5 * float(begin[-2]) if len(begin) > 1 else float("inf")
        inside = torch.tensor([start for start in starts if start < last], dtype=torch.float64)
        steps = torch.searchsorted(middles, inside, right=True)
        return torch.cat([steps.new_zeros(1), steps]).unique() * unit

    def steps(self, value: Video, positions: Sequence[float]) -> list[float]:
        """Steps of times in seconds; the first frame is at 0."""
        return [(seconds - float(value.times_N[0])) / self.seconds_per_step for seconds in positions]

    def positions(self, value: Video, steps: Sequence[float]) -> list[float]:
        """Times of steps in seconds."""
        return [float(value.times_N[0]) + step * self.seconds_per_step for step in steps]

    def embedding(self, dim: int) -> nn.Module:
        """The stem.

        Raises:
            ConfigError: a pretrained encoder cannot be loaded, or does not fit.
        """
        config = self.config
        if isinstance(config.stem, ImageEncoderStem):
            backbone, width = config.stem.encoder(config.channels, config.patch, self.frame_size)
            return FrameEmbedding(backbone, width, config.tube, config.patch, dim, self.blocks)
        return config.stem.build(config.channels, config.tube, config.patch, dim, self.blocks)

    def size(self, shape: Sequence[int]) -> int:
        """Number of tubes of a video of shape (N, C, H, W)."""
        steps, rows, columns = self._cells(shape[0], shape[-2], shape[-1])
        return steps * rows * columns

    def dense_axes(self) -> dict[str, dict[int, str]]:
        """Frames: a batch of videos of any number of frames, height and width, or of ``modality.size``."""
        sides = {3: "height", 4: "width"} if self.frame_size is None else {}
        return {"frames": {0: "batch", 1: "time"} | sides}

    def dense_example(self, size: int) -> Video:
        """A video of noise, at the nominal rate."""
        patch, tube = self.config.patch, self.config.tube
        height, width = self.frame_size or (patch * (1 + size // 2), patch * (1 + size // 2) + patch // 2)
        return Video.of(
            torch.rand(tube * (size + 1) + size % tube, self.config.channels, height, width), self.config.rate
        )

    def dense_batch(self, values: Sequence[Any]) -> dict[str, Tensor]:
        """(B, N, C, H, W) pixels in 0..1, in ``modality.size``, not normalized.

        Raises:
            BadSample: a value is no video.
            UserError: lengths or sizes differ.
        """
        videos = []
        for index, value in enumerate(values):
            pixels = self.fitted(check_video(value, f"video {index} of the batch").pixels_NCHW)
            pixels = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels
            videos.append(coloured(pixels, self.config.channels))
        if len({video.shape for video in videos}) > 1:
            raise UserError(
                "an exported model takes videos of one length and size in a batch; cut and resize them, or use one at "
                "a time"
            )
        return {"frames": torch.stack(videos)}

    def dense_tokens(self, embedding: nn.Module, inputs: Mapping[str, Tensor], unit: Sequence[int]) -> Tokens:
        """The embedded tubes of videos of one length and size, at the nominal rate."""
        config, pixels = self.config, inputs["frames"]
        pixels = pixels * self._scale(1.0) - self.shift
        cells, frame, exists = [], torch.empty(0), torch.empty(0)
        for axis, step in ((1, config.tube), (3, config.patch), (4, config.patch)):
            side = pixels.shape[axis]
            cells.append((side + step - 1) // step)
            row = torch.arange(cells[-1] * step)
            pixels = pixels.index_select(axis, row.clamp(max=side - 1))
            if axis == 1:
                frame, exists = row.double().unflatten(0, (-1, step)), (row < side).double().unflatten(0, (-1, step))
        steps, rows, columns = cells
        if isinstance(embedding, ConvTubeEmbedding | FrameEmbedding):
            maps = embedding.dense_maps(pixels.permute(0, 1, 3, 4, 2).clone(memory_format=torch.contiguous_format))
        else:
            assert isinstance(embedding, PatchEmbedding)
            split = pixels.unflatten(4, (columns, config.patch)).unflatten(3, (rows, config.patch))
            split = split.unflatten(1, (steps, config.tube))
            # (B, t, K, C, h, P, w, P) to (B, t, h, w, C * K * P * P).
            tubes = split.permute(0, 1, 4, 6, 3, 2, 5, 7).clone(memory_format=torch.contiguous_format)
            maps = embedding.project(tubes.flatten(4))
        # The mean time of the frames that exist, from that of the first tube.
        middles = (frame * exists).sum(1) / exists.sum(1) / config.tube
        coords = [torch.arange(count).float() for count in (rows, columns)]
        if config.span is not None:
            scale: Any = config.span / torch.sym_max(rows, columns)
            coords = [coord * scale for coord in coords]
        coords.insert(0, (middles - middles[0]).float())
        return dense_grids(maps, coords, self.blocks, tuple(unit))

    def dense_metadata(self) -> dict[str, Any]:
        """Size, rate, colours and normalization."""
        mean, std = self.config.statistics
        return {
            "channels": self.config.channels,
            "size": self.frame_size,
            "fit": self.config.fit,
            "patch": self.config.patch,
            "tube": self.config.tube,
            "frames_per_second": self.config.rate,
            "range": [0.0, 1.0],
            "mean": mean,
            "std": std,
            "normalization": "in the graph",
        }

    def restore(self, tokens: Tokens) -> list[Video]:
        """The videos, float32 in 0..1, from raw tubes; with padding."""
        plan = GridMaps.of(tokens, self.blocks)
        restored: dict[int, Video] = {}
        for bucket, tubes_BthwF in zip(plan.buckets, plan.maps(tokens.x), strict=True):
            videos = untubify(tubes_BthwF.float(), self.config.tube, self.config.patch)
            for index, pixels_CNHW in zip(bucket.samples, videos, strict=True):
                pixels = pixels_CNHW.transpose(0, 1) * self.std.to(tokens.device) + self.mean.to(tokens.device)
                restored[index] = Video.of(pixels, self.config.rate)
        return [restored[index] for index in range(len(tokens))]

    def _scale(self, largest: float) -> Tensor:
        """Factor of pixels of which the largest is given."""
        return torch.tensor([1 / (largest * spread) for spread in self.config.statistics[1]]).view(-1, 1, 1)

    def _cells(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        (height, width), _ = self._resizing(height, width)
        patch = self.config.patch
        return -(-frames // self.config.tube), -(-height // patch), -(-width // patch)

    def _grid(self, video: Video, name: str) -> tuple[int, int, int]:
        if len(video) > self.config.max_frames:
            raise BadSample(
                name,
                f"has {len(video)} frames, more than modality.max_frames {self.config.max_frames}; raise it, or sample "
                "fewer",
            )
        return self._cells(len(video), *video.pixels_NCHW.shape[2:])

    def _tubes(self, video: Video) -> Tensor:
        """(cells, F) of one video."""
        pixels = video.pixels_NCHW
        largest = 255.0 if pixels.dtype == torch.uint8 else 1.0
        pixels = coloured(pixels.float(), self.config.channels)
        size, fit = self._resizing(pixels.shape[2], pixels.shape[3])
        if tuple(pixels.shape[2:]) != size:
            pixels = resized(pixels, size, fit)
        pixels = pixels.mul(self._scale(largest)).sub_(self.shift)
        right, bottom = -pixels.shape[3] % self.config.patch, -pixels.shape[2] % self.config.patch
        if right or bottom:
            pixels = functional.pad(pixels, (0, right, 0, bottom), "replicate")
        if missing := -len(pixels) % self.config.tube:
            pixels = torch.cat([pixels, pixels[-1:].expand(missing, -1, -1, -1)])
        return tubify(pixels[None], self.config.tube, self.config.patch, self.blocks)[0]

    def _coords(self, video: Video, shape: tuple[int, int, int]) -> Tensor:
        """(cells, 3) coordinates of tubes, in steps."""
        tube = self.config.tube
        cells_T3 = nested_coords(shape, self.blocks)
        middles = torch.stack([part.mean() for part in video.times_N.split(tube)])
        steps = ((middles - middles[0]) * (self.config.rate / tube)).float()
        scale = 1.0 if self.config.span is None else self.config.span / max(shape[1:])
        return torch.cat([steps[cells_T3[:, 0].long(), None], cells_T3[:, 1:] * scale], 1)

    def _starts(self, boundary: str, video: Video, shape: tuple[int, int, int], name: str) -> Tensor:
        """(cells,) bool, true at the starts of groups."""
        unit = frames_together(shape, self.blocks)
        if boundary == "frames":
            if unit > 1:
                raise ConfigError(
                    f"{name} cannot be grouped by frames: windows and strides of {unit} steps of time do not cover "
                    f"the picture of {shape[1]}x{shape[2]} patches and put its frames into pieces; let windows and "
                    "strides below have 1 step of time, or cover the picture"
                )
            steps = torch.arange(shape[0])
        elif boundary not in video.boundaries:
            available = ", ".join(video.boundaries) or "none"
            raise BadSample(name, f"carries no boundary {boundary!r}; it has {available}")
        else:
            steps = self.steps_at(video.boundaries[boundary], video.times_N, unit)
        # In hierarchical order, a block of whole frames begins at the row of its first step.
        starts_T = torch.zeros(shape[0] * shape[1] * shape[2], dtype=torch.bool)
        starts_T[steps * (shape[1] * shape[2])] = True
        return starts_T


def coloured(pixels_NCHW: Tensor, channels: int) -> Tensor:
    """Frames in grey or RGB. Grey is repeated; RGB is weighted by luma (ITU-R 601)."""
    if pixels_NCHW.shape[1] == channels:
        return pixels_NCHW
    if channels == 3:
        return pixels_NCHW.expand(-1, 3, -1, -1)
    return (LUMA.view(1, 3, 1, 1) * pixels_NCHW).sum(1, keepdim=True)


def frames_at(times_N: Tensor, times_n: Tensor) -> Tensor:
    """(n,) int64: the frames that are displayed at ``times_n``, given the start times ``times_N`` of all frames."""
    # The tolerance is for times that rounding puts just before the start of their frame.
    return (torch.searchsorted(times_N, times_n + 1e-6, right=True) - 1).clamp(min=0)


def tubify(videos_BNCHW: Tensor, tube: int, patch: int, blocks: Blocks) -> Tensor:
    """Cuts videos, whose frames and sides are multiples of ``tube`` and ``patch``, into tubes.

    Args:
        videos_BNCHW: the videos.
        tube: frames of a tube.
        patch: side of a tube in pixels.
        blocks: of the hierarchical order.

    Returns:
        (B, cells, F) in hierarchical order; features are in raster order over (C, K, P, P).
    """
    _, frames, _, height, width = videos_BNCHW.shape
    grid = frames // tube, height // patch, width // patch
    cells = rearrange(videos_BNCHW, "b (t k) c (h p) (w q) -> b (t h w) (c k p q)", k=tube, p=patch, q=patch)
    return cells[:, nested_order(grid, blocks)]


def untubify(tubes_BthwF: Tensor, tube: int, patch: int) -> Tensor:
    """Videos (B, C, N, H, W) from tubes (B, t, h, w, F) in raster order."""
    return rearrange(tubes_BthwF, "b t h w (c k p q) -> b c (t k) (h p) (w q)", k=tube, p=patch, q=patch)


def frames_together(grid: Sizes, blocks: Blocks) -> int:
    """The number of steps in time that the hierarchical order interleaves; 1 if whole frames are runs.

    The order is raster, with time first, over nested blocks. Blocks that cover the picture follow each other in time.
    The largest one that does not interleaves the steps of its duration.

    Args:
        grid: cells along each axis.
        blocks: nested, from small to large.
    """
    return max((block[0] for block in blocks if block[1] < grid[1] or block[2] < grid[2]), default=1)
