"""A long video is embedded in stretches: with the vectors of the whole, and with no more frames at once than a few."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hrt_mm.config import load_config
from hrt_mm.core.errors import UserError
from hrt_mm.core.tokens import Tokens
from hrt_mm.inference.trained import TrainedRun
from hrt_mm.retrieval.collecting import embed_files
from hrt_mm.retrieval.collection import Collection
from hrt_mm.retrieval.embed import Embedder
from hrt_mm.retrieval.passages import within
from hrt_mm.retrieval.rows import Model
from hrt_mm.train.build import build_task, build_tokenizers
from hrt_modalities.video import Video, VideoModality, VideoTokenizer
from hrt_modalities.video.readers import VideoFile
from hrt_modalities.video.stretches import BLOCK, stretches
from tests.modalities.video.films import damaged, film

CONFIG = """\
towers:
  video:
    modality: {type: video, channels: 1, patch: 8, tube: 2, rate: 25, size: 16}
    model:
      levels:
        - {name: tubes,
           dim: 16, heads: 2, depth: 1, window: [2, 2, 2], group: {type: fixed, stride: [1, 2, 2]}, pool: conv}
        - {name: frames,
           dim: 16, heads: 2, depth: 1, window: [2, 1, 1], group: {type: fixed, stride: [2, 1, 1]}, pool: conv}
        - {name: clips, dim: 24, heads: 2, depth: 1 WINDOW}
      cross_scale: {up: true}
  text:
    modality: {type: text}
    model:
      levels:
        - {name: bytes, dim: 16, heads: 2, depth: 1, group: {type: given, boundary: words, max: 32, typical: 5}}
        - {name: words, dim: 24, heads: 2, depth: 1}
task:
  type: contrastive
  dim: 12
  also: [{levels: {video: frames, text: words}, align: soft}]
data: {type: grid_triples, root: /nowhere}
train: {steps: 1, batch_size: 2}
"""
LEVELS = ["clips", "frames"]


def embedder(folder: Path, window: str) -> Embedder:
    (folder / "small.yaml").write_text(CONFIG.replace(" WINDOW", window))
    config = load_config(folder / "small.yaml")
    tokenizers = build_tokenizers(config)
    torch.manual_seed(0)
    task = build_task(config, tokenizers, None).eval()
    for parameter in task.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    checkpoint: Any = None
    return Embedder(TrainedRun(folder, config, task, tokenizers, None, checkpoint), Model("0" * 64, 12))


@pytest.fixture
def local(tmp_path: Path) -> Embedder:
    """A model that sees a few frames around each."""
    return embedder(tmp_path, ", window: [2, 1, 1]")


def rows_of(embedder: Embedder, path: Path, out: Path, window: float) -> tuple[Collection, list[Any]]:
    assert embed_files(embedder, "video", [path], out, levels=LEVELS, window=window)
    collection = Collection(out)
    return collection, list(collection.rows())


@pytest.mark.parametrize("window", [0.1, 1.0, 2.0, 4.0])
@pytest.mark.parametrize(
    "times", [None, [number / 20 + (number > 40) / 50 for number in range(107)]], ids=["steady", "another rate"]
)
def test_stretches_give_what_the_whole_gives(
    local: Embedder, tmp_path: Path, window: float, times: Sequence[float] | None
) -> None:
    path = film(tmp_path / "a.mp4", 107, times=times)
    whole, whole_rows = rows_of(local, path, tmp_path / "whole", 100.0)
    parts, parts_rows = rows_of(local, path, tmp_path / "parts", window)
    assert len(whole_rows) == 1 + 27 + 54
    assert [(row.id, row.parent) for row in parts_rows] == [(row.id, row.parent) for row in whole_rows]
    for one, other in zip(parts_rows[1:], whole_rows[1:], strict=True):
        assert one.span == pytest.approx(other.span, abs=0.021 if times else 2e-4)
    assert np.allclose(parts.vectors_ND, whole.vectors_ND, atol=1e-5)


def test_pieces_of_stretches_are_kept_to_be_played(
    local: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every piece that lasts long enough has its own file, cut where it lies, whatever stretch it is of."""
    monkeypatch.setattr("hrt_mm.retrieval.vector_encoder.MIN_MEDIA_SECONDS", 0.15)
    path = film(tmp_path / "a.mp4", 107)
    shades = {}
    for window in (1.0, 100.0):
        out = tmp_path / f"{window:g}"
        embed_files(local, "video", [path], out, levels=["clips"], window=window, media=True)
        collection = Collection(out)
        (whole,) = (collection.media(row) for row in collection.rows() if not row.level)
        # Times of all pieces lie within what is kept of the film.
        assert whole is not None and VideoModality.seconds(whole) == pytest.approx(
            VideoModality.seconds(path), abs=0.05
        )
        files = [collection.media(row) for row in collection.rows() if row.level]
        assert {round(VideoModality.seconds(file), 2) for file in files if file} == {0.16}
        # The last clip has three frames, and is too short. In stretches frames are of the model's size.
        assert len(files) == 27 and files[-1] is None
        clips = [VideoModality.read(file).pixels_NCHW for file in files if file]
        shades[window] = torch.stack([pixels_N3HW.float().mean((1, 2, 3)) for pixels_N3HW in clips])
    assert shades[1.0].std() > 5
    assert torch.allclose(shades[1.0], shades[100.0], atol=4)


