"""Reading image files safely, and bringing images to one form.

An image is a (C, H, W) tensor: uint8, or float32 in 0..1 where 8 bits would lose something (16-bit files).
C is 1 for grey and 3 for RGB. Shapes: C channels, H rows, W columns.
"""

from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError, features
from PIL.GifImagePlugin import GifImageFile
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, TiffImageFile
from torch import Tensor

from hrt_mm.errors import BadSample
from hrt_mm.files import check_regular

_AVIF = features.check("avif")  # a Pillow before 11.3, or one that was built without it, has none
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP", *(("AVIF",) if _AVIF else ()))
"""What is decoded. Formats that run programs or hold other files (EPS, PDF, MPO) are not among them."""
SUFFIXES = frozenset(
    {
        ".apng", ".bmp", ".gif", ".j2c", ".j2k", ".jfif", ".jp2", ".jpc", ".jpe", ".jpeg", ".jpf", ".jpg", ".jpx",
        ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp", *((".avif", ".avifs") if _AVIF else ()),
    }
)  # fmt: skip
MAX_PIXELS = 64_000_000
"""Larger images are not decoded; a small file can unpack to gigabytes."""

_GREY = frozenset({"1", "L", "LA"})
_TURNED = frozenset({5, 6, 7, 8})
_ORIENTATION = 0x0112
LUMA = torch.tensor([0.299, 0.587, 0.114])
"""Weights of red, green and blue in grey."""


