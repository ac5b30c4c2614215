"""Augmentation of training images by torchvision's transforms v2, with all parameters in the configuration.

Transforms map (C, H, W) tensors, or (N, C, H, W) ones whose frames are all changed in the same way. Random numbers come
from torch's global generator.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, TypeVar

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import Tensor
from torch.nn import functional

from hrt_mm.core.errors import BadSample, ConfigError
from hrt_mm.core.extras import needs_extra

from ..common.augment import Probability, RangedComponent

Transform = Callable[[Tensor], Tensor]
Fraction = Annotated[float, Field(gt=0, le=1)]
Side = PositiveInt | tuple[PositiveInt, PositiveInt]
Shade = Annotated[float, Field(ge=0, le=1)]


class _ImageAugmentation(RangedComponent):
    @abstractmethod
    def build(self, white: float) -> Transform:
        """The transform of images in which white is ``white``."""
        raise NotImplementedError(type(self))


class Crop(_ImageAugmentation):
    """A random crop of the padded image."""

    type: Literal["crop"]
    padding: NonNegativeInt = 0
    """Pixels added to every side first."""
    size: Side | None = None
    """Rows and columns of the crop, or one number for both; those of the image when absent."""
    fill: Shade = 0.0
    """Grey value of the padding, from 0 for black to 1 for white."""

    @model_validator(mode="after")
    def _does_something(self) -> Crop:
        if not self.padding and self.size is None:
            raise ValueError("crop without padding and size changes nothing; set one of them")
        return self

    def build(self, white: float) -> Transform:
        """The transform of images in which white is ``white``."""
        return _RandomCrop(self.padding, _pair(self.size) if self.size is not None else None, self.fill * white)


class ResizedCrop(_ImageAugmentation):
    """A random part of the image, resized."""

    ranges = ("scale", "ratio")

    type: Literal["resized_crop"]
    size: Side | None = None
    """Rows and columns of the result, or one number for both; ``modality.size`` when absent. Without either, the crop
    is not resized."""
    scale: tuple[Fraction, Fraction] = (0.08, 1.0)
    """Least and largest area, as a fraction."""
    ratio: tuple[PositiveFloat, PositiveFloat] = (3 / 4, 4 / 3)
    """Least and largest aspect ratio, width over height."""

    def build(self, white: float) -> Transform:
        """The transform of images in which white is ``white``."""
        if self.size is None:
            return _RandomPart(self.scale, self.ratio)
        size = _pair(self.size)
        return _torchvision(lambda v2: v2.RandomResizedCrop(size, self.scale, self.ratio, antialias=True))


class Affine(_ImageAugmentation):
    """A random rotation, shift, scaling and shear, with bilinear interpolation."""

    ranges = ("scale",)

    type: Literal["affine"]
    degrees: NonNegativeFloat = 0.0
    """Largest rotation to either side."""
    translate: tuple[Probability, Probability] = (0.0, 0.0)
    """Largest shift, as fractions of the width and of the height."""
    scale: tuple[PositiveFloat, PositiveFloat] = (1.0, 1.0)
    """Least and largest scaling."""
    shear: NonNegativeFloat = 0.0
    """Largest shear in degrees to either side."""
    fill: Shade = 0.0
    """Grey value outside of the image, from 0 for black to 1 for white."""

    def build(self, white: float) -> Transform:
        """The transform of images in which white is ``white``."""
        return _torchvision(
            lambda v2: v2.RandomAffine(
                self.degrees,
                self.translate,
                self.scale,
                self.shear or None,
                interpolation=v2.InterpolationMode.BILINEAR,
                fill=self.fill * white,
            )
        )

    def masked(self, white: float, ignore: int) -> Callable[[Any], Transform]:
        """Makes the transform of an image and its mask, of ``torchvision.transforms.v2``.

        Args:
            white: value of white pixels.
            ignore: value of mask pixels from outside of the image.
        """
        from torchvision import tv_tensors

        fill = {tv_tensors.Image: self.fill * white, tv_tensors.Mask: ignore}
        return lambda v2: v2.RandomAffine(
            self.degrees,
            self.translate,
            self.scale,
            self.shear or None,
            interpolation=v2.InterpolationMode.BILINEAR,
            fill=fill,
        )


class Flip(_ImageAugmentation):
    """A random flip."""

    type: Literal["flip"]
    p: Probability = 0.5
    """Probability of applying it."""
    axis: Literal["horizontal", "vertical"] = "horizontal"
    """Horizontal swaps left and right."""

    def build(self, white: float) -> Transform:
        """The transform of images in which white is ``white``."""
        if self.axis == "horizontal":
            return _torchvision(lambda v2: v2.RandomHorizontalFlip(self.p))
        return _torchvision(lambda v2: v2.RandomVerticalFlip(self.p))


class Jitter(_ImageAugmentation):
    """Random changes of brightness, contrast, saturation and hue."""

    type: Literal["jitter"]
    brightness: NonNegativeFloat = 0.0
    """Largest change, as a fraction."""
    contrast: NonNegativeFloat = 0.0
    """Largest change, as a fraction."""
    saturation: NonNegativeFloat = 0.0
    """Largest change, as a fraction."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Largest rotation of the colour circle, as a fraction."""

    def build(self, white: float) -> Transform:
        """The transform of images in which white is ``white``."""
        return _torchvision(lambda v2: v2.ColorJitter(self.brightness, self.contrast, self.saturation, self.hue))


