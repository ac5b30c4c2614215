"""Readers agree with each other, with the times of frames, and about what cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hrt_mm.core.errors import BadSample, ConfigError
from hrt_modalities.common.file_cache import FileCache
from hrt_modalities.video.readers import VideoFile, index, read_index
from hrt_modalities.video.readers.base import ReaderError
from hrt_modalities.video.readers.decord import PADDED
from hrt_modalities.video.readers.torchcodec import TorchcodecReader
from tests.modalities.video.films import cut, damaged, film, sound_alone

ALL = ["decord", "pyav"]


def numbers(pixels_N3HW: torch.Tensor) -> list[int]:
    """What number each frame tells by its brightness at the bottom right."""
    return [round(float(frame[:, -8:, -8:].float().mean()) / 4) for frame in pixels_N3HW]


@pytest.mark.parametrize("reader", ALL)
@pytest.mark.parametrize("expected", [list(range(40)), [39, 0, 17, 17, 3], [12]], ids=["all", "random", "one"])
def test_frames_by_number(tmp_path: Path, reader: str, expected: list[int]) -> None:
    with VideoFile(film(tmp_path / "a.mp4"), readers=[reader]) as video:
        result = video.frames(expected)
        assert video.reader == reader
    assert numbers(result.pixels_N3HW) == expected
    assert result.times_N.tolist() == pytest.approx([number / 25 for number in expected])
    assert result.lost == 0


def test_readers_give_the_same_pixels(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4")
    first, second = (VideoFile(path, readers=[reader]).frames([0, 9, 25]).pixels_N3HW.int() for reader in ALL)
    assert (first - second).abs().max() <= 2


@pytest.mark.parametrize("reader", ALL)
def test_calls_in_any_order_agree(tmp_path: Path, reader: str) -> None:
    with VideoFile(film(tmp_path / "a.mp4", every=7), readers=[reader]) as video:
        for expected in ([30, 31], [2], [3, 4, 20], [39], [0]):
            assert numbers(video.frames(expected).pixels_N3HW) == expected


@pytest.mark.parametrize("reader", ALL)
def test_variable_rates_go_by_time(tmp_path: Path, reader: str) -> None:
    times = [0.04 * number if number < 20 else 0.8 + 0.1 * (number - 20) for number in range(40)]
    with VideoFile(film(tmp_path / "a.mp4", times=times), readers=[reader]) as video:
        assert video.index.seconds == pytest.approx(2.8, abs=0.07)
        result = video.at([0.0, 0.05, 0.41, 0.79, 0.8, 0.95, 2.75, 99.0])
    assert numbers(result.pixels_N3HW) == [0, 1, 10, 19, 20, 21, 39, 39]


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_turned_frames_come_upright(tmp_path: Path, degrees: int) -> None:
    with VideoFile(film(tmp_path / "a.mp4", rotation=degrees)) as video:
        pixels = video.frames([5]).pixels_N3HW[0].int()
        assert video.reader == "pyav" and video.size == tuple(pixels.shape[1:])
    assert pixels.shape == ((3, 64, 48) if degrees != 180 else (3, 48, 64))
    # The mark at the top left moves against the clock.
    position = {90: (-3, 3), 180: (-3, -3), 270: (3, -3)}[degrees]
    red = pixels[0] - pixels[1]
    assert red[position] > 200 and int((red > 200).sum()) < 12 * 16 + 40


@pytest.mark.parametrize("reader", ALL)
def test_frames_are_scaled_as_they_are_decoded(tmp_path: Path, reader: str) -> None:
    with VideoFile(film(tmp_path / "a.mp4"), readers=[reader], side=24) as video:
        assert video.size == (24, 32)
        assert video.frames([3]).pixels_N3HW.shape == (1, 3, 24, 32)


@pytest.mark.parametrize(
    ("name", "kind", "reader"),
    [
        ("a.mkv", {"codec": "libsvtav1", "frames": 6}, "pyav"),
        ("a.mov", {"codec": "mpeg4"}, "decord"),
        ("a.avi", {"codec": "mpeg4"}, "pyav"),
        ("a.mpg", {"codec": "mpeg1video"}, "pyav"),
        ("a.webm", {"codec": "libvpx-vp9"}, "decord"),
        ("a.ts", {}, "pyav"),
        ("tiny.mkv", {"codec": "ffv1", "pixels": "bgr0", "size": (1, 1), "frames": 3}, "pyav"),
        ("fast.mp4", {"rate": 1000}, "decord"),
        ("one.mp4", {"frames": 1}, "decord"),
        ("sound.mp4", {"sound": True}, "decord"),
        # It makes frames of these widths wider, and cannot copy them. It is not asked: nothing is decoded twice.
        *[(f"{columns}.mp4", {"size": (32, columns)}, "pyav") for columns in sorted(PADDED)],
        *[(f"{columns}.mp4", {"size": (32, columns)}, "decord") for columns in (32, 40, 56, 64, 96)],
    ],
)
def test_containers_codecs_and_sizes(tmp_path: Path, name: str, kind: dict[str, Any], reader: str) -> None:
    with VideoFile(film(tmp_path / name, **kind), readers=["decord", "pyav"]) as video:
        result = video.frames(range(len(video.index)))
        assert video.reader == reader
        assert video.index.sound == kind.get("sound", False)
        assert video.index.rate == pytest.approx(kind.get("rate", 25), rel=0.05)
    assert len(result.pixels_N3HW) == kind.get("frames", 40)


def test_frames_without_times_are_counted(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mkv", 10, times=[0.0] * 10, codec="ffv1", pixels="bgr0")
    with VideoFile(path) as video:
        result = video.frames([7, 2])
        assert video.reader == "pyav"
    assert numbers(result.pixels_N3HW) == [7, 2] and result.times_N.tolist() == pytest.approx([7 / 25, 2 / 25])


def test_broken_frames_and_those_that_refer_to_them_are_left_out_and_counted(tmp_path: Path) -> None:
    path = damaged(tmp_path / "a.mp4", 12)
    # Frame 14 is stored before packet 12; frame 20 is the next key frame.
    whole = [*range(11), 14, *range(20, 40)]
    with VideoFile(path) as video:
        result = video.frames(range(40))
        assert video.reader == "pyav"
    assert result.lost == 8 and numbers(result.pixels_N3HW) == whole
    with VideoFile(path) as video:
        for number in (15, 39, 19, 11, 12, 3):
            if number in whole:
                assert numbers(video.frames([number]).pixels_N3HW) == [number]
            else:
                with pytest.raises(BadSample, match="none of 1 frames can be decoded"):
                    video.frames([number])


def test_what_is_left_of_a_cut_file_is_used(tmp_path: Path) -> None:
    path = cut(tmp_path / "a.mp4", 0.7, every=5, options={"movflags": "faststart"})
    with VideoFile(path) as video:
        result = video.frames(range(len(video.index)))
        assert video.index.declared == 40 and video.index.missing == 40 - len(video.index) > 0
    assert 0 < len(result.times_N) < 40


def test_streams_equal_the_whole_and_need_no_more_than_a_block(tmp_path: Path) -> None:
    with VideoFile(film(tmp_path / "a.mp4")) as video:
        whole = video.frames(range(40))
        parts = list(video.stream(block=16))
    assert [len(part.times_N) for part in parts] == [16, 16, 8]
    assert torch.equal(torch.cat([part.pixels_N3HW for part in parts]), whole.pixels_N3HW)


BAD: dict[str, tuple[Any, str]] = {
    "cut.mp4": (lambda path: cut(path, 0.7), "is cut off|broken or cut off|no video stream"),
    "zero.mkv": (lambda path: cut(path, 0.2), "no frames|cut off"),
    "sound.mp4": (sound_alone, "sound alone; read it as audio"),
    "text.mp4": (lambda path: path.write_text("dear diary\n" * 40), "no video that can be read"),
    "list.mp4": (lambda path: path.write_text("ffconcat version 1.0\nfile ok.mp4\n"), "no video that can be read"),
    "playlist.mp4": (
        lambda path: path.write_text("#EXTM3U\n#EXTINF:10,\nok.mp4\n#EXT-X-ENDLIST\n"),
        "no video that can be read",
    ),
    "empty.mp4": (lambda path: path.write_bytes(b""), "is an empty file"),
    "missing.mp4": (lambda path: None, "No such file"),
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_bad_files_say_what_is_wrong(tmp_path: Path, name: str) -> None:
    film(tmp_path / "ok.mp4", 3)
    make, message = BAD[name]
    make(tmp_path / name)
    with pytest.raises(BadSample, match=message) as caught:
        VideoFile(tmp_path / name, name)
    assert caught.value.name == name


def test_a_file_is_walked_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = film(tmp_path / "a.mp4", 6)
    first = read_index(path, "a.mp4")
    assert read_index(path, "a.mp4") is first
    film(tmp_path / "a.mp4", 9)
    assert len(read_index(path, "a.mp4")) == 9
    # What is kept is bounded: of two files that are too much together the older one is walked again.
    monkeypatch.setattr(index, "_INDICES", FileCache(len, 10))
    other = film(tmp_path / "b.mp4", 5)
    first, second = read_index(path, "a.mp4"), read_index(other, "b.mp4")
    assert read_index(other, "b.mp4") is second and read_index(path, "a.mp4") is not first


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", 2)
    with pytest.raises(BadSample, match=r"64x48 pixels a frame are more than data.max_pixels=100"):
        read_index(path, "a.mp4", max_pixels=100)


def test_what_each_reader_said_is_listed(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mkv", 6, codec="ffv1", pixels="bgr0")
    with pytest.raises(BadSample, match=r"a.mkv: no reader can decode it \(torchcodec: .+; decord: is not given ffv1"):
        VideoFile(path, "a.mkv", readers=["torchcodec", "decord"]).frames([0])
    with pytest.raises(ConfigError, match="there is no reader 'ffmpeg'; one of pyav, decord, torchcodec"):
        VideoFile(path, readers=["ffmpeg"])


def test_numbers_out_of_range(tmp_path: Path) -> None:
    with (
        VideoFile(film(tmp_path / "a.mp4", 5), "a.mp4") as video,
        pytest.raises(BadSample, match="has frames 0 to 4, not 2 to 5"),
    ):
        video.frames([2, 5])


def test_torchcodec_agrees_where_it_is(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4")
    try:
        TorchcodecReader(path, read_index(path, "a.mp4"), (48, 64))
    except ReaderError as error:
        pytest.skip(str(error))
    with VideoFile(path, readers=["torchcodec"]) as video:
        assert numbers(video.frames([30, 2]).pixels_N3HW) == [30, 2]


@pytest.mark.parametrize(
    ("reason", "short"),
    [
        (
            "Could not load it. Likely causes:\n\n  1. FFmpeg is not there.\n  2. Another",
            "causes: 1. FFmpeg is not there.",
        ),
        ("No frames\nat all", "No frames"),
        ("", "RuntimeError"),
    ],
)
def test_the_reason_is_not_cut_off(reason: str, short: str) -> None:
    from hrt_modalities.video.readers.torchcodec import _short

    assert _short(RuntimeError(reason)).endswith(short)
