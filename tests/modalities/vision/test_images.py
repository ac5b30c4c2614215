from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, features

from hrt_mm.core.errors import BadSample
from hrt_modalities.vision.images import (
    FORMATS,
    SUFFIXES,
    check_image,
    image_shape,
    read_image,
    to_tensor,
    with_channels,
)


def saved(folder: Path, image: Image.Image, name: str = "image.png", **options: Any) -> Path:
    path = folder / name
    image.save(path, **options)
    return path


def noise(height: int, width: int, channels: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def test_rgb_keeps_every_pixel(tmp_path: Path) -> None:
    pixels = noise(5, 7, 3)
    result = read_image(saved(tmp_path, Image.fromarray(pixels)), "image")
    assert result.dtype == torch.uint8
    assert torch.equal(result, torch.from_numpy(pixels).permute(2, 0, 1))


def test_grey_has_one_channel(tmp_path: Path) -> None:
    pixels = noise(4, 3, 1)[..., 0]
    result = read_image(saved(tmp_path, Image.fromarray(pixels)), "image")
    assert torch.equal(result, torch.from_numpy(pixels)[None])


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1)])
def test_images_one_pixel_wide(tmp_path: Path, size: tuple[int, int]) -> None:
    pixels = noise(*size, 3)
    assert read_image(saved(tmp_path, Image.fromarray(pixels)), "image").shape == (3, *size)


def test_palette_is_looked_up(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 150, 100])
    image.putpixel((1, 0), 1)
    result = read_image(saved(tmp_path, image), "image")
    assert result[:, 0].T.tolist() == [[10, 20, 30], [200, 150, 100]]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_lies_over_white(tmp_path: Path, mode: str) -> None:
    image = Image.new(mode, (2, 1), (0,) * len(mode))
    image.putpixel((1, 0), (0,) * (len(mode) - 1) + (255,))
    result = read_image(saved(tmp_path, image), "image")
    assert result.shape == (3 if mode == "RGBA" else 1, 1, 2)
    assert result[:, 0].T.tolist() == [[255] * len(result), [0] * len(result)]


def test_transparent_palette_lies_over_white(tmp_path: Path) -> None:
    image = Image.new("P", (1, 1))
    image.putpalette([10, 20, 30])
    result = read_image(saved(tmp_path, image, transparency=0), "image")
    assert result.flatten().tolist() == [255, 255, 255]


def test_sixteen_bits_keep_their_precision(tmp_path: Path) -> None:
    pixels = np.array([[0, 1, 257, 65535]], dtype=np.uint16)
    result = read_image(saved(tmp_path, Image.fromarray(pixels)), "image")
    assert result.dtype == torch.float32
    assert torch.allclose(result * 65535, torch.tensor([[[0.0, 1.0, 257.0, 65535.0]]]))


def test_sixteen_bits_where_zero_is_white(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 65535, 13107]], dtype=np.uint16))
    path = saved(tmp_path, image, "image.tiff", tiffinfo={262: 0})
    assert read_image(path, "image").flatten().tolist() == pytest.approx([1.0, 0.0, 0.8])


def test_twelve_bits_are_scaled_to_white(tmp_path: Path) -> None:
    path = tmp_path / "image.tiff"
    # Two pixels, 4095 and 1365, in three bytes.
    path.write_bytes(tiff(b"\xff\xf5\x55", {256: 2, 257: 1, 258: 12}))
    result = read_image(path, "image")
    assert image_shape(path, "image") == result.shape == (1, 1, 2)
    assert result.flatten().tolist() == pytest.approx([1.0, 1 / 3])


def test_transparent_grey_of_sixteen_bits_lies_over_white(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[513, 13107]], dtype=np.uint16))
    result = read_image(saved(tmp_path, image, transparency=513), "image")
    assert result.flatten().tolist() == pytest.approx([1.0, 0.2])


@pytest.mark.parametrize(("bits", "kind", "why"), [(8, 2, "signed"), (16, 2, "signed"), (32, 1, "32 bits")])
def test_pixels_without_a_known_range_are_rejected_whatever_their_values(
    tmp_path: Path, bits: int, kind: int, why: str
) -> None:
    path = tmp_path / "image.tiff"
    path.write_bytes(tiff(bytes([7, 0, 0, 0] * 2), {256: 2, 257: 1, 258: bits, 339: kind}))
    for read in (read_image, image_shape):
        with pytest.raises(BadSample, match=f"photo: its pixels .*{why}.* save it with 8 or 16 bits"):
            read(path, "photo")


def test_bmp_of_4_bit_runs_is_rejected(tmp_path: Path) -> None:
    runs = b"\x00\x05\x12\x34\x50\x00\x00\x00\x00\x01"  # five pixels one by one, end of the row, end
    palette = bytes(range(64))
    header = struct.pack("<IiiHHIIiiII", 40, 5, 1, 1, 4, 2, len(runs), 0, 0, 16, 0)
    start = 14 + len(header) + len(palette)
    path = tmp_path / "image.bmp"
    path.write_bytes(struct.pack("<2sIHHI", b"BM", start + len(runs), 0, 0, start) + header + palette + runs)
    with pytest.raises(BadSample, match=r"photo: is a BMP with 4-bit run-length encoding.* save it as PNG"):
        read_image(path, "photo")