class Erasing(_ImageAugmentation):
    """Overwrites a random rectangle (arXiv 1708.04896)."""

    ranges = ("scale", "ratio")

    type: Literal["erasing"]
    p: Probability = 0.5
    """Probability of applying it."""
    scale: tuple[Fraction, Fraction] = (0.02, 0.33)
    """Least and largest area, as a fraction."""
    ratio: tuple[PositiveFloat, PositiveFloat] = (0.3, 3.3)
    """Least and largest aspect ratio, width over height."""
    fill: Shade = 0.0
    """Grey value that is written, from 0 for black to 1 for white."""

    def build(self, white: float) -> Transform:
        """The transform of images in which white is ``white``."""
        return _torchvision(lambda v2: v2.RandomErasing(self.p, self.scale, self.ratio, self.fill * white))


class RandAugment(_ImageAugmentation):
    """Random operations of one strength (arXiv 1909.13719)."""

    type: Literal["randaugment"]
    ops: PositiveInt = 2
    """Operations per image."""
    magnitude: Annotated[int, Field(ge=0, le=30)] = 9
    """Strength, of 31 steps."""

    def build(self, white: float) -> Transform:
        """The transform of images in which white is ``white``."""
        return _torchvision(
            lambda v2: v2.RandAugment(self.ops, self.magnitude, interpolation=v2.InterpolationMode.BILINEAR)
        )


Augmentation = Annotated[
    Crop | ResizedCrop | Affine | Flip | Jitter | Erasing | RandAugment, Field(discriminator="type")
]


class _BatchAugmentation(_ImageAugmentation):
    """Mixes the images of a batch, and their classes as they are mixed; for task ``classification``."""

    alpha: PositiveFloat
    p: Probability = 1.0
    """Probability of applying it to a batch."""

    def build(self, white: float) -> Transform:
        """Not of a single image."""
        raise NotImplementedError(type(self))

    @abstractmethod
    def mixer(self, classes: int) -> Any:
        """The transform of images (N, C, H, W) and classes (N,), of ``torchvision.transforms.v2``."""


class Mixup(_BatchAugmentation):
    """Adds two images in random shares (arXiv 1710.09412)."""

    type: Literal["mixup"]
    alpha: PositiveFloat = 0.2
    """Parameter of the Beta distribution of the share: small values leave most images nearly as they are."""

    def mixer(self, classes: int) -> Any:
        """The transform of images and classes."""
        return _torchvision(lambda v2: v2.MixUp(alpha=self.alpha, num_classes=classes))


class Cutmix(_BatchAugmentation):
    """Puts a random rectangle of another image into each (arXiv 1905.04899)."""

    type: Literal["cutmix"]
    alpha: PositiveFloat = 1.0
    """Parameter of the Beta distribution of the share of the area that stays."""

    def mixer(self, classes: int) -> Any:
        """The transform of images and classes."""
        return _torchvision(lambda v2: v2.CutMix(alpha=self.alpha, num_classes=classes))


BatchAugmentation = Annotated[
    Crop | ResizedCrop | Affine | Flip | Jitter | Erasing | RandAugment | Mixup | Cutmix, Field(discriminator="type")
]
"""Augmentations of images and of batches of them."""


class ImageMixing:
    """Mixes the images of a batch by one of several augmentations, chosen at random for each batch.

    Args:
        augmentations: to choose from.
    """

    def __init__(self, augmentations: Sequence[Mixup | Cutmix]) -> None:
        self.augmentations = tuple(augmentations)

    def __call__(self, values: Sequence[Any], names: Sequence[str], target_B: Tensor, classes: int) -> tuple[Any, Any]:
        """The mixed images, floats in 0..1, and (B, K) the shares of their classes.

        Args:
            values: images (C, H, W) of one size.
            names: of the samples, for messages.
            target_B: indices of the classes.
            classes: how many there are.

        Raises:
            BadSample: an image is of another size than the first.
        """
        for value, name in zip(values, names, strict=True):
            if value.shape != values[0].shape:
                raise BadSample(
                    name,
                    f"has the shape {tuple(value.shape)} and {names[0]} {tuple(values[0].shape)}; "
                    f"{self.augmentations[0].type} needs images of one size: put a resized_crop with a size before it",
                )
        chosen = self.augmentations[int(torch.randint(len(self.augmentations), ()))]
        if float(torch.rand(())) >= chosen.p:
            return values, functional.one_hot(target_B, classes).float()
        images = torch.stack([value.float() / 255 if value.dtype == torch.uint8 else value for value in values])
        images, shares_BK = chosen.mixer(classes)(images, target_B)
        return list(images), shares_BK


