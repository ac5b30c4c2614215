"""Files whose headers, timestamps, flags or packets are not what they should be: exact frames, or none."""

from __future__ import annotations

import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hrt_mm.core.errors import BadSample
from hrt_modalities.video.readers import VideoFile, read_index
from hrt_modalities.video.readers.packets import SeekPlan
from hrt_modalities.video.readers.pyav import PyavReader
from tests.modalities.video.streams import (
    FRAMES,
    KINDS,
    SIZE,
    Kind,
    copied,
    encode,
    number_of,
    overwritten,
    shuffled,
    truth,
)
from tests.modalities.video.test_exact_frames import check_exact, pictures


def box(path: Path, name: bytes) -> int:
    """Where the content of a box of an mp4 file begins, after its version and flags."""
    return path.read_bytes().index(name) + 8


@pytest.mark.parametrize("kind", ["h264", "h264, open GOP", "hevc, open GOP", "mpeg4"])
@pytest.mark.parametrize(("skipped", "kept"), [(17, None), (17, 20), (0, 20)])
def test_edit_lists_hide_frames_at_both_ends(tmp_path: Path, kind: str, skipped: int, kept: int | None) -> None:
    path = encode(tmp_path / "a.mp4", KINDS[kind])
    index = box(path, b"elst") + 4
    _, begin = struct.unpack(">ii", path.read_bytes()[index : index + 8])
    # The length of a segment counts by the movie's clock, of milliseconds; its begin by the stream's.
    edit = struct.pack(">ii", 40 * (kept or FRAMES - skipped), begin + 512 * skipped)
    check_exact(overwritten(path, index, edit), expected=kept or FRAMES - skipped)
    with VideoFile(path) as file:
        assert number_of(pictures(file.frames([0]))[0]) == skipped and file.index.missing == 0


@pytest.mark.parametrize("delay", [-5, 40])
@pytest.mark.parametrize("container", ["mp4", "mkv", "ts", "mov"])
def test_streams_that_begin_before_or_after_zero(tmp_path: Path, container: str, delay: int) -> None:
    def change(index: int, packet: Any) -> None:
        packet.pts += 512 * delay
        packet.dts += 512 * delay

    source = encode(tmp_path / "source.mp4", KINDS["hevc, open GOP"])
    check_exact(copied(source, tmp_path / f"a.{container}", change))


@pytest.mark.parametrize("kind", ["h264, open GOP", "mpeg4", "mpeg2, open GOP", "vp9"])
@pytest.mark.parametrize("container", ["mkv", "mp4"])
def test_key_flags_of_a_container_are_not_trusted(tmp_path: Path, kind: str, container: str) -> None:
    def flag(index: int, packet: Any) -> None:
        packet.is_keyframe = True

    path = copied(encode(tmp_path / "source.mkv", KINDS[kind]), tmp_path / f"a.{container}", flag)
    check_exact(path, expected=FRAMES)


@pytest.mark.parametrize("kind", ["h264", "hevc, open GOP", "mpeg4", "mpeg2, open GOP"])
@pytest.mark.parametrize("container", ["mkv", "mp4"])
def test_timestamps_of_decoding_in_place_of_presentation(tmp_path: Path, kind: str, container: str) -> None:
    def wrong(index: int, packet: Any) -> None:
        packet.dts += 2048
        packet.pts = packet.dts

    path = copied(encode(tmp_path / "source.mp4", KINDS[kind]), tmp_path / f"a.{container}", wrong)
    check_exact(path, expected=FRAMES)
    with VideoFile(path) as file:
        assert file.index.times_N.diff().tolist() == pytest.approx([0.04] * (FRAMES - 1), abs=0.002)


@pytest.mark.parametrize("kind", ["h264", "mpeg4", "vp9"])
def test_repeated_timestamps_keep_all_frames(tmp_path: Path, kind: str) -> None:
    def repeat(index: int, packet: Any) -> None:
        if index % 7 == 3:
            packet.pts += 40

    path = copied(encode(tmp_path / "source.mkv", KINDS[kind]), tmp_path / "a.mkv", repeat)
    check_exact(path, expected=FRAMES)


