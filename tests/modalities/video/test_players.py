from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hrt_modalities.video import Video, VideoModality
from hrt_modalities.video.players import SECONDS, SIDE, mp4
from hrt_modalities.video.readers import VideoFile


def decoded(data: bytes, folder: Path) -> tuple[torch.Tensor, float]:
    """The frames of a file, and its seconds."""
    path = folder / "shown.mp4"
    path.write_bytes(data)
    with VideoFile(path, "shown") as file:
        return file.frames(range(len(file.index.times_N))).pixels_N3HW, file.index.seconds


def greys(count: int, rows: int = 17, columns: int = 24, rate: float = 10) -> Video:
    """Frames that become lighter, ten shades a frame."""
    shades_N = (torch.arange(count) * 10 % 250).to(torch.uint8)
    return Video.of(shades_N[:, None, None, None].expand(count, 1, rows, columns).contiguous(), rate)


def test_a_page_can_play_what_a_video_shows(tmp_path: Path) -> None:
    pixels_N3HW, seconds = decoded(mp4(greys(20)), tmp_path)
    assert pixels_N3HW.shape == (20, 3, 16, 24) and seconds == pytest.approx(2.0, abs=0.01)
    means_N = pixels_N3HW.float().mean((1, 2, 3))
    assert torch.allclose(means_N, torch.arange(20) * 10.0, atol=4)


@pytest.mark.parametrize(
    ("span", "first", "count"), [((0.5, 1.0), 5, 5), ((0.5, 0.51), 5, 1), ((1.95, 9.0), 19, 1), ((0.0, 2.0), 0, 20)]
)
def test_a_part_has_the_frames_that_are_seen_in_it(
    tmp_path: Path, span: tuple[float, float], first: int, count: int
) -> None:
    suffix, data = VideoModality.render(greys(20), span)
    pixels_N3HW, _ = decoded(data, tmp_path)
    assert suffix == ".mp4" and len(pixels_N3HW) == count
    assert pixels_N3HW[0].float().mean() == pytest.approx(first * 10, abs=4)


def test_long_and_large_videos_are_shortened_and_shrunk(tmp_path: Path) -> None:
    pixels_N3HW, seconds = decoded(mp4(greys(130, 301, 400, rate=5)), tmp_path)
    assert seconds == pytest.approx(SECONDS, abs=0.3)
    assert min(pixels_N3HW.shape[2:]) == SIDE and pixels_N3HW.shape[3] == 318


def test_floats_colours_windows_and_one_pixel_are_shown(tmp_path: Path) -> None:
    red = torch.zeros(3, 3, 16, 16)
    red[:, 0] = 0.8
    pixels_N3HW, _ = decoded(mp4(Video.of(red, 10)), tmp_path)
    assert torch.allclose(pixels_N3HW.float().mean((0, 2, 3)), torch.tensor([204.0, 0, 0]), atol=8)
    windows = (greys(1), greys(2), greys(3))
    assert len(decoded(mp4(windows), tmp_path)[0]) == 2
    assert decoded(mp4(greys(2, 1, 1)), tmp_path)[0].shape[2:] == (2, 2)
