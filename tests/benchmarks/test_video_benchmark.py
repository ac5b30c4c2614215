"""Videos: the hierarchy beside its control and torchvision's transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import video, video_accuracy, video_peers
from benchmarks.checks import CheckFailed
from benchmarks.command import main
from benchmarks.models import size
from benchmarks.results import read
from hrt_mm.config import load_config
from hrt_mm.train.build import build_tokenizer
from hrt_modalities.video import Video, VideoTokenizer

QUICK = ["--quick", "--device", "cpu", "--no-memory", "--threads", "1"]


def test_a_quick_run_measures_and_trains_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = tmp_path / "result.json"
    assert main(video.arguments(), video.run, video.tables, [*QUICK, "--json", str(path)]) == 0
    result = read(path)
    assert [(row.sizes["mode"], row.sizes["frames"]) for row in result.rows] == [
        (mode, frames) for mode in ("inference", "training") for frames in (4, 8)
    ]
    for row in result.rows:
        assert list(row.contenders) == list(video.CONTENDERS)
        assert all(one.seconds for one in row.contenders.values())
        assert row.ratios.keys() == {f"{name}/hierarchy seconds" for name in video.CONTENDERS[1:]}
    results = result.details["accuracy"]
    assert results.keys() == set(video.CONTENDERS)
    sizes = [item["parameters"] for item in results.values()]
    assert max(sizes) / min(sizes) < 1 + 2 * video.TOLERANCE
    for item in results.values():
        assert item["curve"] and all(steps >= 1 and 0 <= accuracy <= 1 for _, steps, accuracy in item["curve"])
    assert "| 8 |" in video.tables(result) and "after" in video.tables(result)


def test_contenders_have_the_size_of_the_hierarchy() -> None:
    settings = {"quick": False, "device": "cpu"}
    sizes = [size(video.build(name, 8, settings)[0]) for name in video.CONTENDERS]
    assert all(abs(count / sizes[0] - 1) < video.TOLERANCE for count in sizes) and len(set(sizes)) > 1


def test_one_of_another_size_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = video_peers.fitted

    def half(name: str, tokenizer: VideoTokenizer, depth: int, parameters: int, clip: tuple[int, int, int]) -> object:
        return fitted(name, tokenizer, depth, parameters // 2, clip)

    monkeypatch.setattr(video_peers, "fitted", half)
    with pytest.raises(CheckFailed, match=r"Swin3D has .* parameters, the hierarchy"):
        video.build("Swin3D", 8, {"quick": False, "device": "cpu"})


@pytest.mark.parametrize("name", list(video_peers.PEERS))
def test_peers_see_each_video_as_it_was(name: str) -> None:
    tokenizer = build_tokenizer(load_config("video/actions"))
    assert isinstance(tokenizer, VideoTokenizer)
    peer = video_peers.fitted(name, tokenizer, 6, 300_000, (8, 32, 48)).eval()
    pixels_BNCHW = torch.rand(2, 8, 3, 32, 48)
    with torch.no_grad():
        found_BD = peer(tokenizer([Video.of(pixels_NCHW, 12.5) for pixels_NCHW in pixels_BNCHW]))
        expected_BD = peer.trunk((pixels_BNCHW.transpose(1, 2) - 0.5) / 0.5)
    assert found_BD.shape == (2, peer.width)
    torch.testing.assert_close(found_BD, expected_BD, rtol=1e-4, atol=1e-5)
    assert (found_BD[0] - found_BD[1]).abs().max() > 1e-3


def test_accuracy_contenders_start_alike_each_time() -> None:
    from benchmarks.curves import made
    from hrt_mm.train.build import Data
    from tests.modalities.video.test_video_tasks import CONFIGS

    config = load_config(CONFIGS / "actions.yaml")
    data = Data({"": build_tokenizer(config)}, {}, ("a", "b"))
    first, second = (made(lambda data: video_accuracy.build("flat", config, data), data) for _ in range(2))
    assert all(torch.equal(*pair) for pair in zip(first.parameters(), second.parameters(), strict=True))