def test_frames_without_timestamps_of_presentation_in_avi_follow_those_of_decoding(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.avi", KINDS["h264"])
    check_exact(path, expected=FRAMES)
    with VideoFile(path) as file:
        assert file.index.times_N.tolist() == pytest.approx([0.04 * number for number in range(FRAMES)])
        assert [number_of(item) for item in pictures(file.at([0.0, 0.5, 2.0, 9.0]))] == [0, 12, 50, FRAMES - 1]


STREAMS = [("h264", "h264", None), ("hevc, open GOP", "hevc", None), ("mpeg2, open GOP", "m2v", "mpeg2video")]
STREAMS += [("mpeg4", "m4v", "m4v"), ("vp9", "ivf", None), ("av1", "ivf", None)]


@pytest.mark.parametrize(("kind", "suffix", "format"), STREAMS)
def test_streams_without_a_container(tmp_path: Path, kind: str, suffix: str, format: str | None) -> None:
    path = encode(tmp_path / f"a.{suffix}", KINDS[kind], format=format)
    check_exact(path, expected=FRAMES)
    with VideoFile(path) as file:
        assert file.index.seconds == pytest.approx(0.04 * FRAMES, rel=0.05)


@pytest.mark.parametrize("kind", ["h264", "h264, open GOP", "hevc, open GOP", "mpeg2, open GOP"])
@pytest.mark.parametrize("order", ["twice", "swapped", "second half", "without its head"])
def test_transport_streams_that_were_cut_and_joined(tmp_path: Path, kind: str, order: str) -> None:
    path = encode(tmp_path / "a.ts", KINDS[kind])
    raw = path.read_bytes()
    middle = len(raw) // 2 // 188 * 188
    joined = {"twice": raw + raw, "swapped": raw[middle:] + raw[:middle]}
    path.write_bytes({**joined, "second half": raw[middle:], "without its head": raw[1000:]}[order])
    check_exact(path)
    with VideoFile(path) as file:
        assert file.index.seconds < 0.04 * 2.2 * FRAMES


def test_packed_frames_of_old_avi_files(tmp_path: Path) -> None:
    """DivX puts a frame and the one that is shown before it into one packet, and an empty one into the next."""
    source = encode(tmp_path / "source.avi", Kind("mpeg4", (), {}, 1), every=60)
    raw: list[bytes] = []
    copied(source, tmp_path / "list.avi", lambda index, packet: raw.append(bytes(packet)))
    head, first = raw[0].split(b"\x00\x00\x01\xb6", 1)
    data = [head + b"\x00\x00\x01\xb2DivX503b1393p\x00\x00\x01\xb6" + first]
    for anchor, between in zip(raw[1::2], raw[2::2], strict=False):
        data += [anchor + between, b"\x00\x00\x01\xb6\x53\x40\x7f"]
    path = tmp_path / "packed.avi"
    _write_packets(source, path, data)
    check_exact(path)
    with VideoFile(path) as file:
        assert not file.index.plan.predicted


def _write_packets(source: Path, path: Path, data: list[bytes]) -> None:
    import av

    with av.open(str(source)) as read, av.open(str(path), "w") as written:
        stream = read.streams.video[0]
        copy = written.add_stream_from_template(stream)
        for index, content in enumerate(data):
            packet = av.Packet(content)
            packet.stream, packet.dts, packet.pts = copy, index, index
            packet.time_base, packet.is_keyframe = Fraction(1, 25), index == 0
            written.mux(packet)


@pytest.mark.parametrize(
    "kind", ["h264", "h264, open GOP", "hevc, open GOP", "mpeg2, open GOP", "mpeg4", "vp9", "mjpeg"]
)
@pytest.mark.parametrize("seed", [0, 1])
def test_damaged_packets_do_not_show(tmp_path: Path, kind: str, seed: int) -> None:
    """What is given is what it was before the damage: nothing that refers to a broken frame is."""
    whole = encode(tmp_path / "whole.mkv", KINDS[kind])
    right = {item.tobytes() for item in truth(whole)}
    raw, generator, positions = bytearray(whole.read_bytes()), np.random.default_rng(seed), []
    copied(whole, tmp_path / "same.mkv", lambda index, packet: positions.append((packet.pos, packet.size)))
    for number in (generator.permutation(range(5, len(positions)))[:2]).tolist():
        # A block of Matroska begins with six bytes or more of its own.
        pos, size = positions[number]
        raw[pos + 12 : pos + size] = bytes(len(raw[pos + 12 : pos + size]))
    path = tmp_path / "damaged.mkv"
    path.write_bytes(raw)
    with VideoFile(path) as file:
        blocks = file.stream(block=1)
        given = [pictures(block)[0].tobytes() if len(block.times_N) else None for block in blocks]
    assert 10 < sum(item is not None for item in given) < FRAMES
    assert all(item in right for item in given if item is not None)
    with VideoFile(path) as file:
        for number in shuffled(len(given)):
            if given[number] is None:
                with pytest.raises(BadSample, match="none of 1 frames can be decoded"):
                    file.frames([number])
            else:
                assert pictures(file.frames([number]))[0].tobytes() == given[number]


@pytest.mark.parametrize("container", ["mkv", "ts", "avi", "mpg"])
def test_what_is_left_of_a_file_is_exact(tmp_path: Path, container: str) -> None:
    path = encode(tmp_path / f"a.{container}", KINDS["mpeg2, open GOP"])
    raw = path.read_bytes()
    path.write_bytes(raw[: int(0.6 * len(raw))])
    right = [item.tobytes() for item in truth(path)]
    with VideoFile(path) as file:
        result = file.frames(range(len(file.index)))
    # The frame that is cut off, and those that refer to it, are not given.
    assert len(right) - 4 <= len(result.times_N) <= len(right)
    assert {item.tobytes() for item in pictures(result)} <= set(right)


MATRICES = {
    "as stored": (1, 0, 0, 1),
    "left to right": (-1, 0, 0, 1),
    "upside down": (1, 0, 0, -1),
    "half turn": (-1, 0, 0, -1),
    "right": (0, 1, -1, 0),
    "left": (0, -1, 1, 0),
    "transposed": (0, 1, 1, 0),
    "transposed the other way": (0, -1, -1, 0),
}
UPRIGHT: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "as stored": lambda pixels: pixels,
    "left to right": np.fliplr,
    "upside down": np.flipud,
    "half turn": lambda pixels: np.rot90(pixels, 2),
    "right": lambda pixels: np.rot90(pixels, -1),
    "left": np.rot90,
    "transposed": lambda pixels: pixels.transpose(1, 0, 2),
    "transposed the other way": lambda pixels: np.rot90(pixels, 2).transpose(1, 0, 2),
}