def read_image(path: Path, name: str, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Decodes a file: the first frame, upright as its EXIF says, transparency over white.

    Args:
        path: the file.
        name: what messages call it.
        max_pixels: larger images are rejected before they are decoded.

    Returns:
        (C, H, W) uint8, or float32 in 0..1 for 16-bit files; C is 1 for grey files and 3 for all others.

    Raises:
        BadSample: the file is missing, no image, truncated, too large, or of pixels without an agreed range.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _open(path, name, max_pixels) as image:
                drawn = image.tile[0][1] if isinstance(image, GifImageFile) and image.tile else None
                found = to_tensor(ImageOps.exif_transpose(image), name)
                return found if drawn is None else _on_white(found, drawn)
    except BadSample:
        raise
    except Exception as error:  # a decoder raises whatever its parser met
        raise BadSample(name, f"cannot be decoded: {error or type(error).__name__}") from error


def image_shape(path: Path, name: str, max_pixels: int = MAX_PIXELS) -> tuple[int, int, int]:
    """The shape (C, H, W) that :func:`read_image` gives, from the header alone.

    Raises:
        BadSample: the file is missing, no image, or too large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _open(path, name, max_pixels) as image:
                # Pillow gives the size of a TIFF as it is shown, but that of others as it is stored.
                tags = image.tag_v2 if isinstance(image, TiffImageFile) else None
                width, height = image.size if tags is None else (int(tags[IMAGEWIDTH]), int(tags[IMAGELENGTH]))
                if image.getexif().get(_ORIENTATION) in _TURNED:
                    width, height = height, width
                return 1 if image.mode in _GREY or image.mode.startswith("I") else 3, height, width
    except BadSample:
        raise
    except Exception as error:  # a decoder raises whatever its parser met
        raise BadSample(name, f"cannot be read: {error or type(error).__name__}") from error


def to_tensor(image: Image.Image, name: str = "image") -> Tensor:
    """A Pillow image as a tensor; palettes are looked up, and transparency lies over white.

    Returns:
        (C, H, W) uint8, or float32 in 0..1 for 16-bit images.

    Raises:
        BadSample: the pixels have no agreed range (32-bit ones).
    """
    if image.mode.startswith("I"):
        return _sixteen_bits(image, name)
    if image.mode == "F":
        raise BadSample(name, "its pixels are 32-bit floats, whose range is not known; save it with 8 or 16 bits")
    grey = image.mode in _GREY
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    pixels = np.array(image.convert("L" if grey else "RGB"))
    tensor = torch.from_numpy(pixels)
    return tensor[None] if grey else tensor.permute(2, 0, 1).contiguous()


def with_channels(image: Tensor, channels: int) -> Tensor:
    """The image (C, H, W) in grey or RGB: grey is repeated, and RGB is weighed by luma (ITU-R 601)."""
    if len(image) == channels:
        return image
    if channels == 3:
        return image.expand(3, -1, -1)
    grey = (LUMA.view(3, 1, 1) * image).sum(0, keepdim=True)
    return grey.round().to(torch.uint8) if image.dtype == torch.uint8 else grey


def png(image: Tensor | Image.Image) -> bytes:
    """An image as a PNG file of 8 bits."""
    tensor = check_image(image, "image")
    if tensor.dtype != torch.uint8:
        tensor = (tensor.clamp(0, 1) * 255).round().to(torch.uint8)
    pixels = tensor[0] if len(tensor) == 1 else tensor.permute(1, 2, 0)
    file = BytesIO()
    Image.fromarray(pixels.contiguous().numpy()).save(file, "PNG")
    return file.getvalue()


def check_image(image: object, name: str) -> Tensor:
    """The value as an image (C, H, W), or what is wrong with it.

    Raises:
        BadSample: it is not a tensor or Pillow image, or its shape, dtype, range or values cannot be used.
    """
    if isinstance(image, Image.Image):
        return to_tensor(image, name)
    if not isinstance(image, Tensor):
        raise BadSample(name, f"an image must be a (C, H, W) tensor or a Pillow image, got {type(image).__name__}")
    if image.ndim == 2:
        image = image[None]
    if image.ndim != 3 or image.shape[0] not in (1, 3) or not image.numel():
        raise BadSample(name, f"an image must be (C, H, W) with 1 or 3 channels and no empty side, got {_shape(image)}")
    if image.dtype == torch.uint8:
        return image
    if not image.is_floating_point():
        raise BadSample(name, f"an image must be uint8, or floats in 0..1, got {image.dtype}")
    low, high = (float(value) for value in image.aminmax())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise BadSample(name, f"{int((~image.isfinite()).sum())} of {image.numel()} values are NaN or infinite")
    if low < -0.01 or high > 1.01:
        raise BadSample(name, f"floats must lie in 0..1, got {low:g} to {high:g}; divide by the largest value")
    return image.float()


def _open(path: Path, name: str, max_pixels: int) -> Image.Image:
    try:
        check_regular(path, name)
        image = Image.open(path, formats=FORMATS)
    except FileNotFoundError as error:
        raise BadSample(name, "no such file") from error
    except UnidentifiedImageError as error:
        raise BadSample(name, f"not an image that can be read; formats are {', '.join(FORMATS)}") from error
    width, height = image.size
    if width * height > max_pixels:
        image.close()
        raise BadSample(name, f"{width}x{height} pixels are more than max_pixels={max_pixels}")
    return image


def _on_white(image: Tensor, drawn: tuple[int, int, int, int]) -> Tensor:
    """A GIF whose first frame may not fill it; browsers show nothing around that, Pillow the first colour."""
    left, top, right, bottom = drawn
    if (left, top) == (0, 0) and right >= image.shape[2] and bottom >= image.shape[1]:
        return image
    found = torch.full_like(image, 255)
    found[:, top:bottom, left:right] = image[:, top:bottom, left:right]
    return found


def _sixteen_bits(image: Image.Image, name: str) -> Tensor:
    pixels = np.array(image).astype(np.float32)
    if pixels.min() < 0 or pixels.max() > 65535:
        raise BadSample(name, "its pixels have 32 bits, whose range is not known; save it with 8 or 16 bits")
    return torch.from_numpy(pixels / np.float32(65535))[None]


def _shape(image: Tensor) -> str:
    return f"({', '.join(map(str, image.shape))})"
