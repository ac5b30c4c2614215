"""Readers give the frames that PyAV's decoding from the beginning gives, pixel for pixel, or refuse them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hrt_mm.core.errors import BadSample
from hrt_modalities.video.readers import DecodedFrames, VideoFile
from tests.modalities.video import streams
from tests.modalities.video.streams import CONTAINERS, FRAMES, KINDS, copied, encode, keys, number_of, shuffled, truth

CASES = [(kind, container, "steady") for kind, how in KINDS.items() for container in how.containers]
CASES += [
    (kind, container, "varied")
    for kind, container, _ in CASES
    # An encoder of MPEG-1 and 2 writes a rate, not times.
    if container in ("mp4", "mkv", "webm", "avi", "ts") and not kind.startswith(("mpeg1", "mpeg2"))
]
CUT = [
    (kind, container)
    for kind in ("h264", "h264, open GOP", "hevc, open GOP", "mpeg2, open GOP", "mpeg4", "vp9")
    for container in ("mp4", "mkv", "ts")
    if container in KINDS[kind].containers
]
PLAIN = {("h264", "mp4"), ("h264", "mkv"), ("h264, pyramid", "mov"), ("hevc, closed GOP", "mp4"), ("vp9", "webm")}
"""Kinds and containers that decord and torchcodec serve."""
REFUSED = {
    ("hevc, open GOP", "mp4"),
    ("h264, open GOP", "mkv"),
    ("mpeg4", "mp4"),
    ("mpeg2, open GOP", "mp4"),
    ("h264", "avi"),
    ("h264", "fragmented mp4"),
    ("h264", "fragmented mp4, empty moov"),
    ("h264", "ts"),
}
"""Those on which both give, or gave, wrong frames."""


def pictures(frames: DecodedFrames) -> list[np.ndarray]:
    return list(frames.pixels_N3HW.permute(0, 2, 3, 1).numpy())


def check_exact(path: Path, *, expected: int | None = None, refused: int = 0) -> None:
    """Reads a file in every way, and compares all frames.

    Args:
        path: the file.
        expected: how many frames it has.
        refused: frames at the beginning that a decoder makes up, as their references are missing.
    """
    right = truth(path)
    count = len(right)
    assert expected is None or count == expected

    def check(numbers: list[int], frames: DecodedFrames) -> None:
        given = [number for number in numbers if number >= refused]
        assert frames.lost == len(numbers) - len(given)
        wrong = [number for number, item in zip(given, pictures(frames), strict=True) if (item != right[number]).any()]
        assert not wrong, f"{path.name}: {wrong} of {numbers} differ"

    with VideoFile(path) as file:
        assert file.reader == "pyav" and len(file.index) == count
        times = file.index.times_N
        assert bool((times.diff() > 0).all()) and float(times[0]) == 0 and file.index.seconds > float(times[-1])
        index = 0
        for block in file.stream(block=13):
            size = len(block.times_N) + block.lost
            check([*range(index, index + size)], block)
            index += size
        assert index == count
    singles = [number for number in shuffled(count) if number >= refused]
    with VideoFile(path) as file:
        for number in singles:
            check([number], file.frames([number]))
    for step in (7, 25):
        with VideoFile(path) as file:
            numbers = [*range(count - 1, -1, -step)]
            check(numbers, file.frames(numbers))
    for number in singles[:3]:
        with VideoFile(path) as file:
            check([number], file.frames([number]))


def written(folder: Path, kind: str, container: str, times: str = "steady") -> Path:
    suffix, options = CONTAINERS[container]
    return encode(folder / f"film.{suffix}", KINDS[kind], times=getattr(streams, times), options=options)


@pytest.mark.parametrize(("kind", "container", "times"), CASES)
def test_frames_are_those_of_decoding_from_the_beginning(tmp_path: Path, kind: str, container: str, times: str) -> None:
    path = written(tmp_path, kind, container, times)
    check_exact(path, expected=FRAMES)
    _check_named(path, (kind, container))


def _check_named(path: Path, case: tuple[str, str]) -> None:
    """decord and torchcodec, by name: the right frames, or none."""
    for reader in ("decord", "torchcodec"):
        reason = _refusal(path, reader)
        assert reason is not None or case not in REFUSED
        absent = reason is not None and ("cannot be loaded" in reason or "is not installed" in reason)
        assert reason is None or absent or case not in PLAIN, reason


def _refusal(path: Path, reader: str) -> str | None:
    """Why a reader refuses a file; ``None`` where all frames that it gives are right."""
    try:
        with VideoFile(path, readers=[reader]) as file:
            for numbers in ([0, 1, 2], [FRAMES - 1], *([number] for number in shuffled(FRAMES)[:12]), [3, 30, 58]):
                assert [number_of(item) for item in pictures(file.frames(numbers))] == numbers
    except BadSample as error:
        return str(error)
    return None


@pytest.mark.parametrize(("kind", "container"), CUT)
@pytest.mark.parametrize("later", [0, 2])
def test_streams_that_begin_in_their_middle(tmp_path: Path, kind: str, container: str, later: int) -> None:
    """Cut by copying: leading pictures, or frames without a key frame, have lost their references."""
    source = written(tmp_path, kind, "mp4")
    path = tmp_path / f"cut.{container}"
    copied(source, path, first=keys(source)[1] + later)
    if kind in ("h264, open GOP", "mpeg4") and container == "ts":
        # Without its parameter sets, which mp4 keeps apart, nothing can be decoded.
        with pytest.raises(BadSample):
            VideoFile(path)
        return
    # Other decoders drop frames without their references; that of MPEG-4 guesses them.
    check_exact(path, refused=12 if kind == "mpeg4" and later else 0)
