"""Tasks on video: tubes that are hidden at all times, and training that learns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from hrt_mm.config import load_config
from hrt_mm.core.errors import ConfigError
from hrt_mm.core.levels import HierarchyConfig
from hrt_mm.core.tokens import Tokens
from hrt_mm.inference.trained import load_task
from hrt_mm.tasks import Batch, ClassificationConfig, Masked, MaskedConfig, Segmentation
from hrt_mm.train.build import build_data, build_dataset, build_task
from hrt_mm.train.loop import train
from hrt_mm.train.sampler import Plan, Position
from hrt_modalities.video import Video, VideoConfig, VideoTokenizer
from tests.modalities.video.films import film

CONFIGS = Path(__file__).parents[3] / "configs" / "video"


def level(name: str, group: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    return {"name": name, "dim": 24, "depth": 1, "heads": 2, **options, **({"group": group} if group else {})}


def built(unit: str, group: dict[str, Any], **options: Any) -> tuple[Masked, VideoTokenizer]:
    levels = [level("tubes", group, window=[2, 2, 2]), level("areas", {"type": "fixed", "stride": 2}), level("clips")]
    model = HierarchyConfig.model_validate({"levels": levels, "top_down": True})
    tokenizer = VideoConfig(type="video", patch=4, tube=2).build(model)
    task = MaskedConfig.model_validate({"type": "masked", "unit": unit, "tubes": True, **options})
    return task.build(model, tokenizer, None), tokenizer


def packed(tokenizer: VideoTokenizer) -> Tokens:
    sizes = ((8, 16, 24), (5, 13, 9), (2, 4, 4))
    return tokenizer([Video.of(torch.rand(frames, 3, *size), 25.0) for frames, *size in sizes])


@pytest.mark.parametrize("unit", ["tubes", "areas"])
@pytest.mark.parametrize("ratio", [0.25, 0.75])
def test_tubes_are_hidden_at_all_times(unit: str, ratio: float) -> None:
    task, tokenizer = built(unit, {"type": "fixed", "stride": [1, 2, 2]}, ratio=ratio)
    tokens = packed(tokenizer)
    hidden = task.hidden(tokens)
    assert tokens.grids is not None
    seen = set()
    parts = zip(tokens.spans.split(hidden), tokens.spans.split(tokens.coords_TC), tokens.grids, strict=True)
    for item, coords, (_, rows, columns) in parts:
        size = 2 if unit == "areas" else 1
        positions = {(int(row) // size, int(column) // size) for _, row, column in coords[item].tolist()}
        same = [(int(row) // size, int(column) // size) in positions for _, row, column in coords.tolist()]
        assert item.tolist() == same
        every = -(-rows // size) * -(-columns // size)
        assert len(positions) == min(max(1, round(every * ratio)), max(1, every - 1))
        seen.add(frozenset(positions))
    assert not torch.equal(task.hidden(tokens), hidden)
    assert task(Batch.of(tokens)).loss.isfinite()


def test_tubes_need_a_grid() -> None:
    given = {"type": "given", "boundary": "frames"}
    with pytest.raises(ConfigError, match=r"task.tubes hides places of a grid .* level 'areas' are no grid"):
        built("areas", given)
    assert built("tubes", given)[0].tubes


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("*.yaml")))
def test_configurations_build_and_take_a_batch(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    small = []
    if name in ("quickstart", "masked", "shots", "actions"):
        small = [f"data.folder={tmp_path}", "data.train=6", "data.valid=1", "data.test=1"]
    if name == "video_folder":
        small = [f"data.root={tmp_path}"]
        for label in ("run", "walk"):
            film(tmp_path / "train" / label / "a.mp4", 12)
            film(tmp_path / "test" / label / "a.mp4", 12)
    if name in ("shots", "grid_lips", "grid_lips_ctc"):
        monkeypatch.setenv("HRT_MM_DATA", str(request.getfixturevalue("data_root")))
    config = load_config(f"video/{name}", small)
    data = build_data(config, ["train"])
    loaded = data.maker(config, "train")[Plan(Position(), (0, 1), Position())]
    assert loaded.batch is not None and not loaded.bad, loaded
    task = build_task(config, data.tokenizers, data.classes)
    task(loaded.batch).loss.backward()
    assert all(parameter.grad is not None for parameter in task.parameters())


def moving(count: int, generator: torch.Generator, *, shuffled: bool = False) -> tuple[list[Video], torch.Tensor]:
    """A square that moves left or right; frames alone, and their number, look the same in both."""
    labels = torch.randint(2, (count,), generator=generator)
    videos = []
    for label in labels.tolist():
        row, start = (int(torch.randint(high, (), generator=generator)) for high in (10, 6))
        pixels = 0.2 * torch.rand(8, 1, 16, 24, generator=generator)
        for number in range(8):
            column = start + 2 * (number if label else 7 - number)
            pixels[number, :, row : row + 6, column : column + 4] += 0.7
        order = torch.randperm(8, generator=generator) if shuffled else torch.arange(8)
        videos.append(Video.of(pixels[order], 12.5))
    return videos, labels


def accuracy_of_motion(*, shuffled: bool) -> float:
    """Of held-out videos, after a short training."""
    generator = torch.Generator().manual_seed(0)
    frames = {"type": "given", "boundary": "frames", "typical": [1, 2, 3]}
    model = HierarchyConfig.model_validate({"levels": [level("tubes", frames, window=[4, 2, 3]), level("frames")]})
    options = {"type": "video", "patch": 8, "tube": 1, "channels": 1, "rate": 12.5, "stem": {"type": "conv"}}
    tokenizer = VideoConfig.model_validate(options).build(model).with_boundaries({"frames"})
    task = ClassificationConfig(type="classification").build(model, tokenizer, ("left", "right"))
    optimizer = torch.optim.AdamW(task.parameters(), 5e-3)
    for _ in range(60):
        videos, labels = moving(16, generator, shuffled=shuffled)
        optimizer.zero_grad()
        task(Batch.of(tokenizer(videos), labels)).loss.backward()
        optimizer.step()
    videos, labels = moving(100, generator, shuffled=shuffled)
    with torch.no_grad():
        right, count = task.eval()(Batch.of(tokenizer(videos), labels)).stats["accuracy"]
    return float(right / count)


def test_motion_is_learned_and_frames_in_another_order_do_not_tell_it() -> None:
    assert accuracy_of_motion(shuffled=False) > 0.95
    assert accuracy_of_motion(shuffled=True) < 0.7


LEARNED = """
extends: {base}
model:
  levels:
    - name: tubes
      dim: 32
      depth: 1
      heads: 2
      window: [4, 2, 3]
      group: {{type: given, boundary: frames, max: 6, typical: [1, 2, 3]}}
      pool: conv
    - name: frames
      dim: 32
      depth: 1
      heads: 2
      window: 8
      window_type: sliding
      group: {{type: learned, target: 5, max: 20}}
      pool: attention
    - {{name: clips, dim: 32, depth: 1, heads: 2}}