@pytest.mark.parametrize("name", MATRICES)
def test_display_matrices(tmp_path: Path, name: str) -> None:
    path = encode(tmp_path / "a.mp4", KINDS["h264, no B-frames"], frames=3)
    stored = truth(path)
    a, b, c, d = MATRICES[name]
    matrix = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    with VideoFile(overwritten(path, box(path, b"tkhd") + 36, matrix)) as file:
        for item, raw in zip(pictures(file.frames([0, 1, 2])), stored, strict=True):
            assert np.array_equal(item, UPRIGHT[name](raw))
        assert file.size == UPRIGHT[name](stored[0]).shape[:2] == file.index.upright()


@pytest.mark.parametrize(
    ("aspect", "columns"), [(Fraction(2), 128), (Fraction(16, 15), 68), (Fraction(1, 2), 32), (Fraction(1), 64)]
)
@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_pixels_become_square(tmp_path: Path, container: str, aspect: Fraction, columns: int) -> None:
    path = encode(tmp_path / f"a.{container}", KINDS["h264"], frames=4, aspect=aspect)
    with VideoFile(path) as file:
        assert file.size == file.index.upright() == (SIZE[0], columns)
        result = pictures(file.frames([3]))[0]
    with VideoFile(path, square_pixels=False) as file:
        assert file.size == file.index.upright(square_pixels=False) == SIZE
        stored = pictures(file.frames([3]))[0]
    assert np.array_equal(stored, truth(path)[3])
    picture = torch.from_numpy(stored.copy()).permute(2, 0, 1)[None].float()
    wide = torch.nn.functional.interpolate(picture, (SIZE[0], columns), mode="bilinear", antialias=True)
    assert (wide[0].permute(1, 2, 0) - torch.from_numpy(result.copy())).abs().mean() < 6
    with VideoFile(path, side=24) as file:
        assert file.size == ((24, columns // 2) if columns >= 48 else (36, 24))


def test_square_pixels_are_bounded(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mkv", KINDS["h264"], frames=2, aspect=Fraction(10))
    with pytest.raises(BadSample, match=r"is 640x48 with square pixels, more than data.max_pixels=4000; .*square_pix"):
        VideoFile(path, max_pixels=4000)
    assert VideoFile(path, max_pixels=4000, square_pixels=False).size == SIZE
    absurd = encode(tmp_path / "b.mkv", KINDS["h264"], frames=2, aspect=Fraction(255, 1))
    assert VideoFile(absurd).size == SIZE


def test_a_stream_of_key_frames_is_read_without_a_seek(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = encode(tmp_path / "a.avi", KINDS["mjpeg"], frames=300)
    entered: list[int] = []
    looked: list[int] = []
    enter, entry = PyavReader._enter, SeekPlan.entry

    def counted_enter(self: PyavReader, number: int) -> None:
        entered.append(number)
        enter(self, number)

    def counted_entry(self: SeekPlan, frame: int) -> int:
        looked.append(frame)
        return entry(self, frame)

    monkeypatch.setattr(PyavReader, "_enter", counted_enter)
    monkeypatch.setattr(SeekPlan, "entry", counted_entry)
    with VideoFile(path) as file:
        assert sum(len(block.times_N) for block in file.stream(block=16)) == 300
        assert not entered and len(looked) <= 300
        # Far frames are reached by a seek, near ones by decoding on.
        for number in (250, 252, 100, 103):
            assert len(file.frames([number]).times_N) == 1
        assert entered == [250, 100]


def test_interlaced_files_are_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hrt_modalities.video.readers.index._warned", False)
    for name in ("a.mkv", "b.mkv"):
        path = encode(tmp_path / name, KINDS["h264, interlaced"], frames=3)
        assert read_index(path, name).interlaced
    assert caplog.text.count("is interlaced") == 1 and "a.mkv: is interlaced" in caplog.text


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mkv", KINDS["h264"])
    with VideoFile(path, "a.mkv") as file:
        encode(path, KINDS["h264"], times=lambda number: 40 * number + 7)
        raw = path.read_bytes()
        path.write_bytes(raw.replace(b"x264", b"y264"))
        with pytest.raises(BadSample, match="has the file changed"):
            file.frames([30])
