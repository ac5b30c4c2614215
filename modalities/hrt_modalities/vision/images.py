"""Reads image files safely, converts images to tensors, and resizes them.

An image is a (C, H, W) tensor: uint8, or float32 in 0..1 for files with more than 8 bits. C is 1 for grey and 3 for
RGB.

Shapes: N images, C channels, H rows, W columns.
"""

from __future__ import annotations

import os
import sys
import warnings
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeGuard

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from hrt_mm.core.errors import BadSample
from hrt_mm.core.extras import is_installed, needs_extra
from hrt_mm.data.files import check_regular

if TYPE_CHECKING:
    from PIL import Image
    from PIL.TiffImagePlugin import TiffImageFile

Fit = Literal["stretch", "crop"]
"""Kinds of resizing: to another aspect ratio, or of the center crop."""
Size = tuple[int, int]
"""Rows and columns."""
_AVIF = is_installed("PIL._avif")  # missing before Pillow 11.3, and in builds without it
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP", *(("AVIF",) if _AVIF else ()))
"""Supported formats. Those that run programs or contain other files (EPS, PDF, MPO) are excluded."""
SUFFIXES = frozenset(
    {
        ".apng", ".bmp", ".gif", ".j2c", ".j2k", ".jfif", ".jp2", ".jpc", ".jpe", ".jpeg", ".jpf", ".jpg", ".jpx",
        ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp", *((".avif", ".avifs") if _AVIF else ()),
    }
)  # fmt: skip
MAX_PIXELS = 64_000_000
"""Default limit of the pixels of an image: a small file can decode to gigabytes."""

_GREY = frozenset({"1", "L", "LA"})
_SIDEWAYS = frozenset({5, 6, 7, 8})
_ORIENTATION = 0x0112
_BMP_RLE4 = 2
_TIFF_SIGNED = 2
_JPEG2000_START, _JPEG2000_END = b"\xff\x4f", b"\xff\xd9"
LUMA = torch.tensor([0.299, 0.587, 0.114])
"""Weights of red, green and blue in grey (ITU-R 601)."""