@pytest.mark.skipif(not features.check("jpg_2000"), reason="needs a Pillow with JPEG 2000")
def test_jpeg_2000_without_its_end_is_rejected(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.fromarray(noise(8, 8, 3)), "image.j2k")
    whole = path.read_bytes()
    assert read_image(path, "photo").shape == (3, 8, 8)
    path.write_bytes(whole[:-10])
    with pytest.raises(BadSample, match="photo: cannot be "):
        read_image(path, "photo")
    with pytest.raises(BadSample, match="photo: cannot be decoded: its code stream is cut off"):
        image_shape(path, "photo")


def tiff(pixels: bytes, tags: dict[int, int]) -> bytes:
    """A grey TIFF of one strip."""
    tags = {259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: len(pixels), **tags}
    padded = pixels + bytes(len(pixels) % 2)
    entries = b"".join(struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, tags[tag]) for tag in sorted(tags))
    return struct.pack("<2sHI", b"II", 42, 8 + len(padded)) + padded + struct.pack("<H", len(tags)) + entries + bytes(4)


def test_black_and_white(tmp_path: Path) -> None:
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    assert read_image(saved(tmp_path, image), "image").tolist() == [[[0, 255]]]


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    assert read_image(saved(tmp_path, Image.new("CMYK", (4, 4)), "image.jpg"), "image").shape == (3, 4, 4)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_32_bit_pixels_are_rejected(tmp_path: Path, mode: str) -> None:
    image = Image.new(mode, (2, 2), 100_000)
    with pytest.raises(BadSample, match=r"photo: its pixels .*32.* save it with 8 or 16 bits"):
        read_image(saved(tmp_path, image, "image.tiff"), "photo")


def test_turned_by_exif(tmp_path: Path) -> None:
    image = Image.fromarray(noise(4, 8, 3))
    exif = image.getexif()
    exif[0x0112] = 6
    path = saved(tmp_path, image, "image.jpg", exif=exif)
    assert read_image(path, "image").shape == image_shape(path, "image") == (3, 8, 4)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "gif", "webp", "tiff", "ppm"])
def test_shape_is_read_from_the_header(tmp_path: Path, suffix: str) -> None:
    path = saved(tmp_path, Image.fromarray(noise(5, 6, 3)), f"image.{suffix}")
    assert image_shape(path, "image") == tuple(read_image(path, "image").shape) == (3, 5, 6)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "gif", "tiff"])
def test_truncated_files_are_bad_samples(tmp_path: Path, suffix: str) -> None:
    path = saved(tmp_path, Image.fromarray(noise(64, 64, 3)), f"image.{suffix}")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(BadSample, match=r"^cats/1: cannot be decoded: .+"):
        read_image(path, "cats/1")


def test_flipped_bytes_are_bad_samples_or_images(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    content = bytearray(saved(tmp_path, Image.fromarray(noise(16, 16, 3))).read_bytes())
    path = tmp_path / "broken.png"
    rejected = 0
    for _ in range(200):
        broken = bytearray(content)
        for index in generator.integers(0, len(content), 4):
            broken[index] = generator.integers(0, 256)
        path.write_bytes(broken)
        try:
            read_image(path, "broken")
        except BadSample:
            rejected += 1
    assert rejected > 150


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    path = tmp_path / "notes.png"
    path.write_text("no pixels")
    with pytest.raises(BadSample, match=r"notes: not an image that can be read; formats are BMP, GIF"):
        read_image(path, "notes")
    with pytest.raises(BadSample, match="notes: not an image"):
        image_shape(path, "notes")


def test_formats_that_run_programs_are_not_opened(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.fromarray(noise(4, 4, 3)), "image.eps")
    with pytest.raises(BadSample, match="not an image"):
        read_image(path, "image")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadSample, match=r"^gone: no such file$"):
        read_image(tmp_path / "gone.png", "gone")


def test_too_many_pixels_are_not_decoded(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.new("L", (100, 50)))
    with pytest.raises(BadSample, match=r"big: 100x50 pixels are more than max_pixels=4999"):
        read_image(path, "big", max_pixels=4999)
    assert read_image(path, "big", max_pixels=5000).shape == (1, 50, 100)


@pytest.mark.parametrize("side", [12_000, 60_000])
def test_decompression_bombs_are_bad_samples(tmp_path: Path, side: int) -> None:
    header = side.to_bytes(4) * 2 + bytes([8, 2, 0, 0, 0])
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")]
    body = b"".join(len(d).to_bytes(4) + k + d + zlib.crc32(k + d).to_bytes(4) for k, d in chunks)
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    for read in (read_image, image_shape):
        with pytest.raises(BadSample, match=r"bomb: .*(pixels)"):
            read(path, "bomb")


