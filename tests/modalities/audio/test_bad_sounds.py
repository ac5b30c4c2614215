"""What nobody should have recorded: each is a counted skip that says why, or trains with a finite loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from hrt_mm.config import load_config
from hrt_mm.train.build import build_data, build_task
from hrt_mm.train.sampler import Plan, Position

CONFIG = Path(__file__).parents[3] / "configs" / "audio" / "audio_folder.yaml"
RNG = np.random.default_rng(0)


def noise(seconds: float, rate: int = 16000, channels: int = 1) -> np.ndarray:
    return RNG.normal(0, 0.1, (round(seconds * rate), channels))


def write(path: Path, wave: np.ndarray, rate: int = 16000, **kind: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, rate, **kind)


def nan(path: Path) -> None:
    wave = noise(0.3)
    wave[77] = np.inf
    write(path, wave, subtype="FLOAT")


def truncated(path: Path) -> None:
    write(path, noise(3.0))
    path.write_bytes(path.read_bytes()[:40000])


BAD: dict[str, tuple[Any, str]] = {
    "empty.wav": (lambda path: path.write_bytes(b""), "is an empty file"),
    "zero.wav": (lambda path: write(path, np.empty(0)), "has no samples"),
    "nan.wav": (nan, "inf at sample 77"),
    "text.wav": (lambda path: path.write_text("dear diary\n" * 40), "no sound that libsndfile can read"),
    "cut.flac": (truncated, "cut off"),
    "cut.wav": (truncated, "cut off"),
    "integers.wav": (lambda path: write(path, 32768 * noise(0.3), subtype="FLOAT"), "but full scale is 1"),
    "long.wav": (lambda path: write(path, noise(3.0)), r"longer than modality.max_seconds 2"),
}
GOOD: dict[str, Any] = {
    "one.wav": lambda path: write(path, noise(1 / 16000)),
    "silence.wav": lambda path: write(path, np.zeros(8000)),
    "clipped.wav": lambda path: write(path, np.sign(noise(0.4))),
    "eight.wav": lambda path: write(path, noise(0.3, channels=8)),
    "fast.flac": lambda path: write(path, noise(0.3, 192000), 192000),
    "slow.wav": lambda path: write(path, noise(0.3, 1000), 1000),
    "loud.wav": lambda path: write(path, 100 * noise(0.3), subtype="FLOAT"),
}


@pytest.mark.parametrize("batch", [True, False], ids=["together", "one by one"])
def test_bad_sounds_are_skipped_and_named(batch: bool, tmp_path: Path) -> None:
    for number in range(60):
        write(tmp_path / "ab"[number % 2] / f"{number}.wav", noise(0.2))
    config = load_config(CONFIG, [f"data.root={tmp_path}", "modality.max_seconds=2", "data.augment=[]"])
    for name, (make, _) in BAD.items():
        make(tmp_path / "a" / name)
    for name, make in GOOD.items():
        make(tmp_path / "b" / name)
    found = build_data(config, ["train", "val", "test"])
    task = build_task(config, found.tokenizer, found.classes)
    seen: set[str] = set()
    for split, dataset in found.splits.items():
        maker = found.maker(config, split)
        items = dataset.items  # type: ignore[attr-defined]
        wanted = [place for place, item in enumerate(items) if not item.name.split("/")[1][0].isdigit()]
        for places in [wanted] if batch else [[place] for place in wanted]:
            if not places:
                continue
            loaded = maker[Plan(Position(), tuple(places), Position(0, 1))]
            assert loaded.error is None
            for bad in loaded.bad:
                seen.add(bad.name)
                assert bad.reason and BAD[bad.name.split("/")[1]][1] in f"{bad}"
            if loaded.batch is not None:
                seen.update(loaded.batch.names)
                assert loaded.batch.tokens.x.isfinite().all()
                output = task(loaded.batch)
                assert output.loss.isfinite()
                output.loss.backward()
    assert {name.split("/")[1] for name in seen} == set(BAD) | set(GOOD)
    assert all(parameter.grad is None or bool(torch.isfinite(parameter.grad).all()) for parameter in task.parameters())