def mixing_of(augmentations: Sequence[Any]) -> ImageMixing | None:
    """What mixes batches among some augmentations; ``None`` for nothing."""
    mixing = [one for one in augmentations if isinstance(one, _BatchAugmentation)]
    return ImageMixing(mixing) if mixing else None  # type: ignore[arg-type]


def of_images(augmentations: Sequence[Any]) -> tuple[Any, ...]:
    """What changes single images among some augmentations."""
    return tuple(one for one in augmentations if not isinstance(one, _BatchAugmentation))


PairedAugmentation = Annotated[ResizedCrop | Affine | Flip | Jitter, Field(discriminator="type")]
"""Augmentations that can change an image and its mask alike."""
PairTransform = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
AnyAugmentation = TypeVar("AnyAugmentation", bound=_ImageAugmentation)


def sized(augmentations: Sequence[AnyAugmentation], size: Side | None) -> tuple[AnyAugmentation, ...]:
    """The augmentations, with the modality's size for resized crops without one."""
    return tuple(
        one.model_copy(update={"size": size}) if isinstance(one, ResizedCrop) and one.size is None else one
        for one in augmentations
    )


def paired_chain(augmentations: Sequence[PairedAugmentation], ignore: int | None) -> PairTransform | None:
    """The transforms of an image and its mask, one after another; ``None`` for none.

    Args:
        augmentations: in order.
        ignore: value of mask pixels that come from outside of the image; 0 when ``None``.

    Raises:
        ConfigError: a crop has no size.
    """
    return _PairedChain(augmentations, ignore) if augmentations else None


class _PairedChain:
    """torchvision's transforms of an image and its mask; random numbers are drawn once for both."""

    def __init__(self, augmentations: Sequence[PairedAugmentation], ignore: int | None) -> None:
        for augmentation in augmentations:
            if isinstance(augmentation, ResizedCrop) and augmentation.size is None:
                raise ConfigError("data.augment: resized_crop of images with masks needs a size, or modality.size")
        self.augmentations, self.ignore = tuple(augmentations), ignore

    def __call__(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        with needs_extra("vision"):
            from torchvision import tv_tensors

        white = 1.0 if image.is_floating_point() else 255.0
        pair: Any = tv_tensors.Image(image), tv_tensors.Mask(mask)
        for augmentation in self.augmentations:
            transform: Any = augmentation.build(white)
            if isinstance(augmentation, Affine):
                transform = _torchvision(augmentation.masked(white, self.ignore or 0))
            pair = transform(*pair)
        image, mask = (part.as_subclass(Tensor) for part in pair)
        return image, mask


def chain(augmentations: Sequence[Augmentation]) -> Transform | None:
    """The transforms one after another; ``None`` for none."""
    return _Chain(augmentations) if augmentations else None


class _Chain:
    """Transforms one after another, for bytes and for floats in 0..1."""

    def __init__(self, augmentations: Sequence[Augmentation]) -> None:
        self.bytes = [augmentation.build(255.0) for augmentation in augmentations]
        self.floats = [augmentation.build(1.0) for augmentation in augmentations]

    def __call__(self, image: Tensor) -> Tensor:
        for transform in self.floats if image.is_floating_point() else self.bytes:
            image = transform(image)
        return image


class _RandomCrop:
    """torchvision's random crop, to a fixed size or to that of the image."""

    def __init__(self, padding: int, size: tuple[int, int] | None, fill: float) -> None:
        self.padding, self.size, self.fill = padding, size, fill
        self._last: tuple[tuple[int, int], Transform] | None = None

    def __call__(self, image: Tensor) -> Tensor:
        size = self.size or (image.shape[-2], image.shape[-1])
        if self._last is None or self._last[0] != size:
            self._last = (
                size,
                _torchvision(lambda v2: v2.RandomCrop(size, self.padding or None, pad_if_needed=True, fill=self.fill)),
            )
        return self._last[1](image)


class _RandomPart:
    """torchvision's random resized crop, without resizing."""

    def __init__(self, scale: tuple[float, float], ratio: tuple[float, float]) -> None:
        self.scale, self.ratio = scale, ratio

    def __call__(self, image: Tensor) -> Tensor:
        with needs_extra("vision"):
            from torchvision.transforms import RandomResizedCrop

        top, left, height, width = RandomResizedCrop.get_params(image, list(self.scale), list(self.ratio))
        return image[..., top : top + height, left : left + width].contiguous()


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _torchvision(make: Callable[[Any], Transform]) -> Transform:
    """A transform made from ``torchvision.transforms.v2``, which is imported only here."""
    with needs_extra("vision"):
        from torchvision.transforms import v2
    return make(v2)
