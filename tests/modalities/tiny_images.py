"""Trains on a few tiny images, to compare ways of reading them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hrt_mm.config import load_config
from hrt_mm.train.loop import train
from hrt_modalities.vision.files import ImageFiles

LEVEL = {"name": "all", "dim": 8, "depth": 1, "heads": 2}
CLASSES = ("cat", "dog")


def folder_of_images(root: Path) -> dict[str, list[tuple[Path, int]]]:
    """Images in the layout of ``image_folder``; their paths and classes in its order."""
    files: dict[str, list[tuple[Path, int]]] = {}
    for split, count in {"train": 4, "val": 1, "test": 1}.items():
        for label, name in enumerate(CLASSES):
            for index in range(count):
                path = root / split / name / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = np.random.default_rng((label, index, count)).integers(0, 256, (4, 4, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(path)
                files.setdefault(split, []).append((path, label))
    return files


def losses(folder: Path, data: dict[str, Any], *words: str, resume: bool = False) -> list[float]:
    """The losses of four steps of training; an epoch has three."""
    config = {
        "modality": {"type": "vision", "patch": 2},
        "model": {"levels": [LEVEL]},
        "task": {"type": "classification"},
        "data": data,
        "optim": {"warmup_steps": 0},
        "train": {"steps": 4, "batch_size": 3, "log_every": 1, "save_every": 1, "eval_every": None},
    }
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    options = [f"run.dir={folder / 'run'}", "train.tensorboard=false", "train.num_threads=1", *words]
    train(load_config(folder / "config.json", options), resume=resume)
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    return [line["train/loss"] for line in lines if "train/loss" in line]


class Failure(Exception):
    """Ends a run."""


def interrupted(folder: Path, data: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The losses of a run that is interrupted in the middle of its first epoch, and resumed."""
    reads = 0
    read = ImageFiles.__getitem__

    def failing(images: ImageFiles, index: int) -> Any:
        nonlocal reads
        reads += 1
        if reads == 8:
            raise Failure
        return read(images, index)

    with monkeypatch.context() as patch:
        patch.setattr(ImageFiles, "__getitem__", failing)
        with pytest.raises(Failure):
            losses(folder, data)
    return losses(folder, data, resume=True)
