"""The vision tokenizer: images of any and mixed sizes to packed patches in hierarchical order.

Shapes: T tokens, F = C * P * P raw features of a patch, C channels, P patch side, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional

from hrt_mm.core.dense import dense_grids
from hrt_mm.core.errors import UserError
from hrt_mm.core.grids import nested_coords
from hrt_mm.core.levels import HierarchyConfig, blocks
from hrt_mm.core.spans import Spans
from hrt_mm.core.tokens import Tokens
from hrt_mm.data.capabilities import SizeAdapting
from hrt_mm.data.tokenizer import Tokenizer, TokenizerConfig

from .encoders import BackboneEmbedding, Colors, check_statistics, statistics
from .images import Fit, Size, check_image, middle, resized, with_channels
from .patches import Blocks, GridMaps, buckets, patchify, unpatchify
from .sequence import PixelSequence, PixelTokenizer
from .stems import ConvPatchEmbedding, ImageLinearStem, PatchEmbedding, Stem

Side = PositiveInt | tuple[PositiveInt, PositiveInt]


class VisionConfig(TokenizerConfig):
    """Images as patches."""

    type: Literal["vision"]
    channels: Literal[1, 3] = 3
    """1 for grey, 3 for RGB; images are converted."""
    size: Side | None = None
    """Rows and columns to resize to, or one number for both; every image keeps its own size when absent."""
    fit: Fit = "stretch"
    """How an image with another aspect ratio is resized to ``size``: stretched, or center-cropped."""
    patch: PositiveInt = 4
    """Side of a patch in pixels; a patch is one token."""
    pad: Literal["edge", "zero"] = "edge"
    """Padding at the right and bottom up to a whole patch: the last pixels, or the mean colour."""
    mean: float | Annotated[tuple[float, ...], Field(min_length=1)] | None = None
    """Mean of the pixels in 0..1, one number or one per channel; that of a pretrained encoder, or 0.5, when absent."""
    std: PositiveFloat | Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] | None = None
    """Standard deviation of the pixels, as ``mean``."""
    stem: Stem = ImageLinearStem()
    """How raw patches become tokens."""
    sequence: PixelSequence | None = None
    """Read grey pixels one after another, as on one axis, in place of patches on a grid."""

    @model_validator(mode="after")
    def _agree(self) -> VisionConfig:
        check_statistics(self.channels, mean=self.mean, std=self.std)
        if self.size is None and self.fit != "stretch":
            raise ValueError(f"fit: {self.fit} has no effect without size; set size or drop fit")
        if self.sequence is not None:
            unused = {"patch": 1, "pad": "edge", "mean": None, "std": None, "stem": ImageLinearStem()}
            for key, value in unused.items():
                if getattr(self, key) != value:
                    raise ValueError(
                        f"{key} has no effect on a sequence of pixels, which is embedded by its shades; "
                        + ("set patch: 1" if key == "patch" else f"drop {key}, or drop sequence")
                    )
            if self.channels != 1:
                raise ValueError("a sequence has grey pixels; set channels: 1, or drop sequence")
        return self

    @property
    def statistics(self) -> Colors:
        """Mean and standard deviation of each channel."""
        return statistics(self.stem, self.channels, self.mean, self.std)

    def build(self, model: HierarchyConfig | None = None) -> VisionTokenizer | PixelTokenizer:
        """The tokenizer."""
        if self.sequence is not None:
            size = (self.size, self.size) if isinstance(self.size, int) else self.size
            return PixelTokenizer(self.sequence, size, self.fit)
        return self.build_grid(model)

    def build_grid(self, model: HierarchyConfig | None = None) -> VisionTokenizer:
        """The tokenizer of patches on a grid, which ``build`` gives where ``sequence`` is absent."""
        return VisionTokenizer(self, blocks(model, 2) if model is not None else ())


class VisionTokenizer(Tokenizer, SizeAdapting):
    """Cuts images into patches.

    Takes (C, H, W) tensors, uint8 or floats in 0..1, and Pillow images, with 1 or 3 channels and mixed sizes. Returns
    raw patches (T, F), normalized, in hierarchical order; the features of a patch are in raster order over (C, P, P).
    Sides that are not multiples of the patch are padded at the right and bottom. If ``extents`` is set and
    ``modality.size`` is not, images of sizes that training did not have are resized to the nearest one, center-cropped
    to its aspect ratio.
    """

    axes = 2
    levels = ("patches", "regions", "areas", "image")

    def __init__(self, config: VisionConfig, blocks: Blocks) -> None:
        self.config = config
        self.blocks = blocks
        size = config.size
        self.image_size = (size, size) if isinstance(size, int) else size
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in config.statistics)
        self.scale, self.shift = 1 / std, -mean / std
        self.features: int = config.channels * config.patch**2

    def __call__(self, values: Sequence[Any]) -> Tokens:
        """Packs images.

        Raises:
            BadSample: a value is no image, or has values that are not finite or out of range; names its index in the
                batch.
        """
        names = (f"image {index} of the batch" for index in range(len(values)))
        images = [
            with_channels(check_image(value, name), self.config.channels)
            for value, name in zip(values, names, strict=True)
        ]
        shapes = [self._grid(image.shape[1], image.shape[2]) for image in images]
        spans = Spans.from_lengths([rows * columns for rows, columns in shapes])
        x_TF = torch.empty(spans.total, self.features)
        for (_, dtype), samples in buckets((image.shape, image.dtype) for image in images).items():
            patches = self._patches(
                torch.stack([images[index] for index in samples]), 255.0 if dtype == torch.uint8 else 1.0
            )
            # Images of equal size are cut together; if all are equal, without a copy.
            if len(samples) == len(images):
                x_TF = patches.flatten(0, 1)
                break
            for index, patch_rows in zip(samples, patches, strict=True):
                x_TF[spans.host[index] : spans.host[index + 1]] = patch_rows
        coords = [nested_coords(shape, self.blocks) for shape in shapes]
        return Tokens(x_TF, spans, torch.cat(coords), grids=tuple(shapes))

    def _resizing(self, height: int, width: int) -> tuple[Size, Fit]:
        """The target size, which may be the current one, and the kind of resizing."""
        if self.image_size is not None:
            return self.image_size, self.config.fit
        nearest = self.extents.nearest_size((height, width), self.config.patch) if self.extents is not None else None
        return nearest or (height, width), "crop"

    def _grid(self, height: int, width: int) -> tuple[int, int]:
        (height, width), _ = self._resizing(height, width)
        return -(-height // self.config.patch), -(-width // self.config.patch)

    def _patches(self, images_NCHW: Tensor, largest: float) -> Tensor:
        pixels = images_NCHW.float()
        size, fit = self._resizing(pixels.shape[2], pixels.shape[3])
        if tuple(pixels.shape[2:]) != size:
            pixels = resized(pixels, size, fit)
        # (pixels / largest - mean) / std in one pass.
        pixels = torch.addcmul(self.shift, pixels, self.scale / largest)
        height, width = pixels.shape[2:]
        right, bottom = -width % self.config.patch, -height % self.config.patch
        if right or bottom:
            mode = "replicate" if self.config.pad == "edge" else "constant"
            pixels = functional.pad(pixels, (0, right, 0, bottom), mode)
        return patchify(pixels, self.config.patch, self.blocks)

    def embedding(self, dim: int) -> nn.Module:
        """The stem.

        Raises:
            ConfigError: the pretrained encoder cannot be loaded, or does not fit.
        """
        return self.config.stem.build(self.config.channels, self.config.patch, self.image_size, dim, self.blocks)

    def size(self, shape: Sequence[int]) -> int:
        """Number of patches of an image of shape (C, H, W)."""
        rows, columns = self._grid(shape[-2], shape[-1])
        return rows * columns

    def box(self, value: Any, steps: Sequence[float]) -> tuple[float, float, float, float]:
        """The position of patches in the original image, before resizing and padding, in pixels."""
        _, height, width = check_image(value, "the image").shape
        top, left, high, wide = 0.0, 0.0, float(height), float(width)
        (rows, columns), fit = self._resizing(height, width)
        if (rows, columns) != (height, width) and fit == "crop":
            top, left, high, wide = middle((height, width), (rows, columns))
        y, x, y_end, x_end = (self.config.patch * step for step in steps)
        return (
            left + min(x / columns, 1) * wide,
            top + min(y / rows, 1) * high,
            left + min(x_end / columns, 1) * wide,
            top + min(y_end / rows, 1) * high,
        )

    def dense_axes(self) -> dict[str, dict[int, str]]:
        """Images: a batch of any height and width, or of ``modality.size``."""
        return {"images": {0: "batch"} | ({2: "height", 3: "width"} if self.image_size is None else {})}

    def dense_example(self, size: int) -> Tensor:
        """An image of noise, wider than high."""
        height, width = self.image_size or (self.config.patch * size + size // 2, self.config.patch * (size + 1))
        return torch.rand(self.config.channels, height, width)

    def dense_batch(self, values: Sequence[Any]) -> dict[str, Tensor]:
        """(B, C, H, W) pixels in 0..1, in ``modality.size``, not normalized.

        Raises:
            BadSample: a value is no image.
            UserError: sizes differ.
        """
        images = []
        for index, value in enumerate(values):
            image = with_channels(check_image(value, f"image {index} of the batch"), self.config.channels)
            pixels = image.float() / 255 if image.dtype == torch.uint8 else image
            size, fit = self._resizing(*pixels.shape[1:])
            images.append(resized(pixels[None], size, fit)[0] if pixels.shape[1:] != size else pixels)
        if len({image.shape for image in images}) > 1:
            raise UserError("an exported model takes images of one size in a batch; resize them, or use one at a time")
        return {"images": torch.stack(images)}

    def dense_tokens(self, embedding: nn.Module, inputs: Mapping[str, Tensor], unit: Sequence[int]) -> Tokens:
        """The embedded patches of images of one size."""
        pixels, patch = inputs["images"], self.config.patch
        pixels = pixels * self.scale + self.shift
        cells = []
        for axis in (2, 3):
            side = pixels.shape[axis]
            cells.append((side + patch - 1) // patch)
            row = torch.arange(cells[-1] * patch)
            pixels = pixels.index_select(axis, row.clamp(max=side - 1))
            if self.config.pad == "zero":
                pixels = pixels * (row < side).view(-1, *[1] * (3 - axis))
        if isinstance(embedding, PatchEmbedding):
            split = pixels.unflatten(3, (cells[1], patch)).unflatten(2, (cells[0], patch))
            # Copied, as for a view of several axes as one the tracer would ask whether a side is 1.
            patches = split.permute(0, 2, 4, 1, 3, 5).clone(memory_format=torch.contiguous_format)
            maps = embedding.project(patches.flatten(3))
        else:
            assert isinstance(embedding, ConvPatchEmbedding | BackboneEmbedding)
            maps = embedding.dense(pixels)
        coords = [torch.arange(count).float() for count in cells]
        return dense_grids(maps, coords, self.blocks, tuple(unit))

    def dense_metadata(self) -> dict[str, Any]:
        """Size, colours and normalization."""
        mean, std = self.config.statistics
        return {
            "channels": self.config.channels,
            "size": self.image_size,
            "fit": self.config.fit,
            "patch": self.config.patch,
            "range": [0.0, 1.0],
            "mean": mean,
            "std": std,
            "normalization": "in the graph",
        }

    @property
    def labels_per_token(self) -> int:
        """Pixels of a patch."""
        return self.config.patch**2

    def label_tokens(self, masks: Sequence[Tensor], missing: int) -> Tensor:
        """(T, P * P) labels of the pixels of each patch, in the order of the patches. Resizing takes the nearest pixel.

        Args:
            masks: (H, W) int64, each of the size of its image.
            missing: label of pixels that pad an image.
        """
        patch, parts = self.config.patch, []
        for mask in masks:
            (rows, columns), fit = self._resizing(*mask.shape)
            if tuple(mask.shape) != (rows, columns):
                if fit == "crop":
                    top, left, high, wide = middle((mask.shape[0], mask.shape[1]), (rows, columns))
                    mask = mask[top : top + high, left : left + wide]
                mask = _nearest(mask, (rows, columns))
            padded = functional.pad(mask, (0, -columns % patch, 0, -rows % patch), value=missing)
            parts.append(patchify(padded[None, None], patch, self.blocks)[0])
        return torch.cat(parts)

    def label_maps(self, tokens: Tokens, labels_TP: Tensor) -> list[Tensor]:
        """(H, W) maps of the labels of each image, with padding."""
        plan = GridMaps.of(tokens, self.blocks)
        maps: dict[int, Tensor] = {}
        for bucket, labels_NhwP in zip(plan.buckets, plan.maps(labels_TP), strict=True):
            maps.update(zip(bucket.samples, unpatchify(labels_NhwP, self.config.patch)[:, 0], strict=True))
        return [maps[index] for index in range(len(tokens))]

    def labels_of(self, value: Any, label_map: Tensor, missing: int) -> Tensor:
        """(H, W) labels of the pixels of an image, from its map.

        Args:
            value: the image.
            label_map: as :meth:`label_maps` gives it.
            missing: label of pixels that were cropped.
        """
        _, height, width = check_image(value, "the image").shape
        (rows, columns), fit = self._resizing(height, width)
        label_map = label_map[:rows, :columns]
        if (rows, columns) == (height, width):
            return label_map
        if fit != "crop":
            return _nearest(label_map, (height, width))
        top, left, high, wide = middle((height, width), (rows, columns))
        labels = torch.full((height, width), missing, dtype=label_map.dtype, device=label_map.device)
        labels[top : top + high, left : left + wide] = _nearest(label_map, (high, wide))
        return labels

    def restore(self, tokens: Tokens) -> list[Tensor]:
        """The images (C, H, W), float32 in 0..1, from raw patches; with padding."""
        plan = GridMaps.of(tokens, self.blocks)
        restored: dict[int, Tensor] = {}
        for bucket, patches_NhwF in zip(plan.buckets, plan.maps(tokens.x), strict=True):
            images = unpatchify(patches_NhwF.float(), self.config.patch)
            pixels = (images - self.shift.to(images.device)) / self.scale.to(images.device)
            restored.update(zip(bucket.samples, pixels, strict=True))
        return [restored[index] for index in range(len(tokens))]


def _nearest(mask: Tensor, size: Size) -> Tensor:
    """Labels (H, W) at another size, each that of the nearest pixel."""
    rows, columns = (
        ((torch.arange(new, device=mask.device) + 0.5) * old / new).long().clamp(max=old - 1)
        for new, old in zip(size, mask.shape, strict=True)
    )
    return mask[rows[:, None], columns]