"""


@pytest.mark.parametrize("supervise", [None, "cuts"])
def test_clips_can_be_learned_groups_of_frames(supervise: str | None, tmp_path: Path) -> None:
    file = tmp_path / "learned.yaml"
    file.write_text(LEARNED.format(base=CONFIGS / "quickstart.yaml"))
    words = [f"data.folder={tmp_path}", "data.train=2", "data.valid=1", "data.test=1", "data.cut_share=1"]
    words += [f"run.dir={tmp_path / 'run'}", "train.steps=4", "train.batch_size=2", "train.eval_every=2"]
    words += ["train.workers=0", "train.tensorboard=false", "train.device=cpu", "train.log_every=1"]
    words += ["optim.warmup_steps=1", "task.labels=false"]
    words += [f"model.levels.1.group.supervise={supervise}"] if supervise else []
    folder = train(load_config(file, words))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert any(name.startswith("train/") and "frames" in name for name in lines[0]), (
        "the groups have a loss of their own"
    )
    run = load_task(folder, overrides=["train.device=cpu"])
    assert isinstance(run.task, Segmentation)
    film_of_test = build_dataset(run.config, "test")[0].value
    with torch.no_grad():
        pyramid = run.task.encoder(run.tokenizer([film_of_test]))
    groups = pyramid.groups["frames"]
    lengths = groups.lengths
    assert int(lengths.sum()) == len(film_of_test) and len(lengths) > 1 and int(lengths.max()) <= 20