def test_grey_is_repeated_and_rgb_is_weighed() -> None:
    grey = torch.tensor([[[10, 250]]], dtype=torch.uint8)
    assert torch.equal(with_channels(grey, 3), grey.repeat(3, 1, 1))
    rgb = torch.tensor([255, 0, 0], dtype=torch.uint8).view(3, 1, 1)
    assert with_channels(rgb, 1).tolist() == [[[76]]]
    assert torch.allclose(with_channels(rgb.float() / 255, 1), torch.tensor(0.299))


def test_pillow_images_are_taken() -> None:
    pixels = noise(3, 4, 3)
    assert torch.equal(check_image(Image.fromarray(pixels), "x"), to_tensor(Image.fromarray(pixels)))


def test_matrices_are_grey_images() -> None:
    assert check_image(torch.zeros(3, 4, dtype=torch.uint8), "x").shape == (1, 3, 4)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("image.png", "must be a .* tensor or a Pillow image, got str"),
        (torch.zeros(2, 4, 4), r"1 or 3 channels and no empty side, got \(2, 4, 4\)"),
        (torch.zeros(3, 0, 4), r"no empty side, got \(3, 0, 4\)"),
        (torch.zeros(1, 3, 4, 4), r"got \(1, 3, 4, 4\)"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "uint8, or floats in 0..1, got torch.int64"),
        (torch.full((3, 4, 4), 255.0), r"must lie in 0..1, got 255 to 255"),
        (torch.full((1, 2, 2), float("nan")), "4 of 4 values are NaN or infinite"),
        (torch.tensor([[0.0, float("inf")]]), "1 of 2 values are NaN or infinite"),
    ],
)
def test_bad_values_are_named(value: object, message: str) -> None:
    with pytest.raises(BadSample, match=f"^image 3: .*{message}"):
        check_image(value, "image 3")


def test_reading_from_memory_is_like_reading_a_file(tmp_path: Path) -> None:
    image = Image.fromarray(noise(6, 6, 3))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    path = tmp_path / "image.png"
    path.write_bytes(buffer.getvalue())
    assert torch.equal(read_image(path, "image"), to_tensor(image))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["x.tif", "x.jpg", "x.png", "x.webp", "x.avif"])
def test_the_shape_of_turned_images_is_that_of_their_pixels(tmp_path: Path, name: str, orientation: int) -> None:
    if Path(name).suffix not in SUFFIXES:
        pytest.skip("this Pillow was built without AVIF")
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.zeros((8, 24, 3), np.uint8)
    pixels[:, :12] = 255  # the left half, as it is stored
    path = saved(tmp_path, Image.fromarray(pixels), name, exif=exif, quality=95)
    result = read_image(path, name)
    assert image_shape(path, name) == tuple(result.shape) == ((3, 8, 24) if orientation < 5 else (3, 24, 8))
    first = {1: "left", 2: "right", 3: "right", 4: "left", 5: "top", 6: "top", 7: "bottom", 8: "bottom"}[orientation]
    halves = {
        "left": result[:, :, :4], "right": result[:, :, -4:], "top": result[:, :4], "bottom": result[:, -4:],
    }  # fmt: skip
    assert halves[first].float().mean() > 230


@pytest.mark.parametrize("name", ["a.jfif", "a.jpe", "a.JPG", "a.avif", "a.j2k", "a.jpx", "a.jpf", "a.apng", "a.pbm"])
def test_suffixes_that_are_read(tmp_path: Path, name: str) -> None:
    suffix = Path(name).suffix.lower()
    if suffix == ".avif" and "AVIF" not in FORMATS:
        pytest.skip("this Pillow was built without AVIF")
    assert suffix in SUFFIXES
    image = Image.new("1" if suffix == ".pbm" else "RGB", (64, 48))
    path = saved(tmp_path, image, name)
    assert read_image(path, name).shape[1:] == (48, 64) and image_shape(path, name)[1:] == (48, 64)


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.png")
    for read in (read_image, image_shape):
        with pytest.raises(BadSample, match=r"x.png: is a FIFO, not a file"):
            read(tmp_path / "x.png", "x.png")


def test_around_the_first_frame_of_a_gif_is_white(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.new("RGB", (8, 6), (200, 0, 0)), "x.gif")
    raw = bytearray(path.read_bytes())
    raw[6:10] = (12).to_bytes(2, "little") + (9).to_bytes(2, "little")  # the canvas; the frame stays as it is
    path.write_bytes(raw)
    result = read_image(path, "x.gif")
    assert result.shape == (3, 9, 12) == image_shape(path, "x.gif")
    assert result[:, :6, :8].permute(1, 2, 0).reshape(-1, 3).unique(dim=0).tolist() == [[200, 0, 0]]
    assert (result[:, 6:] == 255).all() and (result[:, :, 8:] == 255).all()