def read_image(path: Path, name: str, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Decodes a file: its first frame, upright by its EXIF orientation, on white where it is transparent.

    Args:
        path: the file.
        name: of the sample, for messages.
        max_pixels: larger images are rejected before they are decoded.

    Returns:
        (C, H, W) uint8, or float32 in 0..1 for grey files with 12 or 16 bits (16-bit colours become uint8); C is 1 for
        grey files and 3 for all others.

    Raises:
        BadSample: the file is missing, no image, truncated, too large, or has pixels without a defined range.
    """
    with needs_extra("vision"):
        from PIL import ImageOps
        from PIL.GifImagePlugin import GifImageFile
        from PIL.TiffImagePlugin import TiffImageFile

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _open(path, name, max_pixels) as image:
                gif_frame = image.tile[0][1] if isinstance(image, GifImageFile) and image.tile else None
                pixels = to_tensor(ImageOps.exif_transpose(image), name)
                if isinstance(image, TiffImageFile) and pixels.dtype == torch.float32:
                    pixels = _to_full_scale(pixels, image)
                return pixels if gif_frame is None else _on_white(pixels, gif_frame)
    except BadSample:
        raise
    except Exception as error:  # decoders raise all kinds of exceptions
        raise BadSample(name, f"cannot be decoded: {error or type(error).__name__}") from error


def image_shape(path: Path, name: str, max_pixels: int = MAX_PIXELS) -> tuple[int, int, int]:
    """The shape (C, H, W) of the result of :func:`read_image`, from the header.

    Raises:
        BadSample: the file is missing, no image, or too large.
    """
    with needs_extra("vision"):
        from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, TiffImageFile

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _open(path, name, max_pixels) as image:
                # Pillow's size of a TIFF is that of the oriented image, but that of other formats is the stored one.
                tags = image.tag_v2 if isinstance(image, TiffImageFile) else None
                width, height = image.size if tags is None else (int(tags[IMAGEWIDTH]), int(tags[IMAGELENGTH]))
                if image.getexif().get(_ORIENTATION) in _SIDEWAYS:
                    width, height = height, width
                return 1 if image.mode in _GREY or image.mode.startswith("I") else 3, height, width
    except BadSample:
        raise
    except Exception as error:  # decoders raise all kinds of exceptions
        raise BadSample(name, f"cannot be read: {error or type(error).__name__}") from error


def to_tensor(image: Image.Image, name: str = "image") -> Tensor:
    """Converts a Pillow image to a tensor; palettes are resolved, and transparent pixels become white.

    Returns:
        (C, H, W) uint8, or float32 in 0..1 for 16-bit images.

    Raises:
        BadSample: the pixels have no defined range (32 bits).
    """
    from PIL import Image

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
    """The image (C, H, W) in grey or RGB. Grey is repeated; RGB is weighted by luma (ITU-R 601)."""
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
    with needs_extra("vision"):
        from PIL import Image

    pixels = tensor[0] if len(tensor) == 1 else tensor.permute(1, 2, 0)
    file = BytesIO()
    Image.fromarray(pixels.contiguous().numpy()).save(file, "PNG")
    return file.getvalue()


def check_image(image: object, name: str) -> Tensor:
    """The value as an image (C, H, W).

    Raises:
        BadSample: it is not a tensor or Pillow image, or its shape, dtype, range or values are invalid.
    """
    if not isinstance(image, Tensor):
        if is_pillow(image):
            return to_tensor(image, name)
        raise BadSample(name, f"an image must be a (C, H, W) tensor or a Pillow image, got {type(image).__name__}")
    if image.ndim == 2:
        image = image[None]
    if image.ndim != 3 or image.shape[0] not in (1, 3) or not image.numel():
        shape = f"({', '.join(map(str, image.shape))})"
        raise BadSample(name, f"an image must be (C, H, W) with 1 or 3 channels and no empty side, got {shape}")
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


def is_pillow(value: object) -> TypeGuard[Image.Image]:
    """Whether the value is a Pillow image."""
    # Without that module there is no Pillow image either.
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(value, pillow.Image)


def from_array(image: np.ndarray, name: str = "the image") -> Tensor:
    """An array (H, W) or (H, W, C) as a tensor (C, H, W). Transparency lies over white.

    Raises:
        BadSample: there are not 1, 3 or 4 channels, or transparency is not of 8 bits.
    """
    channels = 1 if image.ndim == 2 else image.shape[-1]
    if image.ndim not in (2, 3) or channels not in (1, 3, 4):
        raise BadSample(name, f"an array must be (H, W) or (H, W, C) with 1, 3 or 4 channels, got {image.shape}")
    if channels == 4:
        if image.dtype != np.uint8:
            raise BadSample(name, f"an array with transparency must be uint8, got {image.dtype}")
        with needs_extra("vision"):
            from PIL import Image

        return to_tensor(Image.fromarray(image), name)
    try:
        tensor = torch.from_numpy(np.ascontiguousarray(image))
    except TypeError as error:
        raise BadSample(name, f"an array must be uint8, or floats in 0..1, got {image.dtype}") from error
    return tensor.reshape(*image.shape[:2], channels).permute(2, 0, 1).contiguous()


def _open(path: Path, name: str, max_pixels: int) -> Image.Image:
    from PIL import Image, UnidentifiedImageError

    try:
        check_regular(path, name)
        image = Image.open(path, formats=FORMATS)
    except FileNotFoundError as error:
        raise BadSample(name, "no such file") from error
    except UnidentifiedImageError as error:
        raise BadSample(name, f"not an image that can be read; formats are {', '.join(FORMATS)}") from error
    width, height = image.size
    reason = _unsupported(image, path)
    if width * height > max_pixels:
        reason = f"{width}x{height} pixels are more than max_pixels={max_pixels}"
    if reason is not None:
        image.close()
        raise BadSample(name, reason)
    return image


def _unsupported(image: Image.Image, path: Path) -> str | None:
    """The reason to refuse an image that Pillow would decode wrongly."""
    from PIL.BmpImagePlugin import BmpImageFile
    from PIL.TiffImagePlugin import BITSPERSAMPLE, SAMPLEFORMAT, TiffImageFile

    if isinstance(image, BmpImageFile) and image.info.get("compression") == _BMP_RLE4:
        return "is a BMP with 4-bit run-length encoding, which Pillow decodes wrongly; save it as PNG"
    if image.format == "JPEG2000" and _is_truncated_jpeg2000(path):
        return "cannot be decoded: its code stream is cut off; fetch it again"
    if not isinstance(image, TiffImageFile):
        return None
    if image.mode == "I" and max(image.tag_v2.get(BITSPERSAMPLE, (1,))) > 16:
        return "its pixels have 32 bits, whose range is not known; save it with 8 or 16 bits"
    if _TIFF_SIGNED in image.tag_v2.get(SAMPLEFORMAT, ()):
        return "its pixels are signed, whose range is not known; save it with 8 or 16 bits, unsigned"
    return None


def _is_truncated_jpeg2000(path: Path) -> bool:
    """Whether a bare code stream of JPEG 2000 lacks its end marker, whose bytes cannot occur in its data."""
    with path.open("rb") as file:
        if file.read(2) != _JPEG2000_START:
            return False
        file.seek(max(2, file.seek(0, os.SEEK_END) - 1024))
        return _JPEG2000_END not in file.read()


def _to_full_scale(image: Tensor, file: TiffImageFile) -> Tensor:
    """Grey values of a TIFF. Pillow does not scale 12 bits up, and does not invert 16 bits if 0 is white."""
    from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION

    (bits,) = file.tag_v2.get(BITSPERSAMPLE, (16,))
    scaled = (image * (65535 / (2**bits - 1))).clamp(max=1)
    return 1 - scaled if file.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == 0 else scaled


def _on_white(image: Tensor, frame: tuple[int, int, int, int]) -> Tensor:
    """A GIF with white around its first frame, which may be smaller; Pillow fills the rest with the first colour."""
    left, top, right, bottom = frame
    if (left, top) == (0, 0) and right >= image.shape[2] and bottom >= image.shape[1]:
        return image
    white = torch.full_like(image, 255)
    white[:, top:bottom, left:right] = image[:, top:bottom, left:right]
    return white


def _sixteen_bits(image: Image.Image, name: str) -> Tensor:
    pixels = np.array(image).astype(np.float32)
    if pixels.min() < 0 or pixels.max() > 65535:
        raise BadSample(name, "its pixels have 32 bits, whose range is not known; save it with 8 or 16 bits")
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        pixels[pixels == transparent] = 65535
    return torch.from_numpy(pixels / np.float32(65535))[None]


def middle(shape: Size, size: Size) -> tuple[int, int, int, int]:
    """Top, left, rows and columns of the center crop of an image that has the aspect ratio of ``size``."""
    (height, width), (rows, columns) = shape, size
    high = min(height, max(1, round(width * rows / columns)))
    wide = min(width, max(1, round(height * columns / rows)))
    return (height - high) // 2, (width - wide) // 2, high, wide


def resized(pixels_NCHW: Tensor, size: Size, fit: Fit) -> Tensor:
    """Images of floats at another size."""
    if fit == "crop":
        # Cropped first: resizing first would enlarge a thin strip without bound.
        top, left, high, wide = middle((pixels_NCHW.shape[2], pixels_NCHW.shape[3]), size)
        pixels_NCHW = pixels_NCHW[:, :, top : top + high, left : left + wide]
    return functional.interpolate(pixels_NCHW, size, mode="bilinear", antialias=True)