def test_no_more_frames_are_held_than_a_window_has(
    local: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []
    encoded: list[int] = []
    steady, call = VideoFile.steady, VideoTokenizer.__call__

    def counted(self: VideoFile, numbers: Sequence[int]) -> torch.Tensor:
        decoded.append(len(numbers))
        return steady(self, numbers)

    def seen(self: VideoTokenizer, values: Sequence[Video]) -> Tokens:
        encoded.append(sum(len(value) for value in values))
        return call(self, values)

    monkeypatch.setattr(VideoFile, "steady", counted)
    monkeypatch.setattr(VideoTokenizer, "__call__", seen)
    rows_of(local, film(tmp_path / "a.mp4", 300), tmp_path / "v", 1.0)
    assert len(encoded) == 13 and max(encoded) <= 24 + 2 * 8
    assert max(decoded) <= BLOCK and sum(decoded) == 300, "each frame is decoded once"


def test_frames_wait_for_their_stretch_at_the_size_of_the_model(local: Embedder, tmp_path: Path) -> None:
    tokenizer = local.tokenizer("video")
    assert isinstance(tokenizer, VideoTokenizer)
    result = stretches(film(tmp_path / "a.mp4", 100, size=(96, 128), chapters=(0.0, 2.5)), tokenizer, 1.0)
    assert result is not None
    values = [stretch.value for stretch in result]
    assert {value.pixels_NCHW.shape[1:] for value in values} == {(1, 16, 16)}
    assert [value.boundaries["chapters"] for value in values] == [(0.0,), (), (2.5,), (), ()]
    assert stretches(tmp_path / "a.mp4", tokenizer, 4.0) is None, "a film that is no longer than a window is read whole"


def test_attention_over_the_whole_sees_its_window_alone(tmp_path: Path) -> None:
    wide = embedder(tmp_path, "")
    path = film(tmp_path / "a.mp4", 100)
    whole, _ = rows_of(wide, path, tmp_path / "whole", 100.0)
    parts, rows = rows_of(wide, path, tmp_path / "parts", 1.0)
    # The finest pieces look no further than before; the coarsest, and so the film, do.
    fine = [index for index, row in enumerate(rows) if row.level == "frames"]
    assert np.allclose(parts.vectors_ND[fine], whole.vectors_ND[fine], atol=1e-5)
    assert not np.allclose(parts.vectors_ND, whole.vectors_ND, atol=1e-4)
    assert float(parts.vectors_ND[0] @ whole.vectors_ND[0]) > 0.9


def test_broken_frames_and_broken_files(local: Embedder, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    damaged(tmp_path / "a.mp4", 12, frames=60)
    (tmp_path / "b.mp4").write_bytes(b"no film")
    files = [tmp_path / "a.mp4", tmp_path / "b.mp4", tmp_path / "c.mp4"]
    assert embed_files(local, "video", files, tmp_path / "v", window=0.5).counts == {"video": 1}
    assert f"left out: {tmp_path}/b.mp4: " in caplog.text and f"left out: {tmp_path}/c.mp4: " in caplog.text


@pytest.mark.parametrize("window", [0.0, -1.0, float("nan"), float("inf")])
def test_a_window_without_length_is_told(local: Embedder, tmp_path: Path, window: float) -> None:
    with pytest.raises(UserError, match=r"a window of .* seconds cannot be encoded; give more than 0"):
        embed_files(local, "video", [tmp_path / "a.mp4"], tmp_path / "v", window=window)


def test_the_nearest_piece_stands_where_none_has_its_middle() -> None:
    edges = torch.tensor([[0.0, 8], [8, 9], [9, 30]])[..., None]
    assert within(edges, (4, 8.6)).tolist() == [0, 1]
    assert within(edges, (10, 12)).tolist() == [1]
